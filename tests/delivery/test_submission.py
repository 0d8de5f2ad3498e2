"""Tests of mail from our users: logins here and on backends, senders, relaying."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mailgw.delivery.reception import SUBMISSION
from mailgw.settings import Pool
from tests.delivery.clients import LOGIN, submission
from tests.delivery.doubles import Client, World


class SubmissionTests(SynchronousTestCase):
    """Mail from our users."""

    def setUp(self) -> None:
        self.world = World()

    def options(self, **options: object) -> None:
        """Give the pool other options."""
        options = {"smtp": {"tls": "none"}} | options
        self.world.pools["main"].options = self.world.pools["main"].options.model_validate(options)

    def sent(self, client: Client, recipient: bytes = b"x@elsewhere") -> list[str]:
        """Send a mail; return what the backend heard before MAIL."""
        self.world.be1.commands.clear()
        codes = client.codes(b"MAIL FROM:<zoe@d>\r\nRCPT TO:<" + recipient + b">\r\nDATA\r\n")
        self.assertEqual(codes, [250, 250, 354])
        self.assertEqual(client.codes(b"x\r\n.\r\n"), [250])
        return [line for line in self.world.be1.commands[1:] if re.match("AUTH|XCLIENT", line)]

    def test_own_login(self) -> None:
        """The user's own password opens the backend, and is gone when the session is."""
        self.world.be1.extensions = ("PIPELINING", "AUTH PLAIN")
        client = submission(self.world)
        own = "AUTH PLAIN " + base64.b64encode(b"\0zoe@d\0secret").decode()
        self.assertEqual(self.sent(client), [own])
        self.assertRegex(self.world.be1.messages[0], rb"with ESMTPA id [a-z2-7]+\r\n\tfor <x@elsewhere>;")
        delivery = client.session._delivery
        self.assertIsNone(client.session.login)
        client.say(b"QUIT\r\n")
        self.assertIsNone(delivery._login)

    def test_other_logins(self) -> None:
        """master, authzid, a service account, none and XCLIENT log in as they say."""
        self.world.be1.extensions = ("AUTH PLAIN", "XCLIENT LOGIN")
        for options, expected in (
            ({"login": "master", "master_user": "gw", "master_password": "pw"}, b"\0zoe@d*gw\0pw"),
            ({"login": "authzid", "master_user": "gw", "master_password": "pw"}, b"zoe@d\0gw\0pw"),
            ({"smtp": {"tls": "none", "service_user": "relay", "service_password": "pw"}}, b"\0relay\0pw"),
        ):
            self.options(**options)
            heard = self.sent(submission(self.world))
            self.assertEqual(heard, ["AUTH PLAIN " + base64.b64encode(expected).decode()])
        self.options(login="none")
        self.assertEqual(self.sent(submission(self.world)), [])
        self.options(login="xclient")
        self.assertEqual(self.sent(submission(self.world)), ["XCLIENT LOGIN=zoe@d"])

    def test_login_of_the_route(self) -> None:
        """The sender's own route may name another login; it is used on the backends of others, too."""
        self.world.be1.extensions = ("AUTH PLAIN",)
        routes = self.world.router.routes
        routes["zoe@d"] = replace(routes["zoe@d"], username="Mbox17", password=b"other")
        other = "AUTH PLAIN " + base64.b64encode(b"\0Mbox17\0other").decode()
        self.assertEqual(self.sent(submission(self.world)), [other])
        self.assertEqual(self.sent(submission(self.world), b"zack@d"), [other])
        self.world.be1.extensions = ("XCLIENT LOGIN",)
        self.options(login="xclient")
        self.assertEqual(self.sent(submission(self.world)), ["XCLIENT LOGIN=Mbox17"])

    def test_lmtp_user(self) -> None:
        """LMTP brings mail to the name that the user has on the backend."""
        self.options(smtp={"tls": "none", "speak": "lmtp"})
        self.world.be1.lmtp = True
        routes = self.world.router.routes
        routes["zack@d"] = replace(routes["zack@d"], username="Mbox18")
        client = submission(self.world)
        client.say(b"MAIL FROM:<zoe@d>\r\nRCPT TO:<zoe@d>\r\nRCPT TO:<zack@d>\r\n")
        recipients = [command for command in self.world.be1.commands if command.startswith("RCPT")]
        self.assertEqual(recipients, ["RCPT TO:<zoe@d>", "RCPT TO:<Mbox18>"])

    def test_backend_refuses_login(self) -> None:
        """A login that the backend refuses, or does not offer, is trouble of ours, and the client hears only that."""
        for extensions, replies in ((("AUTH PLAIN",), {"AUTH": "535 5.7.8 wrong"}), ((), {})):
            self.world.be1.extensions, self.world.be1.replies = extensions, replies
            client = submission(self.world)
            said = client.say(b"MAIL FROM:<zoe@d>\r\nRCPT TO:<x@elsewhere>\r\n")
            self.assertEqual(said, b"250 2.1.0 Ok\r\n451 4.3.0 Temporary trouble, try again later\r\n")

    def test_starttls(self) -> None:
        """A backend that has to speak TLS and does not is not used."""
        self.options(smtp={"tls": "starttls"}, login="none")
        client = submission(self.world)
        self.assertEqual(client.codes(b"MAIL FROM:<zoe@d>\r\nRCPT TO:<x@elsewhere>\r\n"), [250, 451])
        self.world.be1.extensions = ("STARTTLS",)
        client = submission(self.world)
        self.assertEqual(client.codes(b"MAIL FROM:<zoe@d>\r\nRCPT TO:<x@elsewhere>\r\n"), [250, 250])
        self.assertEqual(self.world.be1.commands[-5:-2], ["EHLO gw.example", "STARTTLS", "EHLO gw.example"])

    def test_senders(self) -> None:
        """A login sends as its own addresses, whatever their case, and as nobody."""
        client = submission(self.world)
        for sender, code in ((b"zoe@d", 250), (b"ZOE@D", 250), (b"", 250), (b"ann@d", 553), (b"zoe@elsewhere", 553)):
            self.assertEqual(client.codes(b"MAIL FROM:<" + sender + b">\r\nRSET\r\n"), [code, 250])

    def test_own_domain(self) -> None:
        """Recipients of our domains go where they live, and must exist."""
        self.options(login="none")
        client = submission(self.world)
        codes = client.codes(b"MAIL FROM:<zoe@d>\r\nRCPT TO:<nobody@d>\r\nRCPT TO:<ann@d>\r\nDATA\r\n")
        self.assertEqual(codes, [250, 550, 250, 354])
        self.assertEqual(client.codes(b".\r\n"), [250])
        self.assertEqual(self.world.store.mail[0][0], "ann@d")

    def test_no_relay_from_local(self) -> None:
        """Who lives in the local store has nobody to carry mail elsewhere."""
        client = self.world.client(SUBMISSION, "submission")
        login = base64.b64encode(b"\0ann@d\0secret")
        client.say(b"EHLO c\r\nAUTH PLAIN " + login + b"\r\nMAIL FROM:<ann@d>\r\n")
        self.assertEqual(client.say(b"RCPT TO:<x@elsewhere>\r\n"), b"550 5.7.1 Relaying denied\r\n")

    def test_no_relay_without_smtp(self) -> None:
        """Where the sender's pool has no SMTP, mail to elsewhere has nowhere to go."""
        self.world.pools["main"].options = Pool()
        client = submission(self.world)
        client.say(b"MAIL FROM:<zoe@d>\r\n")
        self.assertEqual(client.say(b"RCPT TO:<x@elsewhere>\r\n"), b"550 5.7.1 Relaying denied\r\n")

    def test_wrong_password(self) -> None:
        """A wrong password is 535 after the delay, and the conversation goes on."""
        client = self.world.client(SUBMISSION, "submission")
        wrong = b"AUTH PLAIN " + base64.b64encode(b"\0zoe@d\0wrong") + b"\r\n"
        self.assertEqual(client.codes(b"EHLO c\r\n" + wrong + b"NOOP\r\n", 1), [220, 250])
        self.assertEqual(client.codes(b"", 1), [535, 250])

    def test_directory_down(self) -> None:
        """Trouble with the directory is 454, never a wrong password."""
        self.world.directory.down = True
        client = self.world.client(SUBMISSION, "submission")
        self.assertEqual(client.codes(LOGIN), [220, 250, 454])

    def test_lmtp(self) -> None:
        """LMTP knows no login, and its replies become one."""
        self.options(smtp={"tls": "none", "speak": "lmtp"})
        self.world.be1.lmtp = True
        for finals, code in (
            (["250 a", "250 b"], 250),
            (["250 a", "550 5.1.1 b"], 451),
            (["452 a", "550 b"], 452),
            (["550 a", "550 b"], 550),
        ):
            self.world.be1.finals = list(finals)
            client = submission(self.world)
            client.say(b"MAIL FROM:<zoe@d>\r\nRCPT TO:<zoe@d>\r\nRCPT TO:<zack@d>\r\nDATA\r\n")
            self.assertEqual(client.codes(b"x\r\n.\r\n"), [code])
        self.assertIn("LHLO gw.example", self.world.be1.commands)
