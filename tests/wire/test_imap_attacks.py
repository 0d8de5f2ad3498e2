"""Attacks on the IMAP dialogues: STARTTLS injection and stripping, cross-protocol clients, literals, floods, liars.

Every byte string is one that broke some mail server before (USENIX Security 2021, "Why TLS is better without STARTTLS";
ALPACA; and the CVEs named below).
"""

from __future__ import annotations

import base64
from typing import Any

from mailgw.model import Login, Refusal, RefusalKind
from mailgw.wire.events import Close, Send, StartTLS
from mailgw.wire.imap import ImapServer
from mailgw.wire.protocol import Terms
from tests.wire.transcripts import Closed, Played, Refuse, Secured, TranscriptCase, octets, whole

NO = "S: a NO [PRIVACYREQUIRED] Use STARTTLS before you log in"
ALIVE = ("C: z NOOP", "S: z OK Noop completed")


def logins(events: list[Any]) -> list[Login]:
    """The logins among events."""
    return [event for event in events if isinstance(event, Login)]


class ServerCase(TranscriptCase):
    """A listener with STARTTLS, in clear."""

    secure = False

    def make(self, **changes: Any) -> ImapServer:
        """A dialogue whose greeting is not of interest."""
        return ImapServer(Terms("mx.example", **changes), self.secure)


class SafeCase(ServerCase):
    """The same inside TLS."""

    secure = True


class InjectionTests(ServerCase):
    """Bytes in clear must never count as said inside TLS."""

    def never(self, *segments: bytes) -> None:
        """Assert that the first segment ends the session without a go-ahead, and the others are not answered."""
        dialogue = self.make()
        events = dialogue.feed(segments[0])
        self.assertEqual(events, [Close(b"", "bytes in clear behind STARTTLS")])
        for segment in segments[1:]:
            self.assertEqual(dialogue.feed(segment), [])
        self.assertEqual(dialogue.secured(), [])
        self.assertEqual(dialogue.feed(b"c NOOP\r\n"), [])

    def test_one_segment(self) -> None:
        """A command behind STARTTLS."""
        self.never(b"A STARTTLS\r\nB NOOP\r\n", b"C NOOP\r\n")
        self.never(b"A STARTTLS\r\nB LOGIN bob secret\r\n")

    def test_half_line(self) -> None:
        """Half a command behind STARTTLS, the other half inside TLS."""
        self.never(b"A STARTTLS\r\nB NO", b"OP\r\n")
        self.never(b"A STARTTLS\r\n\r")

    def test_client_hello(self) -> None:
        """A handshake that does not wait for the go-ahead."""
        self.never(b"A STARTTLS\r\n\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

    def test_over_time(self) -> None:
        """Clear text after the go-ahead, instead of a handshake, ends the session unanswered."""
        self.converse("C: A STARTTLS", "S: A OK Begin TLS", StartTLS())
        dialogue = self.make()
        dialogue.feed(b"A STARTTLS\r\n")
        self.assertEqual(dialogue.feed(b"B NOOP\r\n"), [Close(b"", "bytes in clear after STARTTLS")])
        self.assertEqual(dialogue.secured() + dialogue.feed(b"C NOOP\r\n"), [])

    def test_commands_before(self) -> None:
        """Only what is behind STARTTLS matters, not what is before it in the same segment."""
        self.converse("C: a NOOP", "S: a OK Noop completed", "C: b STARTTLS", "S: b OK Begin TLS", StartTLS())

    def test_literal_open(self) -> None:
        """STARTTLS inside or with a literal is no STARTTLS."""
        self.converse("C: a LOGIN {5}", NO, "C: STARTTLS", "S: STARTTLS BAD Missing command")
        self.converse("C: a STARTTLS {3}", "S: a BAD No arguments expected", "C: abc", "S: abc BAD Missing command")
        self.converse("C: a STARTTLS {3+}", "C: abc", "S: a BAD No arguments expected", *ALIVE)
        self.converse("C: a LOGIN {12+}", "C: b STARTTLS\r\n", NO, *ALIVE)
        self.converse(
            'C: a ID ("x" {12}', "S: + OK", "C: b STARTTLS\r\n)", 'S: * ID ("name" "mailgw")', "S: a OK ID completed"
        )

    def test_pending_login(self) -> None:
        """STARTTLS while a login waits for its verdict (James JAMES-1862) is not looked at before."""
        bob = Login("bob", b"secret", "LOGIN")
        refused = "S: a NO [AUTHENTICATIONFAILED] Wrong user name or password"
        self.converse(
            *("C: a LOGIN bob secret", bob, "C: b STARTTLS", Refuse(), refused, "S: b OK Begin TLS", StartTLS()),
            tls="optional",
        )
        dialogue = self.make(tls="optional")
        dialogue.feed(b"a LOGIN bob secret\r\nb STARTTLS\r\nc NOOP\r\n")
        events = dialogue.refuse(Refusal(RefusalKind.CREDENTIALS))
        self.assertEqual(events[1:], [Close(b"", "bytes in clear behind STARTTLS")])

    def test_state_reset(self) -> None:
        """Half an exchange from before TLS does not go on inside it."""
        self.converse(
            *("C: a STARTTLS", "S: a OK Begin TLS", StartTLS(), Secured(), "C: Ym9i", "S: Ym9i BAD Missing command"),
            *ALIVE,
        )

    def test_twice(self) -> None:
        """There is no STARTTLS inside TLS, after STARTTLS or on a TLS port."""
        self.converse(
            *("C: a STARTTLS", "S: a OK Begin TLS", StartTLS(), Secured(), "C: b STARTTLS"),
            *("S: b BAD TLS is active already", *ALIVE),
        )
        implicit = ImapServer(Terms("mx.example", tls="implicit"), True)
        self.assertEqual(implicit.feed(b"a STARTTLS\r\n"), [Send(b"a BAD TLS is active already\r\n")])

    def test_stripping(self) -> None:
        """A client that was made to log in in clear gets nowhere, by whatever way, and no login comes of it."""
        plain = base64.b64encode(b"\0bob\0secret")
        for words in (
            b"LOGIN bob secret",
            b"AUTHENTICATE PLAIN",
            b"AUTHENTICATE PLAIN " + plain,
            b"AUTHENTICATE LOGIN Ym9i",
        ):
            for cut in (whole, octets):
                played = Played(self.make())
                played.feed(b"a " + words + b"\r\n" + plain + b"\r\n", cut)
                self.assertEqual(logins(played.log), [])
                self.assertTrue(played.log[0].startswith(b"a NO [PRIVACYREQUIRED]"))
        greeting = ImapServer(Terms("mx.example"), False).greet()[0]
        assert isinstance(greeting, Send)
        self.assertNotIn(b"AUTH=", greeting.data)


class ForeignTests(ServerCase):
    """Clients of other protocols, lost or sent (ALPACA)."""

    def test_first_verbs(self) -> None:
        """They are closed at the first verb, without a word to reflect."""
        for first in (
            "GET / HTTP/1.1",
            "PROXY TCP4 203.0.113.7 192.0.2.1 1 143",
            "POST / HTTP/1.1",
            "POST",
            "Host: mx.example",
            "host: x",
            "SSH-2.0-OpenSSH_9",
            "PRI * HTTP/2.0",
        ):
            self.converse(f"C: {first}", Closed("another protocol's client"), "C: a NOOP", "C: b LOGOUT")

    def test_later_verbs(self) -> None:
        """So they are behind a line that means nothing."""
        self.converse(
            "C: x", "S: x BAD Missing command", "C: Host: mx.example", Closed("another protocol"), "C: a NOOP"
        )

    def test_handshake(self) -> None:
        """A TLS client on a clear port is closed at its first octet, however long its hello is."""
        hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\n\r\0" * 200
        self.converse(f"C~ {hello}", Closed("a TLS handshake"))
        self.converse("C~ \x16", Closed("a TLS handshake"))
        self.converse(*ALIVE, f"C~ {hello}", Closed("a TLS handshake"))

    def test_inside_tls(self) -> None:
        """The same inside TLS."""
        dialogue = ImapServer(Terms("mx.example", tls="implicit"), True)
        self.assertEqual(dialogue.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), [Close(b"", "another protocol's client")])

    def test_tags_like_verbs(self) -> None:
        """A tag that only begins like a verb is a tag."""
        self.converse("C: GETX NOOP", "S: GETX OK Noop completed", "C: hosts NOOP", "S: hosts OK Noop completed")


class FramingTests(SafeCase):
    """Lines, tags and literals."""

    def test_bare_lf(self) -> None:
        """A lone LF ends the session with one reply, wherever it is."""
        for line in ("a NOOP\n", "\n", "a NOOP\nb NOOP\r\n", "a LOGIN bob x\ny\r\n", "a AUTHENTICATE PLAIN\n"):
            self.converse(f"C~ {line}", "S: * BYE Lines end with CRLF", Closed("line not ended by CRLF"))

    def test_too_long(self) -> None:
        """A line without end is cut off."""
        self.converse("C~ a NOOP " + "x" * 9000, "S: * BYE Line too long", Closed("line too long"))

    def test_tags(self) -> None:
        """Tags are atoms of at most 64 octets; what is none is not echoed (Perdition CVE-2007-5740)."""
        for tag in ("\0\0", "%n%n%s", "a\x01", "a+", "*", "+", '"a"', "a\\", "a(", "{3}", "\xff", "", "x" * 65):
            self.converse(f"C: {tag} NOOP", "S: * BAD Invalid tag", *ALIVE)
        tag = "x" * 64
        self.converse(
            f"C: {tag} NOOP", f"S: {tag} OK Noop completed", "C: a]}~'.1 NOOP", "S: a]}~'.1 OK Noop completed"
        )
        self.converse("C: " + "x" * 65536 + " NOOP", "S: * BYE Line too long", Closed())

    def test_literal_sizes(self) -> None:
        """What is no number of the grammar is BAD, and there is no go-ahead for it."""
        for size in ("-1", "-5", "+5", " 5", "5 ", "05", "1_0", "99999999999999999999", "", "0x5", "5-", "\xb2", "5+5"):
            self.converse(f"C: a LOGIN {{{size}}}", "S: a BAD Malformed literal", *ALIVE)

    def test_literal_sizes_unasked(self) -> None:
        """Where octets follow and nobody can tell how many, the session ends."""
        for size in ("05+", "1_0+", "-1+", "99999999999999999999+", "+", "++", " 5+"):
            self.converse(
                *(f"C: a LOGIN {{{size}}}", "S: a BAD Malformed literal", "S: * BYE Malformed literal"),
                *(Closed("malformed literal"), "C: b NOOP"),
            )

    def test_literal_caps(self) -> None:
        """Too large a literal gets no go-ahead; one that is on its way is swallowed, or ends the session."""
        too_large = "S: a BAD Literal too large"
        for size in (4097, 99999, 4294967296, 9999999999):
            self.converse(f"C: a LOGIN {{{size}}}", too_large, *ALIVE)
            self.converse(
                *(f"C: a LOGIN {{{size}+}}", too_large, "S: * BYE Literal too large", Closed("too large"), "C: b NOOP")
            )
        self.converse("C: a LOGIN {4096}", "S: + OK", "C: " + "b" * 4096 + " {4090}", too_large, *ALIVE)
        self.converse(
            *("C: a LOGIN {4096+}", "C: " + "b" * 4096 + " {4090+}", "C: " + "\r\n" * 2045, too_large), *ALIVE
        )

    def test_refused_unasked_literal(self) -> None:
        """The octets of a refused literal are never run as commands: {3+} and its kin."""
        self.converse("C: a NOOP {10+}", "C: b LOGOUT\r\n", "S: a BAD No arguments expected", *ALIVE)
        self.converse("C: a FETCH {10+}", "C: b LOGOUT\r\n x {1+}", "C: y", "S: a BAD Unknown command", *ALIVE)
        self.converse("C: a+ NOOP {10+}", "C: b LOGOUT\r\n", "S: * BAD Invalid tag", *ALIVE)

    def test_literal_that_never_comes(self) -> None:
        """An announced literal that does not come is waited for, under the session's deadline."""
        self.converse("C: a LOGIN {5}", "S: + OK", "C~ bo")
        self.converse("C: a LOGIN {0}", "S: + OK", "C:  {0}", "S: + OK", "C: ", "S: a BAD Empty user name or password")

    def test_parentheses(self) -> None:
        """Parentheses without end are BAD, or a line too long, and nothing is nested (Dovecot CVE-2026-27857)."""
        self.converse(
            "C: a LOGIN " + "(" * 8000, "S: a BAD Invalid arguments", "C: b ID " + "(" * 8000, "S: b BAD Invalid ID"
        )
        self.converse("C: a LOGIN " + "(" * 16384, "S: * BYE Line too long", Closed())


class CredentialTests(SafeCase):
    """Credentials that would be commands for somebody behind us."""

    def test_crlf(self) -> None:
        """CR, LF and NUL in a name or password never make a login, by literal or by base64."""
        self.converse(
            "C: a LOGIN {14}", "S: + OK", "C~ u\r\nz LOGOUT x ", "C:  pw", "S: a BAD Control character in the user name"
        )
        for secret in ("p\r\nz LOGOUT", "p\0", "p\n", "\r"):
            self.converse(
                *(f"C: a LOGIN bob {{{len(secret)}+}}", f"C: {secret}", "S: a BAD Cr, lf or nul in the password"),
                *ALIVE,
            )
        response = base64.b64encode(b"\0u\r\nQUIT\0p").decode()
        self.converse(f"C: a AUTHENTICATE PLAIN {response}", "S: a BAD Control character in the user name", *ALIVE)
        name = base64.b64encode(b"u\0x").decode()
        self.converse(
            *(f"C: a AUTHENTICATE LOGIN {name}", "S: + UGFzc3dvcmQ6", "C: cA=="),
            *("S: a BAD Control character in the user name", *ALIVE),
        )

    def test_no_expansion(self) -> None:
        """Per cent signs are letters (Dovecot CVE-2017-2669)."""
        self.converse('C: a LOGIN "%{200000}n" x', Login("%{200000}n", b"x", "LOGIN"))

    def test_authorization_identity(self) -> None:
        """An authorization identity is handed out, never passed over."""
        response = base64.b64encode(b"admin\0u\0secret").decode()
        self.converse(f"C: a AUTHENTICATE PLAIN {response}", Login("u", b"secret", "PLAIN", "admin"))

    def test_fresh_attempts(self) -> None:
        """Nothing of a failed or cancelled attempt is in the next one (nginx CVE-2026-27651)."""
        self.converse(
            *("C: a AUTHENTICATE LOGIN", "S: + VXNlcm5hbWU6", "C: YWxpY2U=", "S: + UGFzc3dvcmQ6", "C: *"),
            *("S: a BAD Authentication cancelled", "C: b AUTHENTICATE LOGIN", "S: + VXNlcm5hbWU6", "C: Ym9i"),
            *("S: + UGFzc3dvcmQ6", "C: c2VjcmV0", Login("bob", b"secret", "LOGIN")),
        )


class FloodTests(SafeCase):
    """Nobody gets to work us for ever."""

    def test_bad_commands(self) -> None:
        """Bad commands, bad tags, broken and cancelled exchanges and early logins all count."""
        self.converse(
            *(
                "C: a X",
                "S: a BAD Unknown command",
                "C: \xff",
                "S: * BAD Invalid tag",
                "C: a AUTHENTICATE PLAIN",
                "S: + ",
            ),
            *("C: *", "S: a BAD Authentication cancelled", "C: a AUTHENTICATE PLAIN !", "S: a BAD Invalid arguments"),
            *("C: a AUTHENTICATE X", "S: a NO [CANNOT] No such authentication mechanism", "C: a LOGIN {x}"),
            *(
                "S: a BAD Malformed literal",
                "S: * BYE Too many bad commands",
                Closed("too many bad commands"),
                "C: b NOOP",
            ),
            bad_commands=6,
        )

    def test_early_logins(self) -> None:
        """Logins before TLS count too."""
        played = Played(ImapServer(Terms("mx.example"), False))
        played.feed(b"a LOGIN bob secret\r\n" * 50, whole)
        self.assertEqual((played.log[0].count(b"a NO [PRIVACYREQUIRED]"), played.log[1]), (10, Closed("too many bad")))

    def test_cancelled_exchanges(self) -> None:
        """A million cancelled exchanges end after ten (Dovecot CVE-2017-15132)."""
        played = Played(self.make())
        played.feed(b"a AUTHENTICATE PLAIN\r\n*\r\n" * 1000, whole)
        self.assertEqual((played.log[0].count(b"BAD"), played.log[1]), (10, Closed("too many bad commands")))

    def test_total(self) -> None:
        """Good commands are bounded by all that may come before the login, at the same place for every cut."""
        bye = "S: * BYE Too much before login"
        self.converse(*("C: a NOOP", "S: a OK Noop completed") * 5, "C: a NOOP", bye, Closed("too much"), max_total=45)
        self.converse("C: a LOGIN {9+}", "C~ 123456789", bye, Closed("too much"), max_total=20)

    def test_pipelining_while_waiting(self) -> None:
        """What comes while a login waits is kept under the same bound, and then the session ends."""
        bob = Login("bob", b"secret", "LOGIN")
        start = ("C: a LOGIN bob secret", bob)
        self.converse(*start, "C~ " + "x" * 80, max_total=100)
        self.converse(*start, "C~ " + "x" * 81, "S: * BYE Too much before login", Closed("too much"), max_total=100)

    def test_reset_by_starttls(self) -> None:
        """STARTTLS, and nothing else, starts the count anew."""
        dialogue = ImapServer(Terms("mx.example", max_total=45), False)
        dialogue.feed(b"a NOOP\r\n" * 4)
        self.assertEqual(dialogue.feed(b"a STARTTLS\r\n"), [StartTLS(b"a OK Begin TLS\r\n")])
        dialogue.secured()
        self.assertEqual(len(dialogue.feed(b"a NOOP\r\n" * 5)), 5)

    def test_one_answer(self) -> None:
        """Five hundred logins in one write: one at a time, five times, then the end."""
        dialogue = self.make()
        events = dialogue.feed(b"".join(b"a%d LOGIN bob x\r\n" % number for number in range(500)))
        for _ in range(4):
            self.assertEqual(len(logins(events)), 1)
            events = dialogue.refuse(Refusal(RefusalKind.CREDENTIALS))
        self.assertEqual(len(logins(events)), 1)
        [close] = dialogue.refuse(Refusal(RefusalKind.CREDENTIALS))
        self.assertIsInstance(close, Close)
