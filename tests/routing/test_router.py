"""Tests of L{mailgw.routing.router}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IRouter, IRoutingRule
from mailgw.model import LOCAL, Identity, RefusalKind, Route, Step
from mailgw.routing.router import LocalRule, Router
from tests.routing.contract import ALICE, FakeHouse, RoutingTestCase, RuleContract


@implementer(IRoutingRule)
class FakeRule:
    """A rule that gives one answer, or raises it."""

    def __init__(self, answer: Any, name: str = "fake rule") -> None:
        self.name = name
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    async def route(self, identity: Identity, protocol: str) -> Route | None:
        self.asked.append((identity.username, protocol))
        if isinstance(self.answer, Deferred):
            return await self.answer  # type: ignore[no-any-return]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


class RouterTests(RoutingTestCase):
    def events(self) -> list[dict[str, Any]]:
        """What is logged from now on."""
        seen: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(seen.append)
        self.addCleanup(globalLogPublisher.removeObserver, seen.append)
        return seen

    def test_provides_the_interface(self) -> None:
        """The router is what realm and delivery ask for."""
        self.assertTrue(verifyObject(IRouter, Router([])))

    def test_first_answer_wins(self) -> None:
        """Rules that say nothing are passed, and the ones behind an answer are not asked."""
        rules = [FakeRule(None), FakeRule(Route("main")), FakeRule(Route("labs"))]
        self.assertEqual(self.wait(Router(rules).route(ALICE, "pop3")), Route("main"))
        self.assertEqual([rule.asked for rule in rules], [[("alice@example.org", "pop3")]] * 2 + [[]])

    def test_no_rule_answers(self) -> None:
        """There is no default: a user whom no rule knows meets temporary trouble."""
        self.assertEqual(self.refused(Router([FakeRule(None)])).reason, "no rule answered")
        self.assertEqual(self.refused(Router([])).reason, "no rule answered")

    def test_pitfall_12_refusing_rule_ends_the_search(self) -> None:
        """A rule that cannot tell is temporary trouble: no later rule, and no default, is asked."""
        last = FakeRule(Route("main"))
        refusal = self.refused(Router([FakeRule(LoginRefused(RefusalKind.UNAVAILABLE, "two values")), last]))
        self.assertEqual((refusal.reason, last.asked), ("two values", []))

    def test_pitfall_12_directory_down_ends_the_search(self) -> None:
        """A rule whose lookup fails is temporary trouble as well."""
        last = FakeRule(LOCAL)
        self.assertEqual(self.refused(Router([FakeRule(DirectoryDown("timed out")), last])).reason, "timed out")
        self.assertEqual(last.asked, [])

    def test_pitfall_12_broken_rule_ends_the_search(self) -> None:
        """A rule that raises anything else is logged with its traceback, and is temporary trouble."""
        last = FakeRule(LOCAL)
        refusal = self.refused(Router([FakeRule(KeyError("mailHost")), last]))
        self.assertEqual((refusal.reason, last.asked), ("the rule failed: KeyError", []))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_refusals_are_logged(self) -> None:
        """The log says which rule refused whom and why."""
        events = self.events()
        self.refused(Router([FakeRule(LoginRefused(RefusalKind.UNAVAILABLE, "two values"), "attribute mailHost")]))
        (event,) = [event for event in events if event.get("rule")]
        self.assertEqual(
            (event["rule"], event["user"], event["reason"]), ("attribute mailHost", ALICE.username, "two values")
        )

    def test_cancelled_while_a_rule_waits(self) -> None:
        """A login whose session went away is cancelled through the rule, and is nobody's fault."""
        result = Deferred.fromCoroutine(Router([FakeRule(Deferred())]).route(ALICE, "imap"))
        self.assertNoResult(result)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_explain(self) -> None:
        """Every rule that was asked tells what it said, up to the one that answered."""
        rules = [FakeRule(None, "regex x"), FakeRule(Route("main", "be1"), "table y"), FakeRule(LOCAL, "local")]
        self.assertEqual(
            self.wait(Router(rules).explain(ALICE, "imap")),
            [Step("regex x", "not its business"), Step("table y", "pool main, backend be1")],
        )

    def test_explain_answers(self) -> None:
        """An answer is told as what it is."""
        for route, words in (
            (LOCAL, "local"),
            (Route("main"), "pool main"),
            (Route("main", hashed=True), "pool main, by hash"),
        ):
            self.assertEqual(self.wait(Router([FakeRule(route)]).explain(ALICE, "imap")), [Step("fake rule", words)])

    def test_explain_trouble(self) -> None:
        """Trouble is told and not raised, and ends the steps as it ends the search."""
        rules = [FakeRule(None), FakeRule(LoginRefused(RefusalKind.UNAVAILABLE, "two values")), FakeRule(LOCAL)]
        steps = self.wait(Router(rules).explain(ALICE, "imap"))
        self.assertEqual(steps[1:], [Step("fake rule", "refused: two values")])
        self.assertEqual(self.wait(Router([]).explain(ALICE, "imap")), [Step("router", "refused: no rule answered")])


class LocalRuleTests(RuleContract, RoutingTestCase):
    def make(self) -> LocalRule:
        """The rule."""
        return LocalRule.from_options("local-1", LocalRule.Options(), FakeHouse())

    def test_route(self) -> None:
        """Everybody goes to the embedded store."""
        self.assertEqual(self.answer(self.make()), LOCAL)
