"""Tests of L{mailgw.memory}."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.memory import Memory, SharedCalls


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


class MemoryTests(SynchronousTestCase):
    """L{Memory}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.memory: Memory[str] = Memory(self.clock, 3)

    def test_time(self) -> None:
        """A value is there for its time, however often it is used."""
        self.memory.keep("a", "1", 10)
        self.clock.advance(9.9)
        self.assertEqual(self.memory.recall("a"), "1")
        self.clock.advance(0.1)
        self.assertIsNone(self.memory.recall("a"))
        self.assertIsNone(self.memory.recall("b"))

    def test_replaced(self) -> None:
        """A key has one value, and the names that came with it."""
        self.memory.keep("a", "1", 10, "Alice")
        self.memory.keep("a", "2", 20, "Bob")
        self.clock.advance(15)
        self.assertEqual(self.memory.recall("a"), "2")
        self.assertEqual((self.memory.about("alice"), self.memory.about("bob")), ([], [("a", "2")]))

    def test_bounded(self) -> None:
        """What was not used for longest makes room, and what is replaced takes none."""
        for key in ("a", "b", "c", "c"):
            self.memory.keep(key, key, 10)
        self.memory.recall("a")
        self.memory.keep("d", "d", 10)
        self.assertEqual([self.memory.recall(key) for key in "abcd"], ["a", None, "c", "d"])
        self.assertEqual(len(self.memory), 3)

    def test_flush(self) -> None:
        """A user goes by any of its names, in any case; everybody goes without one."""
        self.memory.keep("a", "1", 10, "alice@example.org", "ALICE")
        self.memory.keep("b", "2", 10, "alice@example.org", "al")
        self.memory.keep("c", "3", 10, "carol")
        self.assertEqual([self.memory.flush("Alice"), self.memory.flush("alice")], [1, 0])
        self.assertEqual(self.memory.flush("ALICE@example.org"), 1)
        self.assertEqual(self.memory.flush(), 1)
        self.assertEqual((len(self.memory), self.memory.flushes), (0, 4))

    def test_index_does_not_grow(self) -> None:
        """What is gone leaves no name behind."""
        for number in range(100):
            self.memory.keep(number, "x", 10, f"user{number}", "all")
        self.memory.forget(99)
        self.memory.forget("never there")
        self.assertEqual(set(self.memory._keys), {"user97", "user98", "all"})
        self.memory.flush()
        self.assertEqual(self.memory._keys, {})
