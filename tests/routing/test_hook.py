"""Tests of L{mailgw.routing.hook}."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgw.errors import LoginRefused, SettingsError
from mailgw.model import LOCAL, Identity, RefusalKind, Route
from mailgw.routing.hook import QUEUE, HookRule
from tests.routing import hooks
from tests.routing.contract import ALICE, FakeHouse, RoutingTestCase, RuleContract


def options(call: str, **others: Any) -> HookRule.Options:
    return HookRule.Options.model_validate({"call": f"tests.routing.hooks:{call}", "pool": "main", **others})


class Hooked(SynchronousTestCase):
    """Functions that have been asked nothing yet."""

    def setUp(self) -> None:
        hooks.asked.clear()
        hooks.answers[:] = [("main", "be1", "mbox17")]
        hooks.never.clear()
        hooks.hold.clear()
        self.addCleanup(hooks.hold.set)


class HookRuleTests(RuleContract, Hooked, RoutingTestCase):
    """A coroutine of the site's own."""

    def make(self, call: str = "waits", **others: Any) -> HookRule:
        """The rule, with the pool main."""
        self.house = FakeHouse()
        return HookRule.from_options("hook-1", options(call, **others), self.house)

    def says(self, answer: Any, **others: Any) -> Route | None:
        """What becomes of an answer."""
        hooks.answers[:] = [answer]
        return self.answer(self.make(**others))

    def test_arguments(self) -> None:
        """It is called with the identity and the protocol."""
        self.answer(self.make(), protocol="pop3")
        self.assertEqual([asked[1:] for asked in hooks.asked], [("alice@example.org", "pop3")])

    def test_answers(self) -> None:
        """Nothing, the local store, a pool, a backend, and both with a user or without."""
        for answer, route in (
            (None, None),
            ("local", LOCAL),
            ("labs", Route("labs")),
            ("be2", Route("main", "be2")),
            ("10.0.0.7:143", Route("main", "10.0.0.7:143")),
            (("labs", "be3"), Route("labs", "be3")),
            (("labs", None), Route("labs")),
            (["labs", "be3"], Route("labs", "be3")),
            (("labs", "be3", "mbox17"), Route("labs", "be3", username="mbox17")),
            (("labs", None, "mbox17"), Route("labs", username="mbox17")),
        ):
            self.assertEqual(self.says(answer), route, answer)

    def test_strange_answers(self) -> None:
        """What is none of these is trouble, never a guess."""
        for answer in (
            *("", 7, True, (), ("labs",), ("mian", "be1"), ("labs", 7), ("labs", "be1", ""), {"pool": "labs"}, b"be1"),
            *(("labs", "be1", "a\r\nb"), ("labs", "be1", "x" * 257), ("labs", "be1", "u", "v"), Route("labs")),
        ):
            hooks.answers[:] = [answer]
            self.refused(self.make())
        hooks.answers[:] = ["be1"]
        self.assertIn("names no pool", self.refused(self.make(pool=None)).reason)

    def test_raises(self) -> None:
        """Whatever it raises is trouble with a traceback in the log; a refusal of its own is just that."""
        hooks.answers[:] = [KeyError("x")]
        self.assertIn("KeyError", self.refused(self.make()).reason)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        hooks.answers[:] = [LoginRefused(RefusalKind.UNAVAILABLE, "moving")]
        self.assertEqual(self.refused(self.make()).reason, "moving")

    def test_timeout(self) -> None:
        """One that does not come back is trouble after the timeout, and is cancelled."""
        asked = Deferred.fromCoroutine(self.make("waits_for_ever", timeout="3s").route(ALICE, "imap"))
        self.house.reactor.advance(2.9)
        self.assertNoResult(asked)
        self.house.reactor.advance(0.1)
        error = self.failureResultOf(asked, LoginRefused).value
        self.assertIn("did not answer within 3 s", error.refusal.reason)
        self.assertTrue(hooks.never[0].called)

    def test_cancelled(self) -> None:
        """A login that went away cancels its question."""
        asked = Deferred.fromCoroutine(self.make("waits_for_ever").route(ALICE, "imap"))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertTrue(hooks.never[0].called)

    def test_bounded(self) -> None:
        """Questions are not let pile up."""
        rule = self.make("waits_for_ever", calls=1)
        waiting = [
            Deferred.fromCoroutine(rule.route(Identity(f"u{number}"), "imap")).addErrback(lambda _: None)
            for number in range(QUEUE + 1)
        ]
        self.assertIn("overloaded", self.refused(rule).reason)
        waiting[0].cancel()
        last = Deferred.fromCoroutine(rule.route(ALICE, "imap"))
        self.assertNoResult(last)
        last.addErrback(lambda _: None)
        self.house.reactor.advance(10)

    def test_object(self) -> None:
        """An object with an async __call__ is a coroutine function, too."""
        self.assertEqual(self.answer(self.make("an_object")), Route("main", "be1", username="mbox17"))

    def test_remembered(self) -> None:
        """With a cache it is asked once, and again after a flush."""
        rule = self.make(cache="60s")
        for _ in range(3):
            self.answer(rule)
        self.assertEqual(len(hooks.asked), 1)
        self.assertEqual(rule.flush("alice@example.org"), 1)
        self.answer(rule)
        self.assertEqual(len(hooks.asked), 2)

    def test_hostile_names(self) -> None:
        """Names reach the function as they are."""
        for name in ("a'b", "a\0b", "a\r\nb", "\udc80", "x" * 5000, "{0}", "%s"):
            self.answer(self.make(), name)
            self.assertEqual(hooks.asked[-1][1], name)

    def test_options(self) -> None:
        """A function that cannot be called stops the start, and is told with its key."""
        for call, words in (
            ("nowhere.at_all:f", "cannot be loaded"),
            ("tests.routing.hooks:missing", "cannot be loaded"),
            ("tests.routing.hooks:NOTHING", "nothing that can be called"),
            ("tests.routing.hooks", 'must be "package.module:function"'),
        ):
            error = self.assertRaises(ValidationError, HookRule.Options, call=call)
            self.assertIn(words, str(error))
        self.assertRaises(SettingsError, self.make, pool="mian")


class BlockingTests(Hooked, TestCase):
    """A function that may block runs in a thread."""

    timeout = 30

    def make(self, call: str, **others: Any) -> HookRule:
        """A rule on the real reactor."""
        house = FakeHouse()
        house.reactor = reactor  # type: ignore[assignment]  # real threads
        rule = HookRule.from_options("hook-1", options(call, **others), house)
        self.addCleanup(lambda: Deferred.fromCoroutine(rule.stop()))
        return rule

    async def trouble(self, rule: HookRule) -> str:
        """The reason of a refusal."""
        try:
            await rule.route(ALICE, "imap")
        except LoginRefused as error:
            self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)
            return error.refusal.reason
        raise AssertionError("no trouble")

    async def test_thread(self) -> None:
        """It is called in a thread, and its answer comes back."""
        route = await self.make("blocks").route(ALICE, "imap")
        self.assertEqual(route, Route("main", "be1", username="mbox17"))
        self.assertNotEqual(hooks.asked[0][0], "MainThread")

    async def test_raises(self) -> None:
        """What it raises is trouble."""
        hooks.answers[:] = [ZeroDivisionError()]
        self.assertIn("ZeroDivisionError", await self.trouble(self.make("blocks")))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_hangs(self) -> None:
        """One that hangs is trouble after the timeout; stopping waits no longer than that either."""
        self.assertIn("did not answer", await self.trouble(self.make("hangs", timeout="100ms")))

    async def test_meant_to_be_async(self) -> None:
        """A coroutine that nobody could await is trouble that says what came."""
        self.assertIn("answered with a coroutine", await self.trouble(self.make("returns_a_coroutine")))

    async def test_stopped(self) -> None:
        """After the stop nobody is asked."""
        rule = self.make("blocks")
        await rule.stop()
        self.assertIn("not running", await self.trouble(rule))
