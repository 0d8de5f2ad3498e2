"""Tests of the session: the shell around a dialogue, its deadlines and the one coroutine of a login."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.edge.session import LINGER, Front, Session
from mailgw.errors import BackendFailed, DirectoryDown
from mailgw.interfaces import ISession
from mailgw.model import Failure as FailureKind
from mailgw.model import Origin
from mailgw.settings import Listener
from tests.edge.doubles import FakeDestination, FakeHouse, ToyDialogue


class Wire(StringTransport):
    """A StringTransport that can be aborted and start TLS, and says what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.tls: Any = None

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    def startTLS(self, context: Any) -> None:
        self.tls = context

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Accepted."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Accepted."""


class SessionCase(SynchronousTestCase):
    """Starts sessions on a listener of the toy protocol."""

    tls = "none"

    def setUp(self) -> None:
        self.house = FakeHouse(login_deadline=60.0, failure_delay=2.0, connections_per_address=2)
        self.portal = self.house.fake_portal

    def start(self) -> tuple[Session, Wire]:
        listener = Listener(protocol="imap", endpoint="tcp:0", tls=self.tls)
        session, wire = Session(Front(self.house, listener, ToyDialogue, authenticate=True)), Wire()
        session.makeConnection(wire)
        return session, wire

    def lose(self, session: Session) -> None:
        session.connectionLost(Failure(ConnectionDone()))

    def said(self, wire: Wire) -> bytes:
        value = wire.value()
        wire.clear()
        return value


class TalkingTests(SessionCase):
    """Before the login."""

    def test_interface(self) -> None:
        """A session is the mind that the portal gets."""
        session, _ = self.start()
        verifyObject(ISession, session)

    def test_greets(self) -> None:
        """Without TLS on connect the greeting goes out at once."""
        _, wire = self.start()
        self.assertEqual(self.said(wire), b"hello\n")

    def test_close_event(self) -> None:
        """A dialogue's Close is written and the connection closed; a client that does not read it is aborted."""
        session, wire = self.start()
        self.said(wire)
        session.dataReceived(b"bye\nmore\n")
        self.assertEqual(self.said(wire), b"bye\n")
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.aborted)
        self.house.reactor.advance(LINGER)
        self.assertTrue(wire.aborted)

    def test_deadline(self) -> None:
        """The deadline counts from accept, whatever the client says meanwhile."""
        session, wire = self.start()
        for _ in range(6):
            self.house.reactor.advance(9.9)
            session.dataReceived(b"noop\n")
        self.said(wire)
        self.house.reactor.advance(0.7)
        self.assertEqual(self.said(wire), b"BYE Timeout\n")
        self.assertTrue(wire.disconnecting)
        self.house.reactor.advance(LINGER)
        self.assertTrue(wire.aborted)

    def test_lost_cancels_the_deadline(self) -> None:
        """A connection that is gone leaves no timer and no place in the counts."""
        session, _ = self.start()
        self.lose(session)
        self.assertEqual(self.house.reactor.getDelayedCalls(), [])
        self.assertEqual(self.house.sessions, set())
        self.start()
        _, wire = self.start()
        self.assertEqual(self.said(wire), b"hello\n")

    def test_too_many_connections(self) -> None:
        """One connection too many from an address is told so and closed."""
        self.start()
        self.start()
        session, wire = self.start()
        self.assertEqual(self.said(wire), b"BYE Too many connections\n")
        self.assertTrue(wire.disconnecting)
        session.dataReceived(b"login secret\n")
        self.assertEqual(self.portal.asked, [])

    def test_reader_that_does_not_read(self) -> None:
        """While replies pile up in the transport, nothing more is read from the client."""
        session, wire = self.start()
        self.assertIs(wire.producer, session)
        session.pauseProducing()
        self.assertEqual(wire.producerState, "paused")
        session.resumeProducing()
        self.assertEqual(wire.producerState, "producing")

    def test_starttls(self) -> None:
        """The go-ahead is written before TLS starts; the dialogue hears of it when the handshake is done."""
        self.house.tls = object()
        session, wire = self.start()
        self.said(wire)
        session.dataReceived(b"starttls\n")
        self.assertEqual(self.said(wire), b"go\n")
        self.assertIs(wire.tls, self.house.tls)
        self.assertFalse(session.secure)
        session.handshakeCompleted()
        self.assertTrue(session.secure)
        self.assertTrue(session._dialogue.was_secured)


class ImplicitTests(SessionCase):
    """TLS on connect."""

    tls = "implicit"

    def test_greets_after_the_handshake(self) -> None:
        """The greeting waits for the handshake."""
        session, wire = self.start()
        self.assertEqual(self.said(wire), b"")
        session.handshakeCompleted()
        self.assertEqual(self.said(wire), b"hello\n")
        self.assertTrue(session.secure)

    def test_no_handshake(self) -> None:
        """Who never finishes a handshake is aborted at the deadline: closing would wait for ever."""
        _, wire = self.start()
        self.house.reactor.advance(60)
        self.assertTrue(wire.aborted)

    def test_too_many_connections(self) -> None:
        """A connection too many costs no handshake."""
        self.start()
        self.start()
        _, wire = self.start()
        self.assertTrue(wire.aborted)


class LoginTests(SessionCase):
    """The coroutine of a login."""

    def test_hand_over(self) -> None:
        """The reply goes out, and what was pipelined behind the login reaches the destination in order."""
        session, wire = self.start()
        self.said(wire)
        session.dataReceived(b"a\nlogin secret\nrest one")
        session.dataReceived(b" two")
        self.assertEqual(self.said(wire), b"a\nOK welcome\n")
        self.assertEqual(self.portal.destination.stage.received, b"rest one two")
        self.assertEqual(session.username, "canonical")

    def test_no_secret_stays(self) -> None:
        """A handed-over session holds neither its dialogue nor its password, and its deadline is off."""
        session, wire = self.start()
        session.dataReceived(b"login secret\n")
        self.assertIsNone(session.login)
        self.assertIsNone(session._dialogue)
        self.assertIsNone(wire.producer)
        self.assertEqual(self.house.reactor.getDelayedCalls(), [])

    def test_origin(self) -> None:
        """A login says which session it comes from, and which attempt of it it is."""
        session, _ = self.start()
        session.dataReceived(b"login wrong\n")
        self.house.reactor.advance(2.0)
        session.dataReceived(b"login secret\n")
        origins = [login.origin for login in self.portal.asked]
        about = session.session_id, "imap", session.peer, False
        wanted = [Origin(*about, attempt, listener="tcp:0") for attempt in (1, 2)]
        self.assertEqual(origins, wanted)

    def test_paused_while_it_lasts(self) -> None:
        """From the login to its answer nothing is read; then reading goes on."""
        opening: Deferred[None] = Deferred()
        self.portal.destination = FakeDestination("u", opening)
        session, wire = self.start()
        session.dataReceived(b"login secret\nmore")
        self.assertEqual(wire.producerState, "paused")
        session.resumeProducing()  # the transport has written all: no reason to read on
        self.assertEqual(wire.producerState, "paused")
        session.dataReceived(b" and more")  # TLS may still deliver
        opening.callback(None)
        self.assertEqual(wire.producerState, "producing")
        self.assertEqual(self.portal.destination.stage.received, b"more and more")

    def test_wrong_password_waits(self) -> None:
        """A wrong password is told after the delay; then the dialogue goes on with what was pipelined."""
        session, wire = self.start()
        self.said(wire)
        session.dataReceived(b"login wrong\nb\nlogin secret\n")
        self.house.reactor.advance(1.9)
        self.assertEqual(self.said(wire), b"")
        self.house.reactor.advance(0.2)
        self.assertEqual(self.said(wire), b"NO credentials\nb\nOK welcome\n")

    def test_trouble_is_not_a_wrong_password(self) -> None:
        """A directory or backend that is down is unavailable: at once, without a penalty, its words not shown."""
        for error in (DirectoryDown("ldap1 silent"), BackendFailed(FailureKind.CONNECT, "be1"), ZeroDivisionError()):
            self.portal.error = error
            session, wire = self.start()
            self.said(wire)
            session.dataReceived(b"login secret\n")
            self.assertEqual(self.said(wire), b"NO unavailable\n")
            self.lose(session)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_backend_down_logs_out(self) -> None:
        """A login whose destination cannot be opened gives its place back."""
        opening: Deferred[None] = Deferred()
        self.portal.destination = FakeDestination("u", opening)
        session, wire = self.start()
        session.dataReceived(b"login secret\n")
        opening.errback(BackendFailed(FailureKind.TIMEOUT, "be1"))
        self.assertEqual(self.portal.logouts, 1)
        self.assertIn(b"NO unavailable\n", self.said(wire))

    def test_lost_while_waiting(self) -> None:
        """A client that goes away cancels its login, whatever it waits for, and is logged out."""
        cancelled: list[Any] = []
        opening: Deferred[None] = Deferred(cancelled.append)
        self.portal.destination = FakeDestination("u", opening)
        session, _ = self.start()
        session.dataReceived(b"login secret\n")
        self.lose(session)
        self.assertEqual(cancelled, [opening])
        self.assertEqual(self.portal.logouts, 1)
        self.assertEqual(self.house.reactor.getDelayedCalls(), [])

    def test_lost_while_delayed(self) -> None:
        """A client that goes away during the penalty leaves no timer behind."""
        session, _ = self.start()
        session.dataReceived(b"login wrong\n")
        self.lose(session)
        self.assertEqual(self.house.reactor.getDelayedCalls(), [])

    def test_deadline_while_waiting(self) -> None:
        """The deadline bounds a login that hangs behind us."""
        self.portal.destination = FakeDestination("u", Deferred())
        session, wire = self.start()
        self.said(wire)
        session.dataReceived(b"login secret\n")
        self.house.reactor.advance(60)
        self.assertEqual(self.said(wire), b"BYE Timeout\n")
        self.assertTrue(wire.disconnecting)
        self.assertEqual(self.portal.logouts, 1)

    def test_logout_once(self) -> None:
        """The end of a handed-over session tells its stage and logs out once."""
        session, _ = self.start()
        session.dataReceived(b"login secret\n")
        self.lose(session)
        self.assertTrue(self.portal.destination.stage.lost)
        self.assertEqual(self.portal.logouts, 1)

    def test_many_pipelined_logins(self) -> None:
        """Logins in one segment are tried one after the other, each with its delay."""
        session, wire = self.start()
        self.said(wire)
        session.dataReceived(b"login wrong\n" * 3)
        self.assertEqual(len(self.portal.asked), 1)
        self.house.reactor.pump([2.0, 2.0])
        self.assertEqual(len(self.portal.asked), 3)


class ShutTests(SessionCase):
    """The end of the gateway."""

    def test_talking(self) -> None:
        """Who is not logged in is told and closed at once."""
        session, wire = self.start()
        self.said(wire)
        session.shut(even_logged_in=False)
        self.assertEqual(self.said(wire), b"BYE Server is shutting down\n")
        self.assertTrue(wire.disconnecting)

    def test_logged_in(self) -> None:
        """Who is logged in goes on until the time is over."""
        session, wire = self.start()
        session.dataReceived(b"login secret\n")
        session.shut(even_logged_in=False)
        self.assertFalse(wire.disconnecting or wire.aborted)
        session.shut(even_logged_in=True)
        self.assertTrue(wire.aborted)
