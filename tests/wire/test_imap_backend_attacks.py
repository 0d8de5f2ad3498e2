"""Attacks of backends, and of those between us and them, on the IMAP dialogue that logs in there.

The names of the tests are those of the EAST test cases (USENIX Security 2021, "Why TLS is better without STARTTLS").
"""

from __future__ import annotations

import base64
from typing import Any

from mailgw.model import Access, Failure, Forward, Peer
from mailgw.wire.events import Refused, StartTLS
from mailgw.wire.imapclient import ImapClient
from tests.wire.transcripts import Failed, Played, Secured, TranscriptCase, octets, whole


class BackendCase(TranscriptCase):
    """A backend, or somebody between us and it, that wants our password in clear."""

    us = "C"

    def make(self, **changes: Any) -> ImapClient:
        """A dialogue that demands STARTTLS unless told otherwise."""
        access, forward = Access("bob", b"secret"), Forward("id", Peer("192.0.2.1", 1))
        return ImapClient(access, forward, changes.get("starttls", True))


class BackendInjectionTests(BackendCase):
    """What the EAST tests do to IMAP clients. In all of them no credential goes out in clear."""

    greeted = ("S: * OK [CAPABILITY IMAP4rev1 STARTTLS] hi", "C: S STARTTLS")
    secured = ("S: S OK go", StartTLS(), Secured(), "C: C CAPABILITY")

    def glued(self, behind: bytes) -> None:
        """Assert that bytes glued to the go-ahead end the dialogue."""
        for cut in (whole, lambda data: [data[:3], data[3:]]):
            played = Played(self.make())
            played.feed(b"* OK [CAPABILITY STARTTLS] hi\r\n", whole)
            played.feed(b"S OK go\r\n" + behind, cut)
            self.assertEqual(played.log, [b"S STARTTLS\r\n", Failed(Failure.TLS, "bytes in clear")])

    def test_b_glued_answers(self) -> None:
        """B_1, B_2, B_3: answers, half answers or a BYE glued to the go-ahead."""
        for behind in (
            b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nC OK done\r\n",
            b"* CAPA",
            b"* BYE\r\n",
            b"\r",
            b"\x15\x03\x01",
        ):
            self.glued(behind)

    def test_b_late_answers(self) -> None:
        """Answers in clear after the go-ahead, in a segment of their own."""
        dialogue = self.make()
        dialogue.feed(b"* OK [CAPABILITY STARTTLS] hi\r\n")
        self.assertEqual(dialogue.feed(b"S OK go\r\n"), [StartTLS()])
        [refused] = dialogue.feed(b"C OK INJECTED\r\n")
        assert isinstance(refused, Refused)
        self.assertEqual(refused.kind, Failure.TLS)
        self.assertEqual(dialogue.secured(), [])

    def test_o_refused(self) -> None:
        """O_1, O_4: STARTTLS answered with BAD or NO."""
        for answer in ("S BAD what", "S NO STARTTLS not supported", "s bad"):
            kind = Failure.TLS if answer[0] == "S" else Failure.PROTOCOL
            self.converse(*self.greeted, f"S: {answer}", Failed(kind))
        self.converse(*self.greeted, "S: * BYE", Failed(Failure.TEMPFAIL))

    def test_o_not_offered(self) -> None:
        """O_2, O_3: STARTTLS missing in the capabilities, in the greeting or asked for."""
        self.converse("S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi", Failed(Failure.TLS, "not offered"))
        self.converse(
            *("S: * OK hi", "C: C CAPABILITY", "S: * CAPABILITY IMAP4rev1 AUTH=PLAIN", "S: C OK done"),
            Failed(Failure.TLS, "not offered"),
        )

    def test_d_old_server(self) -> None:
        """D_*: a server that says to be older than STARTTLS."""
        self.converse(
            "S: * OK hi", "C: C CAPABILITY", "S: * CAPABILITY IMAP4", "S: C OK", Failed(Failure.TLS, "not offered")
        )
        self.converse("S: * OK hi", "C: C CAPABILITY", "S: C BAD what", Failed(Failure.TLS, "no capabilities"))

    def test_p_preauth(self) -> None:
        """P_*: PREAUTH, with which STARTTLS is impossible; nothing is sent, whatever is demanded."""
        for starttls in (True, False):
            self.converse(
                "S: * PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] hi",
                Failed(Failure.PROTOCOL, "not an IMAP greeting"),
                starttls=starttls,
            )

    def test_l_referrals(self) -> None:
        """L_*, M_*: referrals before TLS, at the login and in its OK are not followed, and not shown."""
        evil = "[REFERRAL imap://evil/]"
        self.converse(*self.greeted, f"S: S NO {evil} x", Failed(Failure.TLS))
        self.converse(f"S: * BYE {evil} x", Failed(Failure.TEMPFAIL))
        login = (
            *(*self.greeted, *self.secured, "S: * CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN LOGIN-REFERRALS", "S: C OK"),
            "C: L AUTHENTICATE PLAIN AGJvYgBzZWNyZXQ=",
        )
        self.converse(*login, f"S: L NO {evil} x", Failed(Failure.TEMPFAIL))

    def test_t_untagged(self) -> None:
        """T_*: untagged data before TLS is forgotten: capabilities, mailboxes, alerts."""
        self.converse(
            *("S: * OK [CAPABILITY IMAP4rev1 STARTTLS ID LITERAL+ SASL-IR AUTH=PLAIN] hi", "C: S STARTTLS"),
            *(
                "S: * 5 EXISTS",
                'S: * LIST () "/" evil',
                "S: * OK [ALERT] call 0900",
                "S: * CAPABILITY IMAP4rev1 AUTH=PLAIN ID",
            ),
            *(*self.secured, "S: * CAPABILITY IMAP4rev1", "S: C OK", "C: L LOGIN {3}"),
        )

    def test_t_capabilities_do_not_last(self) -> None:
        """Capabilities from before TLS do not stand in where none come inside it."""
        self.converse(*self.greeted, *self.secured, "S: C OK", Failed(Failure.TLS, "no capabilities"))

    def test_no_password_in_clear(self) -> None:
        """Whatever a server says in clear, no credential leaves before TLS."""
        secrets = (b"secret", base64.b64encode(b"secret"), base64.b64encode(b"\0bob\0secret"), b"bob")
        for lines in (
            b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR LITERAL+] hi\r\n+ \r\n+ \r\n",
            b"* OK hi\r\n+ \r\nC OK\r\n+ \r\n",
            b"* OK [CAPABILITY STARTTLS] hi\r\n+ \r\n",
            b"* OK [CAPABILITY STARTTLS] hi\r\nS BAD\r\n+ \r\n",
            b"* OK [CAPABILITY STARTTLS] hi\r\nL OK\r\n",
        ):
            for cut in (whole, octets):
                played = Played(self.make())
                played.feed(lines, cut)
                said = b"".join(entry for entry in played.log if isinstance(entry, bytes))
                self.assertFalse([secret for secret in secrets if secret in said], lines)


class LiarTests(BackendCase):
    """A backend that does not play fair harms itself only."""

    def test_greeting_without_end(self) -> None:
        """A greeting of a gigabyte is given up after eight kilobytes."""
        dialogue, fed = self.make(), 0
        while not dialogue.feed(b"x" * 512):
            fed += 512
        self.assertLess(fed, 9000)
        self.assertEqual(dialogue.feed(b"x" * 10_000_000), [])

    def test_nul(self) -> None:
        """NULs are octets like others that mean nothing."""
        self.converse("S: * OK\0 hi", Failed(Failure.PROTOCOL))
        self.converse("S: * OK \0[CAPABILITY STARTTLS] hi", "C: C CAPABILITY", "S: \0", Failed(Failure.PROTOCOL))

    def test_go_aheads(self) -> None:
        """A C{+} that nobody waits for ends the dialogue; half a reply waits, under the session's deadline."""
        self.converse("S: * OK hi", "C: C CAPABILITY", "S: +", Failed(Failure.PROTOCOL, "asks for more"))
        self.converse("S: * OK hi", "C: C CAPABILITY", "S~ C O")

    def test_capability_bomb(self) -> None:
        """Capabilities without end are given up."""
        bomb = "* CAPABILITY " + "X " * 4000 + "\r\n"
        self.converse("S: * OK hi", "C: C CAPABILITY", "S~ " + bomb * 9, Failed(Failure.PROTOCOL, "too much"))
