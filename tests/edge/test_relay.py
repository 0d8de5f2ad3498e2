"""Tests of the relay: bytes both ways, backpressure, half-closes, endings, and the sweeps. On Twisted's transports."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from zope.interface.verify import verifyObject

from mailgw.edge.dialer import BackendConnection
from mailgw.edge.relay import FLUSH, SWEEP, Relay, Sweeper
from mailgw.model import Backend
from tests.network import Dialled, Far, Near, NetworkTestCase

BACKEND = Backend("main", "be1", "10.0.0.1", 143)
MEGABYTES = b"0123456789abcdef" * (1 << 18)


class RelayCase(NetworkTestCase):
    """One relay between a client and a backend."""

    idle = 0.0
    member = BACKEND

    def setUp(self) -> None:
        super().setUp()
        self.sweeper = Sweeper(self.loop)
        self.sweeper.startService()
        self.over = 0

    def ended(self) -> None:
        self.over += 1

    def relay(self, first: bytes = b"") -> Relay:
        connection = BackendConnection(self.member, None, self.tls_to_backend())  # type: ignore[arg-type]  # it is over
        self.backend = self.dial(connection)
        self.secure_backend()
        connection.rest()
        return Relay(connection, first, self.sweeper, self.idle, self.ended)

    def dial(self, connection: BackendConnection) -> Far:
        """Connect to the backend as the dialer does, through an endpoint."""
        endpoint = TCP4ClientEndpoint(self.loop, self.member.host, self.member.port)
        endpoint.connect(Factory.forProtocol(lambda: connection))
        return self.loop.dials[0].accept()

    def tls_to_backend(self) -> Any:
        """What the connection to the backend starts TLS with."""
        return None

    def secure_backend(self) -> None:
        """The handshake with the backend."""

    def couple(self, first: bytes = b"") -> Relay:
        relay = self.relay(first)
        self.client = self.loop.join(relay.client, Near, "198.51.100.7")
        return relay

    def assertOver(self, ending: str) -> None:
        """Both sides are closed, that was told once, and nothing is kept."""
        self.assertTrue(self.client.gone)
        self.assertTrue(self.backend.gone)
        self.assertEqual(self.over, 1)
        self.assertEqual(self.sweeper.relays, set())
        self.assertEqual(self.loop.readers | self.loop.writers, set(), ending)


class BytesTests(RelayCase):
    """What goes through."""

    def test_both_ways(self) -> None:
        """Bytes pass unchanged, each way, and are counted."""
        relay = self.couple()
        self.client.send(b"a NOOP\r\n", bytes(range(256)))
        self.assertEqual(self.backend.read(), b"a NOOP\r\n" + bytes(range(256)))
        self.backend.send(b"a OK\r\n")
        self.assertEqual(self.client.read(), b"a OK\r\n")
        self.assertEqual(relay.client.summary().strip(), "backend=main/be1 (10.0.0.1:143) in=264 out=6")

    def test_what_the_backend_said_already(self) -> None:
        """What came with and after the backend's login reply reaches the client first and in order."""
        relay = self.relay(b"one ")
        self.backend.send(b"two ", b"three ")
        self.client = self.loop.join(relay.client, Near, "198.51.100.7")
        self.backend.send(b"four")
        self.assertEqual(self.client.read(), b"one two three four")

    def test_interface(self) -> None:
        """A half may be half-closed."""
        verifyObject(IHalfCloseableProtocol, self.couple().client)


class BackpressureTests(RelayCase):
    """A side that cannot be written stops the reading of the other."""

    def assertPaused(self, sender: Far, reader: Far) -> None:
        """Only so much is taken as the other side reads; then all arrives."""
        taken = sender.pour(MEGABYTES)
        self.assertLess(taken, len(MEGABYTES) // 2)
        self.assertNotIn(sender.near, self.loop.readers)
        self.assertLess(reader.near.waiting, 256 << 10)
        received = reader.read(100_000)
        while taken < len(MEGABYTES):
            more = sender.pour(MEGABYTES[taken:])
            received += reader.read(1 << 20)
            taken += more
        received += reader.read()
        self.assertTrue(received == MEGABYTES, f"{len(received)} of {len(MEGABYTES)} octets, or others")
        self.assertIn(sender.near, self.loop.readers)

    def test_slow_client(self) -> None:
        """A client that does not read stops the reading from the backend."""
        self.couple()
        self.assertPaused(self.backend, self.client)

    def test_slow_backend(self) -> None:
        """A backend that does not read stops the reading from the client."""
        self.couple()
        self.assertPaused(self.client, self.backend)

    def test_only_that_way(self) -> None:
        """The other direction goes on meanwhile."""
        self.couple()
        self.backend.pour(MEGABYTES)
        self.client.send(b"b NOOP\r\n")
        self.assertEqual(self.backend.read(), b"b NOOP\r\n")


class EndingTests(RelayCase):
    """Either side ends."""

    def test_client(self) -> None:
        """The client hangs up: the backend gets all that was on its way, then the end."""
        relay = self.couple()
        self.client.pour(MEGABYTES[: 100 << 10])
        self.client.close()
        self.assertEqual(self.backend.read(), MEGABYTES[: 100 << 10])
        self.assertTrue(self.backend.closed)
        self.backend.close()
        self.assertEqual(self.over, 1)
        self.assertEqual(self.sweeper.relays, set())
        self.assertIn("in=102400", relay.summary())

    def test_backend(self) -> None:
        """The backend hangs up: the client gets all that was on its way, then the end."""
        relay = self.couple()
        self.backend.pour(b"* BYE\r\n")
        self.backend.close()
        self.assertEqual(self.client.read(), b"* BYE\r\n")
        self.assertOver("backend")
        self.assertIn("closed by the backend", relay.summary())

    def test_backend_is_faster(self) -> None:
        """A backend that says much and hangs up: a slow client still gets everything."""
        self.couple()
        taken = self.backend.pour(MEGABYTES)
        self.backend.close()
        received = b""
        while not self.client.closed:
            received += self.client.read(200_000)
        self.assertTrue(received == MEGABYTES[:taken], f"{len(received)} of {taken}")
        self.assertOver("backend")

    def test_both_at_once(self) -> None:
        """Both hang up in the same turn."""
        self.couple()
        for far in (self.client, self.backend):
            far._socket.close()
        self.loop.turn()
        self.assertEqual(self.over, 1)
        self.assertEqual(self.sweeper.relays, set())

    def test_reset(self) -> None:
        """Both sides are torn down by us in the same turn: nothing raises, and it is told once."""
        self.couple()
        self.client.near.abortConnection()
        self.backend.near.abortConnection()
        self.loop.turn()
        self.assertOver("reset")

    def test_late_bytes(self) -> None:
        """Bytes for a side that is gone already are dropped, and no call to its dead transport raises."""
        relay = self.couple()
        self.backend.close()
        self.client.close()
        self.assertIsNone(getattr(self.client.near, "protocol", None))  # Twisted leaves a dead transport without one
        relay.client.dataReceived(b"x")
        relay.client.peer.dataReceived(b"x")
        relay.client.readConnectionLost()
        relay.sweep(1e9)
        relay.end(relay.client)
        self.assertEqual(self.over, 1)


class HalfCloseTests(RelayCase):
    """One direction ends, on plain TCP."""

    def dial(self, connection: BackendConnection) -> Far:
        """Without an endpoint between, which hides half-closes (Twisted 26.10)."""
        return self.loop.join(connection, Dialled, self.member.host)

    def test_client_has_finished(self) -> None:
        """A client that only stops sending still gets the backend's answer."""
        self.couple()
        self.client.send(b"z LOGOUT\r\n")
        self.client.finish()
        self.assertEqual(self.backend.read(), b"z LOGOUT\r\n")
        self.assertTrue(self.backend.closed)
        self.assertEqual(self.over, 0)
        self.backend.send(b"* BYE\r\n", b"z OK\r\n")
        self.backend.close()
        self.assertEqual(self.client.read(), b"* BYE\r\nz OK\r\n")
        self.assertOver("both")

    def test_client_has_finished_and_dies(self) -> None:
        """A client that stops sending, and then is torn down, ends the relay; that is told once."""
        self.couple()
        self.client.finish()
        self.client.near.abortConnection()
        self.loop.turn()
        self.assertOver("client")

    def test_backend_has_finished(self) -> None:
        """A backend that only stops sending still gets the client's words."""
        self.couple()
        self.backend.finish()
        self.client.send(b"last words")
        self.assertEqual(self.backend.read(), b"last words")
        self.assertEqual(self.over, 0)

    def test_both_have_finished(self) -> None:
        """When neither has anything more to say, both are closed at once: nobody would ever do it else."""
        for first, second in (("client", "backend"), ("backend", "client")):
            self.over = 0
            self.couple()
            getattr(self, first).finish()
            getattr(self, second).finish()
            self.assertOver(first)

    def test_much_before_the_end(self) -> None:
        """All that was sent before a half-close arrives, however slowly it is read."""
        self.couple()
        taken = self.client.pour(MEGABYTES)
        self.client.finish()
        received = b""
        while not self.backend.closed:
            received += self.backend.read(100_000)
        self.assertTrue(received == MEGABYTES[:taken], f"{len(received)} of {taken}")
        self.backend.send(b"got it")
        self.assertEqual(self.client.read(), b"got it")


class SweepTests(RelayCase):
    """What waits too long."""

    idle = 100.0

    def sweep(self, seconds: float) -> None:
        """Let time pass, sweeps included."""
        for _ in range(int(seconds / SWEEP)):
            self.loop.wait(SWEEP)

    def test_idle(self) -> None:
        """Without a byte either way both sides are torn down, and the log says why."""
        relay = self.couple()
        self.sweep(95)
        self.assertEqual(self.over, 0)
        self.sweep(15)
        self.assertOver("idle")
        self.assertIn("idle", relay.summary())

    def test_a_byte_keeps_it(self) -> None:
        """A byte of either side starts the time anew."""
        self.couple()
        for sender in (self.client, self.backend, self.client):
            self.sweep(90)
            sender.send(b"x")
        self.sweep(90)
        self.assertEqual(self.over, 0)

    def test_idle_without_end(self) -> None:
        """idle = 0 is for ever."""
        self.idle = 0.0
        self.couple()
        self.loop.wait(10_000_000)
        self.sweep(50)
        self.assertEqual(self.over, 0)

    def test_last_words_are_not_read(self) -> None:
        """A client that does not read what was left for it is torn down after a while, long before it is idle."""
        self.idle = 100_000.0
        self.couple()
        while not self.client.near.waiting:
            self.backend.send(b"x" * 1000)
        self.backend.near.abortConnection()  # its end might not be seen: what waits for a reader is not asked for more
        self.loop.turn()
        self.sweep(FLUSH - SWEEP)
        self.assertEqual(self.over, 0)
        self.sweep(4 * SWEEP)
        self.assertEqual(self.over, 1)
        self.assertNotIn(self.client.near, self.loop.writers)

    def test_one_broken_relay(self) -> None:
        """A relay whose check breaks does not end the checks of the others."""

        class Broken:
            """Not swept."""

            def sweep(self, now: float) -> None:
                raise ZeroDivisionError

            def summary(self) -> str:
                return "broken"

        self.sweeper.relays.add(Broken())  # type: ignore[arg-type]
        self.couple()
        self.sweep(120)
        self.assertEqual(self.over, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
