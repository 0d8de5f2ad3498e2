"""Clients that only cost: no handshake, silence, a byte now and then, replies that are never read, too many of them.

In memory, with a clock, through the whole gateway; with sockets it is done in L{tests.integration.test_slowloris}.
"""

from __future__ import annotations

from mailgw.edge.session import LINGER
from tests.kit import IMAP, POP3, KitTestCase
from tests.network import Far

DEADLINE = 20.0


class SlowCase(KitTestCase):
    """A gateway where a login has twenty seconds."""

    limits = f'login_deadline = "{DEADLINE:g}s"\nconnections_per_address = 50'

    def assertGoneBy(self, *clients: Far) -> None:
        """They are there until the deadline, and gone soon after it; a good login works all the time."""
        self.assertEqual(len(self.gateway.house.sessions), len(clients))
        self.loop.wait(DEADLINE - self.loop.seconds() - 0.1)
        self.assertEqual(len(self.gateway.house.sessions), len(clients))
        self.logged_in(IMAP)
        self.loop.wait(0.2 + LINGER)
        self.assertEqual(len(self.gateway.house.sessions), 1)
        self.assertTrue(all(client.gone for client in clients))
        self.loop.wait(1000)
        self.assertEqual(len(self.gateway.house.sessions), 1)


class DeadlineTests(SlowCase):
    """All are gone at the deadline, whatever they do."""

    def test_silence(self) -> None:
        """Not a word."""
        self.assertGoneBy(*(self.loop.visit(port) for port in (143, 993, 1143, 1110)))

    def test_half_a_handshake(self) -> None:
        """The beginning of a ClientHello, and no more."""
        client = self.loop.visit(993)
        client.send(b"\x16\x03\x01\x02\x00")
        self.assertGoneBy(client)

    def test_bytes_of_a_handshake(self) -> None:
        """A byte of a ClientHello every second."""
        client = self.loop.visit(993)
        for octet in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03":
            self.loop.wait(1)
            client.send(bytes([octet]))
        self.assertGoneBy(client)

    def test_starttls_then_silence(self) -> None:
        """STARTTLS, and no handshake."""
        client = self.visit(143)
        client.send(b"s STARTTLS\r\n")
        self.assertIn(b"s OK", client.read())
        self.assertGoneBy(client)

    def test_silence_in_tls(self) -> None:
        """A handshake, and no more; the goodbye is not answered either."""
        client = self.loop.visit(993)
        client.secure(self.as_client)
        self.assertGoneBy(client)

    def test_bytes(self) -> None:
        """A byte every ten seconds."""
        client = self.visit(1143)
        for octet in b"a N":
            client.send(bytes([octet]))
            if octet != ord("N"):
                self.loop.wait(9)
        self.assertGoneBy(client)

    def test_lines(self) -> None:
        """A line now and then, each of them good."""
        imap, pop3 = self.visit(1143), self.visit(1110)
        for _ in range(4):
            self.loop.wait(4)
            imap.send(b"a NOOP\r\n")
            pop3.send(b"CAPA\r\n")
        self.assertGoneBy(imap, pop3)

    def test_wrong_passwords(self) -> None:
        """Guesses do not put the deadline off."""
        client = self.visit(1143)
        for _ in range(3):
            client.send(b"a LOGIN anna wrong\r\n")
            self.loop.wait(3)
        self.assertGoneBy(client)

    def test_one_literal(self) -> None:
        """A literal that never comes."""
        client = self.visit(1143)
        client.send(b"a LOGIN {10}\r\n")
        self.assertGoneBy(client)


class UnreadTests(SlowCase):
    """Clients that never read their replies."""

    def flood(self, port: int, line: bytes, *, tls: bool) -> Far:
        """Send that line as often as it is taken."""
        client = self.loop.visit(port)
        if tls:
            client.secure(self.as_client)
            for _ in range(100):
                client.pour(line * 100)
        else:
            client.pour(line * 100_000)
        return client

    def test_memory(self) -> None:
        """What waits for them stays below what one may cost us before its login."""
        for port, line in ((1143, b"a CAPABILITY\r\n"), (1110, b"CAPA\r\n")):
            client = self.flood(port, line, tls=False)
            self.assertLess(client.near.waiting, 1 << 20)
        self.loop.wait(DEADLINE + LINGER + 0.1)
        self.assertEqual(self.gateway.house.sessions, set())

    def test_in_tls(self) -> None:
        """Likewise in TLS."""
        client = self.flood(993, b"a CAPABILITY\r\n", tls=True)
        self.assertLess(client.near.waiting, 1 << 20)
        self.loop.wait(DEADLINE + LINGER + 0.1)
        self.assertEqual(self.gateway.house.sessions, set())

    def test_refused_and_unread(self) -> None:
        """Whoever is cut off for a flood and does not read that either is gone after a while, not at the deadline."""
        client = self.visit(1110)
        client.pour(b"NONSENSE\r\n" * 10_000)
        self.loop.wait(LINGER + 0.1)
        self.assertEqual(self.gateway.house.sessions, set())
        self.assertIn(b"-ERR", client.read())


class CapTests(SlowCase):
    """Connections of one address."""

    limits = 'connections_per_address = 3\nlogin_deadline = "20s"'

    def test_too_many(self) -> None:
        """One too many is told so, costs no handshake, and takes nobody's place; other addresses are not concerned."""
        first = [self.visit(1143) for _ in range(3)]
        self.assertIn(b"* BYE", self.loop.visit(1143).read())
        self.assertIn(b"-ERR [IN-USE]", self.loop.visit(1110).read())
        self.assertTrue(self.loop.visit(993).gone)
        self.assertIn(b"* OK", self.loop.visit(1143, "203.0.113.9").read())
        first[0].close()
        self.assertIn(b"* OK", self.loop.visit(1143).read())

    def test_logged_in_ones_count(self) -> None:
        """A session keeps its place for as long as it lives."""
        sessions = [self.logged_in(talk) for talk in (IMAP, POP3, IMAP)]
        self.assertIn(b"* BYE", self.loop.visit(1143).read())
        client, backend = sessions[0]
        backend.close()
        self.assertTrue(client.gone)
        self.assertIn(b"* OK", self.loop.visit(1143).read())
