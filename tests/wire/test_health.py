"""Tests of the dialogues that check a backend's health."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.model import Access, Failure
from mailgw.wire.events import Ready, Refused, Send, StartTLS
from mailgw.wire.health import check_of
from tests.wire.transcripts import Failed, Played, Secured, TranscriptCase, at, whole

PROBE = Access("probe", b"secret")
PLAIN = base64.b64encode(b"\0probe\0secret").decode()
GOOD = Ready(b"")
PIECES = st.sampled_from(
    [
        *(
            b"* OK ",
            b"[CAPABILITY IMAP4rev1 STARTTLS]",
            b"\r\n",
            b"+OK",
            b"+OK [XCLIENT] hi\r\n",
            b"STLS\r\n",
            b".\r\n",
        ),
        *(b'"SASL" "PLAIN"\r\n', b'"STARTTLS"\r\n', b'OK "hi"\r\n', b"220 hi\r\n", b"250-x\r\n", b"250 STARTTLS\r\n"),
        *(
            b"C OK\r\n",
            b"S OK\r\n",
            b"* CAPABILITY X\r\n",
            b"220 go\r\n",
            b"* BYE\r\n",
            b"-ERR\r\n",
            b"421 no\r\n",
            b"\0",
        ),
    ]
)


class CheckCase(TranscriptCase):
    """Scripts in which we check a backend."""

    us = "C"
    protocol = "imap"

    def make(self, **changes: Any) -> Any:
        self.made = check_of(
            self.protocol,
            changes.get("access"),
            changes.get("starttls", False),
            "gw.example",
            changes.get("lmtp", False),
        )
        return self.made

    def assertAnnounced(self, *capabilities: str) -> None:
        """What the last one has learned."""
        self.assertEqual(self.made.capabilities, frozenset(capabilities))


class ImapTests(CheckCase):
    def test_check(self) -> None:
        """Greeting and capabilities are enough; asked for where the greeting does not tell them."""
        self.converse("S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi", GOOD)
        self.assertAnnounced("IMAP4rev1", "AUTH=PLAIN")
        self.converse("S: * OK hi", "C: C CAPABILITY", "S: * CAPABILITY IMAP4rev1 IDLE", "S: C OK", GOOD)
        self.assertAnnounced("IMAP4rev1", "IDLE")
        self.assertEqual(self.made.farewell, b"Z LOGOUT\r\n")

    def test_starttls(self) -> None:
        """With STARTTLS what counts is what is announced inside; without it the backend is of no use."""
        self.converse(
            *("S: * OK [CAPABILITY IMAP4rev1 STARTTLS EVIL] hi", "C: S STARTTLS", "S: S OK", StartTLS(), Secured()),
            *("C: C CAPABILITY", "S: * CAPABILITY IMAP4rev1", "S: C OK", GOOD),
            starttls=True,
        )
        self.assertAnnounced("IMAP4rev1")
        words = "S: * OK [CAPABILITY IMAP4rev1] hi"
        self.converse(words, Failed(Failure.TLS, "STARTTLS is not offered"), starttls=True)
        self.assertAnnounced()

    def test_login(self) -> None:
        """A probe account logs in, and tells nobody of a client; capabilities are those after it."""
        greeting = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN] hi"
        login = f"C: L AUTHENTICATE PLAIN {PLAIN}"
        good = "S: L OK [CAPABILITY IMAP4rev1 SORT] in"
        self.converse(greeting, login, good, Ready(b"[CAPABILITY IMAP4rev1 SORT] in"), access=PROBE)
        self.assertAnnounced("IMAP4rev1", "SORT")
        self.converse(greeting, login, "S: L NO [UNAVAILABLE] later", Failed(Failure.TEMPFAIL), access=PROBE)
        self.converse(greeting, login, "S: L NO no", Failed(Failure.REJECTED), access=PROBE)

    def test_not_well(self) -> None:
        """Turned away, somebody's mailbox, something else, or no capabilities."""
        self.converse("S: * BYE overloaded", Failed(Failure.TEMPFAIL, "overloaded"))
        self.converse("S: * PREAUTH hi", Failed(Failure.PROTOCOL))
        self.converse("S: 220 smtp", Failed(Failure.PROTOCOL))
        self.converse("S: * OK hi", "C: C CAPABILITY", "S: C BAD", Failed(Failure.PROTOCOL))


class Pop3Tests(CheckCase):
    protocol = "pop3"

    def test_check(self) -> None:
        """Greeting and CAPA; no XCLIENT, whatever the backend would take."""
        self.converse(
            "S: +OK [XCLIENT] hi", "C: CAPA", "S: +OK", "S: TOP", "S: SASL PLAIN LOGIN", "S: XCLIENT", "S: .", GOOD
        )
        self.assertAnnounced("TOP", "SASL LOGIN PLAIN")
        self.converse("S: +OK hi", "C: CAPA", "S: -ERR what", GOOD)
        self.assertAnnounced()
        self.assertEqual(self.made.farewell, b"QUIT\r\n")

    def test_starttls(self) -> None:
        """With STLS, and never without it."""
        self.converse(
            *("S: +OK hi", "C: CAPA", "S: +OK", "S: STLS", "S: .", "C: STLS", "S: +OK", StartTLS(), Secured()),
            *("C: CAPA", "S: +OK", "S: UIDL", "S: .", GOOD),
            starttls=True,
        )
        self.assertAnnounced("UIDL")
        self.converse("S: +OK hi", "C: CAPA", "S: +OK", "S: .", Failed(Failure.TLS), starttls=True)

    def test_login(self) -> None:
        """A probe account logs in, without XCLIENT."""
        ask = (
            "S: +OK [XCLIENT] hi",
            "C: CAPA",
            "S: +OK",
            "S: SASL PLAIN",
            "S: XCLIENT",
            "S: .",
            f"C: AUTH PLAIN {PLAIN}",
        )
        self.converse(*ask, "S: +OK in", Ready(b"in"), access=PROBE)
        self.converse(*ask, "S: -ERR [SYS/TEMP] later", Failed(Failure.TEMPFAIL), access=PROBE)
        self.converse("S: -ERR busy", Failed(Failure.TEMPFAIL))


class ManageSieveTests(CheckCase):
    protocol = "managesieve"
    hello = ('S: "SASL" "PLAIN"', 'S: "SIEVE" "fileinto"', 'S: "STARTTLS"', 'S: "XCLIENT" "ADDR"', 'S: OK "hi"')

    def test_check(self) -> None:
        """The greeting is all."""
        self.converse(*self.hello, GOOD)
        self.assertAnnounced("SASL PLAIN", "SIEVE FILEINTO", "STARTTLS")
        self.converse('S: NO "busy"', Failed(Failure.TEMPFAIL))
        self.assertEqual(self.made.farewell, b"LOGOUT\r\n")

    def test_starttls(self) -> None:
        """What is announced inside TLS counts."""
        tls = ("C: STARTTLS", 'S: OK "go"', StartTLS(), Secured())
        self.converse(*self.hello, *tls, 'S: "SASL" "PLAIN"', 'S: OK "hi"', GOOD, starttls=True)
        self.assertAnnounced("SASL PLAIN")

    def test_login(self) -> None:
        """A probe account logs in, without XCLIENT."""
        login = f'C: AUTHENTICATE "PLAIN" "{PLAIN}"'
        self.converse(*self.hello, login, 'S: OK "in"', Ready(b"in"), access=PROBE)


class SmtpTests(CheckCase):
    protocol = "smtp"

    def test_check(self) -> None:
        """Greeting and EHLO; no XCLIENT."""
        self.converse(
            *(
                "S: 220 hi",
                "C: EHLO gw.example",
                "S: 250-me",
                "S: 250-XCLIENT ADDR",
                "S: 250-Size 1000",
                "S: 250 DSN",
                GOOD,
            )
        )
        self.assertAnnounced("XCLIENT ADDR", "SIZE 1000", "DSN")
        self.assertEqual(self.made.farewell, b"QUIT\r\n")

    def test_lmtp(self) -> None:
        """LMTP is greeted in its own way."""
        self.converse("S: 220 hi", "C: LHLO gw.example", "S: 250 me", GOOD, lmtp=True)

    def test_starttls(self) -> None:
        """With STARTTLS, and never without it."""
        hello = ("C: EHLO gw.example", "S: 250-me", "S: 250 STARTTLS")
        again = ("C: STARTTLS", "S: 220 go", StartTLS(), Secured(), "C: EHLO gw.example", "S: 250-me", "S: 250 DSN")
        self.converse("S: 220 hi", *hello, *again, GOOD, starttls=True)
        self.assertAnnounced("DSN")
        self.converse("S: 220 hi", "C: EHLO gw.example", "S: 250 me", Failed(Failure.TLS), starttls=True)

    def test_login(self) -> None:
        """A probe account logs in where AUTH is announced; elsewhere nobody is logged in, and all is well."""
        hello = ("S: 220 hi", "C: EHLO gw.example", "S: 250-me", "S: 250 AUTH PLAIN", f"C: AUTH PLAIN {PLAIN}")
        self.converse(*hello, "S: 235 in", GOOD, access=PROBE)
        self.converse(*hello, "S: 454 later", Failed(Failure.TEMPFAIL), access=PROBE)
        self.converse(*hello, "S: 535 no", Failed(Failure.REJECTED), access=PROBE)
        self.converse("S: 220 hi", "C: EHLO gw.example", "S: 250 me", GOOD, access=PROBE)

    def test_not_well(self) -> None:
        """Turned away."""
        self.converse("S: 421 busy", Failed(Failure.TEMPFAIL))
        self.converse("S: 554 no", Failed(Failure.PROTOCOL))


class AttackTests(CheckCase):
    @settings(deadline=None, max_examples=100)
    @given(
        st.sampled_from(["imap", "pop3", "managesieve", "smtp"]),
        st.booleans(),
        st.sampled_from([None, PROBE]),
        st.lists(PIECES | st.binary(max_size=6), max_size=15).map(b"".join),
        st.lists(st.integers(0, 300), max_size=6),
    )
    def test_any_stream(
        self, protocol: str, starttls: bool, access: Access | None, stream: bytes, places: list[int]
    ) -> None:
        """Whatever a backend sends, cut anywhere: the same outcome, once, and never a password before TLS."""
        self.protocol = protocol
        logs = []
        for cut in (whole, lambda data: at(data, places)):
            played = Played(self.make(starttls=starttls, access=access))
            played.feed(stream, cut)
            self.assertLessEqual(sum(isinstance(one, Ready | Failed) for one in played.log), 1)
            sent = b"".join(one for one in played.log if isinstance(one, bytes))
            if starttls:
                self.assertNotIn(Ready, [type(one) for one in played.log])
                self.assertNotIn(PLAIN.encode(), sent)
                self.assertNotIn(b"secret", sent)
            logs.append(played.log)
        if not starttls:
            self.assertEqual(*logs)

    def test_endless(self) -> None:
        """A backend that never comes to the point is given up, and nothing of it is kept."""
        for protocol, piece in (
            *(("imap", b"* OK hi\r\n* STATUS x\r\n" * 40), ("pop3", b"+OK hi\r\n+OK\r\n" + b"A B\r\n" * 200)),
            *(("managesieve", b'"X" "Y"\r\n' * 100), ("smtp", b"220-hi\r\n" * 100)),
        ):
            self.protocol = protocol
            check, events = self.make(), []
            for _ in range(1000):
                events += check.feed(piece)
            self.assertEqual([type(one) for one in events if not isinstance(one, Send)], [Refused], protocol)
