"""Tests of the listeners: binding, what is said when that fails, TLS around what answers, and renewal."""

from __future__ import annotations

import errno
import ssl
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from zope.interface.verify import verifyObject

from mailgw.edge.listeners import BACKLOG, ListeningService, LoginFrontend
from mailgw.edge.selfsigned import write_pair
from mailgw.edge.session import Session
from mailgw.edge.tls import Identities, ServerTls
from mailgw.errors import MailgwError
from mailgw.interfaces import IFrontend
from mailgw.settings import Listener, Tls
from mailgw.wire.protocol import LoginProtocol
from mailgw.wire.proxyheader import version_1
from tests.edge.doubles import FakeHouse, ToyDialogue
from tests.network import NetworkTestCase


class Greeter(Protocol):
    """Says one word."""

    word = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.word)


def greeting(word: bytes) -> Factory:
    """A factory that answers with that."""
    return Factory.forProtocol(type("Greeter", (Greeter,), {"word": word}))


class ListenersCase(NetworkTestCase):
    """Listeners on a network in memory."""

    def listener(self, endpoint: str = "tcp:143", tls: Any = "none", protocol: str = "imap") -> Listener:
        return Listener(protocol=protocol, endpoint=endpoint, tls=tls)

    def service(self, listener: Listener, word: bytes = b"hello", tls: ServerTls | None = None) -> ListeningService:
        return ListeningService(self.loop, listener, greeting(word), tls)

    def started(self, listener: Listener, word: bytes = b"hello", tls: ServerTls | None = None) -> ListeningService:
        service = self.service(listener, word, tls)
        service.privilegedStartService()
        service.startService()
        return service

    def identity(self, name: str) -> tuple[ServerTls, ssl.SSLContext]:
        """A server's TLS and a client that trusts nobody else."""
        folder = Path(self.mktemp())
        folder.mkdir()
        write_pair([name, "localhost"], folder, 30, datetime.now(UTC))
        certificate = str(folder / f"{name}.crt")
        tls = Tls(certificate=(certificate,), key=(str(folder / f"{name}.key"),))
        return ServerTls(Identities(tls), "imap"), ssl.create_default_context(cafile=certificate)


class BindingTests(ListenersCase):
    """The start."""

    def test_binds_once(self) -> None:
        """The privileged start binds, the start does not bind again."""
        service = self.service(self.listener("tcp:143:interface=127.0.0.1"))
        self.assertEqual(self.loop.ports, [])
        service.privilegedStartService()
        service.startService()
        self.assertEqual([(port.number, port.interface) for port in self.loop.ports], [(143, "127.0.0.1")])
        self.assertEqual(self.loop.visit(143).read(), b"hello")

    def test_backlog(self) -> None:
        """A burst of clients may wait to be accepted, unless the endpoint says how many."""
        for number, (endpoint, interface, backlog) in enumerate(
            (
                ("tcp:1", "", BACKLOG),
                ("tcp:1:interface=127.0.0.1", "127.0.0.1", BACKLOG),
                ("tcp:1:interface=\\:\\:1", "::1", BACKLOG),
                ("tcp6:1", "::", BACKLOG),
                ("tcp:1:backlog=7", "", 7),
                ("tcp:1:backlog=7:interface=127.0.0.1", "127.0.0.1", 7),
                ("tcp:1:127.0.0.1:7", "127.0.0.1", 7),
            )
        ):
            self.started(self.listener(endpoint.replace(":1", f":{number + 1}", 1)))
            port = self.loop.ports[-1]
            self.assertEqual((port.interface, port.backlog), (interface, backlog), endpoint)

    def test_start_alone_binds(self) -> None:
        """A listener that a reload adds has no privileged start of its own."""
        self.service(self.listener()).startService()
        self.assertEqual(len(self.loop.ports), 1)

    def test_taken(self) -> None:
        """A port that is taken: which listener, and how to find out by whom."""
        self.started(self.listener())
        error = self.assertRaises(MailgwError, self.service(self.listener()).privilegedStartService)
        self.assertIn("imap on tcp:143: ", str(error))
        self.assertIn("another program listens there already", str(error))

    def test_forbidden(self) -> None:
        """A port for which one must be root: what to do."""
        self.loop.unbindable[143] = errno.EACCES
        error = self.assertRaises(MailgwError, self.service(self.listener()).privilegedStartService)
        self.assertIn("start as root with gateway.user", str(error))

    def test_foreign_address(self) -> None:
        """An address that this machine has not: the system's words."""
        self.loop.unbindable[143] = errno.EADDRNOTAVAIL
        error = self.assertRaises(MailgwError, self.service(self.listener()).privilegedStartService)
        self.assertIn("cannot", str(error))

    def test_no_ipv6(self) -> None:
        """::1 is left out where there is no IPv6; other addresses and other troubles are not."""
        for number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            self.loop.unbindable[143] = number
            service = self.started(self.listener("tcp:143:interface=\\:\\:1"))
            self.assertIsNone(service.port)
            self.assertIsNone(service.stopService())
        self.loop.unbindable[143] = errno.EADDRINUSE
        self.assertRaises(MailgwError, self.started, self.listener("tcp:143:interface=\\:\\:1"))

    def test_stop(self) -> None:
        """The stop is over when the port is closed; connections go on."""
        service = self.started(self.listener())
        far = self.loop.visit(143)
        stopped = service.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        self.loop.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.loop.ports, [])
        self.assertFalse(far.gone)

    def test_start_again(self) -> None:
        """A service may be started again."""
        service = self.started(self.listener())
        service.stopService()
        self.loop.turn()
        service.startService()
        self.assertEqual(self.loop.visit(143).read(), b"hello")


class TlsTests(ListenersCase):
    """Where TLS goes around what answers."""

    def test_implicit(self) -> None:
        """With tls = implicit the first byte is encrypted."""
        tls, client = self.identity("a.example")
        self.started(self.listener(tls="implicit"), tls=tls)
        far = self.loop.visit(143)
        self.assertEqual(far.read(), b"")
        far.secure(client)
        self.assertEqual(far.read(), b"hello")

    def test_starttls(self) -> None:
        """With tls = starttls the factory answers itself."""
        tls, _ = self.identity("a.example")
        self.started(self.listener(tls="starttls"), tls=tls)
        self.assertEqual(self.loop.visit(143).read(), b"hello")


class RenewTests(ListenersCase):
    """A reload."""

    def test_plain(self) -> None:
        """A new factory answers from now on; the port is not closed, and who is there stays with the old one."""
        service = self.started(self.listener(), b"old")
        old, port = self.loop.visit(143), service.port
        service.renew(self.listener(), greeting(b"new"), None)
        self.assertIs(service.port, port)
        self.assertEqual(self.loop.visit(143).read(), b"new")
        self.assertEqual(old.read(), b"old")
        self.assertFalse(old.closed)

    def test_implicit(self) -> None:
        """New connections get the new certificate and the new factory; old ones keep what they have."""
        tls, client = self.identity("a.example")
        service = self.started(self.listener(tls="implicit"), b"old", tls)
        old = self.loop.visit(143)
        old.secure(client)
        new_tls, new_client = self.identity("b.example")
        service.renew(self.listener(tls="implicit"), greeting(b"new"), new_tls)
        far = self.loop.visit(143)
        far.secure(new_client)
        self.assertEqual(far.read(), b"new")
        self.assertRaises(ssl.SSLError, self.loop.visit(143).secure, client)
        self.assertEqual(old.read(), b"old")
        self.assertFalse(old.closed)

    def test_gate(self) -> None:
        """Who waits at the gate is let in to what answers then; a listener may have a gate, and none again."""
        proxied = self.listener().model_copy(update={"proxy_from": (ip_network("127.0.0.1"),)})
        service = self.started(proxied, b"old")
        waiting, gone = (self.loop.visit(143, "127.0.0.1") for _ in range(2))
        self.assertEqual((waiting.read(), service.waiting), (b"", 2))
        gone.close()
        service.renew(self.listener(), greeting(b"new"), None)
        self.assertEqual(self.loop.visit(143, "127.0.0.1").read(), b"new")
        waiting.send(version_1(None))
        self.assertEqual((waiting.read(), service.waiting), (b"new", 0))
        service.renew(proxied, greeting(b"newer"), None)
        last = self.loop.visit(143, "127.0.0.1")
        self.assertEqual((last.read(), service.waiting), (b"", 1))
        service.turn_away()
        self.assertTrue(last.gone)

    def test_gate_around_tls(self) -> None:
        """With tls = implicit the header stands before the handshake."""
        tls, client = self.identity("a.example")
        listener = Listener(protocol="imap", endpoint="tcp:143", tls="implicit", proxy_from=("127.0.0.1",))
        self.started(listener, b"hello", tls)
        far = self.loop.visit(143, "127.0.0.1")
        far.send(version_1(None))
        far.secure(client)
        self.assertEqual(far.read(), b"hello")

    def test_other_terms(self) -> None:
        """A listener's protocol and TLS may change while its port stays open."""
        tls, client = self.identity("a.example")
        service = self.started(self.listener(), b"plain")
        port = service.port
        service.renew(self.listener(tls="implicit", protocol="pop3"), greeting(b"in TLS"), tls)
        far = self.loop.visit(143)
        far.secure(client)
        self.assertEqual(far.read(), b"in TLS")
        service.renew(self.listener(), greeting(b"plain again"), None)
        self.assertEqual(self.loop.visit(143).read(), b"plain again")
        self.assertIs(service.port, port)

    def test_before_the_start(self) -> None:
        """What is renewed before it is bound answers with the new."""
        service = self.service(self.listener(), b"old")
        service.renew(self.listener(), greeting(b"new"), None)
        service.startService()
        self.assertEqual(self.loop.visit(143).read(), b"new")


class FrontendTests(ListenersCase):
    """The kind of listener that a login protocol is."""

    def test_sessions(self) -> None:
        """Each connection gets a session of its own, in its protocol."""
        client: Any = NotImplemented
        frontend = LoginFrontend(LoginProtocol("imap", (143, 993), ToyDialogue, client))
        verifyObject(IFrontend, frontend)
        self.assertEqual(frontend.ports, (143, 993))
        factory = frontend.make_factory(FakeHouse(), self.listener())
        one, other = factory.buildProtocol(None), factory.buildProtocol(None)
        self.assertIsInstance(one, Session)
        self.assertIsNot(one, other)
        self.assertNotEqual(one.session_id, other.session_id)
        self.assertEqual(one.protocol, "imap")
