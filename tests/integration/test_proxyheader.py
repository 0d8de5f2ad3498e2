"""The PROXY protocol with those who invented it, and with those who read it: HAProxy in front of our gate, and Dovecot
behind our headers.
"""

from __future__ import annotations

import socket
import ssl
from ipaddress import ip_network
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from mailgw.edge.gate import GateFactory
from mailgw.edge.streamport import SecureFactory, StreamReactor
from mailgw.edge.tls import Identities, ServerTls
from mailgw.model import Peer
from mailgw.settings import Tls
from mailgw.wire.proxyheader import ClientTls, HeaderReader, authority, client_tls, unique_id, version_1, version_2
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import trusting
from tests.integration.haproxy import Haproxy, HaproxyDovecot
from tests.integration.ports import HOST, free_port, needs

reactor: Any = _reactor
LOOPBACK = (ip_network("127.0.0.1/32"),)


class WriterTests(ServersTestCase):
    """Dovecot reads what we write."""

    skip = needs("dovecot")
    dovecot: HaproxyDovecot

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(HaproxyDovecot({"anna": b"annapw"}))

    def login(self, header: bytes) -> None:
        """Log in behind a header."""
        with socket.create_connection((HOST, self.dovecot.behind), 10.0) as connection:
            connection.sendall(header + b"a LOGIN anna annapw\r\nb LOGOUT\r\n")
            said = b""
            while more := connection.recv(65536):
                said += more
        self.assertIn(b"\r\na OK", said)

    def test_versions(self) -> None:
        """Both versions, with all extensions that we write, and IPv6 too."""
        more = [authority("mail.example.org"), client_tls(ClientTls("TLSv1.3", "AES", True, "anna")), unique_id("s1")]
        for number, write in enumerate((version_1, version_2, lambda peer: version_2(peer, more, checksum=True))):
            for host, here in ((f"203.0.113.{number}", "192.0.2.1"), (f"2001:db8::{number + 1}", "2001:db8::1")):
                self.login(write(Peer(host, 5555, here, 993)))
                self.dovecot.wait_for_log(f"rip={host}, lip={here}")


class Greeter(Protocol):
    """Says who is there; octets of the client come back."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(f"{self.transport.getPeer().host} {self.transport.getPeer().port}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


def talk(port: int, context: ssl.SSLContext | None = None, say: bytes = b"") -> tuple[str, bytes]:
    """Connect from 127.0.0.77.

    @return: what a L{Greeter} should call us, and all that it said.
    """
    with socket.create_connection((HOST, port), 10.0, ("127.0.0.77", 0)) as raw:
        ours = f"127.0.0.77 {raw.getsockname()[1]}\n"
        connection = context.wrap_socket(raw, server_hostname="localhost") if context is not None else raw
        with connection:
            said = b""
            connection.sendall(say + b"!")
            while not said.endswith(b"!") and (more := connection.recv(65536)):
                said += more
            return ours, said


class ReaderTests(TestCase):
    """HAProxy in front of our gate, on Twisted's transports."""

    skip = needs("haproxy")
    timeout = 60.0

    def reactor(self) -> Any:
        """Whose transports there are."""
        return reactor

    def secured(self, tls: ServerTls) -> Any:
        """What answers in TLS."""
        return TLSMemoryBIOFactory(tls, False, Factory.forProtocol(Greeter), reactor)

    def haproxy(self, factory: Any) -> Haproxy:
        """A HAProxy in front of a gate in front of that factory."""
        number = free_port()
        port = self.reactor().listenTCP(number, GateFactory(reactor, factory, LOOPBACK), interface=HOST)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        haproxy = Haproxy(number)
        self.addCleanup(haproxy.stop)
        return haproxy

    async def test_plain(self) -> None:
        """Both versions; much of what the client says comes together with the header, and all of it arrives."""
        haproxy = self.haproxy(Factory.forProtocol(Greeter))
        await deferToThread(haproxy.start)
        for port, context in ((haproxy.one, None), (haproxy.two, None), (haproxy.secure, trusting(certificates().ca))):
            for size in (0, 1, 300_000):
                ours, said = await deferToThread(talk, port, context, b"x" * size)
                self.assertEqual(said, ours.encode() + b"x" * size + b"!")

    async def test_tls_inside(self) -> None:
        """The client's own handshake goes through HAProxy, behind the header."""
        made = certificates()
        tls = ServerTls(Identities(Tls(certificate=(str(made.certificate),), key=(str(made.key),))), "imap")
        haproxy = self.haproxy(self.secured(tls))
        await deferToThread(haproxy.start)
        for port in (haproxy.one, haproxy.two):
            for size in (0, 300_000):
                ours, said = await deferToThread(talk, port, trusting(made.ca), b"x" * size)
                self.assertEqual(said, ours.encode() + b"x" * size + b"!")

    async def test_extensions(self) -> None:
        """Name, unique id, TLS and checksum as HAProxy writes them."""
        with socket.create_server((HOST, free_port())) as listening:
            haproxy = Haproxy(listening.getsockname()[1])
            self.addCleanup(haproxy.stop)
            await deferToThread(haproxy.start)
            header, port = await deferToThread(_one_header, listening, haproxy.secure)
        self.assertEqual((header.peer.host, header.peer.local_port), ("127.0.0.1", haproxy.secure))
        self.assertEqual((header.authority, header.unique_id), ("localhost", b"id-%d" % port))
        self.assertEqual((header.tls.version, header.tls.verified), ("TLSv1.3", False))
        self.assertIn(3, [kind for kind, _ in header.tlvs])


def _one_header(listening: socket.socket, port: int) -> tuple[Any, int]:
    """Connect to HAProxy in TLS, and read the header that comes out behind it; also our own port."""
    listening.settimeout(10.0)
    with socket.create_connection((HOST, port), 10.0) as raw:
        ours = raw.getsockname()[1]
        with trusting(certificates().ca).wrap_socket(raw, server_hostname="localhost"):
            while True:  # connections that asked whether HAProxy is up have come first
                behind, _ = listening.accept()
                with behind:
                    reader, header = HeaderReader(), None
                    while header is None and (data := behind.recv(7)):
                        header = reader.feed(data)
                if header is not None and header.peer is not None and header.peer.port == ours:
                    return header, ours


class StreamReaderTests(ReaderTests):
    """HAProxy in front of our gate, on our own transport."""

    def reactor(self) -> Any:
        return StreamReactor(reactor)

    def secured(self, tls: ServerTls) -> Any:
        return SecureFactory(tls, Factory.forProtocol(Greeter))
