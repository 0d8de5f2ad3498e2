"""Tests of the pure parts: policy, verdicts, hops, the trace."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.mail import smtp
from twisted.trial.unittest import SynchronousTestCase

from mailgw.delivery.envelope import Origin, Path, RecipientRefused, reply_of
from mailgw.delivery.policy import NOT_YOURS, HopCounter, Policy
from mailgw.delivery.trace import received
from mailgw.delivery.verdict import is_mixed, verdict
from mailgw.model import Identity, Peer
from mailgw.wire.events import Reply
from mailgw.wire.replies import TROUBLE

GOOD, BAD, LATER = Reply(250, "2.0.0", "ok"), Reply(550, "5.1.1", "no"), Reply(452, "4.2.2", "full")


class PolicyTests(SynchronousTestCase):
    """L{Policy}."""

    def test_senders(self) -> None:
        """A login owns its canonical name and its addresses; on MX the world may be anybody."""
        policy = Policy(["d"])
        user = Identity("kim", addresses=("Kim.Smith@d",))
        for sender in ("kim@d", "kim.smith@D", "KIM@d", ""):
            self.assertIsNone(policy.sender(user, sender), sender)
        for sender in ("kim@e", "smith@d", "kim+x@d"):
            self.assertEqual(policy.sender(user, sender), NOT_YOURS, sender)
        self.assertIsNone(policy.sender(None, "anybody@anywhere"))

    def test_domains(self) -> None:
        """Our domains in any case, nothing that ends like them, and postmaster without a domain."""
        policy = Policy(["example.com", "d"])
        for address in ("a@example.com", "a@EXAMPLE.com", '"@x"@d', "postmaster"):
            self.assertTrue(policy.is_ours(address))
        for address in ("a@sub.example.com", "a@notexample.com", '"a@d"@e', "a@[1.2.3.4]"):
            self.assertFalse(policy.is_ours(address))
        self.assertEqual(policy.lookup_name("postmaster"), "postmaster@example.com")
        self.assertEqual(policy.lookup_name("Ann@D"), "ann@d")
        self.assertEqual(Policy([]).lookup_name("postmaster"), "postmaster")


class HopCounterTests(SynchronousTestCase):
    """L{HopCounter}."""

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 5), st.lists(st.integers(0, 200), max_size=4))
    def test_any_cut(self, count: int, cuts: list[int]) -> None:
        """Headers are counted once each, whatever their case and the cuts, and nothing in the body is."""
        text = (
            b"received: a\r\nX-Received: b\r\n" * count + b"RECEIVED:\r\n c\r\n\r\nReceived: d\r\n\r\nReceived: e\r\n"
        )
        counter = HopCounter()
        start = 0
        for end in [*sorted(cuts), len(text)]:
            counter.feed(text[start:end])
            start = max(start, end)
        self.assertEqual(counter.hops, count + 1)

    def test_no_header(self) -> None:
        """A message that begins with its body has none."""
        counter = HopCounter()
        counter.feed(b"\r\nReceived: x\r\n")
        self.assertEqual(counter.hops, 0)


class VerdictTests(SynchronousTestCase):
    """L{verdict}."""

    def test_table(self) -> None:
        """All outcomes of up to three recipients."""
        for outcomes, reply in (
            *(([], TROUBLE), ([GOOD], GOOD), ([BAD], BAD), ([LATER], LATER), ([GOOD, GOOD], GOOD)),
            *(([BAD, BAD], BAD), ([GOOD, BAD], TROUBLE), ([GOOD, LATER], LATER), ([BAD, LATER], LATER)),
            ([GOOD, BAD, LATER], LATER),
        ):
            self.assertEqual(verdict(outcomes), reply, outcomes)

    def test_mixed(self) -> None:
        """Mixed is what brings somebody a second copy."""
        self.assertEqual(
            [is_mixed(outcomes) for outcomes in ([], [GOOD], [BAD, LATER], [GOOD, LATER])], [False, False, False, True]
        )


class TraceTests(SynchronousTestCase):
    """The Received header."""

    def header(self, host: str = "192.0.2.1", **options: object) -> bytes:
        """Write one."""
        given: dict[str, object] = {"esmtp": True, "secure": True, "authenticated": True, **options}
        return received(Peer(host, 1), "[1.2.3.4]", "gw", "sess", 1e9, **given)  # type: ignore[arg-type]

    def test_whole(self) -> None:
        """It is one folded header, with everything that is known."""
        self.assertEqual(
            self.header("2001:db8::1", recipient="a@d"),
            b"Received: from [1.2.3.4] ([IPv6:2001:db8::1])\r\n\tby gw (mailgw) with ESMTPSA id sess\r\n"
            b"\tfor <a@d>;\r\n\tSun, 09 Sep 2001 01:46:40 +0000\r\n",
        )

    def test_protocols(self) -> None:
        """The protocol's name says what was spoken (RFC 3848)."""
        for esmtp, secure, authenticated, name in (
            *((True, True, True, b"ESMTPSA"), (True, False, True, b"ESMTPA"), (True, True, False, b"ESMTPS")),
            *((True, False, False, b"ESMTP"), (False, False, False, b"SMTP"), (False, True, False, b"ESMTPS")),
        ):
            header = self.header("local", esmtp=esmtp, secure=secure, authenticated=authenticated)
            self.assertIn(b"(local)", header)
            self.assertEqual(re.findall(rb"with (\w+) ", header), [name])


class EnvelopeTests(SynchronousTestCase):
    """The envelope in twisted.mail's words."""

    def test_paths(self) -> None:
        """Addresses keep their text, also as twisted.mail copies them."""
        for text in ("a@d", '"a b@c"@d', "postmaster", ""):
            user = smtp.User(Path(text), (b"", b""), None, Origin(text, 5))
            self.assertEqual((user.dest.text, user.orig.text, user.orig.size), (text, text, 5))
        self.assertEqual(bytes(Path("a@d")), b"a@d")

    def test_refusals(self) -> None:
        """A refusal carries its reply; twisted.mail's own ones are understood too."""
        self.assertEqual(reply_of(RecipientRefused(Path("a@d"), BAD)), BAD)
        self.assertEqual(
            reply_of(smtp.SMTPBadRcpt(Path("a@d"))), Reply(550, "5.0.0", "Cannot receive for specified address")
        )
        self.assertEqual(reply_of(smtp.SMTPServerError(451, b"later")), Reply(451, "4.0.0", "later"))
