"""Tests of clients that others bring: webmails and proxies that are trusted to tell an address."""

from __future__ import annotations

from typing import Any

from mailgw.edge.session import Session
from mailgw.model import Peer
from tests.kit import IMAP, POP3
from tests.network import Far
from tests.test_gateway import GatewayCase

WEBMAIL = "198.51.100.7"
LISTENERS = """
[[listener]]
protocol = "imap"
endpoint = "tcp:2143"
tls = "optional"
trusted = ["198.51.100.0/24"]
[[listener]]
protocol = "pop3"
endpoint = "tcp:2110"
tls = "none"
trusted = ["198.51.100.0/24"]
"""
BRINGS = b'i ID ("x-originating-ip" "%b" "x-originating-port" "7" "x-session-id" "web1" "x-proxy-ttl" "%b")\r\n'


class ForwardedTests(GatewayCase):
    """A webmail in front."""

    limits = "connections_per_address = 2"

    def setUp(self) -> None:
        super().setUp()
        self.reload(LISTENERS)
        self.lines: list[str] = []

    def observe(self, event: Any) -> None:
        super().observe(event)
        if event["log_namespace"].startswith("mailgw.edge.session"):
            self.lines.append(str(event["log_format"]).format(**event))

    def session(self) -> Session:
        """The one that is there."""
        [session] = self.gateway.house.sessions
        return session

    def brought(self, host: bytes = b"203.0.113.7", ttl: bytes = b"5", peer: str = WEBMAIL) -> Far:
        """A webmail that has told whom it brings."""
        client = self.loop.visit(2143, peer)
        client.read()
        client.send(BRINGS % (host, ttl))
        return client

    def test_imap(self) -> None:
        """Logs and the backend have the client's address, the webmail's session id with ours, and one hop less."""
        client = self.brought()
        self.assertTrue(client.read().endswith(b"i OK ID completed\r\n"))
        session = self.session()
        self.assertEqual(session.peer, Peer("203.0.113.7", 7, "192.0.2.1", 143))
        self.assertRegex(session.session_id, r"\Aweb1\.[a-z2-7]{16}\Z")
        client.send(IMAP.login)
        backend = self.loop.dials[0].accept()
        backend.send(b"* OK [CAPABILITY IMAP4rev1 ID SASL-IR AUTH=PLAIN] ready\r\n")
        said = backend.read()
        for words in (
            b'"x-originating-ip" "203.0.113.7"',
            b'"x-originating-port" "7"',
            b'"x-proxy-ttl" "4"',
            b'"x-session-id" "' + session.session_id.encode(),
        ):
            self.assertIn(words, said)
        backend.close()
        client.close()
        self.assertRegex(self.lines[0], r"\Aweb1\.[a-z2-7]{16} imap 198.51.100.7 brings 203.0.113.7, as [a-z2-7]{16}\Z")
        self.assertIn(" imap 203.0.113.7 closed: ", self.lines[-1])

    def test_stranger(self) -> None:
        """Nobody else is believed."""
        client = self.brought(peer="198.51.99.1")
        self.assertTrue(client.read().endswith(b"i OK ID completed\r\n"))
        self.assertEqual(self.session().peer.host, "198.51.99.1")
        self.assertNotIn(".", self.session().session_id)

    def test_limits(self) -> None:
        """Connections count for the client, not for the webmail any more."""
        clients = [self.brought() for _ in range(3)]
        self.assertEqual([b"* BYE Too many connections" in client.read() for client in clients], [False, False, True])
        self.assertTrue(self.brought(b"203.0.113.8").read().endswith(b"i OK ID completed\r\n"))
        for client in clients:
            client.close()
        turnstile = self.gateway.house.turnstile
        self.assertEqual(turnstile._tally.total("connection 203.0.113.7"), 0)
        self.assertEqual(turnstile._tally.total(f"connection {WEBMAIL}"), 0)

    def test_starttls(self) -> None:
        """What was told before STARTTLS does not count after it."""
        client = self.brought()
        client.send(b"s STARTTLS\r\n")
        client.read()
        client.secure(self.as_client)
        self.assertEqual(self.session().peer.host, WEBMAIL)
        client.send(BRINGS % (b"203.0.113.9", b"5"))
        client.read()
        self.assertEqual(self.session().peer.host, "203.0.113.9")
        client.close()
        self.assertEqual(self.gateway.house.turnstile._tally.total(f"connection {WEBMAIL}"), 0)

    def test_loop(self) -> None:
        """P13: when the hops are used up the login ends, whoever says so; nobody can have more of them."""
        for ttl, peer in ((b"0", WEBMAIL), (b"0", "198.51.99.1")):
            client = self.brought(ttl=ttl, peer=peer)
            client.read()
            client.send(IMAP.login)
            self.assertTrue(client.read().startswith(IMAP.unavailable))
            self.assertEqual(self.loop.dials, [])
            self.assertTrue([line for line in self.lines if "a loop: the gateways in front" in line])
            client.close()
        client = self.brought(ttl=b"200")
        self.assertEqual(self.session().ttl, 7)
        client.close()

    def test_pop3(self) -> None:
        """XCLIENT does the same."""
        client = self.loop.visit(2110, WEBMAIL)
        client.read()
        client.send(b"XCLIENT ADDR=2001:db8::7 PORT=9 SESSION=web2 TTL=3\r\n")
        self.assertEqual(client.read(), b"+OK Updated\r\n")
        self.assertEqual((self.session().peer.host, self.session().ttl), ("2001:db8::7", 2))
        client.send(POP3.login)
        backend = self.backend(POP3)
        self.assertEqual(backend.read(), POP3.presented)
        backend.close()
        client.close()
