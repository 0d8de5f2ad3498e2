"""Tests of what is told before the login: our own list, the listener's, and what was learned of backends."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgw.wire.imap import ImapServer
from mailgw.wire.managesieve import EXTENSIONS, SieveServer
from mailgw.wire.pop3 import Pop3Server
from mailgw.wire.protocol import Terms
from mailgw.wire.smtp import SmtpServer


class CapabilitiesTests(SynchronousTestCase):
    """Before the login."""

    def told(self, server: Any, ask: bytes, terms: Terms, secure: bool = False) -> str:
        """The answer to a question."""
        dialogue = server(terms, secure)
        greeting = dialogue.greet()[0].data
        text: bytes = dialogue.feed(ask)[0].data if ask else greeting
        return text.decode()

    def test_imap(self) -> None:
        """The listener's list replaces ours; TLS and logins are told as they are."""
        for capabilities, words in (((), "IMAP4rev1 LITERAL+ ID"), (("IMAP4rev1", "IMAP4rev2"), "IMAP4rev1 IMAP4rev2")):
            terms = Terms("gw", capabilities=capabilities, learned=lambda: frozenset({"IDLE"}))
            for ask in (b"", b"a CAPABILITY\r\n"):
                self.assertIn(f"CAPABILITY {words} STARTTLS LOGINDISABLED", self.told(ImapServer, ask, terms))
                self.assertIn(f"CAPABILITY {words} SASL-IR AUTH=PLAIN", self.told(ImapServer, ask, terms, True))

    def test_pop3(self) -> None:
        """What holds after the login is what every backend does, where that is known."""
        own = "RESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n"
        for capabilities, learned, words in (
            ((), frozenset(), f"TOP\r\nUIDL\r\n{own}"),
            ((), frozenset({"UIDL", "EXPIRE 5", "SASL PLAIN", "STLS", "USER"}), f"EXPIRE 5\r\nUIDL\r\n{own}"),
            (("TOP", "X-ODD 1"), frozenset({"UIDL"}), "TOP\r\nX-ODD 1\r\n"),
        ):
            terms = Terms("gw", capabilities=capabilities, learned=lambda learned=learned: learned)
            self.assertEqual(self.told(Pop3Server, b"CAPA\r\n", terms), f"+OK\r\n{words}STLS\r\n.\r\n")
            self.assertIn("\r\nSASL PLAIN LOGIN\r\n", self.told(Pop3Server, b"CAPA\r\n", terms, True))

    def test_managesieve(self) -> None:
        """Likewise its extensions."""
        for capabilities, learned, words in (
            ((), frozenset(), f'"SIEVE" "{EXTENSIONS}"'),
            ((), frozenset({"SIEVE FILEINTO VND.DOVECOT.DEBUG", "SASL PLAIN"}), '"SIEVE" "fileinto vnd.dovecot.debug"'),
            (("SIEVE fileinto", "UNAUTHENTICATE"), frozenset(), '"SIEVE" "fileinto"\r\n"UNAUTHENTICATE"'),
        ):
            terms = Terms("gw", capabilities=capabilities, learned=lambda learned=learned: learned)
            told = self.told(SieveServer, b"", terms)
            self.assertIn(f'"SASL" ""\r\n{words}\r\n"STARTTLS"\r\n"VERSION" "1.0"\r\n', told)

    def test_smtp(self) -> None:
        """The listener's list replaces ours, and AUTH is never told before TLS."""
        terms = Terms("gw", capabilities=("SIZE 1000",))
        self.assertEqual(self.told(SmtpServer, b"EHLO x\r\n", terms), "250-gw\r\n250-SIZE 1000\r\n250 STARTTLS\r\n")
        self.assertIn("AUTH PLAIN", self.told(SmtpServer, b"EHLO x\r\n", terms, True))
        self.assertIn("\r\n250 8BITMIME\r\n", self.told(SmtpServer, b"EHLO x\r\n", Terms("gw")))
