"""Tests of L{mailgw.routing.router}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import ILookingRule, IRouter, IRoutingRule
from mailgw.model import LOCAL, Identity, Origin, Peer, RefusalKind, Route, Step
from mailgw.names import Form
from mailgw.routing.router import LocalRule, Router
from tests.routing.contract import ALICE, FakeHouse, RoutingTestCase, RuleContract


@implementer(IRoutingRule)
class FakeRule:
    """A rule that gives one answer, or raises it."""

    def __init__(self, answer: Any, name: str = "fake rule") -> None:
        self.name = name
        self.answer = answer
        self.asked: list[tuple[str, str]] = []
        self.origins: list[Any] = []

    async def route(self, identity: Identity, protocol: str, origin: Any = None) -> Route | None:
        self.origins.append(origin)
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

    def test_origin(self) -> None:
        """Rules are told of the session that asks."""
        rule, origin = FakeRule(LOCAL), Origin("s1", "imap", Peer("192.0.2.1", 4711))
        self.wait(Router([rule]).route(ALICE, "imap", origin))
        self.wait(Router([rule]).explain(ALICE, "imap", origin))
        self.wait(Router([rule]).route(ALICE, "imap"))
        self.assertEqual(rule.origins, [origin, origin, None])

    def test_form(self) -> None:
        """Backends are told a form of the canonical name, or of the name that a rule gave; the local store is none."""
        form = Form(strip=True, lower=True)
        for route, wanted in (
            (Route("main"), Route("main", username="alice")),
            (Route("main", "be1", True, password=b"x"), Route("main", "be1", True, "alice", b"x")),
            (Route("main", username="Bob@b.example"), Route("main", username="bob")),
            (LOCAL, LOCAL),
        ):
            self.assertEqual(self.wait(Router([FakeRule(route)], form).route(ALICE, "imap")), wanted)
        for same in (Form(), Form(lower=True)):
            router = Router([FakeRule(Route("main"))], same)
            self.assertEqual(self.wait(router.route(ALICE, "imap")), Route("main"))
        [step] = self.wait(Router([FakeRule(Route("main"))], form).explain(ALICE, "imap"))
        self.assertEqual(step.answer, "pool main, as 'alice'")
        self.refused(Router([FakeRule(None)], form))

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
            (Route("main", "be1", username="mbox17"), "pool main, backend be1, as 'mbox17'"),
        ):
            self.assertEqual(self.wait(Router([FakeRule(route)]).explain(ALICE, "imap")), [Step("fake rule", words)])

    def test_explain_trouble(self) -> None:
        """Trouble is told and not raised, and ends the steps as it ends the search."""
        rules = [FakeRule(None), FakeRule(LoginRefused(RefusalKind.UNAVAILABLE, "two values")), FakeRule(LOCAL)]
        steps = self.wait(Router(rules).explain(ALICE, "imap"))
        self.assertEqual(steps[1:], [Step("fake rule", "refused: two values")])
        self.assertEqual(self.wait(Router([]).explain(ALICE, "imap")), [Step("router", "refused: no rule answered")])


@implementer(ILookingRule)
class Looking(FakeRule):
    """A rule that holds something."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(None)
        self.error = error
        self.flushed: list[str | None] = []
        self.stopped = 0

    def flush(self, user: str | None = None) -> int:
        self.flushed.append(user)
        return 2

    async def stop(self) -> None:
        self.stopped += 1
        if self.error is not None:
            raise self.error


class LookingTests(RoutingTestCase):
    """Rules that hold something, among others that do not."""

    def test_provides(self) -> None:
        """The double is what the interface asks for."""
        verifyObject(ILookingRule, Looking())

    def test_flush(self) -> None:
        """All of them forget, and what they forgot is counted."""
        rules = [Looking(), FakeRule(None), Looking()]
        self.assertEqual(Router(rules).flush("alice"), 4)
        self.assertEqual(Router(rules).flush(), 4)
        self.assertEqual([rule.flushed for rule in rules if isinstance(rule, Looking)], [["alice", None]] * 2)

    def test_stop(self) -> None:
        """All of them are stopped, whatever one of them says."""
        rules = [Looking(OSError("no")), FakeRule(None), Looking()]
        self.failureResultOf(Deferred.fromCoroutine(Router(rules).stop()), OSError)
        self.assertEqual([rule.stopped for rule in rules if isinstance(rule, Looking)], [1, 1])


class LocalRuleTests(RuleContract, RoutingTestCase):
    def make(self) -> LocalRule:
        """The rule."""
        return LocalRule.from_options("local-1", LocalRule.Options(), FakeHouse())

    def test_route(self) -> None:
        """Everybody goes to the embedded store."""
        self.assertEqual(self.answer(self.make()), LOCAL)
