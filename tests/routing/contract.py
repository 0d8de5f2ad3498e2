"""What every rule promises, and the doubles that rules are tried with."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.errors import LoginRefused
from mailgw.interfaces import IBoard, IHouse, IPool, IRoutingRule, ITally
from mailgw.model import Identity, Refusal, RefusalKind, Route
from mailgw.ops.board import Board
from mailgw.ops.tally import LocalTally
from mailgw.routing.pool import Pool
from mailgw.settings import Pool as PoolOptions
from mailgw.settings import Settings

T = TypeVar("T")

ALICE = Identity("alice@example.org", "test-1")


def pool(
    name: str = "main",
    clock: Clock | None = None,
    tally: ITally | None = None,
    board: IBoard | None = None,
    **options: Any,
) -> Pool:
    """A pool of be1, be2 and be3 that speaks IMAP and POP3, unless the options say otherwise."""
    options = {"members": ["be1", "be2", "be3"], "imap": {}, "pop3": {}} | options
    clock = clock or Clock()
    tally = LocalTally(clock.seconds) if tally is None else tally
    made = Pool(name, PoolOptions(**options), clock, Random(1), tally, board or Board())
    made.start()
    return made


@implementer(IHouse)
class FakeHouse:
    """A house with a clock and the pools C{main} and C{labs}."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.settings = Settings()
        self.pools: Mapping[str, IPool] = {name: pool(name, self.reactor) for name in ("main", "labs")}


class RoutingTestCase(SynchronousTestCase):
    """Waits for coroutines that need no reactor."""

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result; it must not wait for anything real."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def answer(self, rule: Any, identity: Identity | str = ALICE, protocol: str = "imap") -> Route | None:
        """What a rule says to a user, given as an identity or by name."""
        identity = Identity(identity) if isinstance(identity, str) else identity
        return self.wait(rule.route(identity, protocol))

    def refused(self, rule: Any, identity: Identity | str = ALICE, protocol: str = "imap") -> Refusal:
        """The refusal of a rule or router that must refuse, with temporary trouble."""
        identity = Identity(identity) if isinstance(identity, str) else identity
        error = self.failureResultOf(Deferred.fromCoroutine(rule.route(identity, protocol)), LoginRefused).value
        self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)
        return error.refusal


class RuleContract:
    """Mixed in by the tests of each rule: C{make} builds it as the settings do, C{known} is a user it answers for."""

    known: Identity = ALICE

    def make(self) -> Any:
        """The rule."""
        raise NotImplementedError

    def test_provides_the_interface(self) -> None:
        """The rule is what the interface asks for."""
        self.assertTrue(verifyObject(IRoutingRule, self.make()))  # type: ignore[attr-defined]

    def test_has_a_name_to_show(self) -> None:
        """The name begins with the rule's kind, as C{mailgw route} shows it, and holds no number of the settings."""
        self.assertRegex(self.make().name, r"\A[a-z]+( \S+)?\Z")  # type: ignore[attr-defined]

    def test_answers_alike_for_each_protocol(self) -> None:
        """All protocols of a user go to the same place."""
        rule = self.make()
        answers = {self.answer(rule, self.known, protocol) for protocol in ("imap", "pop3", "smtp", "managesieve")}  # type: ignore[attr-defined]
        self.assertEqual(len(answers), 1)  # type: ignore[attr-defined]
        self.assertIsInstance(answers.pop(), Route)  # type: ignore[attr-defined]

    def test_answers_alike_the_second_time(self) -> None:
        """Asking changes nothing."""
        rule = self.make()
        self.assertEqual(self.answer(rule, self.known), self.answer(rule, self.known))  # type: ignore[attr-defined]
