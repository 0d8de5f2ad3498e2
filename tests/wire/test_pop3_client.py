"""Tests of the POP3 dialogue with backends: how it logs in, and how it tells failures apart."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.model import Access, Failure, Forward, Peer
from mailgw.wire.events import Ready, StartTLS
from mailgw.wire.pop3client import Pop3Client
from tests.wire.transcripts import Failed, Played, Secured, TranscriptCase, at

PLAIN = base64.b64encode(b"\0bob\0secret").decode()
FORWARD = Forward("session1", Peer("192.0.2.7", 4711), True, 6)
GREETED = ("S: +OK hi", "C: CAPA", "S: +OK")
SASL = (*GREETED, "S: USER", "S: SASL PLAIN LOGIN", "S: .")
LOGIN = (*SASL, f"C: AUTH PLAIN {PLAIN}")
XCLIENT = "C: XCLIENT ADDR=192.0.2.7 PORT=4711 SESSION=session1 TTL=6"
IN = Ready(b"Logged in.")

WORDS = [
    *(b"+OK", b" hi", b"\r\n", b"+OK\r\n", b"-ERR", b"SASL PLAIN\r\n", b"STLS\r\n", b"USER\r\n", b".\r\n"),
    *(b"+ ", b" [XCLIENT]", b"\n", b"\0"),
]
"""What random streams are made of, beside random octets."""
STREAMS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=5), max_size=30).map(b"".join)


class Pop3ClientCase(TranscriptCase):
    """Scripts in which we are the client of a backend."""

    us = "C"

    def make(self, **changes: Any) -> Pop3Client:
        """A dialogue that logs in as bob."""
        return Pop3Client(
            changes.get("access", Access("bob", b"secret")),
            changes.get("forward", FORWARD),
            changes.get("starttls", False),
        )


class GreetingTests(Pop3ClientCase):
    """The backend speaks first."""

    def test_login(self) -> None:
        """CAPA, and the best way that it offers; a timestamp in the greeting is no reason for APOP."""
        self.converse(*LOGIN, "S: +OK Logged in.", IN)
        self.converse("S: +OK <1896.697170952@dbc.mtview.ca.us>", "C: CAPA")
        self.converse("S: +OK", "C: CAPA")

    def test_turned_away(self) -> None:
        """An -ERR is temporary trouble."""
        self.converse("S: -ERR too busy", Failed(Failure.TEMPFAIL, "too busy"))

    def test_no_pop3(self) -> None:
        """Anything else is no POP3 server."""
        for line in ("* OK IMAP", "220 ESMTP", "", "+OKAY", "+ok", "OK"):
            self.converse(f"S: {line}", Failed(Failure.PROTOCOL, "no POP3 reply"))
        self.converse("S: + hm", Failed(Failure.PROTOCOL, "asks for more"))

    def test_without_capa(self) -> None:
        """A server that does not know CAPA has USER and PASS."""
        self.converse(
            *(
                "S: +OK hi",
                "C: CAPA",
                "S: -ERR what",
                "C: USER bob",
                "S: +OK",
                "C: PASS secret",
                "S: +OK Logged in.",
                IN,
            )
        )


class StlsTests(Pop3ClientCase):
    """STLS where it is demanded."""

    def test_upgrade(self) -> None:
        """After TLS the capabilities are asked anew, and only those count."""
        self.converse(
            *(*GREETED, "S: SASL LOGIN", "S: STLS", "S: .", "C: STLS", "S: +OK go", StartTLS(), Secured(), "C: CAPA"),
            *("S: +OK", "S: SASL PLAIN", "S: .", f"C: AUTH PLAIN {PLAIN}", "S: +OK Logged in.", IN),
            starttls=True,
        )

    def test_not_to_be_had(self) -> None:
        """Without it there is no login: not offered, no CAPA at all, or refused."""
        self.converse(*GREETED, "S: USER", "S: .", Failed(Failure.TLS, "not offered"), starttls=True)
        self.converse(*GREETED[:2], "S: -ERR what", Failed(Failure.TLS, "not offered"), starttls=True)
        self.converse(
            *GREETED, "S: STLS", "S: .", "C: STLS", "S: -ERR no", Failed(Failure.TLS, "no STLS"), starttls=True
        )


class WayTests(Pop3ClientCase):
    """How the credentials travel."""

    def test_user(self) -> None:
        """USER and PASS where PLAIN is not offered; blanks stay."""
        access = Access("b o b", b" sec ret ")
        for words in (["S: USER"], ["S: USER", "S: SASL LOGIN"], ["S: SASL CRAM-MD5", "S: user"]):
            self.converse(
                *(*GREETED, *words, "S: .", "C: USER b o b", "S: +OK", "C: PASS  sec ret ", "S: +OK Logged in.", IN),
                access=access,
            )

    def test_plain_too_long(self) -> None:
        """Beyond 255 octets of line the response waits for its C{+}, with blank and text or without."""
        for plus in ("+ ", "+", "+ go ahead", "+go"):
            access = Access("bob", b"x" * 177)
            response = base64.b64encode(b"\0bob\0" + b"x" * 177).decode()
            self.converse(
                *(*SASL, "C: AUTH PLAIN", f"S: {plus}", f"C: {response}", "S: +OK Logged in.", IN), access=access
            )
        response = base64.b64encode(b"\0bob\0" + b"x" * 175).decode()
        self.converse(*SASL, f"C: AUTH PLAIN {response}", access=Access("bob", b"x" * 175))

    def test_login_mechanism(self) -> None:
        """LOGIN where there is nothing else."""
        self.converse(
            *(*GREETED, "S: SASL LOGIN", "S: .", "C: AUTH LOGIN", "S: + VXNlcm5hbWU6", "C: Ym9i", "S: + UGFzc3dvcmQ6"),
            *("C: c2VjcmV0", "S: +OK Logged in.", IN),
        )

    def test_chosen_mechanism(self) -> None:
        """The settings may want one mechanism, or none, and no other way is taken then."""
        login, plain, command = (Access("bob", b"secret", mechanism=name) for name in ("LOGIN", "PLAIN", "COMMAND"))
        every = (*GREETED, "S: USER", "S: SASL PLAIN LOGIN", "S: .")
        self.converse(*every, "C: AUTH LOGIN", access=login)
        self.converse(*every, "C: USER bob", access=command)
        for access, words in ((login, "SASL PLAIN"), (plain, "SASL LOGIN"), (command, "SASL PLAIN")):
            listed = ("S: USER",) if access is not command else ()
            self.converse(*GREETED, *listed, f"S: {words}", "S: .", Failed(Failure.PROTOCOL, "no login"), access=access)

    def test_authorization_identity(self) -> None:
        """Whom to act as goes with PLAIN, and with nothing else."""
        access = Access("gw", b"secret", "bob")
        response = base64.b64encode(b"bob\0gw\0secret").decode()
        self.converse(*SASL, f"C: AUTH PLAIN {response}", "S: +OK Logged in.", IN, access=access)
        self.converse(*GREETED, "S: USER", "S: SASL LOGIN", "S: .", Failed(Failure.PROTOCOL, "no login"), access=access)
        self.converse(*GREETED[:2], "S: -ERR", Failed(Failure.PROTOCOL, "no login"), access=access)

    def test_nothing_offered(self) -> None:
        """Who lists neither USER nor a mechanism wants no password now."""
        self.converse(*GREETED, "S: TOP", "S: STLS", "S: .", Failed(Failure.PROTOCOL, "no login"))

    def test_unfit(self) -> None:
        """Credentials with CR, LF or NUL are not sent at all."""
        for access in (Access("u\r\nQUIT", b"x"), Access("bob", b"a\nb"), Access("bob", b"a\0b")):
            self.converse("S: +OK hi", Failed(Failure.PROTOCOL, "CR, LF or NUL"), access=access)


class XclientTests(Pop3ClientCase):
    """XCLIENT tells the backend who the client is."""

    tail = (f"C: AUTH PLAIN {PLAIN}", "S: +OK Logged in.", IN)

    def test_in_capa(self) -> None:
        """It is sent once where CAPA tells of it; its failure does not matter and is not tried again."""
        for reply in ("S: +OK Updated", "S: -ERR no"):
            self.converse(*GREETED, "S: XCLIENT", "S: SASL PLAIN", "S: .", XCLIENT, reply, *self.tail)

    def test_in_greeting(self) -> None:
        """Dovecot tells of it in its greeting alone."""
        self.converse(
            *("S: +OK [XCLIENT] Dovecot ready.", "C: CAPA", "S: +OK", "S: SASL PLAIN", "S: .", XCLIENT, "S: +OK"),
            *self.tail,
        )

    def test_in_greeting_before_tls(self) -> None:
        """That word of the greeting is remembered across STLS: Dovecot does not say it again."""
        self.converse(
            *(
                "S: +OK [XCLIENT] ready",
                "C: CAPA",
                "S: +OK",
                "S: STLS",
                "S: .",
                "C: STLS",
                "S: +OK",
                StartTLS(),
                Secured(),
            ),
            *("C: CAPA", "S: +OK", "S: SASL PLAIN", "S: .", XCLIENT, "S: +OK Updated", *self.tail),
            starttls=True,
        )

    def test_not_told(self) -> None:
        """Elsewhere in the greeting it means nothing."""
        self.converse("S: +OK no [XCLIENT]", "C: CAPA", "S: +OK", "S: SASL PLAIN", "S: .", *self.tail)

    def test_addresses(self) -> None:
        """IPv6 has no prefix here; what is no address is left out, and so is what would be another word."""
        start = (*GREETED, "S: XCLIENT", "S: .")
        for forward, words in (
            (Forward("s", Peer("2001:db8::1", 5)), "ADDR=2001:db8::1 PORT=5 SESSION=s TTL=7"),
            (Forward("s", Peer("local", 0), ttl=0), "SESSION=s TTL=0"),
            (Forward("s TTL=9\r\nQUIT", Peer("fe80::1%eth0", 1)), "TTL=7"),
        ):
            self.converse(*start, f"C: XCLIENT {words}", forward=forward)


class OutcomeTests(Pop3ClientCase):
    """Logged in or not."""

    def test_rest(self) -> None:
        """What is behind the login reply is the client's, to the octet."""
        dialogue = self.make()
        dialogue.feed(b"+OK hi\r\n+OK\r\nSASL PLAIN\r\n.\r\n")
        self.assertEqual(dialogue.feed(b"+OK [X] in\r\nhalf\n"), [Ready(b"in", b"half\n")])
        self.assertEqual(dialogue.feed(b"more"), [])

    def test_words(self) -> None:
        """The words are one line of ASCII, and never none."""
        self.converse(*LOGIN, "S: +OK w\xe4\x1b", Ready(b"w??"))
        self.converse(*LOGIN, "S: +OK", Ready(b"Logged in"))

    def test_rejected(self) -> None:
        """The password is wrong where the backend says so, or says nothing else."""
        for words in ("-ERR", "-ERR no", "-ERR [AUTH] no", "-ERR [auth]"):
            self.converse(*LOGIN, f"S: {words}", Failed(Failure.REJECTED, "login refused"))
            user = (*GREETED, "S: USER", "S: .", "C: USER bob", "S: +OK", "C: PASS secret")
            self.converse(*user, f"S: {words}", Failed(Failure.REJECTED, "login refused"))

    def test_trouble(self) -> None:
        """Everything else is the backend's trouble."""
        for code in ("SYS/TEMP", "SYS/PERM", "IN-USE", "LOGIN-DELAY", "sys/temp", "X"):
            self.converse(*LOGIN, f"S: -ERR [{code}] x", Failed(Failure.TEMPFAIL, "login failed"))

    def test_before_the_password(self) -> None:
        """Who refuses before he has the password does not mean it."""
        self.converse(*GREETED, "S: USER", "S: .", "C: USER bob", "S: -ERR [AUTH] no", Failed(Failure.TEMPFAIL, "USER"))
        self.converse(*GREETED, "S: SASL LOGIN", "S: .", "C: AUTH LOGIN", "S: -ERR no", Failed(Failure.TEMPFAIL))

    def test_garbage(self) -> None:
        """What is no reply is against the protocol, and so is an OK before the password."""
        for line in ("", "OK", "* BYE", "+ more", "+OKAY", "."):
            self.converse(*LOGIN, f"S: {line}", Failed(Failure.PROTOCOL))
        self.converse(
            *GREETED, "S: SASL LOGIN", "S: .", "C: AUTH LOGIN", "S: +OK in", Failed(Failure.PROTOCOL, "without")
        )

    def test_bounds(self) -> None:
        """A greeting without end, a list without end, and lone LFs are cut off."""
        self.converse("S~ +OK " + "x" * 9000, Failed(Failure.PROTOCOL, "line too long"))
        self.converse(*GREETED, "S: " + "X\r\n" * 30000, Failed(Failure.PROTOCOL, "too much"))
        self.converse("S~ +OK hi\n", Failed(Failure.PROTOCOL, "CRLF"))

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
