"""The PROXY protocol through the whole gateway: HAProxy in front of it, and Dovecot behind it."""

from __future__ import annotations

import socket

from mailgw.model import Peer
from mailgw.wire.proxyheader import version_1, version_2
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Smtp, Wire, trusting
from tests.integration.fronted import WideGateway, settings
from tests.integration.gateway import Gateway
from tests.integration.haproxy import Haproxy, HaproxyDovecot, ProxyExim
from tests.integration.ports import HOST, free_port, needs

CLIENT = Peer("203.0.113.7", 4242, "192.0.2.99", 993)
PROXY, STRANGER, BROWSER = HOST, "127.0.0.66", "127.0.0.77"


def services(dovecot: HaproxyDovecot) -> str:
    """The pool's tables: ports without a PROXY header."""
    return f"[pool.main.imap]\nport = {dovecot.imap}\n[pool.main.pop3]\nport = {dovecot.pop3}\n"


class FrontTests(ServersTestCase):
    """HAProxy in front of a gateway in front of Dovecot."""

    skip = needs("haproxy", "dovecot")
    dovecot: HaproxyDovecot
    gateway: Gateway
    imap: int
    imaps: int
    pop3s: int

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(HaproxyDovecot({"anna": b"annapw"}))
        cls.imap, cls.imaps, cls.pop3s = (free_port() for _ in range(3))
        listeners = "".join(
            f'[[listener]]\nprotocol = "{protocol}"\nendpoint = "tcp:{port}:interface=127.0.0.1"\ntls = "{tls}"\n'
            f'proxy_from = ["{PROXY}"]\n'
            for protocol, port, tls in (
                ("imap", cls.imap, "starttls"),
                ("imap", cls.imaps, "implicit"),
                ("pop3", cls.pop3s, "implicit"),
            )
        )
        limits = "[limits]\nconnections_per_address = 2\n"
        tables = settings(cls.dovecot, services(cls.dovecot) + limits, listeners)
        cls.gateway = cls.run_server(WideGateway(tables))

    def haproxy(self, port: int) -> Haproxy:
        """A HAProxy in front of that port, gone after the test."""
        haproxy = Haproxy(port)
        self.addCleanup(haproxy.stop)
        haproxy.start()
        return haproxy

    def test_haproxy(self) -> None:
        """Both versions, over STARTTLS and implicit TLS: Dovecot's log has the client, ours too."""
        context = trusting(certificates().ca)
        for number, (port, tls) in enumerate(((self.imap, "starttls"), (self.imaps, "implicit"))):
            haproxy = self.haproxy(port)
            for other, balanced in enumerate((haproxy.one, haproxy.two)):
                source = f"127.0.1.{10 * number + other}"
                client = Imap(balanced, tls, context, source)
                client.login("anna", "annapw")
                self.dovecot.wait_for_log(f"rip={source}, ")
                client.logout()
                self.gateway.wait_for_log(f"imap {source} closed: user=anna tls=yes")
        haproxy = self.haproxy(self.pop3s)
        mailbox = Pop3(haproxy.two, "implicit", context, BROWSER)
        mailbox.login("anna", b"annapw")
        self.dovecot.wait_for_log(f"rip={BROWSER}, ")
        mailbox.quit()

    def test_no_header(self) -> None:
        """A proxy that tells nothing is cut off without a word, in clear and before TLS."""
        for port in (self.imap, self.imaps):
            with Wire(port) as wire:
                wire.send(b"a NOOP\r\n")
                self.assertEqual(wire.rest(), b"")

    def test_stranger(self) -> None:
        """Anybody else is greeted as itself; its header is not believed, but the end."""
        for header in (version_1(CLIENT), version_2(CLIENT)):
            with Wire(self.imap, source=STRANGER) as wire:
                self.assertTrue(wire.line().startswith(b"* OK "))
                wire.send(header)
                self.assertNotIn(b" OK", wire.rest())
            with Wire(self.imaps, source=STRANGER) as wire:
                wire.send(header)
                self.assertNotIn(b"OK", wire.rest())
        client = Imap(self.imaps, "implicit", trusting(certificates().ca), STRANGER)
        client.login("anna", "annapw")
        self.dovecot.wait_for_log(f"rip={STRANGER}, ")
        client.logout()
        self.assertNotIn(CLIENT.host, self.gateway.log())

    def test_limits(self) -> None:
        """P14: the client's own connections are counted, not the proxy's."""
        two, other = Peer("203.0.113.9", 1, "192.0.2.1", 143), Peer("203.0.113.10", 1, "192.0.2.1", 143)
        wires = []
        for peer, welcome in ((two, b"* OK"), (two, b"* OK"), (two, b"* BYE"), (other, b"* OK"), (other, b"* OK")):
            wire = Wire(self.imap)
            self.addCleanup(wire.__exit__)
            wire.send(version_2(peer))
            self.assertTrue(wire.line().startswith(welcome), peer)
            wires.append(wire)

    def test_health_check(self) -> None:
        """A balancer that speaks for itself is let in, and one that only knocks leaves no line in the log."""
        before = len(self.gateway.log())
        with socket.create_connection((HOST, self.imap), 10.0):
            pass
        with Wire(self.imap) as wire:
            wire.send(version_2(None) + b"a LOGOUT\r\n")
            self.assertTrue(wire.rest().endswith(b"a OK Logout completed\r\n"))
        self.assertNotIn("turned away", self.gateway.log()[before:])


class BehindTests(ServersTestCase):
    """A gateway in front of Dovecot and Exim that want a header of it; we play the balancer in front."""

    skip = needs("dovecot", "exim4")
    dovecot: HaproxyDovecot
    exim: ProxyExim

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(HaproxyDovecot({"anna": b"annapw"}))
        cls.exim = cls.run_server(ProxyExim({}))

    def gateway(self, proxy: str, port: int, tls: str = "starttls") -> tuple[Gateway, int]:
        """A gateway that sends such headers, and its port for a balancer."""
        front = free_port()
        listener = f'[[listener]]\nprotocol = "imap"\nendpoint = "tcp:{front}:interface=127.0.0.1"\ntls = "none"\n'
        pool = f'''proxy = "{proxy}"
login = "own"
[pool.main.imap]
port = {port}
tls = "{tls}"
[pool.main.pop3]
port = {self.dovecot.behind_pop3}
[pool.main.smtp]
port = {self.exim.smtp}
'''
        gateway = WideGateway(settings(self.dovecot, pool, f'{listener}proxy_from = ["{HOST}"]\n'))
        self.addCleanup(gateway.stop)
        gateway.start()
        return gateway, front

    def login(self, front: int, peer: Peer) -> None:
        """Log in as a client of a balancer in front."""
        with Wire(front) as wire:
            wire.send(version_1(peer) + b"a LOGIN anna annapw\r\n")
            self.assertIn(b"a OK", wire.tagged(b"a")[-1])
            wire.send(b"b LOGOUT\r\n")
            self.assertIn(b"b OK", wire.tagged(b"b")[-1])

    def test_dovecot(self) -> None:
        """Both versions, before STARTTLS and before the handshake: Dovecot has both ends as the balancer told us."""
        for number, (proxy, tls) in enumerate((("v1", "starttls"), ("v2", "implicit"), ("v2", "starttls"))):
            port = self.dovecot.behind_tls if tls == "implicit" else self.dovecot.behind
            gateway, front = self.gateway(proxy, port, tls)
            for host, here in ((f"203.0.113.{number}", "192.0.2.7"), (f"2001:db8::{number + 1}", "2001:db8::f")):
                self.login(front, Peer(host, 5555, here, 993))
                self.dovecot.wait_for_log(f"rip={host}, lip={here}, ")
            gateway.stop()

    def test_others(self) -> None:
        """POP3 and SMTP too, straight from the client; and C{mailgw check --live} speaks for itself."""
        gateway, _ = self.gateway("v2", self.dovecot.behind)
        context = trusting(certificates().ca)
        mailbox = Pop3(gateway.ports.pop3s, "implicit", context, "127.0.2.1")
        mailbox.login("anna", b"annapw")
        self.dovecot.wait_for_log("rip=127.0.2.1, ")
        mailbox.quit()
        done = gateway.run("check", "--live")
        self.assertEqual(done.stdout.count(b"FAILED"), 0, done.stdout)

    def test_without(self) -> None:
        """A backend that wants a header and gets none is trouble of ours, not the user's."""
        gateway, front = self.gateway("none", self.dovecot.behind)
        with Wire(front) as wire:
            wire.send(version_1(CLIENT) + b"a LOGIN anna annapw\r\n")
            self.assertIn(b"a NO [UNAVAILABLE]", wire.tagged(b"a")[-1])
        gateway.stop()

    def test_mail(self) -> None:
        """Exim writes the client's address into its Received line."""
        gateway, _ = self.gateway("v2", self.dovecot.behind)
        client = Smtp(gateway.ports.mx, "starttls", trusting(certificates().ca), "127.0.2.2")
        client.sendmail("a@example.net", ["anna@example.org"], b"Subject: proxied\r\n\r\nx\r\n")
        client.quit()
        mail = self.exim.wait_for_mail("anna@example.org", b"Subject: proxied")
        self.assertIn(b"([127.0.2.2]", mail)
