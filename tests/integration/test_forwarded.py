"""Clients that others bring: two gateways in a row and a webmail, in front of Dovecot and Exim."""

from __future__ import annotations

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Smtp, Wire, trusting
from tests.integration.exim import Exim
from tests.integration.fronted import WideGateway, settings
from tests.integration.haproxy import HaproxyDovecot
from tests.integration.ports import HOST, free_port, needs

WEBMAIL, STRANGER = "127.0.0.88", "127.0.0.66"


class WebmailTests(ServersTestCase):
    """A gateway that believes a webmail, and one that stands in front of it."""

    skip = needs("dovecot", "exim4")
    dovecot: HaproxyDovecot
    exim: Exim
    gateway: WideGateway
    front: WideGateway
    trusting: dict[str, int]

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(HaproxyDovecot({"anna": b"annapw"}))
        cls.exim = cls.run_server(Exim({}))
        cls.trusting = {protocol: free_port() for protocol in ("imap", "pop3", "mx")}
        listeners = "".join(
            f'[[listener]]\nprotocol = "{protocol}"\nendpoint = "tcp:{port}:interface=127.0.0.1"\ntls = "optional"\n'
            f'trusted = ["{WEBMAIL}", "{HOST}"]\n'
            for protocol, port in cls.trusting.items()
        )
        pool = (
            f"[pool.main.imap]\nport = {cls.dovecot.imap}\n[pool.main.pop3]\nport = {cls.dovecot.pop3}\n"
            f"[pool.main.smtp]\nport = {cls.exim.smtp}\n"
        )
        cls.gateway = cls.run_server(WideGateway(settings(cls.dovecot, pool, listeners)))
        pool = "".join(
            f"[pool.main.{name}]\nport = {cls.trusting[protocol]}\n"
            for name, protocol in (("imap", "imap"), ("pop3", "pop3"), ("smtp", "mx"))
        )
        cls.front = cls.run_server(WideGateway(settings(cls.dovecot, pool)))

    def test_webmail(self) -> None:
        """Dovecot logs the user of the webmail."""
        client = Imap(self.trusting["imap"], "starttls", trusting(certificates().ca), WEBMAIL)
        client.xatom("ID", '("x-originating-ip" "203.0.113.30" "x-originating-port" "77" "x-session-id" "web")')
        client.login("anna", "annapw")
        self.dovecot.wait_for_log("rip=203.0.113.30, ")
        client.logout()
        self.gateway.wait_for_log("imap 203.0.113.30 closed: user=anna")
        with Wire(self.trusting["pop3"], source=WEBMAIL) as wire:
            self.assertTrue(wire.line().startswith(b"+OK [XCLIENT] "))
            wire.send(b"XCLIENT ADDR=2001:db8::30\r\nUSER anna\r\nPASS annapw\r\nQUIT\r\n")
            self.assertEqual([wire.line()[:3] for _ in range(4)], [b"+OK"] * 4)
        self.dovecot.wait_for_log("rip=2001:db8::30, ")

    def test_stranger(self) -> None:
        """Anybody else stays who it is, and has no XCLIENT."""
        client = Imap(self.trusting["imap"], "starttls", trusting(certificates().ca), STRANGER)
        client.xatom("ID", '("x-originating-ip" "203.0.113.31")')
        client.login("anna", "annapw")
        self.dovecot.wait_for_log(f"rip={STRANGER}, ")
        client.logout()
        mail = Smtp(self.trusting["mx"], "none", None, STRANGER)
        self.assertEqual(mail.docmd("XCLIENT ADDR=203.0.113.31")[0], 550)
        mail.quit()
        self.assertNotIn("rip=203.0.113.31", self.dovecot.log())

    def test_two_gateways(self) -> None:
        """Through both Dovecot and Exim see the client, under one session id that both gateways' logs have."""
        context = trusting(certificates().ca)
        client = Imap(self.front.ports.imaps, "implicit", context, "127.0.3.1")
        client.login("anna", "annapw")
        self.dovecot.wait_for_log("rip=127.0.3.1, ")
        client.logout()
        mailbox = Pop3(self.front.ports.pop3s, "implicit", context, "127.0.3.2")
        mailbox.login("anna", b"annapw")
        self.dovecot.wait_for_log("rip=127.0.3.2, ")
        mailbox.quit()
        self.gateway.wait_for_log("pop3 127.0.3.2 closed: user=anna")
        self.front.wait_for_log("pop3 127.0.3.2 closed: user=anna")
        names = [
            line.split("] ")[1].split()[0] for line in self.front.log().splitlines() if " 127.0.3.2 closed" in line
        ]
        self.assertIn(f"{names[0]}.", self.gateway.log())
        mail = Smtp(self.front.ports.mx, "starttls", context, "127.0.3.3")
        mail.sendmail("a@example.net", ["anna@example.org"], b"Subject: twice\r\n\r\nx\r\n")
        mail.quit()
        message = self.exim.wait_for_mail("anna@example.org", b"Subject: twice")
        self.assertEqual(message.count(b"[127.0.3.3]"), 2, message)

    def test_loop(self) -> None:
        """P13: a gateway that is its own backend ends the loop when the hops are used up, and says why."""
        port = free_port()
        listener = f'[[listener]]\nprotocol = "imap"\nendpoint = "tcp:{port}:interface=127.0.0.1"\ntls = "optional"\n'
        pool = f'[pool.main.imap]\nport = {port}\ntls = "none"\n'
        gateway = WideGateway(settings(self.dovecot, pool, listener + f'trusted = ["{HOST}"]\n'))
        self.addCleanup(gateway.stop)
        gateway.start()
        client = Imap(gateway.ports.imaps, "implicit", trusting(certificates().ca), "127.0.3.4")
        self.assertRaisesRegex(client.error, "UNAVAILABLE", client.login, "anna", "annapw")
        gateway.wait_for_log("a loop: the gateways in front")
        client.logout()
