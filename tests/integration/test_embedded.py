"""The embedded default as a newcomer meets it: verified TLS on every port, and mail sent and read back unchanged.

The settings are those of C{etc/mailgw.toml}, on free ports and in a temp folder.
"""

from __future__ import annotations

import poplib
import smtplib

from tests.integration.clients import Smtp, handshake
from tests.integration.embedded import ADDRESS, PASSWORD, USER, EmbeddedTestCase

BODY = b"".join(
    line + b"\r\n"
    for line in (
        b"Subject: dots and octets",
        b"From: tester@localhost",
        b"",
        b".",
        b"..",
        b".leading",
        b"",
        b"a line of 998 octets:",
        b"x" * 998,
        b"every octet over 127: " + bytes(range(128, 256)),
        b"tab\tand trailing blanks  ",
        b"=20 =\tFrom here on",
        b"From a mbox's point of view",
        b"",
        b"",
        b".",
    )
)


class TourTests(EmbeddedTestCase):
    def test_six_handshakes(self) -> None:
        """openssl s_client completes a verified handshake on the three TLS ports and by the three STARTTLS."""
        for port in (self.ports.imaps, self.ports.pop3s, self.ports.submissions):
            handshake(port, self.ca)
        for port, starttls in (
            (self.ports.imap, "imap"),
            (self.ports.pop3, "pop3"),
            (self.ports.submission, "smtp"),
            (self.ports.mx, "smtp"),
        ):
            handshake(port, self.ca, starttls)

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are spoken, nothing older is."""
        self.assertIn("TLSv1.2", handshake(self.ports.imaps, self.ca, more=["-tls1_2"]))
        self.assertIn("TLSv1.3", handshake(self.ports.imaps, self.ca, more=["-tls1_3"]))
        old = ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]
        refused = self.assertRaises(AssertionError, handshake, self.ports.imaps, self.ca, more=old)
        self.assertIn("alert protocol version", str(refused))

    def test_alpn(self) -> None:
        """A protocol that is none of ours is refused in the handshake with the alert made for it."""
        refused = self.assertRaises(AssertionError, handshake, self.ports.imaps, self.ca, more=["-alpn", "h2"])
        self.assertIn("no application protocol", str(refused))

    def test_probe(self) -> None:
        """C{mailgw probe} finds every listener in order."""
        done = self.gateway.run("probe")
        self.assertEqual(done.returncode, 0, done)
        for port in self.ports.all():
            self.assertIn(str(port), done.stdout.decode())

    def test_check(self) -> None:
        """C{mailgw check} has no fault to find."""
        done = self.gateway.run("check")
        self.assertEqual(done.returncode, 0, done)


class MailTests(EmbeddedTestCase):
    def test_round_trip(self) -> None:
        """What smtplib sends comes back by imaplib and poplib, byte for byte."""
        for tls in ("starttls", "implicit"):
            body = BODY + b"sent with " + tls.encode() + b"\r\n"
            with self.submission(tls) as smtp:
                smtp.login(USER, PASSWORD)
                smtp.sendmail(ADDRESS, [ADDRESS], body, ["BODY=8BITMIME"])
            message = self.stored(b"sent with " + tls.encode())
            self.assertEqual(message[-len(body) :], body)
            self.assertIn(b"Received: ", message[: -len(body)])
            pop3 = self.pop3(tls)
            pop3.login(USER, PASSWORD.encode())
            messages = [pop3.message(number) for number in range(1, pop3.stat()[0] + 1)]
            self.assertIn(message, messages)
            pop3.quit()

    def test_flags_and_removal(self) -> None:
        """A message appended by IMAP can be flagged, found and expunged, and POP3 no longer has it."""
        imap = self.imap("implicit")
        imap.login(USER, PASSWORD)
        imap.append_message(b"Subject: to be removed\r\n\r\nbye\r\n")
        imap.select()
        (number,) = imap.search(None, "SUBJECT", '"to be removed"')[1][0].split()
        imap.store(number.decode(), "+FLAGS", r"(\Deleted)")
        self.assertIn(number, imap.expunge()[1])
        self.assertEqual(imap.search(None, "SUBJECT", '"to be removed"')[1], [b""])
        imap.logout()
        pop3 = self.pop3("implicit")
        pop3.login(USER, PASSWORD.encode())
        bodies = [pop3.message(number) for number in range(1, pop3.stat()[0] + 1)]
        self.assertFalse([body for body in bodies if b"to be removed" in body])
        pop3.quit()

    def test_mx(self) -> None:
        """mx takes mail for who is known here from anybody, with and without TLS."""
        for tls in ("none", "starttls"):
            with Smtp(self.ports.mx, tls, self.context) as smtp:
                mark = b"by mx with " + tls.encode()
                smtp.sendmail("somebody@elsewhere.example", [ADDRESS], b"Subject: " + mark + b"\r\n\r\nhello\r\n")
            self.assertTrue(self.stored(mark).endswith(b"\r\n\r\nhello\r\n"))

    def test_mx_refusals(self) -> None:
        """mx refuses whom it does not know and what is not ours, and offers no AUTH."""
        with Smtp(self.ports.mx, "starttls", self.context) as smtp:
            self.assertFalse(smtp.has_extn("auth"))
            smtp.mail("somebody@elsewhere.example")
            self.assertRefused(smtp.rcpt("nobody-here@localhost"), 550, b"5.1.1")
            self.assertRefused(smtp.rcpt("somebody@foreign.example"), 550, b"5.7.1")
            self.assertEqual(smtp.rcpt(ADDRESS)[0], 250)

    def test_submission_stays_here(self) -> None:
        """The embedded default has no way out: a foreign recipient is refused."""
        with self.submission() as smtp:
            smtp.login(USER, PASSWORD)
            smtp.mail(ADDRESS)
            self.assertRefused(smtp.rcpt("somebody@foreign.example"), 550, b"5.7.1")

    def test_submission_needs_login(self) -> None:
        """No mail is submitted without a login."""
        with self.submission() as smtp:
            self.assertRefused(smtp.mail(ADDRESS), 530, b"5.7.0")

    def assertRefused(self, answer: tuple[int, bytes], code: int, enhanced: bytes) -> None:
        """Both codes of a reply."""
        self.assertEqual((answer[0], answer[1].split()[0]), (code, enhanced), answer)


class LoginTests(EmbeddedTestCase):
    def test_wrong_password(self) -> None:
        """A wrong password and an unknown user get the same reply."""
        for user in (USER, "nobody-here"):
            imap = self.imap()
            refused = self.assertRaises(imap.error, imap.login, user, "wrong")
            self.assertIn("[AUTHENTICATIONFAILED]", str(refused))
            imap.logout()
            pop3 = self.pop3()
            refused = self.assertRaises(poplib.error_proto, pop3.login, user, b"wrong")
            self.assertTrue(refused.args[0].startswith(b"-ERR [AUTH]"), refused)
            pop3.quit()
            with self.submission() as smtp:
                refused = self.assertRaises(smtplib.SMTPAuthenticationError, smtp.login, user, "wrong")
                self.assertEqual(refused.smtp_code, 535)
                self.assertTrue(refused.smtp_error.startswith(b"5.7.8"), refused)

    def test_a_second_try(self) -> None:
        """After a wrong password the right one works in the same connection."""
        imap = self.imap()
        self.assertRaises(imap.error, imap.login, USER, "wrong")
        imap.login(USER, PASSWORD)
        imap.logout()
        pop3 = self.pop3()
        self.assertRaises(poplib.error_proto, pop3.login, USER, b"wrong")
        pop3.login(USER, PASSWORD.encode())
        pop3.quit()

    def test_imap_before_tls(self) -> None:
        """IMAP shows LOGINDISABLED before TLS and refuses every login."""
        imap = self.imap("none")
        self.assertIn("LOGINDISABLED", imap.capabilities)
        self.assertFalse([name for name in imap.capabilities if name.startswith("AUTH=")])
        refused = self.assertRaises(imap.error, imap.login, USER, PASSWORD)
        self.assertIn("[PRIVACYREQUIRED]", str(refused))
        refused = self.assertRaises(imap.error, imap.authenticate, "PLAIN", lambda challenge: b"\0tester\0x")
        self.assertIn("[PRIVACYREQUIRED]", str(refused))
        imap.logout()

    def test_pop3_before_tls(self) -> None:
        """POP3 offers neither USER nor SASL before TLS and refuses both."""
        pop3 = self.pop3("none")
        capabilities = pop3.capa()
        self.assertIn("STLS", capabilities)
        self.assertNotIn("USER", capabilities)
        self.assertNotIn("SASL", capabilities)
        for command in (f"USER {USER}", "AUTH PLAIN"):
            refused = self.assertRaises(poplib.error_proto, pop3._shortcmd, command)  # type: ignore[attr-defined]  # typeshed
            self.assertTrue(refused.args[0].startswith(b"-ERR [AUTH]"), refused)
        pop3.quit()

    def test_smtp_before_tls(self) -> None:
        """Submission offers no AUTH before TLS and refuses it."""
        with self.submission("none") as smtp:
            self.assertFalse(smtp.has_extn("auth"))
            self.assertTrue(smtp.has_extn("starttls"))
            code, text = smtp.docmd("AUTH", "PLAIN AHRlc3RlcgB4")
            self.assertEqual((code, text[:5]), (530, b"5.7.0"), text)
