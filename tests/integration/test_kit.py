"""The servers that the other integration tests stand on do what they are said to do, without the gateway."""

from __future__ import annotations

import hashlib
import os
import poplib
import smtplib
import ssl
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Smtp, handshake, trusting
from tests.integration.dovecot import DOVECOTS_OCTETS, MASTER, MASTER_PASSWORD, Dovecot
from tests.integration.exim import Exim
from tests.integration.gateway import TRANSPORT, Gateway
from tests.integration.ports import HOST, answers, needs

USERS = {"alice@example.org": b"alicepw", "odd@example.org": DOVECOTS_OCTETS}


class DovecotTests(ServersTestCase):
    skip = needs("dovecot", "openssl")
    dovecot: Dovecot
    context: ssl.SSLContext

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(Dovecot(USERS))
        cls.context = trusting(certificates().ca)

    def test_own_login(self) -> None:
        """A user logs in on every port with every TLS mode, whatever octets are in the password."""
        d = self.dovecot
        for port, tls in ((d.imap, "none"), (d.imap, "starttls"), (d.imaps, "implicit")):
            imap = Imap(port, tls, self.context)
            imap.authenticate("PLAIN", lambda challenge: b"\0odd@example.org\0" + DOVECOTS_OCTETS)
            imap.logout()
        for port, tls in ((d.pop3, "none"), (d.pop3, "starttls"), (d.pop3s, "implicit")):
            pop3 = Pop3(port, tls, self.context)
            pop3.login("odd@example.org", DOVECOTS_OCTETS)
            pop3.quit()

    def test_wrong_password(self) -> None:
        """A wrong password is refused."""
        pop3 = Pop3(self.dovecot.pop3, "none", None)
        self.assertRaises(poplib.error_proto, pop3.login, "alice@example.org", b"wrong")
        pop3.close()

    def test_master_login(self) -> None:
        """The master user opens a user's mailbox, by name and by SASL authzid."""
        imap = Imap(self.dovecot.imap, "none", None)
        imap.login(f"alice@example.org*{MASTER}", MASTER_PASSWORD)
        imap.logout()
        imap = Imap(self.dovecot.imap, "none", None)
        imap.authenticate("PLAIN", lambda challenge: b"alice@example.org\0gw\0gwsecret")
        imap.logout()

    def test_tells_the_client(self) -> None:
        """ID from a trusted address sets the client's address and session id in the log."""
        imap = Imap(self.dovecot.imap, "none", None)
        imap._simple_command("ID", '("x-originating-ip" "203.0.113.11" "x-session-id" "SID123")')
        imap.login("alice@example.org", "alicepw")
        imap.logout()
        self.dovecot.wait_for_log("rip=203.0.113.11")
        self.dovecot.wait_for_log("session=<SID123>")

    def test_mail(self) -> None:
        """LMTP delivers, IMAP and POP3 give the message back."""
        with smtplib.LMTP(HOST, self.dovecot.lmtp) as lmtp:
            lmtp.sendmail("a@b.c", ["alice@example.org"], b"Subject: hi\r\n\r\n..body\r\n" + b"x" * 5000 + b"\r\n")
        (message,) = self.dovecot.inbox("alice@example.org")
        self.assertTrue(message.endswith(b"\r\n\r\n..body\r\n" + b"x" * 5000 + b"\r\n"), message)
        pop3 = Pop3(self.dovecot.pop3, "none", None)
        pop3.login("alice@example.org", b"alicepw")
        self.assertEqual(hashlib.sha256(pop3.message()).digest(), hashlib.sha256(message).digest())
        pop3.quit()

    def test_handshake(self) -> None:
        """openssl verifies the certificate of the tests' authority."""
        handshake(self.dovecot.imap, certificates().ca, "imap")
        handshake(self.dovecot.pop3s, certificates().ca)

    def test_pause(self) -> None:
        """A paused Dovecot accepts and says nothing, and goes on afterwards."""
        self.dovecot.pause()
        try:
            self.assertRaises(TimeoutError, Imap, self.dovecot.imap, "none", None, HOST, 0.5)
        finally:
            self.dovecot.resume()
        Imap(self.dovecot.imap, "none", None).logout()

    def test_restart(self) -> None:
        """A stopped Dovecot refuses connections; started again it is there with its mail."""
        status = self.dovecot.end()
        self.assertEqual(status, 0)
        self.assertFalse(answers(self.dovecot.imap))
        self.dovecot.start()
        Imap(self.dovecot.imap, "none", None).logout()


class EximTests(ServersTestCase):
    skip = needs("exim4", "openssl")
    exim: Exim
    context: ssl.SSLContext

    @classmethod
    def start_servers(cls) -> None:
        cls.exim = cls.run_server(Exim({"relay": "relaypw", "alice@example.org": "alicepw"}))
        cls.context = trusting(certificates().ca)

    def test_delivery(self) -> None:
        """Mail for our domain lands in the Maildir with every byte of its body."""
        body = b"Subject: one\r\n\r\n.\r\n..\r\n\xe4\xf6\r\n" + b"x" * 990 + b"\r\n"
        with Smtp(self.exim.smtp, "starttls", self.context) as smtp:
            smtp.sendmail("a@b.c", ["bob@example.org"], body, ["BODY=8BITMIME"])
        message = self.exim.wait_for_mail("bob@example.org", b"Subject: one")
        self.assertTrue(message.endswith(body), message)

    def test_relay(self) -> None:
        """Other domains are for who has logged in; the log names the account."""
        with Smtp(self.exim.smtps, "implicit", self.context) as smtp:
            smtp.mail("a@b.c")
            self.assertEqual(smtp.rcpt("x@elsewhere.example")[0], 550)
            smtp.rset()
            smtp.login("alice@example.org", "alicepw")
            smtp.sendmail("a@b.c", ["x@elsewhere.example"], b"Subject: away\r\n\r\nhello\r\n")
        self.exim.wait_for_mail("x@elsewhere.example", b"Subject: away")
        self.assertRegex(self.exim.log(), r"<= a@b\.c .* P=esmtpsa .* A=plain:alice@example\.org")

    def test_wrong_password(self) -> None:
        """A wrong password is refused with 535."""
        with Smtp(self.exim.smtp, "starttls", self.context) as smtp:
            refused = self.assertRaises(smtplib.SMTPAuthenticationError, smtp.login, "relay", "wrong")
            self.assertEqual(refused.smtp_code, 535)
            refused = self.assertRaises(smtplib.SMTPAuthenticationError, smtp.login, "nobody", "wrong")
            self.assertEqual(refused.smtp_code, 535)

    def test_refusals(self) -> None:
        """Some recipients and one subject are refused."""
        with Smtp(self.exim.smtp, "none", None) as smtp:
            smtp.mail("a@b.c")
            self.assertEqual(smtp.rcpt("reject@example.org"), (550, b"5.1.1 no such user"))
            self.assertEqual(smtp.rcpt("defer@example.org")[0], 451)
            smtp.rcpt("bob@example.org")
            self.assertEqual(smtp.data(b"Subject: refuse at end\r\n\r\nx\r\n"), (550, b"5.7.1 not this one"))

    def test_pause(self) -> None:
        """A paused Exim says nothing, and goes on afterwards."""
        self.exim.pause()
        try:
            began = time.monotonic()
            self.assertRaises(
                (TimeoutError, smtplib.SMTPServerDisconnected), Smtp, self.exim.smtp, "none", None, HOST, 0.5
            )
            self.assertLess(time.monotonic() - began, 5.0)
        finally:
            self.exim.resume()
        Smtp(self.exim.smtp, "none", None).quit()


class TransportTests(SynchronousTestCase):
    skip = needs("openssl")

    def test_transport(self) -> None:
        """The environment says which transport the gateways under test have; they start on no other."""
        self.patch(os, "environ", os.environ | {TRANSPORT: "pigeon"})
        gateway = Gateway()
        self.addCleanup(gateway.stop)
        refused = self.assertRaises(AssertionError, gateway.start)
        self.assertIn('gateway.transport: must be one of "stream" or "twisted"', str(refused))
