"""Tests of the IMAP dialogue with backends: how it logs in, what it learns, and how it tells failures apart."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.model import Access, Failure, Forward, Peer
from mailgw.wire.events import Ready, StartTLS
from mailgw.wire.imapclient import ImapClient
from tests.wire.transcripts import Failed, Played, Secured, TranscriptCase, at

PLAIN = base64.b64encode(b"\0bob\0secret").decode()
PEER = Peer("192.0.2.7", 4711, "198.51.100.1", 993)
FORWARD = Forward("session1", PEER, True, 6)
IN = Ready(b"[CAPABILITY IMAP4rev1 IDLE] Logged in")
L_OK = "S: L OK [CAPABILITY IMAP4rev1 IDLE] Logged in"
AT_ONCE = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi"
ID = (
    'C: I ID ("x-originating-ip" "192.0.2.7" "x-originating-port" "4711" "x-connected-ip" "198.51.100.1"'
    ' "x-connected-port" "993" "x-session-id" "session1" "x-proxy-ttl" "6")'
)

WORDS = [
    *(b"* OK ", b"[CAPABILITY ", b"STARTTLS ", b"AUTH=PLAIN ", b"ID ", b"] ", b"\r\n", b"+ ", b"L OK "),
    *(b"L NO ", b"C OK", b"S OK", b"I OK", b"P OK", b"* CAPABILITY ", b"* BYE", b"* ID (", b"{3}\r\n"),
    *(b"\n", b"\0"),
]
"""What random streams are made of, beside random octets."""
STREAMS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=5), max_size=30).map(b"".join)


class ImapClientCase(TranscriptCase):
    """Scripts in which we are the client of a backend."""

    us = "C"

    def make(self, **changes: Any) -> ImapClient:
        """A dialogue that logs in as bob."""
        return ImapClient(
            changes.get("access", Access("bob", b"secret")),
            changes.get("forward", FORWARD),
            changes.get("starttls", False),
        )


class GreetingTests(ImapClientCase):
    """The backend speaks first."""

    def test_capabilities_in_greeting(self) -> None:
        """What the greeting tells needs no question."""
        self.converse(AT_ONCE, f"C: L AUTHENTICATE PLAIN {PLAIN}", L_OK, IN)

    def test_capabilities_asked(self) -> None:
        """What it does not tell is asked for."""
        self.converse(
            *("S: * OK hi", "C: C CAPABILITY", "S: * CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN", "S: C OK done"),
            *(f"C: L AUTHENTICATE PLAIN {PLAIN}", L_OK, IN),
        )
        self.converse("S: * ok", "C: C CAPABILITY")
        self.converse("S: * OK [ALERT] CAPABILITY", "C: C CAPABILITY")

    def test_turned_away(self) -> None:
        """A BYE is temporary trouble."""
        self.converse("S: * BYE too busy", Failed(Failure.TEMPFAIL, "too busy"))

    def test_no_imap(self) -> None:
        """Anything else is no IMAP server that waits for our login."""
        for line in ("* PREAUTH hi", "* NO", "+OK POP3", "220 ESMTP", "", "OK", "* OKAY", "C OK"):
            self.converse(f"S: {line}", Failed(Failure.PROTOCOL, "not an IMAP greeting"))

    def test_no_capabilities(self) -> None:
        """A backend that does not tell its capabilities is no use."""
        greeted = ("S: * OK hi", "C: C CAPABILITY")
        self.converse(*greeted, "S: C OK done", Failed(Failure.PROTOCOL, "no capabilities"))
        self.converse(*greeted, "S: C BAD what", Failed(Failure.PROTOCOL, "no capabilities"))
        self.converse(*greeted, "S: C BAD what", Failed(Failure.TLS, "no capabilities"), starttls=True)


class StartTlsTests(ImapClientCase):
    """STARTTLS where it is demanded."""

    greeted = ("S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi", "C: S STARTTLS")

    def test_upgrade(self) -> None:
        """After TLS the capabilities are asked anew, and only those count."""
        self.converse(
            *(*self.greeted, "S: S OK go", StartTLS(), Secured(), "C: C CAPABILITY"),
            *("S: * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR", "S: C OK done", f"C: L AUTHENTICATE PLAIN {PLAIN}"),
            *(L_OK, IN),
            starttls=True,
        )

    def test_asked_first(self) -> None:
        """A greeting without capabilities says nothing of STARTTLS: ask."""
        self.converse(
            *("S: * OK hi", "C: C CAPABILITY", "S: * CAPABILITY IMAP4rev1 starttls", "S: C OK done", "C: S STARTTLS"),
            starttls=True,
        )

    def test_not_demanded(self) -> None:
        """Where it is not demanded it is not used, even if it is offered."""
        self.converse("S: * OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN] hi", "C: L AUTHENTICATE PLAIN")


class WayTests(ImapClientCase):
    """How the credentials travel."""

    def greet(self, words: str) -> str:
        """A greeting with these capabilities."""
        return f"S: * OK [CAPABILITY IMAP4rev1 {words}] hi"

    def test_plain_asked(self) -> None:
        """Without SASL-IR the response waits for its C{+}, with blank and text or without."""
        for plus in ("+ ", "+", "+ go ahead", "+go"):
            self.converse(
                *(self.greet("AUTH=PLAIN AUTH=LOGIN"), "C: L AUTHENTICATE PLAIN", f"S: {plus}", f"C: {PLAIN}", L_OK, IN)
            )

    def test_plain_too_long(self) -> None:
        """An initial response that would make the line too long waits too."""
        access = Access("bob", b"x" * 6200)
        response = base64.b64encode(b"\0bob\0" + b"x" * 6200).decode()
        self.converse(AT_ONCE, "C: L AUTHENTICATE PLAIN", "S: + ", f"C: {response}", L_OK, IN, access=access)

    def test_authorization_identity(self) -> None:
        """Whom to act as goes with PLAIN, and with nothing else."""
        access = Access("gw", b"secret", "bob")
        response = base64.b64encode(b"bob\0gw\0secret").decode()
        self.converse(AT_ONCE, f"C: L AUTHENTICATE PLAIN {response}", L_OK, IN, access=access)
        for words in ("AUTH=LOGIN", "LITERAL+"):
            self.converse(self.greet(words), Failed(Failure.PROTOCOL, "no login that we can use"), access=access)

    def test_login_mechanism(self) -> None:
        """LOGIN, name and password one by one."""
        self.converse(
            *(self.greet("AUTH=LOGIN SASL-IR"), "C: L AUTHENTICATE LOGIN", "S: + VXNlcm5hbWU6", "C: Ym9i"),
            *("S: + UGFzc3dvcmQ6", "C: c2VjcmV0", L_OK, IN),
        )

    def test_chosen_mechanism(self) -> None:
        """The settings may want one mechanism, or none, and no other way is taken then."""
        login, plain, command = (Access("bob", b"secret", mechanism=name) for name in ("LOGIN", "PLAIN", "COMMAND"))
        self.converse(self.greet("AUTH=PLAIN AUTH=LOGIN SASL-IR"), "C: L AUTHENTICATE LOGIN", access=login)
        self.converse(self.greet("AUTH=PLAIN LITERAL+"), "C: L LOGIN {3+}", "C: bob {6+}", "C: secret", access=command)
        for access, words in ((login, "AUTH=PLAIN"), (plain, "AUTH=LOGIN"), (plain, ""), (login, "")):
            self.converse(self.greet(words), Failed(Failure.PROTOCOL, "no login that we can use"), access=access)
        self.converse(self.greet("AUTH=PLAIN LOGINDISABLED"), Failed(Failure.PROTOCOL, "no login"), access=command)

    def test_login_command(self) -> None:
        """The LOGIN command, its literals one by one."""
        self.converse(self.greet(""), "C: L LOGIN {3}", "S: + ", "C: bob {6}", "S: + ", "C: secret", L_OK, IN)

    def test_login_command_at_once(self) -> None:
        """The LOGIN command, its literals unasked where the backend reads them so."""
        for word in ("LITERAL+", "LITERAL-", "literal+"):
            self.converse(self.greet(word), "C: L LOGIN {3+}\r\nbob {6+}\r\nsecret", L_OK, IN)

    def test_login_disabled(self) -> None:
        """LOGINDISABLED is obeyed; a mechanism beside it may be used."""
        self.converse(self.greet("LOGINDISABLED"), Failed(Failure.PROTOCOL, "no login"))
        self.converse(self.greet("LOGINDISABLED AUTH=GSSAPI"), Failed(Failure.PROTOCOL, "no login"))
        self.converse(self.greet("LOGINDISABLED AUTH=PLAIN SASL-IR"), f"C: L AUTHENTICATE PLAIN {PLAIN}")

    def test_unfit(self) -> None:
        """Credentials with CR, LF or NUL are not sent at all."""
        for access in (Access('u" x\r\nZZ LOGOUT', b"x"), Access("bob", b"a\nb"), Access("bob", b"a\0b")):
            self.converse(AT_ONCE, Failed(Failure.PROTOCOL, "CR, LF or NUL"), access=access)


class IdTests(ImapClientCase):
    """ID tells the backend who the client is."""

    greeted = "S: * OK [CAPABILITY IMAP4rev1 ID SASL-IR AUTH=PLAIN] hi"
    login = f"C: L AUTHENTICATE PLAIN {PLAIN}"

    def test_pipelined(self) -> None:
        """ID and login go together, and their replies come in order."""
        self.converse(self.greeted, ID, self.login, 'S: * ID ("name" "D")', "S: I OK done", L_OK, IN)

    def test_refused(self) -> None:
        """A refused ID does not matter."""
        self.converse(self.greeted, ID, self.login, "S: I BAD no", L_OK, IN)

    def test_literal_in_answer(self) -> None:
        """Literals in the backend's ID are passed over, whatever is in them."""
        self.converse(
            *(self.greeted, ID, self.login, 'S: * ID ("name" {6}', "S~ L OK\r\n", 'S:  "x" {4}', "S: \n\r\n\0)"),
            *("S: I OK done", L_OK, IN),
        )

    def test_without_addresses(self) -> None:
        """What is not known, or is no address, is left out; IPv6 goes as it is."""
        forward = Forward("s", Peer("2001:db8::1", 5, "fe80::1%eth0", 6))
        want = (
            'C: I ID ("x-originating-ip" "2001:db8::1" "x-originating-port" "5" "x-session-id" "s" "x-proxy-ttl" "7")'
        )
        self.converse(self.greeted, want, self.login, forward=forward)
        want = 'C: I ID ("x-session-id" "s\\"\\\\" "x-proxy-ttl" "0")'
        self.converse(self.greeted, want, self.login, forward=Forward('s"\\', Peer("local", 0), ttl=0))

    def test_out_of_order(self) -> None:
        """A login reply before the one to ID would leave that to the client."""
        self.converse(self.greeted, ID, self.login, L_OK, Failed(Failure.PROTOCOL, "out of order"))

    def test_with_question(self) -> None:
        """ID goes along where the login waits for a C{+} too."""
        self.converse(
            *(
                "S: * OK [CAPABILITY IMAP4rev1 ID] hi",
                ID,
                "C: L LOGIN {3}",
                "S: * ID NIL",
                "S: I OK",
                "S: +",
                "C: bob {6}",
            ),
            *("S: +", "C: secret", L_OK, IN),
        )


class ReadyTests(ImapClientCase):
    """Logged in: the words for the client, and what follows them."""

    login = (AT_ONCE, f"C: L AUTHENTICATE PLAIN {PLAIN}")

    def test_what_cannot_cross(self) -> None:
        """Capabilities of logging in stay here, all others go on."""
        private = "STARTTLS LOGINDISABLED AUTH=PLAIN auth=x SASL-IR LOGIN-REFERRALS UNAUTHENTICATE"
        self.converse(
            *(*self.login, f"S: L OK [CAPABILITY IMAP4rev1 {private} IDLE COMPRESS=DEFLATE] in"),
            Ready(b"[CAPABILITY IMAP4rev1 IDLE COMPRESS=DEFLATE] in"),
        )

    def test_untagged(self) -> None:
        """Capabilities may come before the tagged OK; those from before the login do not count."""
        self.converse(
            *(*self.login, "S: * CAPABILITY IMAP4rev1 MOVE", "S: L OK in"), Ready(b"[CAPABILITY IMAP4rev1 MOVE] in")
        )

    def test_asked(self) -> None:
        """Where none came they are asked for, once; what comes meanwhile is the client's."""
        self.converse(
            *(
                *self.login,
                "S: L OK [ALERT] in",
                "C: P CAPABILITY",
                "S: * OK [ALERT] quota",
                "S: * CAPABILITY IMAP4rev1 X",
            ),
            *("S: P OK done", Ready(b"[CAPABILITY IMAP4rev1 X] in", b"* OK [ALERT] quota\r\n")),
        )

    def test_asked_in_vain(self) -> None:
        """Where they are not told either, the client will have to ask."""
        for reply in ("OK done", "NO", "BAD what"):
            self.converse(*self.login, "S: L OK in", "C: P CAPABILITY", f"S: P {reply}", Ready(b"in"))

    def test_bye_instead(self) -> None:
        """A goodbye while we ask is temporary trouble."""
        self.converse(
            *(*self.login, "S: L OK in", "C: P CAPABILITY", "S: * BYE", Failed(Failure.TEMPFAIL, "it says goodbye"))
        )

    def test_rest(self) -> None:
        """What is behind the login reply is the client's, to the octet."""
        dialogue = self.make()
        dialogue.feed(AT_ONCE[3:].encode() + b"\r\n")
        events = dialogue.feed(b"L OK [CAPABILITY IMAP4rev1] in\r\n* 5 EXISTS\r\nhalf\0\n")
        self.assertEqual(events, [Ready(b"[CAPABILITY IMAP4rev1] in", b"* 5 EXISTS\r\nhalf\0\n")])
        self.assertEqual(dialogue.feed(b"more"), [])

    def test_words(self) -> None:
        """The words are one line of ASCII, without another server's address in a code."""
        self.converse(
            *(*self.login, "S: * CAPABILITY IMAP4rev1", "S: L OK [REFERRAL imap://evil/] w\xe4\x1b[1m"),
            Ready(b"[CAPABILITY IMAP4rev1] w??[1m"),
        )
        self.converse(*self.login, "S: * CAPABILITY IMAP4rev1", "S: L OK", Ready(b"[CAPABILITY IMAP4rev1] Logged in"))

    def test_odd_capabilities(self) -> None:
        """A capability that is no atom does not reach the client."""
        self.converse(
            *(*self.login, "S: * CAPABILITY IMAP4rev1 \xff a]b X\x1bY " + "z" * 65, "S: L OK"),
            Ready(b"[CAPABILITY IMAP4rev1] Logged in"),
        )


class RefusedTests(ImapClientCase):
    """Failures, told apart for the log and for the client."""

    login = (AT_ONCE, f"C: L AUTHENTICATE PLAIN {PLAIN}")

    def test_rejected(self) -> None:
        """The credentials are wrong where the backend says so, or says nothing else."""
        for words in (
            "NO",
            "NO no",
            "NO [AUTHENTICATIONFAILED] x",
            "no [authorizationfailed]",
            "NO [EXPIRED] x",
            "NO [ALERT] x",
        ):
            self.converse(*self.login, f"S: L {words}", Failed(Failure.REJECTED, "login refused"))

    def test_trouble(self) -> None:
        """Everything else is the backend's trouble; a referral is not followed."""
        for code in (
            "UNAVAILABLE",
            "SERVERBUG",
            "LIMIT",
            "INUSE",
            "PRIVACYREQUIRED",
            "CONTACTADMIN",
            "REFERRAL imap://evil/",
            "X",
        ):
            self.converse(*self.login, f"S: L NO [{code}] x", Failed(Failure.TEMPFAIL, "login failed"))
        self.converse(*self.login, "S: * BYE", Failed(Failure.TEMPFAIL, "it says goodbye"))
        self.converse(*self.login, "S: * BYE x", Failed(Failure.TEMPFAIL, "it says goodbye"), "S: L NO x")

    def test_before_the_password(self) -> None:
        """Who refuses before he has the password does not mean it."""
        greeting = "S: * OK [CAPABILITY IMAP4rev1 AUTH=LOGIN] hi"
        self.converse(greeting, "C: L AUTHENTICATE LOGIN", "S: L NO x", Failed(Failure.TEMPFAIL))
        self.converse(greeting, "C: L AUTHENTICATE LOGIN", "S: +", "C: Ym9i", "S: L NO x", Failed(Failure.TEMPFAIL))
        self.converse("S: * OK [CAPABILITY IMAP4rev1] hi", "C: L LOGIN {3}", "S: L NO x", Failed(Failure.TEMPFAIL))

    def test_garbage(self) -> None:
        """BAD, and what is no reply to what we said, is against the protocol."""
        for line in (
            "L BAD what",
            "L YES",
            "",
            "garbage",
            "X OK",
            "C OK",
            "S OK",
            "I OK",
            "P OK",
            "L  OK",
            "l OK",
            "+ more",
        ):
            self.converse(*self.login, f"S: {line}", Failed(Failure.PROTOCOL))

    def test_in_without_password(self) -> None:
        """An OK before the password went over was not meant for us."""
        greeting = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi"
        self.converse(greeting, "C: L AUTHENTICATE PLAIN", L_OK, Failed(Failure.PROTOCOL, "without a password"))

    def test_log(self) -> None:
        """The backend's words come escaped and cut, and never with the password in them."""
        played = Played(self.make())
        played.feed(b"* BYE \x1b[2J\xff" + b"x" * 500 + b"\r\n", lambda data: [data])
        self.assertRegex(played.log[-1].reason, r"^turned away: \* BYE \\x1b\[2J\\xffx{100,160}$")
        for words in ("NO LOGIN bob secret", f"BAD {PLAIN}", "NO c2VjcmV0"):
            self.converse(
                *self.login, f"S: L {words}", Failed(Failure.REJECTED if words[0] == "N" else Failure.PROTOCOL)
            )
            played = Played(self.make())
            played.feed(f"{AT_ONCE[3:]}\r\nL {words}\r\n".encode(), lambda data: [data])
            self.assertIn("(it repeats the password)", played.log[-1].reason)


class BoundsTests(ImapClientCase):
    """A backend is input like any other."""

    def test_line_without_end(self) -> None:
        """A greeting that does not end is cut off."""
        played = Played(self.make())
        for _ in range(9):
            played.take(played.dialogue.feed(b"* OK " + b"x" * 1019))
        self.assertEqual(played.log, [Failed(Failure.PROTOCOL, "line too long")])

    def test_too_much(self) -> None:
        """Untagged replies without end are cut off, and so are literals."""
        for flood in (
            "* 5 EXISTS\r\n" * 6000,
            "* ID ({4000}\r\n" + "x" * 4000 + "\r\n" + ("* ID ({9999}\r\n" + "y" * 9999 + ")\r\n") * 7,
        ):
            self.converse(
                *(AT_ONCE, f"C: L AUTHENTICATE PLAIN {PLAIN}", f"S: {flood}", Failed(Failure.PROTOCOL, "too much"))
            )

    def test_huge_literal(self) -> None:
        """A literal that is larger than all that we read is none."""
        self.converse("S: * OK hi", "C: C CAPABILITY", 'S: * ID ("a" {99999}', "S: C OK", Failed(Failure.PROTOCOL))

    def test_bare_lf(self) -> None:
        """A lone LF is no line end."""
        self.converse("S~ * OK hi\n", Failed(Failure.PROTOCOL, "CRLF"))

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(
        st.booleans(),
        STREAMS,
        st.lists(st.integers(0, 200), max_size=6),
    )
    def test_anything(self, starttls: bool, stream: bytes, cuts: list[int]) -> None:
        """Random replies and octets: no exception, and the same events for every cut up to TLS."""
        logs = []
        for places in ([], cuts, list(range(len(stream)))):
            played = Played(self.make(starttls=starttls))
            for piece in at(stream, places):
                played.take(played.dialogue.feed(piece))
                if played.log and isinstance(played.log[-1], StartTLS | Ready):
                    played.log[-1] = type(played.log[-1])  # what is glued to it depends on the cut
                    break
            logs.append(played.log)
        if not any(StartTLS in log for log in logs):
            self.assertEqual(logs[0], logs[1])
            self.assertEqual(logs[0], logs[2])
