"""Attacks on TLS itself, on what comes before it, and across protocols; STARTTLS has more in C{test_starttls}."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import time

from tests.integration.attacks import HELLO, WRONG, Attacker, AttackTestCase, plain, stranger
from tests.integration.clients import Wire
from tests.integration.embedded import PASSWORD, USER, Embedded
from tests.integration.ports import HOST, program

CLIENT_HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 159
VERBS = (
    *(b"GET / HTTP/1.1", b"POST /x HTTP/1.1", b"HEAD / HTTP/1.0", b"PUT /a HTTP/1.1", b"OPTIONS * HTTP/1.1"),
    *(
        b"CONNECT a:25 HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"Host: localhost",
        b"SSH-2.0-x",
        b"DELETE / HTTP/1.1",
        b"PATCH / HTTP/1.1",
    ),
)
PASS = PASSWORD.encode()
RIGHT = plain(USER.encode(), PASS)


class TlsTestCase(AttackTestCase):
    """Ports in clear and in TLS."""

    def clear_ports(self) -> list[int]:
        """Where clear text is spoken at first."""
        return [self.ports.imap, self.ports.pop3, self.ports.submission, self.ports.mx]

    def tls_ports(self) -> list[int]:
        """Where it never is."""
        return [self.ports.imaps, self.ports.pop3s, self.ports.submissions]

    def rest_of(self, wire: Attacker) -> bytes:
        """All that the gateway says before it ends the connection, which is soon."""
        began = time.monotonic()
        try:
            said = wire.rest()
        except TimeoutError:
            self.fail("the connection goes on")
        self.assertLess(time.monotonic() - began, 2.0)
        return said


class BeforeTlsTests(TlsTestCase):
    """What is sent in clear, and instead of a handshake or in it."""

    def test_passwords(self) -> None:
        """No login is taken in clear, right as it may be; nobody is asked about it."""
        before = self.gateway.log().count(USER)
        for port, hello, commands, reply in (
            (
                self.ports.imap,
                b"",
                (
                    b'a LOGIN %b "%b"\r\n' % (USER.encode(), PASS),
                    b"a LOGIN {6+}\r\n%b {%d+}\r\n%b\r\n" % (USER.encode(), len(PASS), PASS),
                    b"a AUTHENTICATE PLAIN %b\r\n" % RIGHT,
                    b"a AUTHENTICATE PLAIN\r\n",
                    b"a AUTHENTICATE LOGIN\r\n",
                    b"a AUTHENTICATE EXTERNAL\r\n",
                ),
                b"a NO [PRIVACYREQUIRED] Use STARTTLS before you log in",
            ),
            (
                self.ports.pop3,
                b"",
                (
                    b"USER tester\r\n",
                    b"PASS %b\r\n" % PASS,
                    b"AUTH PLAIN %b\r\n" % RIGHT,
                    b"AUTH LOGIN\r\n",
                    b"AUTH\r\n",
                ),
                b"-ERR [AUTH] Use STLS before you log in",
            ),
            (
                self.ports.submission,
                HELLO,
                (
                    b"AUTH PLAIN %b\r\n" % RIGHT,
                    b"AUTH LOGIN\r\n",
                    b"AUTH CRAM-MD5\r\n",
                    b"MAIL FROM:<tester@localhost>\r\n",
                ),
                b"530 5.7.0 Must issue a STARTTLS command first",
            ),
        ):
            for command in commands:
                with Attacker(port) as wire:
                    wire.line()
                    wire.send(hello)
                    if hello:
                        self.assertNotIn(b"AUTH", wire.reply())
                    wire.send(command)
                    self.assertEqual(wire.line(), reply, command)
        self.assertEqual(self.gateway.log().count(USER), before)

    def test_not_offered(self) -> None:
        """No list of capabilities has a login in it before TLS."""
        for port, command, end in (
            (self.ports.imap, b"a CAPABILITY\r\n", b"a OK"),
            (self.ports.pop3, b"CAPA\r\n", b"\r\n.\r\n"),
            (self.ports.submission, HELLO, b"8BITMIME\r\n"),
        ):
            with Attacker(port) as wire:
                wire.send(command)
                said = wire.until(end)
                self.assertIsNone(re.search(rb"AUTH|SASL|USER", said.replace(b"AUTH-RESP-CODE", b"")), said)
                self.assertIn(b"LOGINDISABLED" if port == self.ports.imap else b"TLS", said)

    def test_handshake(self) -> None:
        """A ClientHello in clear text is cut off at once, and without a word, wherever it is cut."""
        for port in self.clear_ports():
            for pieces in ([CLIENT_HELLO], [CLIENT_HELLO[:1], CLIENT_HELLO[1:]], [b"\x16"]):
                with Attacker(port) as wire:
                    greeting = wire.line()
                    self.assertRegex(greeting, rb"^(\* OK|\+OK|220) ")
                    wire.send(*pieces[:1])
                    for piece in pieces[1:]:
                        wire.pour(piece)
                    self.assertEqual(self.rest_of(wire), b"")

    def test_other_protocols(self) -> None:
        """Whoever speaks HTTP or SSH is cut off at the first line, and none of the others is a command."""
        more = b"\r\nX: y\r\na NOOP\r\nNOOP\r\nCAPA\r\n" + HELLO + b"\r\n"
        for verb in VERBS:
            for port in self.clear_ports():
                with Attacker(port) as wire:
                    wire.line()
                    wire.send(verb + more)
                    self.assertEqual(self.rest_of(wire), b"", verb)
            for port in self.tls_ports():
                with Attacker(port, self.context) as wire:
                    wire.line()
                    wire.send(verb + more)
                    self.assertEqual(self.rest_of(wire), b"", verb)

    # --- what is sent instead of a handshake, or in it ----------------------------------------------------------------

    def test_no_handshake(self) -> None:
        """What is no handshake is cut off, with an alert at most, and answered in no other way."""
        hello = CLIENT_HELLO
        for data in (
            *(b"a NOOP\r\n", b"QUIT\r\n", HELLO, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 64, b"\xff" * 64),
            *(b"\x80\x2e\x01\x00\x02" + b"\0" * 60, b"\x16\x03\x01\xff\xff" + b"\1" * 100, b"\x14\x03\x01\0\1\1" * 64),
            *(b"\x15\x03\x01\0\2\2\x28", b"\x17\x03\x03\0\x20" + b"x" * 32, b"\x18\x03\x02\0\3\1\x40\0" + hello),
            *(hello + b"a NOOP\r\n", hello[:5] + b"\x02" + hello[6:], hello[:-1] + b"\xff" * 4000),
        ):
            for port in self.tls_ports():
                with Attacker(port, source=stranger()) as wire:
                    wire.pour(data)
                    said = self.rest_of(wire)
                    self.assertRegex(said, rb"\A(?s:\x15\x03.\x00\x02..)*\Z", data)

    def test_half_handshake(self) -> None:
        """A client that leaves in the middle leaves nothing behind, and no traceback."""
        for port in self.tls_ports():
            for data in (b"", b"\x16", CLIENT_HELLO[:50], CLIENT_HELLO):
                for reset in (False, True):
                    with socket.create_connection((HOST, port), 5.0) as connection:
                        connection.sendall(data)
                        if reset:
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.gateway.wait_for_sessions_to_end()

    def test_protocols(self) -> None:
        """A client that offers the protocols of others, and not this one's, gets the alert that RFC 7301 has for it."""
        own = {self.ports.imaps: "imap", self.ports.pop3s: "pop3", self.ports.submissions: "smtp"}
        for port, name in own.items():
            for offered in (
                ["h2"],
                ["http/1.1", "h2"],
                [other for other in own.values() if other != name],
                [name.upper()],
            ):
                context = ssl.create_default_context(cafile=str(self.ca))
                context.set_alpn_protocols(offered)
                refused = self.assertRaises(ssl.SSLError, Wire, port, context)
                self.assertIn("NO_APPLICATION_PROTOCOL", str(refused).upper().replace(" ", "_"))
            context.set_alpn_protocols(["h2", name])
            with Wire(port, context) as wire:
                self.assertTrue(wire.line())

    def test_starttls_protocols(self) -> None:
        """Neither is any other protocol spoken behind STARTTLS."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.set_alpn_protocols(["http/1.1"])
        for port, hello, command in (
            (self.ports.imap, b"", b"a STARTTLS\r\n"),
            (self.ports.pop3, b"", b"STLS\r\n"),
            (self.ports.submission, HELLO, b"STARTTLS\r\n"),
            (self.ports.mx, HELLO, b"STARTTLS\r\n"),
        ):
            with Attacker(port) as wire:
                wire.line()
                wire.send(hello)
                if hello:
                    wire.reply()
                wire.send(command)
                wire.line()
                self.assertRaises(ssl.SSLError, wire.secure, context)

    def test_renegotiation(self) -> None:
        """Nobody has us do a second handshake."""
        command = [program("openssl") or "openssl", "s_client", "-connect", f"{HOST}:{self.ports.imaps}", "-tls1_2"]
        command += ["-CAfile", str(self.ca), "-legacy_renegotiation"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as client:
            assert client.stdout is not None
            said = b""
            while b"* OK" not in said:  # a greeting in the middle of the second handshake would end that as well
                said += client.stdout.read1()
            stdout, stderr = client.communicate(b"R\na NOOP\r\nb LOGOUT\r\n", 20.0)
        self.assertNotIn(b"a OK", stdout)
        self.assertIn(b"no renegotiation", stderr)

    def test_server_names(self) -> None:
        """However many names are asked for, nothing is kept of them."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.check_hostname = False

        def visit(name: str) -> None:
            with socket.create_connection((HOST, self.ports.imaps), 5.0, (stranger(), 0)) as connection:
                with context.wrap_socket(connection, server_hostname=name) as wire:
                    self.assertEqual(wire.recv(4), b"* OK")

        for number in range(50):
            visit(f"warm{number}.example")
        before = self.gateway.memory()
        for name in (os.urandom(24).hex() + ".example" for _ in range(150)):
            visit(name)
        for name in ("a" * 63 + "." + "b" * 60 + ".example", "*.example", "..", "%n", "localhost\u3002"):
            try:
                visit(name)
            except (ValueError, ssl.SSLError):
                continue  # Python, or OpenSSL, does not send such a name
        self.assertLess(self.gateway.memory() - before, 1 << 20)


class Optional(Embedded):
    """A gateway where one may log in without TLS."""

    def write(self, settings: str) -> None:
        super().write(settings)
        text = self.settings.read_text()
        text = re.sub(r'(protocol = "(?:imap|pop3|submission)"\nendpoint = .*\n)(?!tls)', r'\1tls = "optional"\n', text)
        self.settings.write_text(text)


class OptionalTests(TlsTestCase):
    """A login under way when TLS begins."""

    @classmethod
    def make(cls) -> Embedded:
        return Optional()

    def test_imap(self) -> None:
        """IMAP: nothing of a login in clear, not even an unanswered one, lives on in TLS."""
        wrong = b"a LOGIN %b %b\r\n" % (USER.encode(), WRONG)
        with Attacker(self.ports.imap, source=stranger()) as wire:
            wire.line()
            wire.send(wrong + b"b STARTTLS\r\n")
            self.assertEqual([wire.line()[:4], wire.line()[:4]], [b"a NO", b"b OK"])
            wire.secure(self.context)
            wire.send(b"c SELECT INBOX\r\n")
            self.assertEqual(wire.line(), b"c BAD Unknown command")
        with Attacker(self.ports.imap, source=stranger()) as wire:
            wire.line()
            wire.send(wrong + b"b STARTTLS\r\nc NOOP\r\n")
            self.assertEqual([line[:4] for line in self.rest_of(wire).split(b"\r\n")], [b"a NO", b""])
        for first in (b"a AUTHENTICATE PLAIN\r\n", b"a AUTHENTICATE LOGIN\r\ndGVzdGVy\r\n"):
            with Attacker(self.ports.imap, source=stranger()) as wire:
                wire.line()
                wire.send(first + b"b STARTTLS\r\n")
                said = wire.until(b"\r\na ") + wire.line()
                self.assertNotIn(b"b OK", said)

    def test_pop3(self) -> None:
        """POP3: a user name in clear is not one in TLS, and a login that is pending comes first."""
        with Attacker(self.ports.pop3, source=stranger()) as wire:
            wire.line()
            wire.send(b"USER tester\r\n")
            self.assertEqual(wire.line(), b"+OK")
            wire.send(b"STLS\r\n")
            wire.line()
            wire.secure(self.context)
            wire.send(b"PASS %b\r\n" % PASS)
            self.assertEqual(wire.line(), b"-ERR USER comes first")
        with Attacker(self.ports.pop3, source=stranger()) as wire:
            wire.line()
            wire.send(b"USER tester\r\nPASS %b\r\nSTLS\r\n" % WRONG)
            self.assertEqual([wire.line()[:4] for _ in range(3)], [b"+OK", b"-ERR", b"+OK "])
            wire.secure(self.context)
            wire.send(b"STAT\r\n")
            self.assertEqual(wire.line(), b"-ERR Unknown command")

    def test_smtp(self) -> None:
        """SMTP: who was logged in in clear may not begin TLS, and what was said before it is forgotten."""
        with Attacker(self.ports.submission, source=stranger()) as wire:
            wire.reply()
            wire.send(HELLO + b"AUTH PLAIN %b\r\nSTARTTLS\r\n" % RIGHT)
            self.assertEqual([wire.reply()[:3] for _ in range(3)], [b"250", b"235", b"503"])
        with Attacker(self.ports.submission, source=stranger()) as wire:
            wire.reply()
            wire.send(HELLO + b"AUTH PLAIN %b\r\nSTARTTLS\r\n" % plain(USER.encode(), WRONG))
            self.assertEqual([wire.reply()[:3] for _ in range(3)], [b"250", b"535", b"220"])
            wire.secure(self.context)
            wire.send(b"AUTH PLAIN %b\r\n" % RIGHT)
            self.assertEqual(wire.reply()[:3], b"503")
