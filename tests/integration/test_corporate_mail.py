"""Mail of a company: submitted through Exim, taken in for Dovecot by LMTP and for Exim by SMTP, large and unchanged."""

from __future__ import annotations

import base64
import hashlib
import os
import smtplib

from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Smtp, trusting
from tests.integration.company import ANNA, BEN, CompanyTestCase
from tests.integration.gateway import Gateway
from tests.integration.ports import wait_for

MESSAGE = b"Subject: %s\r\n\r\n.\r\n..\r\n.\xff\r\n" + b"x" * 998 + b"\r\n"


def large(size: int) -> bytes:
    """A message of about that many octets that no compression or guessing could make up."""
    lines = base64.encodebytes(os.urandom(size * 3 // 4 * 76 // 78))
    return b"Subject: large\r\n\r\n" + lines.replace(b"\n", b"\r\n")


class MailTestCase(CompanyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.context = trusting(certificates().ca)

    def submission(self, gateway: Gateway, mode: str = "starttls") -> Smtp:
        """A client of submission, logged in as Anna."""
        port = gateway.ports.submissions if mode == "implicit" else gateway.ports.submission
        smtp = Smtp(port, mode, self.context, "127.0.0.41")
        self.addCleanup(smtp.close)
        smtp.login("anna", "annapw")
        return smtp


class SubmissionTests(MailTestCase):
    def test_service_account(self) -> None:
        """Mail reaches Exim by STARTTLS with the service account's login."""
        gateway = self.gateway(self.company.settings(smtp=self.company.to_exim(service=True)))
        self.submission(gateway).sendmail(ANNA.mail, ["x@elsewhere.example"], MESSAGE % b"one", ["BODY=8BITMIME"])
        message = self.company.exim.wait_for_mail("x@elsewhere.example", b"Subject: one")
        self.assertTrue(message.endswith(MESSAGE % b"one"))
        self.assertRegex(self.company.exim.log(), r"<= anna@example\.org .* P=esmtpsa .* A=plain:relay\b")

    def test_own_account(self) -> None:
        """Mail reaches Exim with the user's own login, by STARTTLS and by implicit TLS."""
        for tls in ("starttls", "implicit"):
            gateway = self.gateway(self.company.settings(smtp=self.company.to_exim(tls)))
            subject = b"own by " + tls.encode()
            self.submission(gateway, "implicit").sendmail(
                ANNA.mail, ["y@elsewhere.example"], MESSAGE % subject, ["BODY=8BITMIME"]
            )
            message = self.company.exim.wait_for_mail("y@elsewhere.example", subject)
            self.assertTrue(message.endswith(MESSAGE % subject))
        self.assertRegex(self.company.exim.log(), r"<= anna@example\.org .* P=esmtpsa .* A=plain:anna@example\.org\b")

    def test_the_trace(self) -> None:
        """The message bears a Received line of ours with the session id and no word about the backend."""
        gateway = self.gateway(self.company.settings())
        self.submission(gateway).sendmail(ANNA.mail, ["z@elsewhere.example"], MESSAGE % b"trace", ["BODY=8BITMIME"])
        message = self.company.exim.wait_for_mail("z@elsewhere.example", b"Subject: trace")
        ours = message[message.index(b"gateway.example") :].partition(b"Subject:")[0].decode()
        self.assertTrue([session for session in gateway.session_ids() if session in ours], ours)

    def test_verdicts(self) -> None:
        """What Exim says about recipients and messages is what the client hears."""
        smtp = self.submission(self.gateway(self.company.settings()))
        smtp.mail(ANNA.mail)
        self.assertEqual(smtp.rcpt("reject@example.org"), (550, b"5.1.1 no such user"))
        self.assertEqual(smtp.rcpt("defer@example.org"), (451, b"4.3.0 try again later"))
        self.assertEqual(smtp.rcpt("x@elsewhere.example")[0], 250)
        code, text = smtp.data(b"Subject: refuse at end\r\n\r\nx\r\n")
        self.assertEqual((code, text), (550, b"5.7.1 not this one"))
        smtp.sendmail(ANNA.mail, ["after@elsewhere.example"], b"Subject: after all\r\n\r\nx\r\n")
        self.company.exim.wait_for_mail("after@elsewhere.example", b"after all")

    def test_unknown_recipient(self) -> None:
        """A recipient of our own domain whom the directory does not know is refused."""
        smtp = self.submission(self.gateway(self.company.settings()))
        smtp.mail(ANNA.mail)
        code, text = smtp.rcpt("nobody-here@example.org")
        self.assertEqual((code, text[:5]), (550, b"5.1.1"))

    def test_sender(self) -> None:
        """Nobody sends as somebody else; an alias of one's own is fine."""
        smtp = self.submission(self.gateway(self.company.settings()))
        smtp.mail("anna.alias@example.org")
        self.assertEqual(smtp.rcpt("x@elsewhere.example")[0], 250)
        smtp.rset()
        code, _ = smtp.mail(BEN.mail)
        if code == 250:
            code, _ = smtp.rcpt("x@elsewhere.example")
        self.assertIn(code, (550, 553))

    def test_foreign_password(self) -> None:
        """A wrong password is refused as such."""
        gateway = self.gateway(self.company.settings())
        smtp = Smtp(gateway.ports.submission, "starttls", self.context)
        refused = self.assertRaises(smtplib.SMTPAuthenticationError, smtp.login, "anna", "benpw")
        self.assertEqual(refused.smtp_code, 535)
        smtp.close()


class MxTests(MailTestCase):
    def test_lmtp(self) -> None:
        """Mail for our people reaches the Dovecot of each by LMTP."""
        gateway = self.gateway(self.company.settings(smtp=self.company.by_lmtp()))
        for person, mode in ((ANNA, "none"), (BEN, "starttls")):
            mark = f"lmtp for {person.uid}".encode()
            with Smtp(gateway.ports.mx, mode, self.context) as smtp:
                smtp.sendmail("a@b.example", [person.mail], MESSAGE % mark, ["BODY=8BITMIME"])
            home = self.company.home(person)
            messages = [message for message in home.inbox(person.mail) if mark in message]
            self.assertEqual(len(messages), 1)
            self.assertTrue(messages[0].endswith(MESSAGE % mark))
            self.assertFalse([m for m in self.company.not_home(person).inbox(person.mail) if mark in m])

    def test_lmtp_alias(self) -> None:
        """LMTP is the last hop: it is asked for the mailbox, not for the alias, and several names make one copy."""
        gateway = self.gateway(self.company.settings(smtp=self.company.by_lmtp()))
        with Smtp(gateway.ports.mx, "none", self.context) as smtp:
            smtp.sendmail(
                "a@b.example", ["anna.alias@example.org", ANNA.mail], MESSAGE % b"by alias", ["BODY=8BITMIME"]
            )
        found = [message for message in self.company.home(ANNA).inbox(ANNA.mail) if b"by alias" in message]
        self.assertEqual(len(found), 1)

    def test_smtp(self) -> None:
        """Mail for our people reaches Exim by SMTP; nobody logs in there."""
        gateway = self.gateway(self.company.settings(smtp=self.company.to_exim(service=True)))
        with Smtp(gateway.ports.mx, "starttls", self.context) as smtp:
            smtp.sendmail("sender@b.example", [ANNA.mail], MESSAGE % b"by mx", ["BODY=8BITMIME"])
        message = self.company.exim.wait_for_mail(ANNA.mail, b"Subject: by mx")
        self.assertTrue(message.endswith(MESSAGE % b"by mx"))
        self.assertRegex(self.company.exim.log(), r"<= sender@b\.example .* P=esmtps ")

    def test_refusals(self) -> None:
        """Who is not known and what is not ours is refused; a second destination has to wait."""
        gateway = self.gateway(self.company.settings(smtp=self.company.by_lmtp()))
        with Smtp(gateway.ports.mx, "none", None) as smtp:
            smtp.mail("a@b.example")
            for address, code, enhanced in (
                ("nobody-here@example.org", 550, b"5.1.1"),
                ("somebody@foreign.example", 550, b"5.7.1"),
                (ANNA.mail, 250, b"2.1.5"),
                (BEN.mail, 452, b"4.5.3"),
            ):
                answer = smtp.rcpt(address)
                self.assertEqual((answer[0], answer[1][:5]), (code, enhanced), (address, answer))


class LargeMailTests(MailTestCase):
    SIZE = 50 << 20

    def test_both_ways(self) -> None:
        """50 MB by IMAP to the backend, and back by IMAP and by POP3: the same SHA-256."""
        gateway = self.gateway(self.company.settings())
        message = large(self.SIZE)
        expected = hashlib.sha256(message).hexdigest()
        imap = Imap(gateway.ports.imap, "starttls", self.context, seconds=120.0)
        imap.login("ben", "benpw")
        imap.append_message(message)
        imap.select()
        number = imap.count()
        self.assertEqual(hashlib.sha256(imap.message(number)).hexdigest(), expected)
        pop3 = Pop3(gateway.ports.pop3s, "implicit", self.context, seconds=120.0)
        pop3.login("ben", b"benpw")
        self.assertEqual(hashlib.sha256(pop3.message(number)).hexdigest(), expected)
        pop3.dele(number)
        pop3.quit()
        imap.logout()

    def test_submission_and_mx(self) -> None:
        """A message of nearly the size limit through submission to Exim, and through mx to Dovecot."""
        message = large(self.SIZE - (1 << 20))
        gateway = self.gateway(self.company.settings(smtp=self.company.to_exim(service=True)))
        self.submission(gateway).sendmail(ANNA.mail, ["large@elsewhere.example"], message)
        self.assertTrue(self.company.exim.wait_for_mail("large@elsewhere.example", b"Subject: large").endswith(message))
        gateway = self.gateway(self.company.settings(smtp=self.company.by_lmtp()))
        with Smtp(gateway.ports.mx, "starttls", self.context, seconds=120.0) as smtp:
            smtp.sendmail("a@b.example", [BEN.mail], message)
        (arrived,) = (m for m in self.company.be2.inbox(BEN.mail) if b"Subject: large" in m)
        self.assertTrue(arrived.endswith(message))

    def test_too_large(self) -> None:
        """A message over the limit is refused by its announced size, and by its real one."""
        gateway = self.gateway(self.company.settings() + 'message_size = "1M"\n')
        smtp = self.submission(gateway)
        self.assertEqual(smtp.mail(ANNA.mail, [f"SIZE={2 << 20}"])[0], 552)
        smtp.mail(ANNA.mail)
        smtp.rcpt("x@elsewhere.example")
        self.assertEqual(smtp.data(large(2 << 20))[0], 552)
        smtp.sendmail(ANNA.mail, ["small@elsewhere.example"], b"Subject: small\r\n\r\nx\r\n")
        wait_for("the small one", lambda: self.company.exim.mail_for("small@elsewhere.example"))
