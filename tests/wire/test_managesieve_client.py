"""Tests of the ManageSieve dialogue with backends: how it logs in, and how it tells failures apart."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.model import Access, Failure, Forward, Peer
from mailgw.wire.events import Ready, StartTLS
from mailgw.wire.managesieveclient import SieveClient
from tests.wire.transcripts import Failed, Played, Secured, TranscriptCase, at

PLAIN = base64.b64encode(b"\0bob\0secret").decode()
FORWARD = Forward("session1", Peer("192.0.2.7", 4711), True, 6)
GREETED = ('S: "IMPLEMENTATION" "x"', 'S: "SIEVE" "fileinto"', 'S: "VERSION" "1.0"')
SASL = (*GREETED, 'S: "SASL" "LOGIN PLAIN"', 'S: OK "ready"')
LOGIN = (*SASL, f'C: AUTHENTICATE "PLAIN" "{PLAIN}"')
NAME = (*GREETED, 'S: "SASL" "LOGIN"', "S: OK", 'C: AUTHENTICATE "LOGIN"')
XCLIENT = "C: XCLIENT ADDR=192.0.2.7 PORT=4711 SESSION=session1 TTL=6"
IN = Ready(b"Logged in.")

WORDS = [
    *(
        b"OK",
        b' "hi"',
        b"\r\n",
        b"OK\r\n",
        b"NO",
        b'"SASL" "PLAIN"\r\n',
        b'"STARTTLS"\r\n',
        b'"XCLIENT"\r\n',
        b'""\r\n',
    ),
    *(b"BYE", b" (TRYLATER)", b"\n", b"\0", b"{3}\r\n", b" {2+}\r\n", b'"', b"("),
]
"""What random streams are made of, beside random octets."""
STREAMS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=5), max_size=30).map(b"".join)


class SieveClientCase(TranscriptCase):
    """Scripts in which we are the client of a backend."""

    us = "C"

    def make(self, **changes: Any) -> SieveClient:
        """A dialogue that logs in as bob."""
        return SieveClient(
            changes.get("access", Access("bob", b"secret")),
            changes.get("forward", FORWARD),
            changes.get("starttls", False),
        )


class GreetingTests(SieveClientCase):
    """The backend speaks first."""

    def test_login(self) -> None:
        """The greeting tells all that is needed, in any case and as quoted strings or literals."""
        self.converse(*LOGIN, 'S: OK "Logged in."', IN)
        self.converse('S: "sasl" "plain"', "S: ok", f'C: AUTHENTICATE "PLAIN" "{PLAIN}"', 'S: Ok "Logged in."', IN)
        self.converse(
            *("S: {4}", "S: SASL {5}", "S: PLAIN", "S: OK {3}", "S: hi!", f'C: AUTHENTICATE "PLAIN" "{PLAIN}"'),
            *("S: OK {10}", "S: Logged in.", IN),
        )

    def test_turned_away(self) -> None:
        """A BYE or NO is temporary trouble."""
        for line in ('BYE "too busy"', 'BYE (TRYLATER) "too busy"', 'NO "too busy"'):
            self.converse(f"S: {line}", Failed(Failure.TEMPFAIL, "too busy"))
        self.converse(*GREETED, 'S: BYE "gone"', Failed(Failure.TEMPFAIL, "gone"))

    def test_no_managesieve(self) -> None:
        """Anything else is no ManageSieve server."""
        for line in (
            "* OK IMAP",
            "220 ESMTP",
            "",
            "+OK",
            "OKAY",
            "OK ready",
            'OK "',
            'OK (X "a)',
            '"a" "b" "c"',
            "SASL",
        ):
            self.converse(f"S: {line}", Failed(Failure.PROTOCOL, "no ManageSieve reply"))


class StartTlsTests(SieveClientCase):
    """STARTTLS where it is demanded."""

    def test_upgrade(self) -> None:
        """After TLS the backend tells its capabilities anew, and only those count."""
        self.converse(
            *(*GREETED, 'S: "SASL" "LOGIN"', 'S: "STARTTLS"', "S: OK", "C: STARTTLS", 'S: OK "go"', StartTLS()),
            *(Secured(), 'S: "SASL" "PLAIN"', 'S: OK "TLS"', f'C: AUTHENTICATE "PLAIN" "{PLAIN}"'),
            *('S: OK "Logged in."', IN),
            starttls=True,
        )

    def test_not_to_be_had(self) -> None:
        """Without it there is no login: not offered, or refused."""
        self.converse(*SASL, Failed(Failure.TLS, "not offered"), starttls=True)
        self.converse(
            'S: "STARTTLS"', "S: OK", "C: STARTTLS", "S: NO", Failed(Failure.TLS, "no STARTTLS"), starttls=True
        )

    def test_not_demanded(self) -> None:
        """Where it is not demanded, it is not done."""
        self.converse('S: "STARTTLS"', *LOGIN)


class WayTests(SieveClientCase):
    """How the credentials travel."""

    def test_long(self) -> None:
        """P20: beyond 1024 octets of base64 the response is a literal, and whole at every length."""
        for length in (100, 500, 756, 763, 764, 765, 1024):
            response = base64.b64encode(b"\0bob\0" + b"x" * length).decode()
            quoted = [f'C: AUTHENTICATE "PLAIN" "{response}"']
            literal = [f'C: AUTHENTICATE "PLAIN" {{{len(response)}+}}', f"C: {response}"]
            way = quoted if len(response) <= 1024 else literal
            self.converse(*SASL, *way, 'S: OK "Logged in."', IN, access=Access("bob", b"x" * length))

    def test_login_mechanism(self) -> None:
        """LOGIN where there is nothing else; challenges are strings of any form."""
        self.converse(
            *(*NAME, 'S: "VXNlcm5hbWU6"', 'C: "Ym9i"', "S: {12}", "S: UGFzc3dvcmQ6", 'C: "c2VjcmV0"'),
            *('S: OK "Logged in."', IN),
        )

    def test_authorization_identity(self) -> None:
        """Whom to act as goes with PLAIN, and with nothing else."""
        access = Access("gw", b"secret", "bob")
        response = base64.b64encode(b"bob\0gw\0secret").decode()
        self.converse(*SASL, f'C: AUTHENTICATE "PLAIN" "{response}"', 'S: OK "Logged in."', IN, access=access)
        self.converse(*GREETED, 'S: "SASL" "LOGIN"', "S: OK", Failed(Failure.PROTOCOL, "no login"), access=access)

    def test_nothing_offered(self) -> None:
        """Who lists no mechanism of ours wants no password now."""
        for words in ('S: "SASL" ""', 'S: "SASL"', 'S: "SASL" "GSSAPI"', 'S: "STARTTLS"'):
            self.converse(*GREETED, words, "S: OK", Failed(Failure.PROTOCOL, "no login"))

    def test_unfit(self) -> None:
        """Credentials with CR, LF or NUL are not sent at all."""
        for access in (Access("u\r\nLOGOUT", b"x"), Access("bob", b"a\nb"), Access("bob", b"a\0b")):
            self.converse("S: OK", Failed(Failure.PROTOCOL, "CR, LF or NUL"), access=access)


class XclientTests(SieveClientCase):
    """XCLIENT tells the backend who the client is."""

    start = (*GREETED, 'S: "SASL" "PLAIN"', 'S: "XCLIENT"', "S: OK")
    login = f'C: AUTHENTICATE "PLAIN" "{PLAIN}"'

    def test_sent(self) -> None:
        """It goes in one write with the login, where the greeting tells of it; its failure does not matter."""
        for reply in ('S: OK "Updated"', 'S: NO "no"', "S: NO (TRYLATER)"):
            self.converse(*self.start, XCLIENT, self.login, reply, 'S: OK "Logged in."', IN)
            self.converse(*self.start, XCLIENT, self.login, reply, "S: NO", Failed(Failure.REJECTED))

    def test_out_of_order(self) -> None:
        """A challenge before its reply is none."""
        start = (*GREETED, 'S: "SASL" "LOGIN"', 'S: "XCLIENT"', "S: OK", XCLIENT, 'C: AUTHENTICATE "LOGIN"')
        self.converse(*start, 'S: ""', Failed(Failure.PROTOCOL, "belongs here"))
        self.converse(*start, "S: OK", 'S: ""', 'C: "Ym9i"')

    def test_addresses(self) -> None:
        """What is no address is left out, and so is what would be another word."""
        for forward, words in (
            (Forward("s", Peer("2001:db8::1", 5)), "ADDR=2001:db8::1 PORT=5 SESSION=s TTL=7"),
            (Forward("s TTL=9\r\nLOGOUT", Peer("local", 0)), "TTL=7"),
        ):
            self.converse(*self.start, f"C: XCLIENT {words}", self.login, forward=forward)


class OutcomeTests(SieveClientCase):
    """Logged in or not."""

    def test_rest(self) -> None:
        """What is behind the login reply is the client's, to the octet."""
        dialogue = self.make()
        dialogue.feed(b'"SASL" "PLAIN"\r\nOK\r\n')
        self.assertEqual(dialogue.feed(b'OK (WARNINGS) "in"\r\nhalf\n'), [Ready(b"in", b"half\n")])
        self.assertEqual(dialogue.feed(b"more"), [])

    def test_words(self) -> None:
        """The words are one line of ASCII, not too long, and never none."""
        self.converse(*LOGIN, 'S: OK "w\xe4\x1b\\"q\\""', Ready(b'w??"q"'))
        self.converse(*LOGIN, "S: OK {4}", "S~ a\r\nb\r\n", Ready(b"a??b"))
        self.converse(*LOGIN, f'S: OK "{"x" * 1000}"', Ready(b"x" * 500))
        for reply in ("OK", 'OK ""', "OK {0}\r\n", 'OK (SASL "cnNwYXV0aA==")', 'OK (TAG {3}\r\na)") "in"'):
            self.converse(*LOGIN, f"S: {reply}", Ready(b"in" if "in" in reply else b"Logged in"))

    def test_rejected(self) -> None:
        """The password is wrong where the backend says no more than NO."""
        for words in ("NO", 'NO "Authentication failed."', "no {2}\r\nno"):
            self.converse(*LOGIN, f"S: {words}", Failed(Failure.REJECTED, "login refused"))

    def test_trouble(self) -> None:
        """Everything else is the backend's trouble."""
        codes = ("TRYLATER", "ENCRYPT-NEEDED", "AUTH-TOO-WEAK", 'REFERRAL "sieve://evil/"', "QUOTA/MAXSIZE", "x")
        for code in codes:
            self.converse(*LOGIN, f'S: NO ({code}) "x"', Failed(Failure.TEMPFAIL, "login failed"))
        self.converse(*LOGIN, 'S: BYE "x"', Failed(Failure.TEMPFAIL, "goodbye"))

    def test_before_the_password(self) -> None:
        """Who refuses before he has the password does not mean it; who lets us in is no server."""
        self.converse(*NAME, "S: NO", Failed(Failure.TEMPFAIL, "login failed"))
        self.converse(*NAME, "S: OK", Failed(Failure.PROTOCOL, "without a password"))

    def test_garbage(self) -> None:
        """What is no reply is against the protocol."""
        for line in ("", "+OK", '""', '"a" "b"', "OK)", 'OK "a" "b"', "* OK"):
            self.converse(*LOGIN, f"S: {line}", Failed(Failure.PROTOCOL))

    def test_repeated_password(self) -> None:
        """A backend that repeats the password does not get it into our log."""
        for text in ("secret", PLAIN):
            self.converse(
                *LOGIN, f'S: NO "{text}"', Failed(Failure.REJECTED, "login refused: (it repeats the password)")
            )

    def test_bounds(self) -> None:
        """A greeting without end and lone LFs are cut off."""
        self.converse('S~ "X" "' + "x" * 9000, Failed(Failure.PROTOCOL, "line too long"))
        self.converse("S~ OK\n", Failed(Failure.PROTOCOL, "CRLF"))

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(st.booleans(), STREAMS, st.lists(st.integers(0, 200), max_size=6))
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
