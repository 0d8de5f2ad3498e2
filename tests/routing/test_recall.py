"""Tests of L{mailgw.routing.recall}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailgw.errors import LoginRefused
from mailgw.model import Identity, RefusalKind, Route
from mailgw.routing.recall import Recall, Recalling
from tests.routing.contract import ALICE, RoutingTestCase

BOB = Identity("bob@example.org", "test-1")
KEY = (ALICE.directory, ALICE.username, "imap")


class RecallTests(RoutingTestCase):
    """L{Recall}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.recall = self.make()
        self.asked: list[str] = []
        self.answers: list[Route | LoginRefused | None] = []

    def make(self, size: int = 100, **lifetimes: str) -> Recall:
        """One with three lifetimes."""
        given = {"cache": "60s", "cache_negative": "10s", "cache_trouble": "2s"} | lifetimes
        return Recall(Recalling.model_validate(given), self.clock, size)

    async def lookup(self, name: str) -> Route | None:
        """Answers with what the test has put there, in turn."""
        self.asked.append(name)
        answer = self.answers.pop(0) if self.answers else Route("main", f"be{len(self.asked)}")
        if isinstance(answer, LoginRefused):
            raise answer
        return answer

    def ask(self, identity: Identity = ALICE, protocol: str = "imap") -> Route | None:
        """Ask, and wait for the answer."""
        key = (identity.directory, identity.username, protocol)
        return self.wait(self.recall.ask(key, identity.username, lambda: self.lookup(identity.username)))

    def trouble(self) -> str:
        """Ask, and get trouble."""
        asked = Deferred.fromCoroutine(self.recall.ask(KEY, ALICE.username, lambda: self.lookup("alice")))
        error = self.failureResultOf(asked, LoginRefused).value
        self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)
        return str(error.refusal.reason)

    def test_route(self) -> None:
        """A route is remembered for its time, not longer, and not made to last by asking."""
        self.assertEqual(self.ask(), Route("main", "be1"))
        self.clock.advance(59)
        self.assertEqual(self.ask(), Route("main", "be1"))
        self.clock.advance(1)
        self.assertEqual(self.ask(), Route("main", "be2"))

    def test_not_my_business(self) -> None:
        """That a rule has nothing to say has a time of its own."""
        self.answers = [None]
        self.assertEqual([self.ask(), self.ask()], [None, None])
        self.clock.advance(10)
        self.assertEqual(self.ask(), Route("main", "be2"))

    def test_trouble(self) -> None:
        """Trouble has a time of its own, and each asker gets an error of its own."""
        self.answers = [LoginRefused(RefusalKind.UNAVAILABLE, "down")]
        self.assertEqual([self.trouble(), self.trouble()], ["down", "down"])
        self.assertEqual(len(self.asked), 1)
        self.clock.advance(2)
        self.assertEqual(self.ask(), Route("main", "be2"))

    def test_off(self) -> None:
        """What has no time is asked every time: that is the default."""
        self.assertEqual(Recalling(), Recalling.model_validate(dict.fromkeys(Recalling.model_fields, "0s")))
        self.recall = self.make(cache="0s", cache_negative="0s", cache_trouble="0s")
        self.answers = [None, LoginRefused(RefusalKind.UNAVAILABLE, "down")]
        self.assertIsNone(self.ask())
        self.trouble()
        self.ask()
        self.ask()
        self.assertEqual(len(self.asked), 4)

    def test_passwords(self) -> None:
        """A route that brings a password is asked for every time."""
        self.answers = [Route("main", "be1", password=b"one"), Route("main", "be1", password=b"two")]
        self.assertEqual([route.password for route in (self.ask(), self.ask()) if route is not None], [b"one", b"two"])

    def test_apart(self) -> None:
        """What has another key is asked apart."""
        self.ask()
        self.ask(protocol="pop3")
        self.ask(BOB)
        self.ask(Identity(ALICE.username, "other-1"))
        self.assertEqual(len(self.asked), 4)

    def test_together(self) -> None:
        """Logins of one user at the same time share one question, also where nothing is remembered."""
        for lifetime in ("60s", "0s"):
            self.recall, self.asked = self.make(cache=lifetime), []
            answer: Deferred[Route | None] = Deferred()

            async def slow(answer: Deferred[Route | None] = answer) -> Route | None:
                self.asked.append("slow")
                return await answer

            waiting = [Deferred.fromCoroutine(self.recall.ask(KEY, ALICE.username, slow)) for _ in range(5)]
            waiting.pop().addErrback(lambda _: None).cancel()
            answer.callback(Route("main", "be7"))
            self.assertEqual([self.successResultOf(one) for one in waiting], [Route("main", "be7")] * 4)
            self.assertEqual(self.asked, ["slow"])

    def test_flush(self) -> None:
        """One user is forgotten, or everybody; names are compared without regard to case."""
        self.ask()
        self.ask(protocol="pop3")
        self.ask(BOB)
        self.assertEqual(self.recall.flush("ALICE@example.org"), 2)
        self.assertEqual(self.recall.flush("alice@example.org"), 0)
        self.assertEqual(self.recall.flush(), 1)

    def test_flush_while_asking(self) -> None:
        """An answer from before a flush is not remembered, and not shared with those who ask after it."""
        answer: Deferred[Route | None] = Deferred()

        async def slow() -> Route | None:
            return await answer

        early = Deferred.fromCoroutine(self.recall.ask(KEY, ALICE.username, slow))
        self.recall.flush("alice@example.org")
        self.assertEqual(self.ask(), Route("main", "be1"))
        answer.callback(Route("main", "old"))
        self.assertEqual(self.successResultOf(early), Route("main", "old"))
        self.assertEqual(self.ask(), Route("main", "be1"))

    def test_bounded(self) -> None:
        """The answer not used for longest makes room."""
        self.recall = self.make(size=2)
        carol = Identity("carol", "test-1")
        for identity in (ALICE, BOB, ALICE, carol, ALICE):
            self.ask(identity)
        self.assertEqual(len(self.asked), 3)
        self.ask(BOB)
        self.assertEqual(len(self.asked), 4)
