"""Tests of the stop: who is told to go at once, who may go on, and for how long. On a network in memory."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from mailgw.edge.gate import DEADLINE
from mailgw.wire.proxyheader import version_1
from tests.kit import IMAP
from tests.test_gateway import IMAP_AGAIN, GatewayCase


class DrainTests(GatewayCase):
    """SIGTERM: gateway.drain is ten seconds."""

    def test_nobody_there(self) -> None:
        """Without sessions the stop is a matter of one turn."""
        people = self.people()
        stopped = self.gateway.stopService()
        self.loop.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.loop.ports, [])
        self.assertEqual(people.stopped, 1)

    def test_not_logged_in(self) -> None:
        """Who is not logged in is told and closed at once, whatever he is doing."""
        talking, secured = self.visit(1143), self.loop.visit(993)
        secured.secure(self.as_client)
        unfinished = self.loop.visit(993)
        unfinished.send(b"\x16\x03\x01")
        waiting = self.visit(1143)
        waiting.send(IMAP.login)
        backend = self.backend(IMAP)
        stopped = self.gateway.stopService()
        self.loop.turn()
        for client in (talking, secured, waiting):
            self.assertIn(b"* BYE Server is shutting down\r\n", client.read())
            self.assertTrue(client.closed)
        self.assertTrue(unfinished.gone)
        self.assertTrue(backend.gone)
        secured.unwrap()
        self.loop.wait(0.2)
        self.successResultOf(stopped)

    def test_at_the_gate(self) -> None:
        """Who has not sent its PROXY header yet is closed at once too; a new generation waits for it."""
        self.reload(IMAP_AGAIN + 'proxy_from = ["198.51.100.7"]\n')
        waiting = self.loop.visit(2143)
        self.without(2143)
        self.assertTrue(waiting.gone)
        self.reload(IMAP_AGAIN + 'proxy_from = ["198.51.100.7"]\n')
        waiting, slow = self.loop.visit(2143), self.loop.visit(2143)
        retired = Deferred.fromCoroutine(self.gateway.retire())
        self.loop.turn()
        self.assertNoResult(retired)
        waiting.send(version_1(None))
        self.assertIn(b"* OK", waiting.read())
        waiting.close()
        self.loop.wait(1)
        self.assertNoResult(retired)
        self.loop.wait(DEADLINE)
        self.assertTrue(slow.gone)
        self.successResultOf(retired)

    def test_stop_at_the_gate(self) -> None:
        """Nobody waits for a header when the gateway stops."""
        self.reload(IMAP_AGAIN + 'proxy_from = ["198.51.100.7"]\n')
        waiting = self.loop.visit(2143)
        stopped = self.gateway.stopService()
        self.loop.turn()
        self.assertTrue(waiting.gone)
        self.successResultOf(stopped)

    def test_logged_in(self) -> None:
        """Who is logged in goes on until the time is over; then he is cut off."""
        client, backend = self.logged_in(IMAP)
        stopped = self.gateway.stopService()
        self.loop.turn()
        self.assertEqual(self.loop.ports, [])
        self.loop.wait(9)
        self.assertAlive(client, backend)
        self.assertNoResult(stopped)
        self.loop.wait(1.5)
        self.successResultOf(stopped)
        self.assertTrue(client.gone)
        self.assertTrue(backend.gone)

    def test_logged_in_and_leaves(self) -> None:
        """The stop waits no longer than the last of them."""
        client, backend = self.logged_in(IMAP)
        stopped = self.gateway.stopService()
        self.loop.wait(3)
        self.assertNoResult(stopped)
        backend.close()
        client.close()
        self.loop.wait(0.5)
        self.successResultOf(stopped)

    def test_last_words_are_not_read(self) -> None:
        """Who is told to go and does not, is gone when the time is over at the latest."""
        self.loop.visit(993).secure(self.as_client)
        stopped = self.gateway.stopService()
        self.loop.wait(10.5)
        self.successResultOf(stopped)
        self.assertEqual(self.gateway.house.sessions, set())

    def test_reload_while_draining(self) -> None:
        """No reload opens again what is being closed."""
        self.logged_in(IMAP)
        house = self.gateway.house
        self.gateway.stopService()
        self.loop.turn()
        self.reload(IMAP_AGAIN)
        self.assertIs(self.gateway.house, house)
        self.assertEqual(self.loop.ports, [])
        self.loop.wait(11)
