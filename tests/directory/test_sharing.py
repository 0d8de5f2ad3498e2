"""Tests of L{mailgw.directory.sharing}."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailgw.directory.sharing import SharedCalls


class SharedCallsTests(SynchronousTestCase):
    """L{SharedCalls}."""

    def setUp(self) -> None:
        self.calls: SharedCalls[str] = SharedCalls()
        self.running: list[Deferred[str]] = []
        self.cancelled: list[Deferred[str]] = []

    async def call(self) -> str:
        answer: Deferred[str] = Deferred(self.cancelled.append)
        self.running.append(answer)
        return await answer

    def ask(self, key: str = "key") -> Deferred[str]:
        return Deferred.fromCoroutine(self.calls.ask(key, self.call))

    def test_shared(self) -> None:
        """Who asks while the same is being asked gets the same answer."""
        first, second = self.ask(), self.ask()
        self.assertEqual(len(self.running), 1)
        self.running[0].callback("answer")
        self.assertEqual([self.successResultOf(first), self.successResultOf(second)], ["answer", "answer"])
        self.assertEqual(len(self.calls), 0)

    def test_keys(self) -> None:
        """Different keys are different calls."""
        self.ask("one"), self.ask("two")
        self.assertEqual(len(self.running), 2)

    def test_not_remembered(self) -> None:
        """Once answered, it is asked again."""
        self.ask(), self.running[0].callback("old")
        again = self.ask()
        self.running[1].callback("new")
        self.assertEqual(self.successResultOf(again), "new")

    def test_error(self) -> None:
        """An error reaches every asker."""
        askers = [self.ask(), self.ask()]
        self.running[0].errback(ValueError("no"))
        for asker in askers:
            self.failureResultOf(asker, ValueError)

    def test_cancel_one(self) -> None:
        """An asker that is cancelled leaves the others alone, even the one who started the call."""
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.cancelled, [])
        self.running[0].callback("answer")
        self.assertEqual(self.successResultOf(second), "answer")

    def test_cancel_all(self) -> None:
        """With its last asker the call is cancelled, and the next asker starts a new one."""
        askers = [self.ask(), self.ask()]
        for asker in askers:
            asker.cancel()
            self.failureResultOf(asker, CancelledError)
        self.assertEqual(self.cancelled, self.running)
        again = self.ask()
        self.running[1].callback("answer")
        self.assertEqual(self.successResultOf(again), "answer")

    def test_at_once(self) -> None:
        """A call that has its answer at once delivers it."""

        async def now() -> str:
            return "now"

        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.calls.ask("key", now))), "now")
        self.assertEqual(len(self.calls), 0)
