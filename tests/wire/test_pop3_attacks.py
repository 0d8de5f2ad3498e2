"""Attacks on the POP3 dialogues: STLS injection and stripping, cross-protocol clients, floods, liars."""

from __future__ import annotations

import base64
from typing import Any

from mailgw.model import Access, Failure, Forward, Login, Peer, Refusal, RefusalKind
from mailgw.wire.events import Close, Ready, Refused, Send, StartTLS
from mailgw.wire.pop3 import Pop3Server
from mailgw.wire.pop3client import Pop3Client
from mailgw.wire.protocol import Terms
from tests.wire.transcripts import Closed, Failed, Played, Refuse, Secured, TranscriptCase, octets, whole

NO = "S: -ERR [AUTH] Use STLS before you log in"
ALIVE = ("C: NOOP", "S: +OK")
UPGRADE = ("C: STLS", "S: +OK Begin TLS", StartTLS(), Secured())


class ServerCase(TranscriptCase):
    """A listener with STLS, in clear."""

    secure = False

    def make(self, **changes: Any) -> Pop3Server:
        """A dialogue whose greeting is not of interest."""
        return Pop3Server(Terms("mx.example", **changes), self.secure)


class SafeCase(ServerCase):
    """The same inside TLS."""

    secure = True


class InjectionTests(ServerCase):
    """Bytes in clear must never count as said inside TLS."""

    def never(self, *segments: bytes) -> None:
        """Assert that the first segment ends the session without a go-ahead, and the others are not answered."""
        dialogue = self.make()
        self.assertEqual(dialogue.feed(segments[0]), [Close(b"", "bytes in clear behind STARTTLS")])
        for segment in segments[1:]:
            self.assertEqual(dialogue.feed(segment), [])
        self.assertEqual(dialogue.secured() + dialogue.feed(b"CAPA\r\n"), [])

    def test_one_segment(self) -> None:
        """A command, half a command or a handshake behind STLS."""
        self.never(b"STLS\r\nCAPA\r\n", b"NOOP\r\n")
        self.never(b"STLS\r\nCA", b"PA\r\n")
        self.never(b"STLS\r\n\x16\x03\x01\x02\x00")

    def test_over_time(self) -> None:
        """Clear text after the go-ahead, instead of a handshake, ends the session unanswered."""
        dialogue = self.make()
        self.assertEqual(dialogue.feed(b"STLS\r\n"), [StartTLS(b"+OK Begin TLS\r\n")])
        self.assertEqual(dialogue.feed(b"NOOP\r\n"), [Close(b"", "bytes in clear after STARTTLS")])

    def test_arguments(self) -> None:
        """STLS with an argument gets no go-ahead."""
        for words in (" ", " x", " {3}"):
            self.converse(f"C: STLS{words}", "S: -ERR No arguments expected", *ALIVE)

    def test_pending_login(self) -> None:
        """STLS while a login waits for its verdict is not looked at before."""
        start = ("C: USER bob", "S: +OK", "C: PASS secret", Login("bob", b"secret", "USER"), "C: STLS")
        refused = "S: -ERR [AUTH] Wrong user name or password"
        self.converse(*start, Refuse(), refused, "S: +OK Begin TLS", StartTLS(), tls="optional")
        dialogue = self.make(tls="optional")
        dialogue.feed(b"USER bob\r\nPASS secret\r\nSTLS\r\nCAPA\r\n")
        events = dialogue.refuse(Refusal(RefusalKind.CREDENTIALS))
        self.assertEqual(events[1:], [Close(b"", "bytes in clear behind STARTTLS")])

    def test_state_reset(self) -> None:
        """A name from before TLS does not go with a password inside it, where it was taken and where it was not."""
        missing = "S: -ERR USER comes first"
        self.converse("C: USER x", NO, *UPGRADE, "C: PASS y", missing)
        self.converse("C: USER x", "S: +OK", *UPGRADE, "C: PASS y", missing, tls="optional")

    def test_twice(self) -> None:
        """There is no STLS inside TLS."""
        self.converse(*UPGRADE, "C: STLS", "S: -ERR TLS is active already", *ALIVE)
        implicit = Pop3Server(Terms("mx.example", tls="implicit"), True)
        self.assertEqual(implicit.feed(b"STLS\r\n"), [Send(b"-ERR TLS is active already\r\n")])

    def test_stripping(self) -> None:
        """A client that was made to log in in clear gets nowhere, by whatever way, and no login comes of it."""
        plain = base64.b64encode(b"\0bob\0secret")
        for stream in (
            b"USER bob\r\nPASS secret\r\n",
            b"AUTH PLAIN " + plain,
            b"AUTH PLAIN\r\n" + plain,
            b"AUTH LOGIN Ym9i",
        ):
            for cut in (whole, octets):
                played = Played(self.make())
                played.feed(stream + b"\r\n", cut)
                self.assertFalse([entry for entry in played.log if isinstance(entry, Login)])
                self.assertTrue(played.log[0].startswith(b"-ERR [AUTH] Use STLS"))


class ForeignTests(ServerCase):
    """Clients of other protocols, lost or sent (ALPACA)."""

    def test_first_verbs(self) -> None:
        """They are closed at the first verb, without a word to reflect."""
        for first in (
            "GET / HTTP/1.1",
            "POST / HTTP/1.1",
            "POST",
            "Host: mx.example",
            "SSH-2.0-OpenSSH_9",
            "PROXY TCP4 1",
        ):
            self.converse(f"C: {first}", Closed("another protocol's client"), "C: NOOP")
        self.converse("C: X", "S: -ERR Unknown command", "C: Host: x", Closed("another protocol's client"), "C: NOOP")

    def test_handshake(self) -> None:
        """A TLS client on a clear port is closed at its first octet."""
        self.converse("C~ \x16\x03\x01\x02\x00\n\r", Closed("a TLS handshake"))

    def test_inside_tls(self) -> None:
        """The same inside TLS."""
        dialogue = Pop3Server(Terms("mx.example", tls="implicit"), True)
        self.assertEqual(dialogue.feed(b"GET / HTTP/1.1\r\nHost: x\r\n"), [Close(b"", "another protocol's client")])


class InputTests(SafeCase):
    """Lines and credentials that break servers."""

    def test_bare_lf(self) -> None:
        """A lone LF ends the session with one reply."""
        for line in ("NOOP\n", "\n", "PASS a\nb\r\n", "USER bob\nPASS x\r\n"):
            self.converse(f"C~ {line}", "S: -ERR Lines end with CRLF", Closed("line not ended by CRLF"))

    def test_too_long(self) -> None:
        """A line without end is cut off."""
        self.converse("C~ USER " + "x" * 9000, "S: -ERR Line too long", Closed("line too long"))

    def test_what_raised_elsewhere(self) -> None:
        """Inputs that raise in other servers are answered."""
        self.converse("C: USER", "S: -ERR Missing user name", "C: USER a b c", "S: +OK", *ALIVE)
        self.converse("C: DELE abc", "S: -ERR Unknown command", "C: \xff", "S: -ERR Unknown command", *ALIVE)
        self.converse("C: AUTH PLAIN aGVsbG8=", "S: -ERR Not a plain response", *ALIVE)

    def test_credentials(self) -> None:
        """CR and NUL, and CRLF by base64, never make a login; per cent signs are letters."""
        wrong = "S: -ERR Control character in the user name"
        self.converse("C: USER a\rb", "S: +OK", "C: PASS x", wrong, "C: USER a\0b", "S: +OK", "C: PASS x", wrong)
        for secret in ("a\rb", "a\0b", "\0"):
            self.converse("C: USER bob", "S: +OK", f"C: PASS {secret}", "S: -ERR Cr, lf or nul in the password", *ALIVE)
        response = base64.b64encode(b"\0u\r\nQUIT\0p").decode()
        self.converse(f"C: AUTH PLAIN {response}", wrong, *ALIVE)
        self.converse("C: USER %{200000}n", "S: +OK", "C: PASS x", Login("%{200000}n", b"x", "USER"))

    def test_authorization_identity(self) -> None:
        """An authorization identity is handed out, never passed over."""
        response = base64.b64encode(b"admin\0u\0secret").decode()
        self.converse(f"C: AUTH PLAIN {response}", Login("u", b"secret", "PLAIN", "admin"))


class FloodTests(SafeCase):
    """Nobody gets to work us for ever."""

    def test_one_login_at_a_time(self) -> None:
        """Three hundred PASS in one write: one login, then one refusal and the next login, then the end."""
        dialogue = self.make()
        events = dialogue.feed(b"USER bob\r\nPASS x\r\n" * 300)
        for number in range(5):
            self.assertEqual(len([event for event in events if isinstance(event, Login)]), 1, str(number))
            events = dialogue.refuse(Refusal(RefusalKind.CREDENTIALS))
        self.assertEqual(events, [Close(b"-ERR [AUTH] Wrong user name or password\r\n", "too many failed logins")])

    def test_waiting(self) -> None:
        """A command behind PASS is not answered before PASS is."""
        dialogue = self.make()
        dialogue.feed(b"USER bob\r\nPASS x\r\nSTAT\r\n")
        self.assertEqual(dialogue.feed(b"CAPA\r\n"), [])
        self.assertEqual(dialogue.admit(b"in"), (b"+OK in\r\n", b"STAT\r\nCAPA\r\n"))

    def test_many_commands(self) -> None:
        """A flood of good commands is cut short: its answers would be far more than itself."""
        events = self.make().feed(b"CAPA\r\n" * 2000)
        self.assertEqual(len(events), 101)
        self.assertEqual(events[-1], Close(b"-ERR Too much before login\r\n", "too much before login"))

    def test_cancelled_exchanges(self) -> None:
        """Cancelled exchanges count as bad commands."""
        played = Played(self.make())
        played.feed(b"AUTH PLAIN\r\n*\r\n" * 1000, whole)
        self.assertEqual((played.log[0].count(b"-ERR"), played.log[1]), (10, Closed("too many bad commands")))

    def test_total(self) -> None:
        """Good commands are bounded by all that may come before the login; pipelining behind a login too."""
        bye = "S: -ERR Too much before login"
        self.converse(*ALIVE * 5, "C: NOOP", bye, Closed("too much"), max_total=35)
        start = ("C: USER bob", "S: +OK", "C: PASS secret", Login("bob", b"secret", "USER"))
        self.converse(*start, "C~ " + "x" * 77, max_total=100)
        self.converse(*start, "C~ " + "x" * 78, bye, Closed("too much"), max_total=100)


class BackendTests(TranscriptCase):
    """A backend, or somebody between us and it, that wants our password in clear."""

    us = "C"
    greeted = ("S: +OK hi", "C: CAPA", "S: +OK")
    asked = (*greeted, "S: STLS", "S: SASL PLAIN", "S: .", "C: STLS")

    def make(self, **changes: Any) -> Pop3Client:
        """A dialogue that demands STLS unless told otherwise."""
        access, forward = Access("bob", b"secret"), Forward("id", Peer("192.0.2.1", 1))
        return Pop3Client(access, forward, changes.get("starttls", True))

    def test_glued(self) -> None:
        """Answers, half answers or a handshake glued to the go-ahead end the dialogue."""
        for behind in (b"+OK\r\nSASL PLAIN\r\n.\r\n", b"+OK INJECTED-CLEAR\r\n", b"-ER", b"\r", b"\x16\x03\x01"):
            dialogue = self.make()
            dialogue.feed(b"+OK hi\r\n+OK\r\nSTLS\r\n.\r\n")
            [refused] = dialogue.feed(b"+OK go\r\n" + behind)
            assert isinstance(refused, Refused)
            self.assertEqual(refused.kind, Failure.TLS)
            self.assertEqual(dialogue.secured(), [])

    def test_late(self) -> None:
        """So does clear text in a segment of its own."""
        dialogue = self.make()
        dialogue.feed(b"+OK hi\r\n+OK\r\nSTLS\r\n.\r\n")
        self.assertEqual(dialogue.feed(b"+OK go\r\n"), [StartTLS()])
        [refused] = dialogue.feed(b"+OK INJECTED\r\n")
        assert isinstance(refused, Refused)
        self.assertEqual(refused.kind, Failure.TLS)

    def test_refused(self) -> None:
        """STLS refused, not offered, or offered by nobody who knows CAPA: no login."""
        self.converse(*self.asked, "S: -ERR STARTTLS not supported", Failed(Failure.TLS, "no STLS"))
        self.converse(*self.greeted, "S: SASL PLAIN", "S: USER", "S: .", Failed(Failure.TLS, "not offered"))
        self.converse(*self.greeted[:2], "S: -ERR what", Failed(Failure.TLS, "not offered"))

    def test_forgotten(self) -> None:
        """What was offered before TLS is not offered inside it."""
        self.converse(
            *(*self.asked, "S: +OK", StartTLS(), Secured(), "C: CAPA", "S: +OK", "S: USER", "S: .", "C: USER bob")
        )
        self.converse(
            *self.asked, "S: +OK", StartTLS(), Secured(), "C: CAPA", "S: +OK", "S: .", Failed(Failure.PROTOCOL)
        )

    def test_no_capa_inside(self) -> None:
        """A CAPA that is refused inside TLS does not leave the answer from before it in force."""
        self.converse(*self.asked, "S: +OK", StartTLS(), Secured(), "C: CAPA", "S: -ERR what", "C: USER bob")

    def test_no_password_in_clear(self) -> None:
        """Whatever a server says in clear, no credential leaves before TLS."""
        secrets = (b"secret", base64.b64encode(b"secret"), base64.b64encode(b"\0bob\0secret"), b"bob")
        for lines in (
            b"+OK hi\r\n+OK\r\nUSER\r\nSASL PLAIN\r\n.\r\n+ \r\n",
            b"+OK hi\r\n-ERR\r\n+OK\r\n+OK\r\n",
            b"+OK <1@x>\r\n+OK\r\nSTLS\r\n.\r\n-ERR\r\n+OK\r\n",
            b"+OK hi\r\n+ \r\n+ \r\n",
        ):
            for cut in (whole, octets):
                played = Played(self.make())
                played.feed(lines, cut)
                said = b"".join(entry for entry in played.log if isinstance(entry, bytes))
                self.assertFalse([secret for secret in secrets if secret in said], lines)

    def test_liars(self) -> None:
        """A greeting of a gigabyte, NULs, and capabilities without end are given up."""
        dialogue, fed = self.make(), 0
        while not dialogue.feed(b"x" * 512):
            fed += 512
        self.assertLess(fed, 9000)
        self.assertEqual(dialogue.feed(b"x" * 10_000_000), [])
        self.converse("S: \0+OK", Failed(Failure.PROTOCOL))
        self.converse(*self.greeted, "S: " + ("X " * 4000 + "\r\n") * 9, Failed(Failure.PROTOCOL, "too much"))

    def test_words_before_tls(self) -> None:
        """Nothing that came before TLS is in the words for the client."""
        played = Played(self.make())
        played.feed(b"+OK EVIL\r\n+OK EVIL\r\nSTLS\r\nEVIL\r\n.\r\n", whole)
        played.feed(b"+OK EVIL\r\n", whole)
        played.take(played.dialogue.secured())
        played.feed(b"+OK\r\nSASL PLAIN\r\n.\r\n+OK in\r\n", whole)
        self.assertEqual(played.log[-1], Ready(b"in"))
