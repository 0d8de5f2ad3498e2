"""Tests of the dialer: every way in which a connection to a backend, or the login on it, can go wrong."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import NoRouteError
from zope.interface import implementer

from mailgw.edge.dialer import BackendConnection, Dialer
from mailgw.edge.selfsigned import write_pair
from mailgw.edge.tls import PoolTls
from mailgw.errors import BackendFailed
from mailgw.interfaces import IClientDialogue
from mailgw.model import Backend, Failure, Forward, Peer
from mailgw.settings import Limits, Pool
from mailgw.wire.events import Close, Data, Event, Ready, Refused, Send, StartTLS
from mailgw.wire.proxyheader import HeaderReader, version_2
from tests.edge.doubles import Echo
from tests.network import Dialled, Far, NetworkTestCase


@implementer(IClientDialogue)
class ToyClient:
    """One line brings one event; C{ready REST} and all that is behind its line is the end."""

    def __init__(self) -> None:
        self.buffer = b""
        self.was_secured = False
        self.forward: Forward | None = None

    def feed(self, data: bytes) -> list[Event]:
        self.buffer += data
        events: list[Event] = []
        while b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            if line == b"ready":
                return [*events, Ready(b"welcome", self.buffer)]
            events.append(self._event(line))
        return events

    @staticmethod
    def _event(line: bytes) -> Event:
        match line:
            case b"no":
                return Refused(Failure.REJECTED, "wrong password")
            case b"tls":
                return StartTLS(b"go\n")
            case b"close":
                return Close()
            case b"mail":
                return Data()
        return Send(line.upper() + b"\n")

    def secured(self) -> list[Event]:
        self.was_secured = True
        return [Send(b"SECURED\n")]


class DialerCase(NetworkTestCase):
    """A dialer for one pool."""

    host, tls = "10.0.0.1", "none"
    verify = True

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        write_pair(["localhost", "10.0.0.1"], folder, 30, datetime.now(UTC))
        self.as_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.as_server.load_cert_chain(folder / "localhost.crt", folder / "localhost.key")
        limits = Limits(connect=5.0, backend_login=12.0)
        tls = PoolTls(Pool(ca=str(folder / "localhost.crt"), verify=self.verify), "1.2")
        self.dialer = Dialer(self.loop, {"main": tls}, limits)
        self.dialogue = ToyClient()

    def begin(self, host: str = "", tls: str = "") -> Deferred[tuple[BackendConnection, Ready]]:
        backend = Backend("main", "be1", host or self.host, 143, tls or self.tls)
        self.outcome = Deferred.fromCoroutine(self.dialer.login(backend, self.dialogue))
        self.addCleanup(self.outcome.addErrback, lambda _: None)  # a test that ends early loses connections
        return self.outcome

    def dialled(self, **kwargs: Any) -> Far:
        """Begin, and have the backend accept."""
        self.begin(**kwargs)
        return self.loop.dials[0].accept()

    def assertFailed(self, kind: Failure, words: str) -> None:
        """The login failed in that way; nothing of it is left."""
        error = self.failureResultOf(self.outcome, BackendFailed).value
        self.assertIs(error.kind, kind)
        self.assertIn(words, error.reason)
        self.assertIn("main/be1", error.reason)
        self.loop.turn()
        self.assertEqual(self.loop.readers | self.loop.writers, set())
        self.assertEqual(self.loop.getDelayedCalls(), [])


class ProxyTests(DialerCase):
    """A pool that wants a PROXY header."""

    def dialled_with(self, version: str, tls: str, forward: Forward | None) -> Far:
        """Begin on such a pool, and have the backend accept."""
        self.dialogue.forward = forward
        pool = {"main": Pool.model_validate({"proxy": version})}
        self.dialer = Dialer(self.loop, self.dialer._tls, self.dialer.limits, pool)
        return self.dialled(tls=tls)

    def test_client(self) -> None:
        """The header tells the client's ends, its TLS and our session, and comes before all else."""
        peer, tls = Peer("203.0.113.7", 4242, "192.0.2.1", 993), ("TLSv1.3", "AES", "a.example")
        forward = Forward("session1", peer, True, tls=tls)
        reader = HeaderReader()
        header = reader.feed(self.dialled_with("v2", "none", forward).read())
        assert header is not None
        assert header.tls is not None
        self.assertEqual(header.peer, forward.peer)
        self.assertEqual((header.authority, header.unique_id), ("a.example", b"session1"))
        self.assertEqual((header.tls.version, header.tls.cipher, header.tls.verified), ("TLSv1.3", "AES", False))

    def test_before_tls(self) -> None:
        """Implicit TLS begins behind it."""
        forward = Forward("session1", Peer("203.0.113.7", 4242, "192.0.2.1", 143))
        backend = self.dialled_with("v1", "implicit", forward)
        header = b"PROXY TCP4 203.0.113.7 192.0.2.1 4242 143\r\n"
        self.assertEqual(backend.read(len(header)), header)
        backend.secure(self.as_server, server=True)
        backend.send(b"welcome\n")
        self.assertEqual(backend.read(), b"WELCOME\n")

    def test_nobody(self) -> None:
        """Who has no client, a health check, speaks for itself."""
        for version, header in (("v1", b"PROXY UNKNOWN\r\n"), ("v2", version_2(None))):
            self.assertEqual(self.dialled_with(version, "none", None).read(), header)

    def test_another_pool(self) -> None:
        """A pool that wants none gets none."""
        self.assertEqual(self.dialled_with("none", "none", Forward("s", Peer("203.0.113.7", 1))).read(), b"")


class ConnectTests(DialerCase):
    """Until there is a connection."""

    def test_own(self) -> None:
        """A client whose connection was opened here is refused, as long as that connection is there."""
        far = self.dialled()
        here = far.near.getHost()
        clients = [Peer(here.host, here.port), Peer(f"::ffff:{here.host}", here.port)]
        for client in clients:
            error = self.assertRaises(BackendFailed, self.dialer.refuse_own, client)
            self.assertIs(error.kind, Failure.PROTOCOL)
        self.dialer.refuse_own(Peer(here.host, here.port + 1))
        far.close()
        self.loop.turn()
        for client in clients:
            self.dialer.refuse_own(client)

    def test_refused(self) -> None:
        """Nobody listens there."""
        self.begin()
        self.loop.dials[0].refuse()
        self.loop.advance(5)
        self.assertFailed(Failure.CONNECT, "refused")

    def test_no_route(self) -> None:
        """There is no way there."""
        self.begin()
        self.loop.dials[0].refuse(NoRouteError())
        self.loop.advance(5)
        self.assertFailed(Failure.CONNECT, "oute")

    def test_silence(self) -> None:
        """Nobody answers within limits.connect."""
        self.begin()
        self.loop.advance(4.9)
        self.assertNoResult(self.outcome)
        self.loop.advance(0.2)
        self.assertFailed(Failure.CONNECT, "no answer within 5 s")

    def test_addresses(self) -> None:
        """IPv4 and IPv6 addresses are dialled as they are, names are looked up."""
        for host, dialled in (("10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::1"), ("be1.example", "127.0.0.1")):
            self.begin(host=host)
            self.assertEqual((self.loop.dials[-1].host, self.loop.dials[-1].port), (dialled, 143))
            self.outcome.cancel()
            self.failureResultOf(self.outcome, CancelledError)

    def test_unknown_name(self) -> None:
        """A name that does not resolve."""
        self.patch(self.loop, "nameResolver", Resolver(known=False))
        self.begin(host="nowhere.example")
        self.assertFailed(Failure.CONNECT, "nowhere.example")

    def test_no_name_at_all(self) -> None:
        """What a directory names and no resolver or certificate could is a backend that cannot be reached."""
        for host in ("be_1.internal", "-x.example", "ab--cd.example"):
            for verify in (True, False):
                self.verify = verify
                self.setUp()
                self.begin(host=host)
                self.assertFailed(Failure.CONNECT, host)

    def test_name_server_hangs(self) -> None:
        """A lookup without end is bounded by limits.backend_login."""
        self.patch(self.loop, "nameResolver", Resolver(known=True))
        self.begin(host="be1.example")
        self.loop.advance(11.9)
        self.assertNoResult(self.outcome)
        self.loop.advance(0.2)
        self.assertFailed(Failure.TIMEOUT, "not logged in within 12 s")

    def test_cancelled_while_connecting(self) -> None:
        """Who goes away while we dial is told nothing but that, and the attempt is given up."""
        for host in ("10.0.0.1", "be1.example"):
            self.begin(host=host)
            dial = self.loop.dials[0]
            self.outcome.cancel()
            self.failureResultOf(self.outcome, CancelledError)
            self.assertTrue(dial.given_up)

    def test_cancelled_while_looking_up(self) -> None:
        """Likewise while the name is looked up."""
        self.patch(self.loop, "nameResolver", Resolver(known=True))
        self.begin(host="be1.example")
        self.outcome.cancel()
        self.failureResultOf(self.outcome, CancelledError)


class Resolver:
    """Knows no name, or never says."""

    def __init__(self, *, known: bool) -> None:
        self.known = known

    def resolveHostName(self, receiver: Any, hostName: str, *rest: Any, **more: Any) -> Any:
        receiver.resolutionBegan(self)
        if not self.known:
            receiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """Twisted's resolvers cannot be interrupted either."""


class DialogueTests(DialerCase):
    """On a plain connection."""

    def test_ready(self) -> None:
        """The dialogue's words go out, and its end is the result."""
        far = self.dialled()
        far.send(b"hello\nuser\n")
        self.assertEqual(far.read(), b"HELLO\nUSER\n")
        far.send(b"ready\nfirst")
        connection, ready = self.successResultOf(self.outcome)
        self.assertEqual(ready, Ready(b"welcome", b"first"))
        self.assertEqual(self.loop.getDelayedCalls(), [])
        self.assertEqual(connection.backend.name, "be1")

    def test_kept_until_taken_over(self) -> None:
        """What comes between the end of the dialogue and the take-over is kept, in order."""
        far = self.dialled()
        far.send(b"ready\n", b"one ", b"two ")
        connection, _ = self.successResultOf(self.outcome)
        stage = Echo()
        connection.take_over(stage)
        far.send(b"three")
        self.assertEqual(stage.received, b"one two three")
        far.close()
        self.assertTrue(stage.lost)

    def test_refused(self) -> None:
        """A backend that refuses the login is hung up on, and its words are for our log."""
        far = self.dialled()
        far.send(b"no\n")
        self.assertFailed(Failure.REJECTED, "wrong password")
        self.assertTrue(far.gone)

    def test_hangs(self) -> None:
        """From the dial on a backend has limits.backend_login seconds, however talkative it is."""
        self.begin()
        self.loop.advance(3)
        far = self.loop.dials[0].accept()
        for _ in range(8):
            self.loop.advance(1)
            far.send(b"wait\n")
        self.assertNoResult(self.outcome)
        self.loop.advance(1.1)
        self.assertFailed(Failure.TIMEOUT, "not logged in within 12 s")
        self.assertTrue(far.gone)

    def test_lost(self) -> None:
        """A backend that hangs up before the end."""
        far = self.dialled()
        far.send(b"hello\n")
        far.close()
        self.assertFailed(Failure.PROTOCOL, "connection lost")

    def test_closed_by_the_dialogue(self) -> None:
        """A dialogue that closes tells nobody else; the deadline ends the wait."""
        far = self.dialled()
        far.send(b"close\nno\n")
        self.assertTrue(far.gone)
        self.loop.advance(12)
        self.assertFailed(Failure.TIMEOUT, "12 s")

    def test_cancelled(self) -> None:
        """Who goes away in the middle of the dialogue leaves no connection."""
        far = self.dialled()
        far.send(b"hello\n")
        self.outcome.cancel()
        self.failureResultOf(self.outcome, CancelledError)
        self.loop.turn()
        self.assertTrue(far.gone)
        self.assertEqual(self.loop.getDelayedCalls(), [])

    def test_an_event_of_another_kind(self) -> None:
        """A dialogue for something else than logins is a mistake of ours, and said to be one."""
        self.dialled().send(b"mail\n")
        self.loop.advance(12)
        self.failureResultOf(self.outcome, BackendFailed)
        self.assertEqual(len(self.flushLoggedErrors(NotImplementedError)), 1)

    def test_nothing_after_the_end(self) -> None:
        """The loss of a connection that somebody took over is that one's business only."""
        far = self.dialled()
        far.send(b"ready\n")
        connection, _ = self.successResultOf(self.outcome)
        connection.quit(b"bye\n")
        self.assertEqual(far.read(), b"bye\n")
        self.assertTrue(far.gone)


class StarttlsTests(DialerCase):
    """With STARTTLS."""

    tls = "starttls"

    def test_secured(self) -> None:
        """The dialogue hears of the handshake and goes on encrypted."""
        far = self.dialled()
        far.send(b"tls\n")
        self.assertEqual(far.read(3), b"go\n")
        far.secure(self.as_server, server=True)
        self.assertTrue(self.dialogue.was_secured)
        self.assertEqual(far.read(), b"SECURED\n")
        far.send(b"ready\nrest")
        self.assertEqual(self.successResultOf(self.outcome)[1].rest, b"rest")

    def test_wrong_name(self) -> None:
        """A certificate for another name ends it before a word of the dialogue."""
        far = self.dialled(host="10.0.0.2")
        far.send(b"tls\n")
        self.assertEqual(far.read(3), b"go\n")
        self.assertRaises(ssl.SSLError, far.secure, self.as_server, server=True)
        self.assertFailed(Failure.TLS, "its certificate is for another name")
        self.assertFalse(self.dialogue.was_secured)

    def test_unknown_ca(self) -> None:
        """A certificate of somebody we do not know, likewise."""
        self.dialer = Dialer(self.loop, {"main": PoolTls(Pool(), "1.2")}, self.dialer.limits)
        far = self.dialled()
        far.send(b"tls\n")
        self.assertEqual(far.read(3), b"go\n")
        self.assertRaises(ssl.SSLError, far.secure, self.as_server, server=True)
        self.assertFailed(Failure.TLS, "certificate verify failed")

    def test_no_tls(self) -> None:
        """A backend that goes on in clear after its go-ahead."""
        far = self.dialled()
        far.send(b"tls\n", b"* OK in clear\r\n")
        self.assertFailed(Failure.TLS, "")

    def test_lost_in_the_handshake(self) -> None:
        """A backend that hangs up instead of a handshake."""
        far = self.dialled()
        far.send(b"tls\n")
        far.close()
        self.assertFailed(Failure.PROTOCOL, "connection lost")


class ImplicitTests(DialerCase):
    """With TLS on connect."""

    tls = "implicit"

    def test_speaks_in_tls(self) -> None:
        """The handshake comes first; the dialogue is not told that it was STARTTLS."""
        far = self.dialled()
        far.secure(self.as_server, server=True)
        far.send(b"hello\nready\n")
        self.assertEqual(far.read(), b"HELLO\n")
        self.successResultOf(self.outcome)
        self.assertFalse(self.dialogue.was_secured)

    def test_plain_backend(self) -> None:
        """A backend without TLS."""
        self.dialled().send(b"* OK ready\r\n")
        self.assertFailed(Failure.TLS, "")

    def test_silent(self) -> None:
        """A backend that never answers the handshake."""
        self.dialled()
        self.loop.advance(12)
        self.assertFailed(Failure.TIMEOUT, "12 s")


class UnverifiedTests(StarttlsTests):
    """verify = false takes any certificate, and nothing in clear."""

    verify = False

    def test_wrong_name(self) -> None:
        """Any name is good enough."""
        far = self.dialled(host="10.0.0.2")
        far.send(b"tls\n")
        self.assertEqual(far.read(3), b"go\n")
        far.secure(self.as_server, server=True)
        self.assertEqual(far.read(), b"SECURED\n")


class HoldingTests(NetworkTestCase):
    """The connection by itself."""

    def test_dead(self) -> None:
        """A connection that is lost already may be closed and quit all the same."""
        connection = BackendConnection(Backend("main", "be1", "10.0.0.1", 143, "none"), ToyClient(), None)
        lost: list[BackendFailed] = []
        connection.lost = lost.append
        self.loop.join(connection, Dialled, "10.0.0.1").close()
        connection.close()
        connection.quit(b"bye")
        self.assertEqual(len(lost), 1)
