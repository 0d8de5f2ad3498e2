"""Attacks on STARTTLS, byte by byte: what comes in clear never counts in TLS, and no password is used in clear."""

from __future__ import annotations

import ssl

from tests.integration.clients import Wire
from tests.integration.embedded import EmbeddedTestCase

_HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 154


class StartTlsTests(EmbeddedTestCase):
    def services(self) -> list[tuple[int, bytes, bytes, bytes]]:
        """Of each service with STARTTLS: its port, what to say first, the command, and its go-ahead."""
        return [
            (self.ports.imap, b"", b"A STARTTLS\r\n", b"A OK"),
            (self.ports.pop3, b"", b"STLS\r\n", b"+OK"),
            (self.ports.submission, b"EHLO x.example\r\n", b"STARTTLS\r\n", b"220"),
            (self.ports.mx, b"EHLO x.example\r\n", b"STARTTLS\r\n", b"220"),
        ]

    def greeted(self, port: int, first: bytes) -> Wire:
        """A connection in clear that is ready for the command."""
        wire = Wire(port, seconds=10.0)
        self.addCleanup(wire.__exit__)
        wire.reply() if first else wire.line()
        if first:
            wire.send(first)
            wire.reply()
        return wire

    def ended(self, wire: Wire) -> bytes:
        """All that the gateway still says before it ends the connection."""
        try:
            return wire.rest()
        except TimeoutError:
            self.fail("the connection goes on")

    def test_injection(self) -> None:
        """Commands in the same segment as STARTTLS end the session, unanswered."""
        more = {0: b"B NOOP\r\n", 1: b"CAPA\r\n", 2: b"EHLO y.example\r\n", 3: b"NOOP\r\n"}
        for number, (port, first, command, _) in enumerate(self.services()):
            wire = self.greeted(port, first)
            wire.send(command + more[number])
            told = self.ended(wire)
            self.assertLessEqual(told.count(b"\r\n"), 1, told)
            self.assertNotIn(b"B OK", told)

    def test_injection_of_half_a_line(self) -> None:
        """The beginning of a command in clear is not completed in TLS: the session ends."""
        for port, first, command, _ in self.services():
            wire = self.greeted(port, first)
            wire.send(command + b"B NO")
            self.assertLessEqual(self.ended(wire).count(b"\r\n"), 1)

    def test_clear_text_after_the_go_ahead(self) -> None:
        """Plaintext instead of the handshake gets no answer in clear, and the session ends."""
        for port, first, command, go_ahead in self.services():
            wire = self.greeted(port, first)
            wire.send(command)
            self.assertTrue(wire.line().startswith(go_ahead))
            wire.send(b"B NOOP\r\n")
            self.assertNotIn(b"OK", self.ended(wire))

    def test_glued_handshake(self) -> None:
        """A ClientHello that does not wait for the go-ahead is clear text like any other: the session ends."""
        for port, first, command, _ in self.services():
            wire = self.greeted(port, first)
            wire.send(command + _HELLO)
            self.assertLessEqual(self.ended(wire).count(b"\r\n"), 1)

    def test_no_go_ahead_within_a_literal(self) -> None:
        """STARTTLS with a literal, or as a literal's content, gets no go-ahead."""
        for line in (b"A STARTTLS {3}\r\n", b"A STARTTLS {3+}\r\nabc\r\n", b"A STARTTLS now\r\n"):
            wire = self.greeted(self.ports.imap, b"")
            wire.send(line)
            self.assertRegex(wire.line(), rb"^(A BAD|\* BYE) ")
        wire = self.greeted(self.ports.imap, b"")
        wire.send(b"A LOGIN {10+}\r\nA STARTTLS {1+}\r\nx\r\n")
        self.assertNotIn(b"A OK", wire.line())

    def test_arguments(self) -> None:
        """POP3 and SMTP refuse a STARTTLS with arguments."""
        for port, first, command, _ in self.services()[1:]:
            wire = self.greeted(port, first)
            wire.send(command.replace(b"\r\n", b" now\r\n"))
            self.assertRegex(wire.line(), rb"^(-ERR|501 )")

    def test_twice(self) -> None:
        """In TLS there is no second STARTTLS, neither offered nor done."""
        refusals = [rb"^A BAD ", rb"^-ERR", rb"^503 ", rb"^503 "]
        for (port, first, command, _), refusal in zip(self.services(), refusals, strict=True):
            wire = self.greeted(port, first)
            wire.send(command)
            wire.line()
            wire.secure(self.context)
            if first:
                wire.send(first)
                self.assertNotIn(b"STARTTLS", wire.reply())
            wire.send(command)
            self.assertRegex(wire.line(), refusal)

    def test_nothing_in_implicit_tls(self) -> None:
        """On the ports with implicit TLS it is not offered either."""
        for port, first, command, _ in (
            (self.ports.imaps, b"", b"A STARTTLS\r\n", b""),
            (self.ports.submissions, b"EHLO x.example\r\n", b"STARTTLS\r\n", b""),
        ):
            with Wire(port, self.context) as wire:
                self.assertNotIn(b"STARTTLS", wire.line())
                if first:
                    wire.send(first)
                    self.assertNotIn(b"STARTTLS", wire.reply())
                wire.send(command)
                self.assertRegex(wire.line(), rb"^(A BAD|503) ")

    def test_smtp_forgets(self) -> None:
        """SMTP: EHLO, sender and recipients given in clear are forgotten in TLS (RFC 3207 §4.2)."""
        wire = self.greeted(self.ports.mx, b"EHLO x.example\r\n")
        wire.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<tester@localhost>\r\n")
        self.assertEqual([wire.reply()[:3], wire.reply()[:3]], [b"250", b"250"])
        wire.send(b"STARTTLS\r\n")
        wire.reply()
        wire.secure(self.context)
        for command in (b"DATA\r\n", b"MAIL FROM:<a@b.example>\r\n"):
            wire.send(command)
            self.assertEqual(wire.reply()[:3], b"503", command)

    def test_pop3_forgets(self) -> None:
        """POP3: a user name given in clear is forgotten in TLS."""
        wire = self.greeted(self.ports.pop3, b"")
        wire.send(b"USER tester\r\n")
        self.assertTrue(wire.line().startswith(b"-ERR"))
        wire.send(b"STLS\r\n")
        wire.line()
        wire.secure(self.context)
        wire.send(b"PASS correct horse\r\n")
        self.assertTrue(wire.line().startswith(b"-ERR"))

    def test_tls_on_a_clear_port(self) -> None:
        """A client that starts TLS where clear text is spoken is sent away soon."""
        for port, _, _, _ in self.services():
            wire = self.greeted(port, b"")
            wire.send(_HELLO + b"\r\n" * 20)
            self.ended(wire)

    def test_clear_text_on_a_tls_port(self) -> None:
        """Clear text where TLS is spoken ends the connection, without an answer in clear."""
        for port in (self.ports.imaps, self.ports.pop3s, self.ports.submissions):
            with Wire(port, seconds=10.0) as wire:
                wire.send(b"a NOOP\r\n")
                self.assertNotIn(b"a OK", self.ended(wire))

    def test_other_protocols(self) -> None:
        """A browser or an SSH client is sent away at its first line, in clear and in TLS."""
        for port, _, _, _ in self.services():
            wire = self.greeted(port, b"")
            wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            self.ended(wire)
        for port in (self.ports.imaps, self.ports.pop3s, self.ports.submissions):
            for line in (b"POST / HTTP/1.1\r\n", b"SSH-2.0-x\r\n"):
                with Wire(port, self.context, 10.0) as wire:
                    wire.line()
                    wire.send(line)
                    self.ended(wire)

    def test_the_name_is_checked(self) -> None:
        """Our own tests would notice a wrong name in the certificate."""
        wire = self.greeted(self.ports.imap, b"")
        wire.send(b"A STARTTLS\r\n")
        wire.line()
        self.assertRaises(ssl.SSLCertVerificationError, wire.secure, ssl.create_default_context())
