"""Tests of L{mailgw.routing.override}."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.errors import LoginRefused
from mailgw.interfaces import IPool, IRoutingRule
from mailgw.model import Identity, RefusalKind, Route
from mailgw.ops.board import Board
from mailgw.routing.override import OVERRIDE, OverrideRule, target_of

ANNA = Identity("anna@example.com")


def pools(**members: tuple[tuple[str, str | None], ...]) -> Mapping[str, IPool]:
    """Pools whose members have these hosts and names."""
    made: dict[str, Any] = {}
    for pool, some in members.items():
        listed = [SimpleNamespace(host=host, name=name) for host, name in some]
        made[pool] = SimpleNamespace(name=pool, options=SimpleNamespace(members=listed))
    return cast(Mapping[str, IPool], made)


ONE = pools(main=(("10.0.0.1", "be1"), ("be2.internal", None)))
TWO = pools(main=(("10.0.0.1", "be1"), ("10.0.0.2", "be2")), labs=(("10.0.1.1", "be1"), ("10.0.1.3", "be3")))


class RuleTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Nobody is held."""
        self.board = Board()
        self.hold: Deferred[None] | None = None
        self.rule = OverrideRule(self.board, ONE, lambda username: self.hold)

    def ask(self, protocol: str = "imap") -> Deferred[Route | None]:
        """Where Anna goes."""
        return Deferred.fromCoroutine(self.rule.route(ANNA, protocol))

    def test_interface(self) -> None:
        """It is a rule."""
        verifyObject(IRoutingRule, self.rule)

    def test_words(self) -> None:
        """Who was not moved is not its business; who was goes to a pool, or to a backend in or outside it."""
        self.assertIsNone(self.successResultOf(self.ask()))
        for word, route in (
            ("main", Route("main")),
            ("main/be1", Route("main", "be1")),
            ("main/[2001:db8::1]:10143", Route("main", "[2001:db8::1]:10143")),
        ):
            self.board.post(OVERRIDE, "anna@example.com", word)
            self.assertEqual(self.successResultOf(self.ask()), route)

    def test_pool_gone(self) -> None:
        """A pool that the settings have no more is temporary trouble: the rules could show an empty mailbox."""
        self.board.post(OVERRIDE, "anna@example.com", "old/be1")
        refusal = self.failureResultOf(self.ask(), LoginRefused).value.refusal
        self.assertIs(refusal.kind, RefusalKind.UNAVAILABLE)

    def test_mail_waits(self) -> None:
        """Mail for somebody who is being moved waits, and goes to the new backend; a login has waited before."""
        self.hold = Deferred()
        self.successResultOf(self.ask("pop3"))
        mail = self.ask("smtp")
        self.assertNoResult(mail)
        self.board.post(OVERRIDE, "anna@example.com", "main/be1")
        self.hold.callback(None)
        self.assertEqual(self.successResultOf(mail), Route("main", "be1"))


class TargetTests(SynchronousTestCase):
    def test_meant(self) -> None:
        """What an administrator types becomes one word that says pool and backend."""
        for text, where, word in (
            ("main", TWO, "main"),
            ("be2", TWO, "main/be2"),
            ("BE2.Internal", ONE, "main/be2.internal"),
            ("labs/BE1", TWO, "labs/be1"),
            ("labs/10.9.9.9:10143", TWO, "labs/10.9.9.9:10143"),
            ("other.internal:993", ONE, "main/other.internal:993"),
            ("10.9.9.9", ONE, "main/10.9.9.9"),
            ("[2001:db8::1]:993", ONE, "main/[2001:db8::1]:993"),
        ):
            self.assertEqual(target_of(text, where), word)

    def test_not_meant(self) -> None:
        """What is nothing, or could be two things, is refused in words that help."""
        for text, where, words in (
            ("be1", TWO, "be1 is a member of labs, main: write labs/be1"),
            ("be9", ONE, "be9 is no pool and no member of one"),
            ("other.internal", TWO, "POOL/HOST"),
            ("mian/be1", TWO, "there is no pool 'mian'; there are labs, main"),
            ("main/", TWO, "'' is no host"),
            ("main/a b", TWO, "'a b' is no host"),
            ("", ONE, "is no pool"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, target_of, text, where)), text)
