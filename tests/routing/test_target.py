"""Tests of L{mailgw.routing.target}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import LoginRefused
from mailgw.model import RefusalKind
from mailgw.routing.target import backend_user, split_host


class SplitHostTests(SynchronousTestCase):
    def test_good(self) -> None:
        """Names and addresses, with ports and without, are taken apart and written in one way."""
        for text, expected in (
            ("be1", ("be1", None)),
            ("BE1.Corp.Example.", ("be1.corp.example", None)),
            ("mail_store-1.corp:10143", ("mail_store-1.corp", 10143)),
            ("10.0.0.7", ("10.0.0.7", None)),
            ("10.0.0.7:1", ("10.0.0.7", 1)),
            ("be1:imap2", ("be1", 143)),
            ("[2001:DB8::1]", ("2001:db8::1", None)),
            ("[2001:db8:0::1]:993", ("2001:db8::1", 993)),
            ("2001:db8::1", ("2001:db8::1", None)),
            ("xn--bcher-kva.example", ("xn--bcher-kva.example", None)),
        ):
            self.assertEqual(split_host(text), expected, text)

    def test_bad(self) -> None:
        """Everything else is refused, above all what a resolver would read as an address."""
        for text in (
            *("", ".", "..", "a..b", "-a", "a-.b", "a b", " be1", "be1 ", "be1\n", "be1\0", "b\u00fccher.example"),
            *("be1:", "be1:0", "be1:65536", "be1:-1", "be1:+5", "be1: 5", "be1:\u0661", "be1:gopher", ":143"),
            *("10.0.0", "10.0.0.256", "2130706433", "0x7f000001", "127.0.0.0x1", "010.0.0.1"),
            *("[::1", "::1]", "[be1]:143", "[10.0.0.7]", "[::1]x", "[::1]:", "fe80::1%eth0", "::1:x", "[[::1]]"),
            *("user@be1", "be1/x", "be1,be2", "$1", "a" * 64, ".".join(["a" * 60] * 5)),
        ):
            self.assertRaises(ValueError, split_host, text)

    @given(st.text())
    def test_nothing_else_is_raised(self, text: str) -> None:
        """Any text is a host or a ValueError, and what is a host stays one when it is written again."""
        try:
            host, port = split_host(text)
        except ValueError:
            return
        self.assertEqual(split_host(host), (host, None))
        self.assertTrue(port is None or 0 < port < 65536)


class BackendUserTests(SynchronousTestCase):
    """L{backend_user}."""

    def test_good(self) -> None:
        """Names come back as they are."""
        for name in ("mbox17", "a b", "a@b.example", "\u00fc", "%", "x" * 256):
            self.assertEqual(backend_user(name), name)

    def test_bad(self) -> None:
        """What could be two lines to a backend, or nothing, is temporary trouble."""
        for name in ("", "a\r\nb", "a\0", "\x7f", "\x85", "\udc80", "x" * 257, "\u00fc" * 129):
            error = self.assertRaises(LoginRefused, backend_user, name)
            self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)
