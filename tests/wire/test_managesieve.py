"""Tests of the ManageSieve dialogue with clients: what it says and hears up to a login, in transcripts."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from mailgw.interfaces import IClientDialogue, IServerDialogue
from mailgw.model import Access, Forward, Login, Peer, Refusal, RefusalKind
from mailgw.wire.events import Send, StartTLS
from mailgw.wire.managesieve import EXTENSIONS, MANAGESIEVE, SieveServer
from mailgw.wire.protocol import Terms
from tests.wire.transcripts import Admit, Closed, Played, Refuse, Script, Secured, TranscriptCase, at

PLAIN = base64.b64encode(b"\0bob\0secret").decode()
BOB = Login("bob", b"secret")
ALIVE = ("C: NOOP", 'S: OK "Noop completed"')
WRONG = 'S: NO "Wrong user name or password"'

WORDS = [
    *(b"AUTHENTICATE ", b'"PLAIN"', b'"LOGIN"', b" ", b'"', b'"*"', b"\r\n", b"{3+}\r\n", b"{16+}\r\nAGJvYgBzZWNyZXQ="),
    *(b"NOOP", b"CAPABILITY", b"\n", b"\r", b"\0", b"\x16", b"\\", f'"{PLAIN}"'.encode(), b"x" * 30, b"{", b"{9}"),
]
"""What random streams are made of, beside random octets."""
STREAMS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=6), max_size=40).map(b"".join)


def capabilities(*more: str, sasl: str = "", text: str = "Capability completed") -> Script:
    """The lines of a capability response."""
    lines = ['"IMPLEMENTATION" "mailgw"', f'"SASL" "{sasl}"', f'"SIEVE" "{EXTENSIONS}"', *more, '"VERSION" "1.0"']
    return [f"S: {line}" for line in (*lines, f'OK "{text}"')]


SAFE = capabilities(sasl="PLAIN LOGIN")
CLEAR = capabilities('"STARTTLS"')


class SieveCase(TranscriptCase):
    """Scripts with a client that is inside TLS."""

    secure = True

    def make(self, **changes: Any) -> SieveServer:
        """A dialogue of a listener with STARTTLS."""
        return SieveServer(Terms("mx.example", **changes), self.secure)


class ProtocolTests(SieveCase):
    """L{MANAGESIEVE}."""

    def test_interfaces(self) -> None:
        """Both sides provide what the rooms above expect."""
        self.assertEqual((MANAGESIEVE.name, MANAGESIEVE.ports), ("managesieve", (4190, 4190)))
        verifyObject(IServerDialogue, MANAGESIEVE.server(Terms("mx.example"), False))
        access, forward = Access("bob", b"secret"), Forward("id", Peer("192.0.2.1", 1))
        verifyObject(IClientDialogue, MANAGESIEVE.client(access, forward, True))

    def test_greeting(self) -> None:
        """The greeting is the capabilities; before TLS there is no mechanism (RFC 5804 §1.7)."""
        want = capabilities('"STARTTLS"', text="mx.example ready")
        sent = SieveServer(Terms("mx.example"), False).greet()
        self.assertEqual(sent, [Send("".join(line[3:] + "\r\n" for line in want).encode())])


class CommandTests(SieveCase):
    """Commands that are no login."""

    def test_capability(self) -> None:
        """CAPABILITY tells what holds now; commands are known in any case."""
        self.converse("C: capability", *SAFE)

    def test_capability_in_every_mode(self) -> None:
        """STARTTLS is told where it can be had, mechanisms where a login is allowed."""
        both = capabilities('"STARTTLS"', sasl="PLAIN LOGIN")
        for secure, tls, words in (
            *((False, "starttls", CLEAR), (True, "starttls", SAFE), (True, "implicit", SAFE)),
            *((False, "optional", both), (True, "optional", SAFE), (False, "none", SAFE)),
        ):
            sent = SieveServer(Terms("mx.example", tls=tls), secure).feed(b"CAPABILITY\r\n")
            self.assertEqual(sent, [Send("".join(word[3:] + "\r\n" for word in words).encode())], tls)

    def test_noop(self) -> None:
        """NOOP gives back the string that it was given, in quotes where they can hold it (RFC 5804 §2.13)."""
        self.converse(*ALIVE)
        self.converse('C: noop "a b"', 'S: OK (TAG "a b") "Noop completed"')
        self.converse('C: NOOP ""', 'S: OK (TAG "") "Noop completed"')
        self.converse(r'C: NOOP "q\"\\"', r'S: OK (TAG "q\"\\") "Noop completed"')
        self.converse("C: NOOP {3+}", "C: a b", 'S: OK (TAG "a b") "Noop completed"')
        self.converse("C: NOOP {4+}", "C~ a\r\n\0", "C: ", "S: OK (TAG {4}", 'S~ a\r\n\0) "Noop completed"\r\n')
        self.converse(f'C: NOOP "{"x" * 1025}"', "S: OK (TAG {1025}", f'S: {"x" * 1025}) "Noop completed"')
        for words in ('"a" "b"', "a", " ", '"a', '"a"b', '"a" ', r'"\a"', '"a\0"', '"a\rb"', "1"):
            self.converse(f"C: NOOP {words}", 'S: NO "Invalid arguments"', *ALIVE)

    def test_logout(self) -> None:
        """LOGOUT closes, and what is behind it is not looked at."""
        self.converse("C: LOGOUT", 'S: OK "Logout completed"', Closed("logged out"), "C: NOOP")

    def test_unknown(self) -> None:
        """What needs a login, or is no command, is refused; an argument where none belongs too."""
        for command in ("LISTSCRIPTS", "FOO", "", " ", "\xff", '"NOOP"', "UNAUTHENTICATE", 'HAVESPACE "a" 5'):
            self.converse(f"C: {command}", 'S: NO "Unknown command"', *ALIVE)
        for command in ("CAPABILITY x", "LOGOUT ", "STARTTLS x", 'STARTTLS ""'):
            self.converse(f"C: {command}", 'S: NO "No arguments expected"', *ALIVE)

    def test_script(self) -> None:
        """A script that is put before the login is taken off the wire, and refused."""
        self.converse('C: PUTSCRIPT "a" {6+}', "C~ NOOP\r\n", "C: ", 'S: NO "Unknown command"', *ALIVE)


class AuthenticateTests(SieveCase):
    """The AUTHENTICATE command (RFC 5804 §2.1)."""

    def test_at_once(self) -> None:
        """The response comes along, as a quoted string or as a literal."""
        self.converse(f'C: AUTHENTICATE "PLAIN" "{PLAIN}"', BOB, Admit(b"in"), 'S: OK "in"')
        self.converse(f'C: authenticate "plain" {{{len(PLAIN)}+}}', f"C: {PLAIN}", BOB)
        self.converse("C: AUTHENTICATE {5+}", f'C: PLAIN "{PLAIN}"', BOB)

    def test_asked_for(self) -> None:
        """Challenges and responses are strings."""
        self.converse('C: AUTHENTICATE "PLAIN"', 'S: ""', f'C: "{PLAIN}"', BOB, Admit(), 'S: OK "Logged in"')
        self.converse('C: AUTHENTICATE "PLAIN"', 'S: ""', f"C: {{{len(PLAIN)}+}}", f"C: {PLAIN}", BOB)

    def test_login(self) -> None:
        """LOGIN, asked for and with the name at once."""
        tail = ('S: "UGFzc3dvcmQ6"', 'C: "c2VjcmV0"', Login("bob", b"secret", "LOGIN"))
        self.converse('C: AUTHENTICATE "LOGIN"', 'S: "VXNlcm5hbWU6"', 'C: "Ym9i"', *tail)
        self.converse('C: AUTHENTICATE "LOGIN" "Ym9i"', *tail)

    def test_authorization_identity(self) -> None:
        """Whom to act as goes along."""
        response = base64.b64encode(b"alice\0bob\0secret").decode()
        self.converse(f'C: AUTHENTICATE "PLAIN" "{response}"', Login("bob", b"secret", "PLAIN", "alice"))

    def test_long_response(self) -> None:
        """P20: a long response is whole at every length, in quotes and as a literal."""
        for length in (*range(40, 60), 65, 90, 128, 129, 500, 1024):
            password = b"p" * length
            response = base64.b64encode(b"\0bob\0" + password).decode()
            dialogue = self.make()
            self.assertEqual(dialogue.feed(f'AUTHENTICATE "PLAIN" "{response}"\r\n'.encode()), [Login("bob", password)])
            dialogue = self.make()
            literal = f'AUTHENTICATE "PLAIN" {{{len(response)}+}}\r\n{response}\r\n'
            self.assertEqual(dialogue.feed(literal.encode()), [Login("bob", password)])

    def test_cancel(self) -> None:
        """A string with a star ends the exchange; so does what is no string, and neither is a command."""
        start = ('C: AUTHENTICATE "PLAIN"', 'S: ""')
        self.converse(*start, 'C: "*"', 'S: NO "Authentication cancelled"', *ALIVE)
        self.converse(*start, "C: {1+}", "C: *", 'S: NO "Authentication cancelled"', *ALIVE)
        for line in ("*", "NOOP", "", PLAIN, f'"{PLAIN}" ""', f'"{PLAIN}', f'"{PLAIN}" ', "LOGOUT"):
            self.converse(*start, f"C: {line}", 'S: NO "Not a string"', *ALIVE)

    def test_malformed(self) -> None:
        """What is no response of the mechanism is refused."""
        for response in ("!", "YQ=", "*x", " ", "YQ"):
            self.converse('C: AUTHENTICATE "PLAIN"', 'S: ""', f'C: "{response}"', 'S: NO "Not base64"', *ALIVE)
        for response in ("", "=", "QUIT", "YQ=="):
            self.converse(f'C: AUTHENTICATE "PLAIN" "{response}"', 'S: NO "Not a plain response"', *ALIVE)
        for words in ("", " ", " PLAIN", ' "PLAIN" x', ' "PLAIN" "" ""', ' "PLAIN"  ""', ' "PLAIN""YQ=="'):
            self.converse(f"C: AUTHENTICATE{words}", 'S: NO "Invalid arguments"', *ALIVE)
        for name in ("CRAM-MD5", "", "PLAI\xff"):
            self.converse(f'C: AUTHENTICATE "{name}"', 'S: NO "No such authentication mechanism"', *ALIVE)


class VerdictTests(SieveCase):
    """What happens behind a login."""

    login = (f'C: AUTHENTICATE "PLAIN" "{PLAIN}"', BOB)

    def test_refusals(self) -> None:
        """Each kind has its words, and a response code where RFC 5804 has one; our reason stays in the log."""
        for kind, reply in {
            RefusalKind.CREDENTIALS: '"Wrong user name or password"',
            RefusalKind.AUTHZ: '"You may not act as this user"',
            RefusalKind.TLS_REQUIRED: '(ENCRYPT-NEEDED) "Use STARTTLS before you log in"',
            RefusalKind.DISABLED: '"This account may not log in here"',
            RefusalKind.LIMIT: '(TRYLATER) "Too many connections or attempts"',
            RefusalKind.UNAVAILABLE: '(TRYLATER) "Temporary trouble, try again later"',
        }.items():
            self.converse(*self.login, Refuse(kind), f"S: NO {reply}")

    def test_words(self) -> None:
        """A backend's quotes do not end the string."""
        self.converse(*self.login, Admit(b'a "b" \\'), r'S: OK "a \"b\" \\"')

    def test_pipelined_behind_success(self) -> None:
        """What came behind the login is handed on untouched."""
        rest = b'PUTSCRIPT "a" {9+}\r\nkeep;\n'
        self.converse(*self.login, 'C: PUTSCRIPT "a" {9+}', "C~ keep;\n", Admit(b"in", rest), 'S: OK "in"')

    def test_pipelined_behind_failure(self) -> None:
        """What came behind a refused login is answered behind its refusal, in order."""
        self.converse(
            *self.login, "C: CAPABILITY", self.login[0], Refuse(), WRONG, *SAFE, BOB, Admit(b"x"), 'S: OK "x"'
        )

    def test_attempts(self) -> None:
        """After so many failures the connection is closed, and says so."""
        self.converse(
            *(*self.login, Refuse(), WRONG, *self.login, Refuse(), WRONG, 'S: BYE "Too many failed logins"'),
            *(Closed("too many failed logins"), "C: NOOP"),
            login_attempts=2,
        )

    def test_bad_commands(self) -> None:
        """After so many bad commands the connection is closed; cancelled exchanges count."""
        self.converse(
            *("C: X", 'S: NO "Unknown command"', 'C: AUTHENTICATE "PLAIN"', 'S: ""', 'C: "*"'),
            *('S: NO "Authentication cancelled"', "C: X", 'S: NO "Unknown command"', 'S: BYE "Too many bad commands"'),
            *(Closed("too many bad commands"), "C: NOOP"),
            bad_commands=3,
        )

    def test_expire(self) -> None:
        """The parting words are one line; who is turned away at the door learns to come again."""
        dialogue = self.make()
        self.assertEqual(dialogue.expire("Too many connections"), b'BYE (TRYLATER) "Too many connections"\r\n')
        dialogue = self.make()
        dialogue.greet()
        self.assertEqual(dialogue.expire('Time\n"out'), b'BYE "Time?\\"out"\r\n')
        self.assertEqual(dialogue.feed(b"NOOP\r\n"), [])


class StartTlsTests(SieveCase):
    """STARTTLS (RFC 5804 §2.2)."""

    secure = False
    upgrade = ("C: STARTTLS", 'S: OK "Begin TLS"', StartTLS(), Secured())
    inside = capabilities(sasl="PLAIN LOGIN", text="TLS is active")
    no = 'S: NO (ENCRYPT-NEEDED) "Use STARTTLS before you log in"'

    def test_upgrade(self) -> None:
        """TLS, the new capabilities unasked, and a login."""
        self.converse("C: CAPABILITY", *CLEAR, *self.upgrade, *self.inside, f'C: AUTHENTICATE "PLAIN" "{PLAIN}"', BOB)

    def test_not_offered(self) -> None:
        """Without TLS there is none to start, and inside it no second one."""
        self.assertEqual(self.make(tls="none").feed(b"STARTTLS\r\n"), [Send(b'NO "STARTTLS is not offered"\r\n')])
        self.converse(*self.upgrade, *self.inside, "C: STARTTLS", 'S: NO "TLS is active already"', *ALIVE)

    def test_login_before(self) -> None:
        """No login before TLS, in any form."""
        for words in ("", ' "PLAIN"', f' "PLAIN" "{PLAIN}"', ' "CRAM-MD5"', " x"):
            self.converse(f"C: AUTHENTICATE{words}", self.no, *ALIVE)
        self.converse(f'C: AUTHENTICATE "PLAIN" {{{len(PLAIN)}+}}', f"C: {PLAIN}", self.no, *ALIVE)


SCRIPT = (
    b'CAPABILITY\r\nNOOP {3+}\r\na\r\n\r\nAUTHENTICATE "PLAIN"\r\n"*"\r\nAUTHENTICATE {5+}\r\nLOGIN "Ym9i"\r\n'
    b'{8+}\r\nc2VjcmV0\r\nNOOP "x"\r\nAUTHENTICATE "PLAIN" {16+}\r\nAGJvYgBzZWNyZXQ=\r\nLOGOUT\r\nX'
)


class CutTests(SieveCase):
    """The same octets bring the same events, wherever they are cut."""

    def run_cut(self, stream: bytes, cuts: list[int]) -> list[Any]:
        """Everything that a dialogue does with a stream; every login is refused at once."""
        played = Played(self.make(max_line=60, max_total=300, max_literal=40))
        for piece in at(stream, cuts):
            played.take(played.dialogue.feed(piece))
            while played.log and isinstance(played.log[-1], Login):
                played.take(played.dialogue.refuse(Refusal(RefusalKind.CREDENTIALS)))
        return played.log

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.integers(0, 250), max_size=8))
    def test_script(self, cuts: list[int]) -> None:
        """A script with everything in it, cut anywhere."""
        want = self.run_cut(SCRIPT, [])
        self.assertEqual(want[-1], Closed("logged out"))
        self.assertEqual(self.run_cut(SCRIPT, cuts), want)

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(STREAMS, st.lists(st.integers(0, 300), max_size=6))
    def test_anything(self, stream: bytes, cuts: list[int]) -> None:
        """Random commands and octets: no exception, and the same events for every cut."""
        want = self.run_cut(stream, [])
        self.assertEqual(self.run_cut(stream, cuts), want)
        self.assertEqual(self.run_cut(stream, list(range(len(stream)))), want)
