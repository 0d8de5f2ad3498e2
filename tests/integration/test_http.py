"""An auth_http server drives the gateway: real servers on both sides, and nginx beside it, asking the same."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import time
from collections.abc import Callable, Mapping

from tests.integration.authhttp import NGINX_MODULE, AuthServer, Nginx
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, trusting
from tests.integration.dovecot import Dovecot
from tests.integration.exim import Exim
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.ports import HOST, needs

ODD = 'p%20 "ä\\{5}'
USERS = {"anna": b"annapw", "odd": ODD.encode(), "mbox17": b"backendpw"}
Headers = Mapping[str, str]


class AuthTestCase(ServersTestCase):
    """A Dovecot and an Exim behind, and an auth_http server that knows who is who.

    @ivar http: the version that the server speaks.
    """

    skip = needs("dovecot", "exim4")
    http = "HTTP/1.1"
    secure = False
    dovecot: Dovecot
    exim: Exim
    auth: AuthServer

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(Dovecot(USERS))
        cls.exim = cls.run_server(Exim({"anna": "annapw", "mbox17": "backendpw"}))
        cls.auth = AuthServer(cls.answers, version=cls.http, secure=cls.secure)
        cls.auth.start()
        cls.at_end(cls.auth.stop)

    @classmethod
    def answers(cls, headers: Headers) -> dict[str, str]:
        """As an auth_http server made for nginx has it."""
        port = {"imap": cls.dovecot.imap, "pop3": cls.dovecot.pop3, "smtp": cls.exim.smtp}[headers["Auth-Protocol"]]
        place = {"Auth-Status": "OK", "Auth-Server": HOST, "Auth-Port": str(port)}
        if headers["Auth-Method"] == "none":
            return place if headers["Auth-SMTP-To"].endswith("<anna@example.org>") else {"Auth-Status": "No such user"}
        known = {"anna": "annapw", "odd": ODD.replace("%", "%25").replace(" ", "%20"), "alias": "aliaspw"}
        password = headers["Auth-Pass"].encode("latin-1").decode()
        if known.get(headers["Auth-User"]) != password:
            return {"Auth-Status": "Invalid login or password", "Auth-Wait": "1"}
        if headers["Auth-User"] == "alias":
            place |= {"Auth-User": "mbox17", "Auth-Pass": "backendpw"}
        return place

    def setUp(self) -> None:
        super().setUp()
        self.auth.answers = self.answers
        self.auth.questions.clear()
        self.context = trusting(certificates().ca)
        self.gateway = Gateway(self.settings())
        self.addCleanup(self.gateway.stop)
        self.gateway.start()
        self.ports = self.gateway.ports

    def settings(self) -> str:
        """The tables of the gateway."""
        return f"""
[domains]
accept = ["example.org"]
[[directory]]
kind = "http"
uri = ["{self.auth.uri}"]
ca = "ca.pem"
header = {{X-Auth-Key = "s3cret key"}}
timeout = "3s"
[[route]]
kind = "http"
pool = "main"
[pool.main]
members = []
ca = "ca.pem"
[pool.main.imap]
[pool.main.pop3]
[pool.main.smtp]
{ROOMY}"""

    def imap(self, user: str, password: str) -> Imap:
        """Log in."""
        client = Imap(self.ports.imap, "starttls", self.context)
        client.login(user, password)
        return client

    def send(self, recipient: str, user: str = "anna") -> None:
        """A message by submission."""
        client = smtplib.SMTP("localhost", self.ports.submission, timeout=30.0)
        client.starttls(context=self.context)
        client.login(user, f"{user}pw")
        client.sendmail(f"{user}@example.org", [recipient], b"Subject: from %b\r\n\r\nhello\r\n" % user.encode())
        client.quit()


class LoginTests(AuthTestCase):
    """Everything over HTTP/1.1."""

    def test_readers(self) -> None:
        """IMAP and POP3, with STARTTLS and without, on the backend that the server names."""
        for user, password in (("anna", "annapw"), ("odd", ODD)):
            for mode, port in (("starttls", self.ports.imap), ("implicit", self.ports.imaps)):
                imap = Imap(port, mode, self.context)
                imap.authenticate("PLAIN", lambda _, user=user, word=password: f"\0{user}\0{word}".encode())
                self.assertEqual(imap.select()[0], "OK")
                imap.logout()
            pop3 = Pop3(self.ports.pop3s, "implicit", self.context)
            pop3.login(user, password.encode())
            self.assertEqual(pop3.stat()[0], 0)
            pop3.quit()

    def test_submission(self) -> None:
        """Submission, to the world and to our own domain, through the server's SMTP."""
        self.send("bob@elsewhere.example")
        self.exim.wait_for_mail("bob@elsewhere.example", b"Subject: from anna")
        self.send("anna@example.org")
        self.exim.wait_for_mail("anna@example.org", b"Subject: from anna")

    def test_recipients(self) -> None:
        """MX asks about every recipient."""
        client = smtplib.SMTP("localhost", self.ports.mx, timeout=30.0)
        client.ehlo("there.example")
        client.mail("x@there.example")
        self.assertEqual(client.rcpt("nobody@example.org")[0], 550)
        self.assertEqual(client.rcpt("anna@example.org")[0], 250)
        self.assertEqual(client.data(b"Subject: to anna\r\n\r\nhello\r\n")[0], 250)
        client.quit()
        self.exim.wait_for_mail("anna@example.org", b"Subject: to anna")

    def test_wrong_password(self) -> None:
        """A wrong password is one, in our words and after the server's Auth-Wait; the log has the server's."""
        began = time.monotonic()
        client = Imap(self.ports.imap, "starttls", self.context)
        error = self.assertRaises(imaplib.IMAP4.error, client.login, "anna", "wrong")
        self.assertGreater(time.monotonic() - began, 1.0)
        self.assertIn("AUTHENTICATIONFAILED", str(error))
        self.assertNotIn("Invalid", str(error))
        self.gateway.wait_for_log("Invalid login or password")
        client.login("anna", "annapw")
        client.logout()
        self.assertEqual([asked["Auth-Login-Attempt"] for asked in self.auth.questions], ["1", "2"])
        pop3 = Pop3(self.ports.pop3s, "implicit", self.context)
        self.assertIn("[AUTH]", str(self.assertRaises(poplib.error_proto, pop3.login, "anna", b"wrong")))
        pop3.close()

    def test_other_login(self) -> None:
        """Auth-User and Auth-Pass are what the backend sees, and no log has the password."""
        self.imap("alias", "aliaspw").logout()
        self.dovecot.wait_for_log("mbox17")
        pop3 = Pop3(self.ports.pop3s, "implicit", self.context)
        pop3.login("alias", b"aliaspw")
        pop3.quit()
        for recipient in ("bob@elsewhere.example", "anna@example.org"):
            self.send(recipient, "alias")
            self.exim.wait_for_mail(recipient, b"Subject: from alias")
        self.assertIn("mbox17", self.exim.log())
        self.gateway.wait_for_log("user=alias")
        self.assertNotIn("backendpw", self.gateway.log())

    def test_backend_refuses_the_other_login(self) -> None:
        """A password that the server gave and the backend refuses is our trouble, not the user's wrong password."""
        self.auth.answers = lambda headers: self.answers(headers) | {"Auth-Pass": "stale"}
        error = self.assertRaises(imaplib.IMAP4.error, self.imap, "anna", "annapw")
        self.assertIn("UNAVAILABLE", str(error))

    def test_trouble(self) -> None:
        """A server that is down, or answers nonsense, is temporary trouble; when it is back all is well."""
        self.imap("anna", "annapw").logout()
        self.auth.stop()
        try:
            for _ in range(2):
                error = self.assertRaises(imaplib.IMAP4.error, self.imap, "anna", "annapw")
                self.assertIn("UNAVAILABLE", str(error))
            pop3 = Pop3(self.ports.pop3s, "implicit", self.context)
            self.assertIn("[SYS/TEMP]", str(self.assertRaises(poplib.error_proto, pop3.login, "anna", b"annapw")))
            pop3.close()
        finally:
            self.auth.start()
        time.sleep(3.1)
        self.imap("anna", "annapw").logout()
        self.gateway.wait_for_log("is back")
        self.auth.answers = lambda headers: {"Server": "nonsense"}
        self.assertIn("UNAVAILABLE", str(self.assertRaises(imaplib.IMAP4.error, self.imap, "anna", "annapw")))
        self.auth.answers = lambda headers: {"Auth-Status": "Later", "Auth-Error-Code": "451 4.3.0"}
        self.assertIn("UNAVAILABLE", str(self.assertRaises(imaplib.IMAP4.error, self.imap, "anna", "annapw")))

    def test_keep_alive(self) -> None:
        """Logins after each other share one connection to the server."""
        before = self.auth.connections
        for _ in range(5):
            self.imap("anna", "annapw").logout()
        self.assertEqual(self.auth.connections - before, 1)


class OldHttpTests(AuthTestCase):
    """A server that speaks HTTP/1.0 and closes each connection."""

    http = "HTTP/1.0"

    def test_login(self) -> None:
        """Each login has its own connection."""
        for _ in range(3):
            self.imap("anna", "annapw").logout()
        error = self.assertRaises(imaplib.IMAP4.error, self.imap, "anna", "wrong")
        self.assertIn("AUTHENTICATIONFAILED", str(error))


class SecureTests(AuthTestCase):
    """A server behind https."""

    secure = True

    def test_login(self) -> None:
        """The server's certificate is checked against our own CA."""
        for _ in range(3):
            self.imap("anna", "annapw").logout()
        self.assertEqual(self.auth.connections, 1)


class StrangerTests(AuthTestCase):
    """A server whose certificate is of an authority that nobody knows."""

    secure = True

    def settings(self) -> str:
        return super().settings().replace('ca = "ca.pem"\nheader', "header")

    def test_login(self) -> None:
        """Nothing is asked of a server whose certificate is of an unknown authority."""
        error = self.assertRaises(imaplib.IMAP4.error, self.imap, "anna", "annapw")
        self.assertIn("UNAVAILABLE", str(error))
        self.assertEqual(self.auth.questions, [])
        self.gateway.wait_for_log("certificate verify failed")


class MisnamedTests(AuthTestCase):
    """A server whose certificate is of a known authority, for another name."""

    secure = True

    def settings(self) -> str:
        # the system reads this name as 127.0.0.1, which is in the certificate; the name itself is not
        return super().settings().replace("https://localhost:", "https://127.1:")

    def test_login(self) -> None:
        """Nothing is asked of it."""
        error = self.assertRaises(imaplib.IMAP4.error, self.imap, "anna", "annapw")
        self.assertIn("UNAVAILABLE", str(error))
        self.assertEqual(self.auth.questions, [])
        self.gateway.wait_for_log("its certificate is for another name")


class NginxTests(AuthTestCase):
    """nginx and the gateway before the same auth_http server."""

    skip = needs("dovecot", "exim4", "nginx") or (None if NGINX_MODULE.exists() else f"no {NGINX_MODULE}")
    nginx: Nginx

    @classmethod
    def start_servers(cls) -> None:
        super().start_servers()
        cls.nginx = cls.run_server(Nginx(cls.auth))

    def asked(self, *talks: tuple[Callable[[int], None], int]) -> list[dict[str, str]]:
        """What the server was asked, but for Host, where nginx leaves out the port, and what each TLS library prefers.

        @param talks: each with the port to talk to.
        """
        self.auth.questions.clear()
        for talk, port in talks:
            talk(port)
        questions = [dict(question) for question in self.auth.questions]
        for question in questions:
            self.assertTrue(question.pop("Host").startswith(HOST))
            if "Auth-SSL-Cipher" in question:  # from 1.21.2 on
                self.assertRegex(question.pop("Auth-SSL-Cipher"), r"\A[A-Z0-9_-]+\Z")
        return questions

    def by_imap(self, port: int) -> None:
        """A wrong password, then the right one, on one connection."""
        client = Imap(port, "implicit", self.context)
        self.assertRaises(imaplib.IMAP4.error, client.login, "anna", "wr%ong pw")
        self.assertEqual(client.login("anna", "annapw")[0], "OK")
        client.logout()

    def by_pop3(self, port: int) -> None:
        """The same by POP3."""
        client = Pop3(port, "implicit", self.context)
        self.assertRaises(poplib.error_proto, client.login, "anna", b"wr%ong pw")
        client.login("anna", b"annapw")
        client.quit()

    def by_smtp(self, port: int) -> None:
        """A wrong password by submission."""
        client = smtplib.SMTP_SSL("localhost", port, timeout=30.0, context=self.context)
        self.assertRaises(smtplib.SMTPAuthenticationError, client.login, "anna", "wr%ong pw", initial_response_ok=False)
        client.close()

    def by_mx(self, port: int) -> None:
        """A recipient who is not there."""
        client = smtplib.SMTP("localhost", port, timeout=30.0)
        client.ehlo("there.example")
        client.docmd("MAIL FROM:<ann@there.example>")
        client.docmd("RCPT TO:<nobody@example.org>")
        client.close()

    def test_same_questions(self) -> None:
        """The same logins and the same mail by nginx and by us are the same headers, by every protocol."""
        talks = (self.by_imap, self.by_pop3, self.by_smtp, self.by_mx)
        theirs = (self.nginx.imap, self.nginx.pop3, self.nginx.smtp, self.nginx.mx)
        ours = (self.ports.imaps, self.ports.pop3s, self.ports.submissions, self.ports.mx)
        by_nginx = self.asked(*zip(talks, theirs, strict=True))
        by_us = self.asked(*zip(talks, ours, strict=True))
        self.assertEqual(len(by_nginx), 7)  # smtplib tries two mechanisms
        self.assertEqual(by_us, by_nginx)
        self.assertEqual(by_us[0]["Auth-Pass"], "wr%25ong%20pw")
        self.assertEqual({line.split()[1] for line in self.auth.first_lines}, {"/auth"})
