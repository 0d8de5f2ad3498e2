"""Tests of the SASL mechanisms, of strict base64, and of the rules for names and passwords."""

from __future__ import annotations

import base64

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import Access, Login
from mailgw.wire.sasl import (
    MAX_PASSWORD,
    MAX_RESPONSE,
    MAX_USERNAME,
    MECHANISMS,
    Challenge,
    LoginServer,
    Malformed,
    PlainServer,
    client_mechanism,
    decode,
    encode,
    plain_response,
    present,
    unfit,
)

PASSWORD = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
"""Every octet that a password may have."""


class Base64Tests(SynchronousTestCase):
    """L{decode} and L{encode}."""

    def test_strict(self) -> None:
        """What a lenient decoder would pass over is refused."""
        for text in (b"YQ", b"YQ=", b"YQ==\n", b"Y Q==", b"YQ==YQ==", b"Y!Q==", b"===", b"==", b"*", b"YWJj=", b"\xff"):
            self.assertIsNone(decode(text), text)

    def test_empty(self) -> None:
        """C{=} is the empty response, and so is nothing at all."""
        self.assertEqual((decode(b"="), decode(b"")), (b"", b""))

    def test_too_long(self) -> None:
        """A response has a cap."""
        self.assertEqual(len(decode(b"A" * MAX_RESPONSE) or b""), MAX_RESPONSE // 4 * 3)
        self.assertIsNone(decode(b"A" * (MAX_RESPONSE + 4)))

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.binary(max_size=200))
    def test_round_trip(self, data: bytes) -> None:
        """All octets survive, and we encode as the standard library does."""
        self.assertEqual(encode(data), base64.b64encode(data))
        self.assertEqual(decode(encode(data)), data)


class PresentTests(SynchronousTestCase):
    """L{present}: what may become a login."""

    def refused(self, username: bytes, password: bytes, authzid: bytes = b"") -> None:
        """Assert that this is malformed."""
        self.assertIsInstance(present(username, password, "PLAIN", authzid), Malformed)

    def test_every_octet(self) -> None:
        """A password keeps every octet, and a name is UTF-8."""
        self.assertEqual(present("bü b".encode(), PASSWORD, "PLAIN"), Login("bü b", PASSWORD, "PLAIN"))

    def test_empty(self) -> None:
        """Neither name nor password may be empty: it would be an anonymous bind somewhere."""
        self.refused(b"", b"secret")
        self.refused(b"bob", b"")

    def test_commands_in_credentials(self) -> None:
        """CR, LF and NUL are refused in a password, all control characters in names."""
        for octet in (b"\r", b"\n", b"\0"):
            self.refused(b"bob", b"se" + octet + b"cret")
        for octet in (b"\r", b"\n", b"\0", b"\x01", b"\x1b", b"\x7f", "\x85".encode()):
            self.refused(b"b" + octet + b"ob", b"secret")
            self.refused(b"bob", b"secret", b"al" + octet + b"ice")

    def test_not_text(self) -> None:
        """A name that is no UTF-8 is refused."""
        self.refused(b"b\xff", b"secret")
        self.refused(b"bob", b"secret", b"\xc3")

    def test_too_long(self) -> None:
        """Names and passwords have caps."""
        self.assertIsInstance(present(b"b" * MAX_USERNAME, b"p" * MAX_PASSWORD, "PLAIN"), Login)
        self.refused(b"b" * (MAX_USERNAME + 1), b"p")
        self.refused(b"b", b"p" * (MAX_PASSWORD + 1))
        self.refused(b"b", b"p", b"a" * (MAX_USERNAME + 1))

    def test_secrets_stay(self) -> None:
        """No repr shows a password."""
        self.assertNotIn("secret", repr(present(b"bob", b"secret", "PLAIN")))
        self.assertNotIn("secret", repr(Access("bob", b"secret")))


class ServerMechanismTests(SynchronousTestCase):
    """PLAIN and LOGIN, server side."""

    def test_plain(self) -> None:
        """PLAIN is one message, asked for where it does not come by itself; the authorization identity is kept."""
        self.assertEqual(PlainServer().step(None), Challenge(b""))
        self.assertEqual(PlainServer().step(b"admin\0bob\0secret"), Login("bob", b"secret", "PLAIN", "admin"))

    def test_plain_malformed(self) -> None:
        """Fewer or more NULs than two are no PLAIN."""
        for response in (b"", b"bob", b"bob\0secret", b"\0bob\0sec\0ret", b"\0\0", b"\0\0\0"):
            self.assertIsInstance(PlainServer().step(response), Malformed, response)

    def test_login(self) -> None:
        """LOGIN asks for the name and for the password."""
        mechanism = LoginServer()
        self.assertEqual(mechanism.step(None), Challenge(b"Username:"))
        self.assertEqual(mechanism.step(b"bob"), Challenge(b"Password:"))
        self.assertEqual(mechanism.step(b"secret"), Login("bob", b"secret", "LOGIN"))

    def test_login_with_initial_response(self) -> None:
        """The name may come as the initial response."""
        mechanism = LoginServer()
        self.assertEqual(mechanism.step(b"bob"), Challenge(b"Password:"))
        self.assertEqual(mechanism.step(b"secret"), Login("bob", b"secret", "LOGIN"))

    def test_login_malformed(self) -> None:
        """LOGIN's parts go through the same rules."""
        for username, password in ((b"", b"x"), (b"bob", b""), (b"b\nob", b"x"), (b"bob", b"x\r")):
            mechanism = LoginServer()
            mechanism.step(username)
            self.assertIsInstance(mechanism.step(password), Malformed)

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.sampled_from(sorted(MECHANISMS)), st.lists(st.binary(max_size=12), max_size=3))
    def test_random_responses(self, name: str, responses: list[bytes]) -> None:
        """No response raises, and whatever comes out keeps the rules."""
        mechanism = MECHANISMS[name]()
        for response in responses:
            outcome = mechanism.step(response)
            if isinstance(outcome, Login):
                self.assertTrue(outcome.username and outcome.password)
                self.assertFalse(set(outcome.password) & {0, 10, 13})


class ClientMechanismTests(SynchronousTestCase):
    """The client side: what to use, and what to send."""

    def test_plain_response(self) -> None:
        """PLAIN's message, with all octets."""
        self.assertEqual(plain_response(Access("bü", PASSWORD, "alice")), b"alice\0b\xc3\xbc\0" + PASSWORD)

    def test_choice(self) -> None:
        """PLAIN before LOGIN; LOGIN never where somebody else is acted for."""
        both, login = frozenset({"PLAIN", "LOGIN", "GSSAPI"}), frozenset({"LOGIN"})
        self.assertEqual(client_mechanism(both, Access("bob", b"x")), "PLAIN")
        self.assertEqual(client_mechanism(login, Access("bob", b"x")), "LOGIN")
        self.assertIsNone(client_mechanism(login, Access("gw", b"x", "bob")))
        self.assertIsNone(client_mechanism(frozenset({"GSSAPI"}), Access("bob", b"x")))

    def test_unfit(self) -> None:
        """Credentials that would be commands are found, wherever they come from."""
        self.assertEqual(unfit(Access("bob", PASSWORD, "alice")), "")
        for access in (Access("b\nob", b"x"), Access("bob", b"x\r"), Access("bob", b"\0"), Access("bob", b"x", "a\r")):
            self.assertIn("CR, LF or NUL", unfit(access))
        self.assertIn("not Unicode", unfit(Access("\udcff", b"x")))
