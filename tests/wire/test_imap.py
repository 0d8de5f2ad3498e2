"""Tests of the IMAP dialogue with clients: what it says and hears up to a login, in transcripts."""

from __future__ import annotations

import base64
import gc
import weakref
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from mailgw.interfaces import IClientDialogue, IServerDialogue
from mailgw.model import Access, Forward, Login, Peer, Refusal, RefusalKind
from mailgw.wire.events import Close, Send, StartTLS
from mailgw.wire.imap import IMAP, ImapServer
from mailgw.wire.protocol import Terms
from tests.wire.transcripts import Admit, Closed, Played, Refuse, Secured, TranscriptCase, at, octets, play

PLAIN = base64.b64encode(b"\0bob\0secret").decode()
CLEAR = "CAPABILITY IMAP4rev1 LITERAL+ ID STARTTLS LOGINDISABLED"
SAFE = "CAPABILITY IMAP4rev1 LITERAL+ ID SASL-IR AUTH=PLAIN AUTH=LOGIN"
BOB = Login("bob", b"secret", "LOGIN")

WORDS = [
    *(b"a ", b"LOGIN ", b"bob ", b'"x" ', b"\r\n", b"{3+}\r\n", b"{2}\r\n", b"AUTHENTICATE PLAIN "),
    *(b"*\r\n", b"=", b"AGEAYg==", b"ID ", b"(", b")", b"\n", b"\r", b"\0", b"NOOP", b"\\", b'"'),
    *(b"{9999+}", b"\x16"),
]
"""What random streams are made of, beside random octets."""
STREAMS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=6), max_size=40).map(b"".join)


class ImapCase(TranscriptCase):
    """Scripts with a client that is inside TLS."""

    greeting = f"S: * OK [{SAFE}] mx.example ready"
    secure = True

    def make(self, **changes: Any) -> ImapServer:
        """A dialogue of a listener with STARTTLS."""
        return ImapServer(Terms("mx.example", **changes), self.secure)


class ClearCase(ImapCase):
    """Scripts with a client that is not inside TLS yet."""

    greeting = f"S: * OK [{CLEAR}] mx.example ready"
    secure = False


class ProtocolTests(ImapCase):
    """L{IMAP}."""

    def test_interfaces(self) -> None:
        """Both sides provide what the rooms above expect."""
        self.assertEqual((IMAP.name, IMAP.ports), ("imap", (143, 993)))
        verifyObject(IServerDialogue, IMAP.server(Terms("mx.example"), False))
        access, forward = Access("bob", b"secret"), Forward("id", Peer("192.0.2.1", 1))
        verifyObject(IClientDialogue, IMAP.client(access, forward, True))


class CapabilityTests(TranscriptCase):
    """Capabilities hold at the moment that they are told."""

    def capabilities(self, secure: bool, tls: str) -> str:
        """What a greeting tells."""
        events = ImapServer(Terms("mx.example", tls=tls), secure).greet()
        assert isinstance(events[0], Send)
        return events[0].data.decode()

    def test_every_mode(self) -> None:
        """STARTTLS is told where it can be had, mechanisms where a login is allowed, and never both reasons at once."""
        both = "CAPABILITY IMAP4rev1 LITERAL+ ID STARTTLS SASL-IR AUTH=PLAIN AUTH=LOGIN"
        for secure, tls, words in (
            *((False, "starttls", CLEAR), (True, "starttls", SAFE), (True, "implicit", SAFE)),
            *((False, "optional", both), (True, "optional", SAFE), (False, "none", SAFE)),
        ):
            self.assertEqual(self.capabilities(secure, tls), f"* OK [{words}] mx.example ready\r\n", tls)

    def test_no_product(self) -> None:
        """The greeting names neither product nor version."""
        self.assertNotIn("mailgw", self.capabilities(True, "implicit").lower())


class CommandTests(ImapCase):
    """Commands that are no login."""

    def test_capability(self) -> None:
        """CAPABILITY repeats the greeting's list; commands are known in any case."""
        self.converse("C: a1 cApability", f"S: * {SAFE}", "S: a1 OK Capability completed")

    def test_noop(self) -> None:
        """NOOP does nothing, as often as one likes."""
        self.converse("C: a NOOP", "S: a OK Noop completed", "C: b noop", "S: b OK Noop completed")

    def test_logout(self) -> None:
        """LOGOUT says goodbye and closes; what is behind it is not looked at."""
        self.converse(
            "C: a LOGOUT", "S: * BYE Logging out", "S: a OK Logout completed", Closed("logged out"), "C: b NOOP"
        )

    def test_id(self) -> None:
        """ID is answered with our name and no version, whatever the client says of itself."""
        answer = 'S: * ID ("name" "mailgw")'
        self.converse("C: a ID NIL", answer, "S: a OK ID completed", "C: b ID ()", answer, "S: b OK ID completed")
        self.converse('C: a ID ("name" "x \\"y\\"" "os" NIL)', answer, "S: a OK ID completed")
        self.converse(
            'C: a ID ("name" {4+}', 'C: a) " "vendor" {3}', "S: + OK", "C: xyz)", answer, "S: a OK ID completed"
        )

    def test_id_remembered(self) -> None:
        """The client's words are kept, decoded; the last ID counts, and TLS forgets it."""
        dialogue = self.make()
        dialogue.feed(b'a ID ("Name" "x \\\\" "os" NIL "vendor" {3+}\r\n"\r\n)\r\n')
        self.assertEqual(dict(dialogue.client_id), {b"name": b"x \\", b"vendor": b'"\r\n'})
        dialogue.feed(b"b ID NIL\r\n")
        self.assertEqual(dict(dialogue.client_id), {})
        dialogue.feed(b'c ID ("a" "b")\r\n')
        dialogue.secured()
        self.assertEqual(dict(dialogue.client_id), {})

    def test_id_bounds(self) -> None:
        """Thirty pairs, keys of 30 and values of 1024 octets, and no more (RFC 2971)."""
        thirty = " ".join(f'"k{number}" "v"' for number in range(30))
        self.converse(f"C: a ID ({thirty})", 'S: * ID ("name" "mailgw")', "S: a OK ID completed")
        for words in (f'{thirty} "k" "v"', f'"{"k" * 31}" "v"', f'"k" "{"v" * 1025}"'):
            self.converse(f"C: a ID ({words})", "S: a BAD Invalid ID")

    def test_id_malformed(self) -> None:
        """What is no list of strings is BAD."""
        for words in (
            "x",
            "(",
            ")",
            '("a")',
            '("a" "b" )',
            '("a" "b""c" "d")',
            '(a "b")',
            '("a" "b',
            '(NIL "b")',
            "((",
        ):
            self.converse(f"C: a ID {words}", "S: a BAD Invalid ID")

    def test_unknown(self) -> None:
        """What needs a login, or is no command, is BAD at once, under its tag."""
        for command in ("SELECT INBOX", "ENABLE CONDSTORE", "XYZZY", "LOGINX a b", "CHECK", "\xff", "NO-OP"):
            self.converse(f"C: a {command}", "S: a BAD Unknown command", "C: b NOOP", "S: b OK Noop completed")

    def test_missing(self) -> None:
        """A tag alone is BAD under its tag."""
        self.converse("C: a", "S: a BAD Missing command")
        self.converse("C: a ", "S: a BAD Missing command")

    def test_arguments(self) -> None:
        """Commands without arguments take none, not even a blank; the others need theirs."""
        for command in ("NOOP x", "NOOP ", "CAPABILITY {3+}\r\nabc", "LOGOUT now", "STARTTLS "):
            self.converse(f"C: a {command}", "S: a BAD No arguments expected")
        for command in ("LOGIN", "LOGIN bob", "LOGIN bob secret x", "LOGIN  bob secret", "AUTHENTICATE"):
            self.converse(f"C: a {command}", "S: a BAD Invalid arguments")
        self.converse("C: a ID", "S: a BAD Invalid ID")


class LoginTests(ImapCase):
    """The LOGIN command, in every encoding."""

    def test_atoms(self) -> None:
        """Atoms; the success reply carries the words of who admits."""
        self.converse(
            *("C: a LOGIN bob secret", BOB, Admit(b"[CAPABILITY IMAP4rev1 IDLE] Logged in")),
            "S: a OK [CAPABILITY IMAP4rev1 IDLE] Logged in",
        )

    def test_admitted_without_words(self) -> None:
        """Without words there are our own."""
        dialogue = self.make()
        dialogue.feed(b"a LOGIN bob secret\r\n")
        self.assertEqual(dialogue.admit(b""), (b"a OK Logged in\r\n", b""))

    def test_atom_specials(self) -> None:
        """An atom may have brackets, braces at its end, and a plus."""
        self.converse("C: a LOGIN b]o+b s}ecret}", Login("b]o+b", b"s}ecret}", "LOGIN"))

    def test_no_atoms(self) -> None:
        """What needs quotes is BAD without them."""
        for word in ("a(b", "a)", "a%", "a*", 'a"b', "a\\b", "a\x7fb", "a\x01", "p\xe4", "a{b", ""):
            self.converse(f"C: a LOGIN bob {word}", "S: a BAD Invalid arguments")

    def test_quoted(self) -> None:
        """Quoted strings, with escapes, blanks and octets beyond ASCII."""
        self.converse('C: a LOGIN "bob" "s\\"e\\\\c {3}"', Login("bob", b's"e\\c {3}', "LOGIN"))
        self.converse('C: a LOGIN "b\xc3\xbc b" " \xff\x01 "', Login("bü b", b" \xff\x01 ", "LOGIN"))

    def test_bad_quotes(self) -> None:
        """Other escapes than those of quote and backslash, open quotes and glued strings are BAD."""
        for words in (
            '"bob" "a\\b"',
            '"bob" "a',
            '"bob" "a" "',
            '"bob""secret"',
            '"bob" "a\rb"',
            '"bob" "a\0b"',
            '"bob" "\\',
        ):
            self.converse(f"C: a LOGIN {words}", "S: a BAD Invalid arguments")

    def test_literals(self) -> None:
        """Literals, asked for one by one."""
        self.converse("C: a LOGIN {3}", "S: + OK", "C: bob {6}", "S: + OK", "C: secret", BOB)

    def test_literals_unasked(self) -> None:
        """Literals that come unasked (RFC 7888), octets that look like syntax in them."""
        self.converse('C: a LOGIN {3+}\r\nbob {8+}\r\ns"\\{9}e)', Login("bob", b's"\\{9}e)', "LOGIN"))

    def test_mixed(self) -> None:
        """A quoted name does not make a literal password lose its backslashes, nor the other way round."""
        self.converse('C: a LOGIN "bob" {5+}', "C: a\\\\bc", Login("bob", b"a\\\\bc", "LOGIN"))
        self.converse('C: a LOGIN {5+}\r\nb\\\\ob "a\\\\b"', Login("b\\\\ob", b"a\\b", "LOGIN"))
        self.converse("C: a LOGIN bob {6}", "S: + OK", "C: secret", BOB)

    def test_literal_then_too_much(self) -> None:
        """Something behind the last argument is BAD, however it is encoded."""
        self.converse("C: a LOGIN bob {6+}\r\nsecret x", "S: a BAD Invalid arguments")
        self.converse("C: a LOGIN bob {6+}\r\nsecret {1+}\r\nx", "S: a BAD Invalid arguments")
        self.converse("C: a LOGIN bob{6+}\r\nsecret", "S: a BAD Invalid arguments")

    def test_empty(self) -> None:
        """An empty name or password is no login."""
        for words in ('"" secret', 'bob ""', "bob {0+}\r\n", "{0+}\r\n secret"):
            self.converse(f"C: a LOGIN {words}", "S: a BAD Empty user name or password")


class AuthenticateTests(ImapCase):
    """The AUTHENTICATE command."""

    def test_plain(self) -> None:
        """PLAIN, asked for."""
        self.converse(
            *("C: a AUTHENTICATE PLAIN", "S: + ", f"C: {PLAIN}", Login("bob", b"secret")),
            *(Admit(b"[CAPABILITY X] in"), "S: a OK [CAPABILITY X] in"),
        )

    def test_plain_at_once(self) -> None:
        """PLAIN with its initial response (RFC 4959); mechanism names are known in any case."""
        self.converse(f"C: a authenticate plain {PLAIN}", Login("bob", b"secret"))

    def test_authorization_identity(self) -> None:
        """Whom PLAIN asks to act as goes along."""
        response = base64.b64encode(b"alice\0bob\0secret").decode()
        self.converse(f"C: a AUTHENTICATE PLAIN {response}", Login("bob", b"secret", "PLAIN", "alice"))

    def test_login(self) -> None:
        """LOGIN asks for name and password."""
        self.converse(
            *("C: a AUTHENTICATE LOGIN", "S: + VXNlcm5hbWU6", "C: Ym9i", "S: + UGFzc3dvcmQ6", "C: c2VjcmV0"),
            BOB,
        )

    def test_login_at_once(self) -> None:
        """LOGIN with the name as initial response."""
        self.converse("C: a AUTHENTICATE LOGIN Ym9i", "S: + UGFzc3dvcmQ6", "C: c2VjcmV0", BOB)

    def test_empty_initial_response(self) -> None:
        """C{=} is an empty initial response: no PLAIN at all, and for LOGIN an empty name."""
        self.converse("C: a AUTHENTICATE PLAIN =", "S: a BAD Not a plain response")
        self.converse(
            *("C: a AUTHENTICATE LOGIN =", "S: + UGFzc3dvcmQ6", "C: c2VjcmV0"),
            "S: a BAD Empty user name or password",
        )

    def test_cancel(self) -> None:
        """A star ends the exchange; the next command is none of it."""
        for start in (["C: a AUTHENTICATE PLAIN", "S: + "], ["C: a AUTHENTICATE LOGIN Ym9i", "S: + UGFzc3dvcmQ6"]):
            self.converse(*start, "C: *", "S: a BAD Authentication cancelled", "C: b NOOP", "S: b OK Noop completed")

    def test_unknown_mechanism(self) -> None:
        """What was not offered is not begun."""
        for name in ("CRAM-MD5", "X", "XOAUTH2 abcd"):
            self.converse(f"C: a AUTHENTICATE {name}", "S: a NO [CANNOT] No such authentication mechanism")

    def test_malformed(self) -> None:
        """Base64 is strict; a response that breaks the rules ends the exchange."""
        for response in ("AGJvYgBzZWNyZXQ", "AGJv YgBz", "!", "YQ=", f"{PLAIN}{PLAIN}", "{5}"):
            self.converse(
                *("C: a AUTHENTICATE PLAIN", "S: + ", f"C: {response}", "S: a BAD Not base64"),
                *("C: b NOOP", "S: b OK Noop completed"),
            )
        self.converse("C: a AUTHENTICATE PLAIN", "S: + ", "C: ", "S: a BAD Not a plain response")
        self.converse("C: a AUTHENTICATE PLAIN YQ=", "S: a BAD Not base64")
        self.converse("C: a AUTHENTICATE PLAIN a b", "S: a BAD Invalid arguments")
        self.converse("C: a AUTHENTICATE {5}", "S: a BAD Invalid arguments")
        self.converse("C: a AUTHENTICATE {5+}\r\nPLAIN", "S: a BAD Invalid arguments")


class Watched(ImapServer):
    """A dialogue that can be referred to weakly."""


class VerdictTests(ImapCase):
    """What happens behind a login."""

    def test_refusals(self) -> None:
        """Each kind has its response code; our reason stays in the log."""
        for kind, reply in {
            RefusalKind.CREDENTIALS: "NO [AUTHENTICATIONFAILED] Wrong user name or password",
            RefusalKind.AUTHZ: "NO [AUTHORIZATIONFAILED] You may not act as this user",
            RefusalKind.TLS_REQUIRED: "NO [PRIVACYREQUIRED] Use STARTTLS before you log in",
            RefusalKind.DISABLED: "NO [CONTACTADMIN] This account may not log in here",
            RefusalKind.LIMIT: "NO [LIMIT] Too many connections or attempts",
            RefusalKind.UNAVAILABLE: "NO [UNAVAILABLE] Temporary trouble, try again later",
        }.items():
            self.converse("C: a LOGIN bob secret", BOB, Refuse(kind), f"S: a {reply}")

    def test_pipelined_behind_success(self) -> None:
        """What came behind the login is handed on untouched, half lines included."""
        self.converse(
            *(
                "C: a LOGIN bob secret",
                BOB,
                "C: b SELECT INBOX",
                "C~ c AP\n\0",
                Admit(b"in", b"b SELECT INBOX\r\nc AP\n\0"),
            ),
            "S: a OK in",
        )

    def test_pipelined_behind_failure(self) -> None:
        """What came behind a refused login is answered behind its refusal, in order; another login may be in it."""
        self.converse(
            *("C: a LOGIN bob wrong", Login("bob", b"wrong", "LOGIN"), "C: b NOOP", "C: c LOGIN bob secret", "C~ d NO"),
            *(Refuse(), "S: a NO [AUTHENTICATIONFAILED] Wrong user name or password", "S: b OK Noop completed", BOB),
            *("C: OP", Admit(b"in", b"d NOOP\r\n"), "S: c OK in"),
        )

    def test_one_login_at_a_time(self) -> None:
        """While a login waits nothing is answered, however much comes."""
        dialogue = self.make()
        self.assertEqual(dialogue.feed(b"".join(b"a%d LOGIN bob x\r\n" % n for n in range(500)))[1:], [])
        self.assertEqual(dialogue.feed(b"zz CAPABILITY\r\n"), [])

    def test_attempts(self) -> None:
        """After so many failures the connection is closed."""
        reply = "S: a NO [AUTHENTICATIONFAILED] Wrong user name or password"
        self.converse(
            *("C: a LOGIN bob secret", BOB, Refuse(), reply) * 2,
            *("C: a LOGIN bob secret", BOB, Refuse(), reply, "S: * BYE Too many failed logins"),
            *(Closed("too many failed logins"), "C: b NOOP"),
            login_attempts=3,
        )

    def test_no_cycles(self) -> None:
        """A dialogue that is dropped is gone at once, and what it knew with it."""
        gc.disable()
        self.addCleanup(gc.enable)
        for stream in (b"a LOGIN bob secret\r\n", b"a AUTHENTICATE LOGIN\r\nYQ==\r\n", b"a ID (\r\n", b"a X {1}\r\n"):
            dialogue = Watched(Terms("mx.example"), True)
            dialogue.feed(stream)
            watch = weakref.ref(dialogue)
            del dialogue
            self.assertIsNone(watch(), stream)

    def test_late_verdicts(self) -> None:
        """A verdict without a login changes nothing."""
        dialogue = self.make()
        self.assertEqual(dialogue.refuse(Refusal(RefusalKind.LIMIT)), [])
        self.assertEqual(dialogue.admit(b"in"), (b"", b""))
        dialogue.feed(b"a LOGIN bob secret\r\n")
        dialogue.expire("Timeout")
        self.assertEqual((dialogue.refuse(Refusal(RefusalKind.LIMIT)), dialogue.admit(b"in")), ([], (b"", b"")))

    def test_expire(self) -> None:
        """The parting words are one line, and the last."""
        dialogue = self.make()
        self.assertEqual(dialogue.expire("Too\r\nslow"), b"* BYE Too??slow\r\n")
        self.assertEqual(dialogue.feed(b"a NOOP\r\n"), [])


class StartTlsTests(ClearCase):
    """STARTTLS."""

    def test_upgrade(self) -> None:
        """TLS, new capabilities, and a login."""
        self.converse(
            *("C: a STARTTLS", "S: a OK Begin TLS", StartTLS(), Secured()),
            *("C: b CAPABILITY", f"S: * {SAFE}", "S: b OK Capability completed", "C: c LOGIN bob secret", BOB),
        )

    def test_not_offered(self) -> None:
        """Without TLS there is none to start."""
        dialogue = self.make(tls="none")
        self.assertEqual(dialogue.feed(b"a STARTTLS\r\n"), [Send(b"a BAD STARTTLS is not offered\r\n")])

    def test_optional(self) -> None:
        """Where TLS is optional a login may come without it."""
        dialogue = self.make(tls="optional")
        self.assertEqual(dialogue.feed(b"a LOGIN bob secret\r\n"), [BOB])

    def test_login_before(self) -> None:
        """No login before TLS, and no password taken: its literal is not asked for, or swallowed."""
        no = "S: a NO [PRIVACYREQUIRED] Use STARTTLS before you log in"
        go_on = ("C: b NOOP", "S: b OK Noop completed")
        self.converse("C: a LOGIN bob secret", no, *go_on)
        self.converse('C: a LOGIN "bob" {6}', no, *go_on)
        self.converse("C: a LOGIN {3}", no, *go_on)
        self.converse("C: a LOGIN {3+}\r\nbob {6+}\r\nsecret", no, *go_on)
        self.converse("C: a LOGIN {9+}\r\nb NOOP\r\n {6}", no, *go_on)
        self.converse("C: a AUTHENTICATE PLAIN", no, *go_on)
        self.converse(f"C: a AUTHENTICATE PLAIN {PLAIN}", no, *go_on)

    def test_nothing_is_kept(self) -> None:
        """The password of a refused command is not in the dialogue any more."""
        for stream in (b"a LOGIN bob SECRET\r\n", b"a LOGIN bob {6+}\r\nSECRET\r\n", b"a LOGIN bob {6+}\r\nSECRET"):
            dialogue = self.make()
            dialogue.feed(stream)
            names = [name for cls in type(dialogue).__mro__ for name in getattr(cls, "__slots__", ())]
            self.assertNotIn("SECRET", repr([getattr(dialogue, name) for name in names]))

    def test_caps_go_on(self) -> None:
        """The count of bad commands outlives STARTTLS."""
        self.converse(
            *("C: a X", "S: a BAD Unknown command", "C: a STARTTLS", "S: a OK Begin TLS", StartTLS(), Secured()),
            *("C: a X", "S: a BAD Unknown command", "S: * BYE Too many bad commands", Closed("bad commands")),
            bad_commands=2,
        )


SCRIPT = (
    b'a CAPABILITY\r\nb ID ("name" {3+}\r\nx\r\n "os" "y")\r\nc LOGIN "b o" {4+}\r\n\r\nxx\r\nd AUTHENTICATE PLAIN\r\n'
    b"*\r\ne AUTHENTICATE LOGIN Ym9i\r\nc2VjcmV0\r\nf NOOP\r\ng APPEND {5+}\r\n12345"
)


class CutTests(ImapCase):
    """The same octets bring the same events, wherever they are cut."""

    def run_cut(self, stream: bytes, cuts: list[int]) -> list[Any]:
        """Everything that a dialogue does with a stream; every login is refused at once."""
        played = Played(self.make(max_line=120, max_literal=40, max_total=900))
        for piece in at(stream, cuts):
            played.take(played.dialogue.feed(piece))
            while played.log and isinstance(played.log[-1], Login):
                played.take(played.dialogue.refuse(Refusal(RefusalKind.CREDENTIALS)))
        return played.log

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.integers(0, 300), max_size=8))
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

    def test_kit(self) -> None:
        """The kit tells conversations apart: a wrong script fails."""
        self.assertRaises(self.failureException, self.converse, "C: a NOOP", "S: a OK Something else")
        self.assertRaises(
            self.failureException, self.converse, "C: a LOGIN bob secret", Login("bob", b"other", "LOGIN")
        )
        self.assertRaises(self.failureException, self.converse, "C: a LOGOUT", "S: * BYE Logging out")
        self.assertIsInstance(play(Played(self.make()), ["C: a LOGOUT"], "S", octets)[-1], Closed)
        self.assertIsInstance(self.make().feed(b"a LOGOUT\r\n")[-1], Close)
