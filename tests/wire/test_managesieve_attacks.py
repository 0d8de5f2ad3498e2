"""Attacks on the ManageSieve dialogues: STARTTLS injection and stripping, literals, foreign clients, floods, liars."""

from __future__ import annotations

import base64
from typing import Any

from mailgw.model import Access, Failure, Forward, Login, Peer, Refusal, RefusalKind
from mailgw.wire.events import Close, Ready, Refused, StartTLS
from mailgw.wire.managesieve import SieveServer
from mailgw.wire.managesieveclient import SieveClient
from mailgw.wire.protocol import Terms
from tests.wire.test_managesieve import ALIVE, capabilities
from tests.wire.transcripts import Closed, Failed, Played, Refuse, Secured, TranscriptCase, octets, whole

NO = 'S: NO (ENCRYPT-NEEDED) "Use STARTTLS before you log in"'
UPGRADE = ("C: STARTTLS", 'S: OK "Begin TLS"', StartTLS(), Secured())
INSIDE = capabilities(sasl="PLAIN LOGIN", text="TLS is active")
PLAIN = base64.b64encode(b"\0bob\0secret").decode()
LOGIN = (f'C: AUTHENTICATE "PLAIN" "{PLAIN}"', Login("bob", b"secret"))


class ServerCase(TranscriptCase):
    """A listener with STARTTLS, in clear."""

    secure = False

    def make(self, **changes: Any) -> SieveServer:
        """A dialogue whose greeting is not of interest."""
        return SieveServer(Terms("mx.example", **changes), self.secure)


class SafeCase(ServerCase):
    """The same inside TLS."""

    secure = True


class InjectionTests(ServerCase):
    """Bytes in clear must never count as said inside TLS."""

    def test_one_segment(self) -> None:
        """A command, half a command, an empty line or a handshake behind STARTTLS ends the session unanswered."""
        for behind in (b"NOOP\r\n", b"NO", b"\r\n", b"\x16\x03\x01\x02\x00", b'AUTHENTICATE "PLAIN"\r\n'):
            dialogue = self.make()
            self.assertEqual(dialogue.feed(b"STARTTLS\r\n" + behind), [Close(b"", "bytes in clear behind STARTTLS")])
            self.assertEqual(dialogue.feed(b"OP\r\n"), [])
            self.assertEqual(dialogue.secured() + dialogue.feed(b"CAPABILITY\r\n"), [])

    def test_over_time(self) -> None:
        """Clear text after the go-ahead, instead of a handshake, ends the session unanswered."""
        dialogue = self.make()
        self.assertEqual(dialogue.feed(b"STARTTLS\r\n"), [StartTLS(b'OK "Begin TLS"\r\n')])
        self.assertEqual(dialogue.feed(b"NOOP\r\n"), [Close(b"", "bytes in clear after STARTTLS")])

    def test_inside_a_literal(self) -> None:
        """STARTTLS inside a literal is no command, and with one it gets no go-ahead."""
        self.converse(
            "C: NOOP {12+}", "C~ STARTTLS\r\nXX", "C: ", "S: OK (TAG {12}", 'S~ STARTTLS\r\nXX) "Noop completed"\r\n'
        )
        self.converse("C: STARTTLS {3+}", "C: abc", 'S: NO "No arguments expected"', *ALIVE)
        self.converse('C: AUTHENTICATE "PLAIN" {8+}', "C: STARTTLS", NO, *ALIVE)

    def test_inside_an_exchange(self) -> None:
        """STARTTLS as a response is none, and no command."""
        self.converse('C: AUTHENTICATE "PLAIN"', 'S: ""', "C: STARTTLS", 'S: NO "Not a string"', tls="optional")

    def test_pending_login(self) -> None:
        """STARTTLS while a login waits for its verdict is not looked at before."""
        refused = 'S: NO "Wrong user name or password"'
        self.converse(*LOGIN, "C: STARTTLS", Refuse(), refused, 'S: OK "Begin TLS"', StartTLS(), tls="optional")
        dialogue = self.make(tls="optional")
        dialogue.feed(LOGIN[0][3:].encode() + b"\r\nSTARTTLS\r\nNOOP\r\n")
        events = dialogue.refuse(Refusal(RefusalKind.CREDENTIALS))
        self.assertEqual(events[1:], [Close(b"", "bytes in clear behind STARTTLS")])

    def test_state_reset(self) -> None:
        """Half a command from before TLS, and an exchange, are nothing inside it."""
        dialogue = self.make()
        dialogue.feed(b"STARTTLS\r\n")
        dialogue.secured()
        self.assertEqual(dialogue.feed(b'"AGJvYgBzZWNyZXQ="\r\n')[0].data, b'NO "Unknown command"\r\n')

    def test_twice(self) -> None:
        """There is no STARTTLS inside TLS."""
        self.converse(*UPGRADE, *INSIDE, "C: STARTTLS", 'S: NO "TLS is active already"', *ALIVE)

    def test_stripping(self) -> None:
        """A client that was made to log in in clear gets nowhere, by whatever way, and no login comes of it."""
        for stream in (
            f'AUTHENTICATE "PLAIN" "{PLAIN}"\r\n',
            f'AUTHENTICATE "PLAIN"\r\n"{PLAIN}"\r\n',
            f'AUTHENTICATE "PLAIN" {{{len(PLAIN)}+}}\r\n{PLAIN}\r\n',
            'AUTHENTICATE "LOGIN" "Ym9i"\r\n"c2VjcmV0"\r\n',
        ):
            for cut in (whole, octets):
                played = Played(self.make())
                played.feed(stream.encode(), cut)
                self.assertFalse([entry for entry in played.log if isinstance(entry, Login)])
                self.assertTrue(played.log[0].startswith(b"NO (ENCRYPT-NEEDED)"))


class LiteralTests(SafeCase):
    """Literals that break servers."""

    def test_malformed(self) -> None:
        """What is no literal of a client's ends the session: octets follow, and nobody can tell how many."""
        for size in ("5", "-1", "+5", " 5", "05+", "1_0+", "+", "5+ ", "x+", "", "9" * 11 + "+", "5++"):
            self.converse(
                f"C: NOOP {{{size}}}",
                'S: BYE "Malformed literal"',
                Closed("malformed literal"),
                "C: LOGOUT",
                *ALIVE[:0],
            )

    def test_large(self) -> None:
        """Four gigabytes are not waited for, nor what is over the listener's limits, in one piece or in several."""
        bye = ('S: BYE "Literal too large"', Closed("literal too large"))
        for size in (4294967295, 4294967296, 9999999999, 4097):
            self.converse(f"C: NOOP {{{size}+}}", *bye)
        piece = "x" * 4000
        self.converse("C: X {4000+}", f"C: {piece} {{4000+}}", *bye, max_line=8000)
        dialogue = self.make()
        for _ in range(3):
            events = dialogue.feed(b"NOOP {4000+}\r\n" + piece.encode())
        self.assertEqual(len(events), 1)

    def test_many(self) -> None:
        """A command of many small literals is cut off at the length of a line."""
        self.converse(
            *("C: X" + " {1+}\r\nx" * 12, 'S: BYE "Literal too large"', Closed("literal too large")), max_line=60
        )

    def test_in_quotes(self) -> None:
        """A literal inside a quoted string does not take the string's end with it."""
        self.converse('C: NOOP "a {3+}', 'C: b" "c"', 'S: NO "Invalid arguments"', *ALIVE)
        self.converse('C: NOOP "{3+}"', 'S: OK (TAG "{3+}") "Noop completed"')

    def test_none(self) -> None:
        """An empty literal is an empty string."""
        self.converse("C: NOOP {0+}", "C: ", 'S: OK (TAG "") "Noop completed"')


class ForeignTests(SafeCase):
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

    def test_handshake(self) -> None:
        """A TLS client on a clear port is closed at its first octet."""
        self.converse("C~ \x16\x03\x01\x02\x00\n\r", Closed("a TLS handshake"))


class InputTests(SafeCase):
    """Lines and credentials that break servers."""

    def test_bare_lf(self) -> None:
        """A lone LF ends the session."""
        for line in ("NOOP\n", "\n", 'NOOP "a\nb"\r\n', "NOOP {3+}\n"):
            self.converse(f"C~ {line}", 'S: BYE "Lines end with CRLF"', Closed("line not ended by CRLF"))

    def test_too_long(self) -> None:
        """A line without end is cut off."""
        self.converse('C~ NOOP "' + "x" * 9000, 'S: BYE "Line too long"', Closed("line too long"))

    def test_credentials(self) -> None:
        """CRLF and NUL in names and passwords never make a login; per cent signs are letters."""
        for text, words in (
            (b"\0u\r\nLOGOUT\0p", "Control character in the user name"),
            (b"\0u\0a\r\nb", "Cr, lf or nul in the password"),
            (b"\0u\0", "Empty user name or password"),
            (b"\0\0p", "Empty user name or password"),
            (b"\0u\0p\0q", "Not a plain response"),
            (b"\0" + b"u" * 257 + b"\0p", "User name or password too long"),
        ):
            response = base64.b64encode(text).decode()
            self.converse(f'C: AUTHENTICATE "PLAIN" "{response}"', f'S: NO "{words}"', *ALIVE)
        response = base64.b64encode(b"\0%{200000}n\0p").decode()
        self.converse(f'C: AUTHENTICATE "PLAIN" "{response}"', Login("%{200000}n", b"p"))


class FloodTests(SafeCase):
    """Nobody gets to work us for ever."""

    def test_one_login_at_a_time(self) -> None:
        """Three hundred logins in one write: one, then one refusal and the next login, then the end."""
        dialogue = self.make()
        events = dialogue.feed((LOGIN[0][3:] + "\r\n").encode() * 300)
        for number in range(5):
            self.assertEqual(len([event for event in events if isinstance(event, Login)]), 1, str(number))
            events = dialogue.refuse(Refusal(RefusalKind.CREDENTIALS))
        self.assertEqual(len(events), 1)
        self.assertIn(Closed("too many failed logins"), [Closed(event.reason) for event in events])

    def test_many_commands(self) -> None:
        """A flood of good commands is cut short: its answers would be far more than itself."""
        events = self.make().feed(b"CAPABILITY\r\n" * 2000)
        self.assertEqual(len(events), 101)
        self.assertEqual(events[-1], Close(b'BYE "Too much before login"\r\n', "too much before login"))

    def test_cancelled_exchanges(self) -> None:
        """Cancelled exchanges count as bad commands."""
        played = Played(self.make())
        played.feed(b'AUTHENTICATE "PLAIN"\r\n"*"\r\n' * 1000, whole)
        self.assertEqual((played.log[0].count(b'NO "'), played.log[1]), (10, Closed("too many bad commands")))

    def test_total(self) -> None:
        """All that comes before the login is bounded: commands, literals, and what is pipelined behind a login."""
        bye = ('S: BYE "Too much before login"', Closed("too much"))
        self.converse(*ALIVE * 5, "C: NOOP", *bye, max_total=35)
        self.converse("C: X {30+}", "C~ " + "x" * 30, *bye, max_total=38)
        self.converse(*LOGIN, "C~ " + "x" * 78, *bye, max_total=100)


class BackendTests(TranscriptCase):
    """A backend, or somebody between us and it, that wants our password in clear."""

    us = "C"
    greeted = ('S: "IMPLEMENTATION" "x"', 'S: "SASL" "PLAIN LOGIN"')
    asked = (*greeted, 'S: "STARTTLS"', "S: OK", "C: STARTTLS")

    def make(self, **changes: Any) -> SieveClient:
        """A dialogue that demands STARTTLS."""
        return SieveClient(Access("bob", b"secret"), Forward("id", Peer("192.0.2.1", 1)), True)

    def asking(self) -> SieveClient:
        """A dialogue that has sent STARTTLS."""
        dialogue = self.make()
        dialogue.feed(b'"STARTTLS"\r\n"SASL" "PLAIN"\r\nOK\r\n')
        return dialogue

    def test_glued(self) -> None:
        """Answers, half answers or a handshake glued to the go-ahead end the dialogue."""
        for behind in (b'"SASL" "PLAIN"\r\nOK\r\n', b"OK INJECTED\r\n", b'BYE "x"\r\n', b"O", b"\r", b"\x16\x03\x01"):
            dialogue = self.asking()
            [refused] = dialogue.feed(b'OK "go"\r\n' + behind)
            assert isinstance(refused, Refused)
            self.assertEqual(refused.kind, Failure.TLS)
            self.assertEqual(dialogue.secured(), [])

    def test_late(self) -> None:
        """So does clear text in a segment of its own."""
        dialogue = self.asking()
        self.assertEqual(dialogue.feed(b"OK\r\n"), [StartTLS()])
        [refused] = dialogue.feed(b'OK "INJECTED"\r\n')
        assert isinstance(refused, Refused)
        self.assertEqual(refused.kind, Failure.TLS)

    def test_refused(self) -> None:
        """STARTTLS refused or not offered: no login, and no word of one."""
        self.converse(*self.asked, 'S: NO "TLS is broken"', Failed(Failure.TLS, "no STARTTLS"))
        self.converse(*self.greeted, "S: OK", Failed(Failure.TLS, "not offered"))
        self.converse("S: OK", Failed(Failure.TLS, "not offered"))

    def test_forgotten(self) -> None:
        """What was offered before TLS, XCLIENT too, is not offered inside it, where it must be told anew."""
        inside = (*self.asked[:2], 'S: "XCLIENT"', *self.asked[2:], "S: OK", StartTLS(), Secured())
        self.converse(*inside, "S: OK", Failed(Failure.PROTOCOL, "no login"))
        self.converse(*inside, 'S: "SASL" "PLAIN"', "S: OK", f'C: AUTHENTICATE "PLAIN" "{PLAIN}"')

    def test_literal_across(self) -> None:
        """A literal that was begun in clear does not reach into TLS."""
        dialogue = self.asking()
        [refused] = dialogue.feed(b"OK {5}\r\n") or dialogue.feed(b"\r\nXXX\r\nOK\r\n")
        assert isinstance(refused, Refused)

    def test_no_password_in_clear(self) -> None:
        """Whatever a server says in clear, no credential leaves before TLS."""
        secrets = (b"secret", base64.b64encode(b"secret"), PLAIN.encode(), b"bob", b"Ym9i")
        for lines in (
            b'"SASL" "PLAIN"\r\nOK\r\n""\r\nOK\r\n',
            b'"STARTTLS"\r\nOK\r\nNO\r\nOK\r\n""\r\n',
            b'OK\r\n""\r\n""\r\n',
            b'""\r\n""\r\n',
            b'"XCLIENT"\r\n"SASL" "LOGIN"\r\nOK\r\nOK\r\n"VXNlcm5hbWU6"\r\n',
        ):
            for cut in (whole, octets):
                played = Played(self.make())
                played.feed(lines, cut)
                said = b"".join(entry for entry in played.log if isinstance(entry, bytes))
                self.assertFalse([secret for secret in secrets if secret in said], lines)

    def test_liars(self) -> None:
        """A greeting of a gigabyte, a literal of one, NULs and capabilities without end are given up."""
        dialogue, fed = self.make(), 0
        while not dialogue.feed(b"x" * 512):
            fed += 512
        self.assertLess(fed, 9000)
        self.assertEqual(dialogue.feed(b"x" * 10_000_000), [])
        for size in (8193, 4294967295, 9999999999):
            self.converse(f'S: "SIEVE" {{{size}}}', Failed(Failure.PROTOCOL, "literal too large"))
        self.converse("S: \0OK", Failed(Failure.PROTOCOL))
        self.converse('S: "X" "' + ("Y" * 4000 + '"\r\n"X" "') * 17, Failed(Failure.PROTOCOL, "too much"))
        self.converse('S: "X" {8000}', ("S~ " + "y" * 8000 + '\r\n"X" {8000}\r\n') * 9, Failed(Failure.PROTOCOL))

    def test_words_before_tls(self) -> None:
        """Nothing that came before TLS is in the words for the client."""
        played = Played(self.make())
        played.feed(b'"EVIL" "EVIL"\r\n"STARTTLS"\r\nOK "EVIL"\r\n', whole)
        played.feed(b'OK "EVIL"\r\n', whole)
        played.take(played.dialogue.secured())
        played.feed(b'"SASL" "PLAIN"\r\nOK\r\n', whole)
        played.feed(b'OK "in"\r\n', whole)
        self.assertEqual(played.log[-1], Ready(b"in"))
