"""Tests of the POP3 dialogue with clients: what it says and hears up to a login, in transcripts."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from mailgw.interfaces import IClientDialogue, IServerDialogue
from mailgw.model import Access, Forward, Login, Peer, Refusal, RefusalKind
from mailgw.wire.events import Send, StartTLS
from mailgw.wire.pop3 import POP3, Pop3Server
from mailgw.wire.protocol import Terms
from tests.wire.transcripts import Admit, Closed, Played, Refuse, Secured, TranscriptCase, at

PLAIN = base64.b64encode(b"\0bob\0secret").decode()
BOB = Login("bob", b"secret", "USER")
CAPA = ["S: +OK", "S: TOP", "S: UIDL", "S: RESP-CODES", "S: AUTH-RESP-CODE", "S: PIPELINING"]
SAFE = [*CAPA, "S: USER", "S: SASL PLAIN LOGIN", "S: ."]
CLEAR = [*CAPA, "S: STLS", "S: ."]

WORDS = [
    *(b"USER ", b"PASS ", b"bob", b"\r\n", b"AUTH ", b"PLAIN ", b"LOGIN ", b"*\r\n", b"=", b"AGEAYg=="),
    *(b"CAPA", b"\n", b"\r", b"\0", b"NOOP", b"APOP", b"\x16", b"x" * 30),
]
"""What random streams are made of, beside random octets."""
STREAMS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=6), max_size=40).map(b"".join)


class Pop3Case(TranscriptCase):
    """Scripts with a client that is inside TLS."""

    greeting = "S: +OK mx.example ready"
    secure = True

    def make(self, **changes: Any) -> Pop3Server:
        """A dialogue of a listener with STLS."""
        return Pop3Server(Terms("mx.example", **changes), self.secure)


class ProtocolTests(Pop3Case):
    """L{POP3}."""

    def test_interfaces(self) -> None:
        """Both sides provide what the rooms above expect."""
        self.assertEqual((POP3.name, POP3.ports), ("pop3", (110, 995)))
        verifyObject(IServerDialogue, POP3.server(Terms("mx.example"), False))
        access, forward = Access("bob", b"secret"), Forward("id", Peer("192.0.2.1", 1))
        verifyObject(IClientDialogue, POP3.client(access, forward, True))

    def test_no_timestamp(self) -> None:
        """The greeting has nothing that a client could take for an APOP challenge, and no product in it."""
        self.assertEqual(self.make().greet(), [Send(b"+OK mx.example ready\r\n")])


class CommandTests(Pop3Case):
    """Commands that are no login."""

    def test_capa(self) -> None:
        """CAPA tells what holds now; commands are known in any case."""
        self.converse("C: capa", *SAFE)

    def test_capa_in_every_mode(self) -> None:
        """STLS is told where it can be had, USER and SASL where a login is allowed."""
        both = [*CAPA, "S: STLS", "S: USER", "S: SASL PLAIN LOGIN", "S: ."]
        for secure, tls, words in (
            *((False, "starttls", CLEAR), (True, "starttls", SAFE), (True, "implicit", SAFE)),
            *((False, "optional", both), (True, "optional", SAFE), (False, "none", SAFE)),
        ):
            sent = Pop3Server(Terms("mx.example", tls=tls), secure).feed(b"CAPA\r\n")
            self.assertEqual(sent, [Send("".join(word[3:] + "\r\n" for word in words).encode())], tls)

    def test_noop_and_quit(self) -> None:
        """NOOP does nothing; QUIT closes, and what is behind it is not looked at."""
        self.converse("C: NOOP", "S: +OK", "C: QUIT", "S: +OK Goodbye", Closed("logged out"), "C: NOOP")

    def test_unknown(self) -> None:
        """What needs a login, or is no command, is refused; an argument where none belongs too."""
        for command in ("STAT", "LIST 1", "XYZZY", "", " ", "\xff", "NO-OP", "UTF8", "LANG de"):
            self.converse(f"C: {command}", "S: -ERR Unknown command", "C: NOOP", "S: +OK")
        for command in ("CAPA x", "NOOP ", "QUIT now", "STLS x"):
            self.converse(f"C: {command}", "S: -ERR No arguments expected", "C: NOOP", "S: +OK")

    def test_apop(self) -> None:
        """APOP is refused, and no password with it."""
        for words in ("", " bob", " bob c4c9334bac560ecc979e58001b3e22fb"):
            self.converse(f"C: APOP{words}", "S: -ERR APOP is not supported")


class UserTests(Pop3Case):
    """USER and PASS."""

    def test_login(self) -> None:
        """A name, a password, and the words of who admits."""
        self.converse("C: USER bob", "S: +OK", "C: PASS secret", BOB, Admit(b"Welcome"), "S: +OK Welcome")

    def test_admitted_without_words(self) -> None:
        """Without words there are our own."""
        self.converse("C: USER bob", "S: +OK", "C: PASS secret", BOB, Admit(), "S: +OK Logged in")

    def test_blanks(self) -> None:
        """Blanks are part of name and password, at the start and at the end too."""
        self.converse("C: USER b o b ", "S: +OK", "C: PASS   sec ret ", Login("b o b ", b"  sec ret ", "USER"))

    def test_missing(self) -> None:
        """Neither may be empty or missing."""
        for words in ("", " "):
            self.converse(f"C: USER{words}", "S: -ERR Missing user name", "C: PASS x", "S: -ERR USER comes first")
            self.converse("C: USER bob", "S: +OK", f"C: PASS{words}", "S: -ERR Empty user name or password")

    def test_order(self) -> None:
        """PASS goes with the USER right before it, once."""
        self.converse("C: PASS secret", "S: -ERR USER comes first")
        self.converse("C: USER bob", "S: +OK", "C: NOOP", "S: +OK", "C: PASS secret", "S: -ERR USER comes first")
        self.converse("C: USER al", "S: +OK", "C: USER bob", "S: +OK", "C: PASS secret", BOB)
        refused = "S: -ERR [AUTH] Wrong user name or password"
        self.converse(
            *("C: USER bob", "S: +OK", "C: PASS secret", BOB, Refuse(), refused),
            *("C: PASS secret", "S: -ERR USER comes first"),
        )


class AuthTests(Pop3Case):
    """The AUTH command (RFC 5034)."""

    def test_list(self) -> None:
        """Without an argument the mechanisms are listed."""
        self.converse("C: AUTH", "S: +OK", "S: PLAIN", "S: LOGIN", "S: .")

    def test_plain(self) -> None:
        """PLAIN, asked for and at once; whom to act as goes along."""
        self.converse("C: AUTH PLAIN", "S: + ", f"C: {PLAIN}", Login("bob", b"secret"), Admit(b"in"), "S: +OK in")
        self.converse(f"C: auth plain {PLAIN}", Login("bob", b"secret"))
        response = base64.b64encode(b"alice\0bob\0secret").decode()
        self.converse(f"C: AUTH PLAIN {response}", Login("bob", b"secret", "PLAIN", "alice"))

    def test_login(self) -> None:
        """LOGIN, asked for and with the name at once."""
        tail = ("S: + UGFzc3dvcmQ6", "C: c2VjcmV0", Login("bob", b"secret", "LOGIN"))
        self.converse("C: AUTH LOGIN", "S: + VXNlcm5hbWU6", "C: Ym9i", *tail)
        self.converse("C: AUTH LOGIN Ym9i", *tail)

    def test_cancel(self) -> None:
        """A star ends the exchange."""
        self.converse("C: AUTH PLAIN", "S: + ", "C: *", "S: -ERR Authentication cancelled", "C: NOOP", "S: +OK")

    def test_malformed(self) -> None:
        """What is no response of the mechanism is refused, and is no command either."""
        for response in ("!", "YQ=", "*x", " ", "YQ"):
            self.converse("C: AUTH PLAIN", "S: + ", f"C: {response}", "S: -ERR Not base64", "C: NOOP", "S: +OK")
        for response in ("", "=", "QUIT", "YQ=="):
            self.converse("C: AUTH PLAIN", "S: + ", f"C: {response}", "S: -ERR Not a plain response")
        self.converse("C: AUTH PLAIN =", "S: -ERR Not a plain response")
        self.converse("C: AUTH PLAIN a b", "S: -ERR Invalid arguments")
        self.converse("C: AUTH CRAM-MD5", "S: -ERR No such authentication mechanism")


class VerdictTests(Pop3Case):
    """What happens behind a login."""

    login = ("C: USER bob", "S: +OK", "C: PASS secret", BOB)

    def test_refusals(self) -> None:
        """Each kind has its response code (RFC 2449, RFC 3206); our reason stays in the log."""
        for kind, reply in {
            RefusalKind.CREDENTIALS: "[AUTH] Wrong user name or password",
            RefusalKind.AUTHZ: "[AUTH] You may not act as this user",
            RefusalKind.TLS_REQUIRED: "[AUTH] Use STLS before you log in",
            RefusalKind.DISABLED: "[AUTH] This account may not log in here",
            RefusalKind.LIMIT: "[IN-USE] Too many connections or attempts",
            RefusalKind.UNAVAILABLE: "[SYS/TEMP] Temporary trouble, try again later",
        }.items():
            self.converse(*self.login, Refuse(kind), f"S: -ERR {reply}")

    def test_pipelined_behind_success(self) -> None:
        """What came behind the password is handed on untouched."""
        self.converse(*self.login, "C: STAT", "C~ LI\n", Admit(b"in", b"STAT\r\nLI\n"), "S: +OK in")

    def test_pipelined_behind_failure(self) -> None:
        """What came behind a refused login is answered behind its refusal, in order."""
        self.converse(
            *(*self.login, "C: CAPA", "C: USER bob", "C: PASS secret", Refuse(RefusalKind.UNAVAILABLE)),
            *("S: -ERR [SYS/TEMP] Temporary trouble, try again later", *SAFE, "S: +OK", BOB, Admit(b"in"), "S: +OK in"),
        )

    def test_attempts(self) -> None:
        """After so many failures the connection is closed; the command has one reply."""
        reply = "S: -ERR [AUTH] Wrong user name or password"
        self.converse(
            *(*self.login, Refuse(), reply, *self.login, Refuse(), reply, Closed("too many failed logins"), "C: NOOP"),
            login_attempts=2,
        )

    def test_bad_commands(self) -> None:
        """After so many bad commands the connection is closed; cancelled exchanges count."""
        self.converse(
            *("C: X", "S: -ERR Unknown command", "C: AUTH PLAIN", "S: + ", "C: *", "S: -ERR Authentication cancelled"),
            *("C: X", "S: -ERR Unknown command", Closed("too many bad commands"), "C: NOOP"),
            bad_commands=3,
        )

    def test_expire(self) -> None:
        """The parting words are one line; who is turned away at the door learns that it is a limit."""
        dialogue = self.make()
        self.assertEqual(dialogue.expire("Too many connections"), b"-ERR [IN-USE] Too many connections\r\n")
        dialogue = self.make()
        dialogue.greet()
        self.assertEqual(dialogue.expire("Time\nout"), b"-ERR Time?out\r\n")
        self.assertEqual(dialogue.feed(b"NOOP\r\n"), [])


class StlsTests(Pop3Case):
    """STLS (RFC 2595)."""

    secure = False
    upgrade = ("C: STLS", "S: +OK Begin TLS", StartTLS(), Secured())
    no = "S: -ERR [AUTH] Use STLS before you log in"

    def test_upgrade(self) -> None:
        """TLS, new capabilities, and a login."""
        self.converse(
            "C: CAPA", *CLEAR, *self.upgrade, "C: CAPA", *SAFE, "C: USER bob", "S: +OK", "C: PASS secret", BOB
        )

    def test_not_offered(self) -> None:
        """Without TLS there is none to start, and inside it no second one."""
        self.assertEqual(self.make(tls="none").feed(b"STLS\r\n"), [Send(b"-ERR STLS is not offered\r\n")])
        self.converse(*self.upgrade, "C: STLS", "S: -ERR TLS is active already")

    def test_login_before(self) -> None:
        """No login before TLS, in any form."""
        self.converse("C: USER bob", self.no, "C: PASS secret", self.no, "C: AUTH", self.no)
        self.converse("C: AUTH PLAIN", self.no, f"C: AUTH PLAIN {PLAIN}", self.no, "C: NOOP", "S: +OK")

    def test_name_is_forgotten(self) -> None:
        """A name given before TLS does not count in it, where a login is allowed before it."""
        self.converse(
            "C: USER bob", "S: +OK", *self.upgrade, "C: PASS secret", "S: -ERR USER comes first", tls="optional"
        )


SCRIPT = (
    b"CAPA\r\nUSER b o\r\nPASS  x \r\nAUTH PLAIN\r\n*\r\nAUTH LOGIN Ym9i\r\nc2VjcmV0\r\nNOOP\r\n"
    b"AUTH\r\nUSER a\r\nQUIT\r\nX"
)


class CutTests(Pop3Case):
    """The same octets bring the same events, wherever they are cut."""

    def run_cut(self, stream: bytes, cuts: list[int]) -> list[Any]:
        """Everything that a dialogue does with a stream; every login is refused at once."""
        played = Played(self.make(max_line=60, max_total=300))
        for piece in at(stream, cuts):
            played.take(played.dialogue.feed(piece))
            while played.log and isinstance(played.log[-1], Login):
                played.take(played.dialogue.refuse(Refusal(RefusalKind.CREDENTIALS)))
        return played.log

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.integers(0, 200), max_size=8))
    def test_script(self, cuts: list[int]) -> None:
        """A script with everything in it, cut anywhere."""
        self.assertEqual(self.run_cut(SCRIPT, cuts), self.run_cut(SCRIPT, []))

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(
        STREAMS,
        st.lists(st.integers(0, 300), max_size=6),
    )
    def test_anything(self, stream: bytes, cuts: list[int]) -> None:
        """Random commands and octets: no exception, and the same events for every cut."""
        want = self.run_cut(stream, [])
        self.assertEqual(self.run_cut(stream, cuts), want)
        self.assertEqual(self.run_cut(stream, list(range(len(stream)))), want)
