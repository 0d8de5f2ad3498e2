"""Tests of the gate for PROXY headers, on both kinds of transports."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from mailgw.edge.gate import DEADLINE, GateFactory
from mailgw.edge.listeners import LoginFactory
from mailgw.edge.selfsigned import write_pair
from mailgw.edge.session import Front
from mailgw.edge.streamport import SecureFactory
from mailgw.edge.tls import Identities, ServerTls
from mailgw.model import Peer
from mailgw.settings import Listener, Tls
from mailgw.wire.proxyheader import version_1, version_2
from tests.edge.doubles import FakeHouse, ToyDialogue
from tests.network import Far, Near, NetworkTestCase
from tests.streams import OnStreams

CLIENT = Peer("203.0.113.7", 4242, "192.0.2.99", 993)
SIX = Peer("2001:db8::7", 4242, "2001:db8::1", 993)
PROXY, STRANGER = "198.51.100.7", "198.51.99.1"
NETWORKS = (ip_network("198.51.100.0/24"), ip_network("2001:db8:1::/48"))


class Greeter(Protocol):
    """Says who is there, and repeats what is said."""

    transport: Any

    def connectionMade(self) -> None:
        peer, host = self.transport.getPeer(), self.transport.getHost()
        self.transport.write(f"{peer.host} {peer.port} {host.host} {host.port}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"<" + data + b">")


class Picky(Factory):
    """Wants nobody."""

    noisy = False

    def buildProtocol(self, addr: Any) -> None:
        return None


class GateCase(NetworkTestCase):
    """A listener behind a gate."""

    def factory(self) -> Any:
        """What stands behind the gate."""
        return Factory.forProtocol(Greeter)

    def come(self, host: str, factory: Any = None) -> Far:
        """A connection from there."""
        gate = GateFactory(self.loop, factory or self.factory(), NETWORKS)
        return self.loop.join(gate.buildProtocol(IPv4Address("TCP", host, 40000)), Near, host, gate)


class GateTests(GateCase):
    """In clear."""

    def test_header(self) -> None:
        """Nobody says a word before the header is there; then the client's own addresses count."""
        for header in (version_1(CLIENT), version_2(CLIENT, [(2, b"mail.example")], checksum=True)):
            for pieces in ([header], [header[place : place + 1] for place in range(len(header))]):
                far = self.come(PROXY)
                far.send(*pieces[:-1])
                self.assertEqual(far.read(), b"")
                far.send(pieces[-1])
                self.assertEqual(far.read(), b"203.0.113.7 4242 192.0.2.99 993\n")
                far.send(b"x")
                self.assertEqual(far.read(), b"<x>")

    def test_six(self) -> None:
        """IPv6 behind an IPv4 proxy."""
        far = self.come(PROXY)
        far.send(version_2(SIX))
        self.assertEqual(far.read(), b"2001:db8::7 4242 2001:db8::1 993\n")

    def test_glued(self) -> None:
        """What came with the header is the protocol's, to the octet."""
        far = self.come(PROXY)
        far.send(version_1(CLIENT) + b"PROXY \r\n\0")
        self.assertEqual(far.read(), b"203.0.113.7 4242 192.0.2.99 993\n<PROXY \r\n\0>")

    def test_own_ends(self) -> None:
        """A proxy that speaks for itself, or cannot tell, is the peer."""
        for header in (version_1(None), version_2(None), version_2(Peer("local", 0))):
            far = self.come(PROXY)
            far.send(header)
            self.assertEqual(far.read(), b"198.51.100.7 40000 192.0.2.1 143\n")

    def test_stranger(self) -> None:
        """Nobody else is asked for a header, nor believed."""
        far = self.come(STRANGER)
        self.assertEqual(far.read(), b"198.51.99.1 40000 192.0.2.1 143\n")
        far.send(version_1(CLIENT))
        self.assertEqual(far.read(), b"<" + version_1(CLIENT) + b">")

    def test_networks(self) -> None:
        """IPv4 through an IPv6 socket is IPv4; a zone is no part of the address; a UNIX socket has none."""
        gate = GateFactory(self.loop, self.factory(), (ip_network("198.51.100.0/24"), ip_network("fe80::/10")))
        for host, asked in (
            *(("::ffff:198.51.100.9", True), ("::ffff:198.51.99.9", False), ("fe80::1%eth0", True)),
            *(("198.51.100.0", True), ("198.51.101.0", False), ("::1", False), ("", False)),
        ):
            protocol = gate.buildProtocol(IPv4Address("TCP", host, 1))
            self.assertEqual(not isinstance(protocol, Greeter), asked, host)

    def test_no_header(self) -> None:
        """Who begins otherwise is cut off without a word."""
        for data in (b"a NOOP\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"PROXY TCP4 1 2 3 4\r\n", b"\n"):
            far = self.come(PROXY)
            far.send(data[:1])
            far.pour(data[1:])
            self.assertEqual(far.read(), b"")
            self.assertTrue(far.gone, data)

    def test_slow(self) -> None:
        """Who does not come to the end of the header in time is cut off."""
        for data in (b"", b"PROXY TCP4 203.0"):
            far = self.come(PROXY)
            far.send(data)
            self.loop.wait(DEADLINE - 0.5)
            self.assertFalse(far.gone)
            self.loop.wait(1.0)
            self.assertTrue(far.gone)

    def test_in_time(self) -> None:
        """After the header the gate's deadline is over."""
        far = self.come(PROXY)
        far.send(version_1(CLIENT))
        far.read()
        self.loop.wait(10 * DEADLINE)
        self.assertFalse(far.gone)
        self.assertEqual(self.loop.getDelayedCalls(), [])

    def test_knock(self) -> None:
        """Who hangs up before the header, or in it, leaves nothing behind."""
        for data in (b"", b"PROXY"):
            for leave in (Far.close, Far.finish):
                far = self.come(PROXY)
                far.send(data)
                leave(far)
                self.loop.turn()
                self.assertEqual(self.loop.getDelayedCalls(), [])
                self.assertEqual(list(self.loop.readers), [])

    def test_nobody_wants_it(self) -> None:
        """A factory that turns the client away does so behind the gate too."""
        far = self.come(PROXY, Picky())
        far.send(version_1(CLIENT))
        self.assertTrue(far.gone)

    def test_broken(self) -> None:
        """A protocol that breaks costs its connection only."""

        class Broken(Greeter):
            def connectionMade(self) -> None:
                raise RuntimeError("broken")

        far = self.come(PROXY, Factory.forProtocol(Broken))
        far.send(version_1(CLIENT))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(far.gone)


class SessionTests(GateCase):
    """With a session behind it."""

    def factory(self) -> Any:
        self.house = FakeHouse()
        self.house.reactor = self.loop
        listener = Listener(protocol="imap", endpoint="tcp:143", tls="none")
        return LoginFactory(Front(self.house, listener, ToyDialogue, authenticate=True))

    def test_session(self) -> None:
        """Greeting, log and limits have the client's own address."""
        far = self.come(PROXY)
        self.assertEqual(self.house.sessions, set())
        far.send(version_2(CLIENT))
        self.assertEqual(far.read(), b"hello\n")
        [session] = self.house.sessions
        self.assertEqual(session.peer, CLIENT)
        far.send(b"login secret\n")
        self.assertEqual(far.read(), b"OK welcome\n")
        far.close()


class TlsTests(GateCase):
    """TLS from the first octet on is inside the gate."""

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        write_pair(["localhost"], folder, 30, datetime.now(UTC))
        certificate, key = str(folder / "localhost.crt"), str(folder / "localhost.key")
        self.tls = ServerTls(Identities(Tls(certificate=(certificate,), key=(key,))), "imap")
        self.trusting = ssl.create_default_context(cafile=certificate)

    def factory(self) -> Any:
        """As L{mailgw.edge.listeners} has it on Twisted's transports."""
        return TLSMemoryBIOFactory(self.tls, False, Factory.forProtocol(Greeter), self.loop)

    def test_header_first(self) -> None:
        """The header, then the handshake; cut before, and glued to each other in one segment."""
        for header in (version_1(CLIENT), version_2(CLIENT)):
            for glued in (False, True):
                far = self.come(PROXY)
                if glued:
                    far._going.write(header)  # goes out with the first octets of the handshake
                else:
                    far.send(header)
                far.secure(self.trusting)
                self.assertEqual(far.read(), b"203.0.113.7 4242 192.0.2.99 993\n")
                far.send(b"x" * 50000)
                self.assertEqual(far.read().replace(b"><", b""), b"<" + b"x" * 50000 + b">")

    def test_stranger(self) -> None:
        """Anybody else begins with the handshake."""
        far = self.come(STRANGER)
        far.secure(self.trusting)
        self.assertEqual(far.read(), b"198.51.99.1 40000 192.0.2.1 143\n")

    def test_handshake_first(self) -> None:
        """A proxy that does not tell is cut off before any handshake; so is a stranger that does."""
        for host, pieces in ((PROXY, b"\x16\x03\x01\x02\x00\x01"), (STRANGER, version_1(CLIENT))):
            far = self.come(host)
            far.pour(pieces)
            self.loop.wait(1.0)
            self.assertTrue(far.gone)


class StreamGateTests(OnStreams, GateTests):
    """In clear, on our own transport."""


class StreamSessionTests(OnStreams, SessionTests):
    """With a session behind it, on our own transport."""


class StreamTlsTests(OnStreams, TlsTests):
    """TLS inside the gate, on our own transport."""

    def factory(self) -> Any:
        return SecureFactory(self.tls, Factory.forProtocol(Greeter))
