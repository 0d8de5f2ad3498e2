"""Tests of the SMTP session itself: flow, deadlines, endings."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.delivery.reception import MX, SUBMISSION
from mailgw.interfaces import IFrontend, ISession
from mailgw.settings import Listener
from tests.delivery.clients import MAIL, mx, submission
from tests.delivery.doubles import World


class SessionTests(SynchronousTestCase):
    """The shell around it."""

    def setUp(self) -> None:
        self.world = World()

    def test_interfaces(self) -> None:
        """Frontends and sessions are what the house takes them for."""
        for frontend in (MX, SUBMISSION):
            self.assertTrue(verifyObject(IFrontend, frontend))
        self.assertTrue(verifyObject(ISession, mx(self.world).session))

    def test_factory(self) -> None:
        """The factory is twisted.mail's, with portal and domain."""
        factory = MX.make_factory(self.world, Listener(protocol="mx", endpoint="tcp:25"))
        self.assertEqual((factory.portal, factory.domain), (self.world.portal, b"gw.example"))

    def test_flood_is_not_read(self) -> None:
        """While an answer is awaited a client that goes on sending is not read."""
        self.world.directory.waiting = Deferred()
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<ann@d>\r\n")
        self.assertEqual(client.pipe.producerState, "producing")
        client.say(b"NOOP\r\n")
        self.assertEqual(client.pipe.producerState, "paused")
        self.world.directory.waiting.callback(None)
        self.assertEqual(client.read(), b"250 2.1.5 Ok\r\n250 2.0.0 Ok\r\n")
        self.assertEqual(client.pipe.producerState, "producing")

    def test_deadlines(self) -> None:
        """Who neither logs in nor sends MAIL in a minute goes; afterwards five minutes of silence are the end."""
        client = mx(self.world)
        self.assertIn(b"421 4.7.0", client.read(60))
        self.assertTrue(client.pipe.gone)
        client = mx(self.world)
        client.say(MAIL)
        self.assertEqual(client.read(290), b"")
        client.say(b"NOOP\r\n")
        self.assertEqual(client.read(290), b"")
        self.assertIn(b"421 4.7.0", client.read(20))
        client = submission(self.world)
        self.assertEqual(client.read(290), b"")
        self.assertIn(b"421 4.7.0", client.read(20))
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_half_closed(self) -> None:
        """A client that has finished sending still gets the answers to everything."""
        self.world.directory.waiting = Deferred()
        client = mx(self.world)
        client.session.dataReceived(MAIL + b"RCPT TO:<ann@d>\r\nNOOP\r\n")
        client.session.readConnectionLost()
        client.read()
        self.assertFalse(client.pipe.gone)
        self.world.directory.waiting.callback(None)
        self.assertEqual(client.read(), b"250 2.1.5 Ok\r\n250 2.0.0 Ok\r\n")
        self.assertTrue(client.pipe.gone)

    def test_shut(self) -> None:
        """When the gateway stops, idle clients go at once, and one in the middle of a message after it."""
        idle, busy = mx(self.world), mx(self.world)
        busy.say(MAIL + b"RCPT TO:<ann@d>\r\nDATA\r\n")
        for client in (idle, busy):
            client.session.shut(even_logged_in=False)
        self.assertIn(b"421 4.7.0", idle.read())
        self.assertFalse(busy.pipe.gone)
        self.assertEqual(busy.codes(b"x\r\n.\r\n"), [250, 421])
        self.assertTrue(busy.pipe.gone)
        self.assertEqual(len(self.world.store.mail), 1)

    def test_broken_plug(self) -> None:
        """An error of ours is temporary trouble and a line in the log, never a lost connection."""
        self.world.pools.clear()
        client = mx(self.world)
        self.assertEqual(client.codes(MAIL + b"RCPT TO:<zoe@d>\r\nNOOP\r\n"), [250, 451, 250])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_many_pipelined(self) -> None:
        """A thousand recipients in one piece are no deep recursion."""
        client = mx(self.world)
        codes = client.codes(MAIL + b"RCPT TO:<ann@d>\r\n" * 1001)
        self.assertEqual((codes.count(250), codes.count(452)), (1001, 1))
