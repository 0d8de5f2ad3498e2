"""Tests of where streams come from: ports, attempts to dial, the reactor that makes both, and who uses it."""

from __future__ import annotations

import os
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, serverFromString
from twisted.internet.error import ConnectError, ConnectionRefusedError, TimeoutError, UserError
from twisted.internet.interfaces import (
    IConnector,
    IListeningPort,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReadDescriptor,
    IStreamClientEndpoint,
    IWriteDescriptor,
)
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SkipTest
from zope.interface.verify import verifyObject

from mailgw.edge import streamport
from mailgw.edge.dialer import Dialer
from mailgw.edge.listeners import ListeningService
from mailgw.edge.stream import Stream
from mailgw.edge.streamport import Dialling, SecureFactory, StreamEndpoint, StreamPort, StreamReactor
from mailgw.errors import BackendFailed
from mailgw.model import Backend, Failure
from mailgw.settings import Limits, Listener, Pool
from tests.edge.contract_transport import reactor
from tests.edge.ends import Far, Recorder
from tests.edge.test_stream import StreamCase
from tests.integration.ports import free_port

HOST = "127.0.0.1"


def need_names() -> None:
    """Skip the test on a machine that does not know its own name, such as a bare tree."""
    try:
        socket.getaddrinfo("localhost", 1, socket.AF_INET)
    except OSError:
        raise SkipTest("the name localhost is not known here: there is no /etc/hosts") from None


class Greeter(Recorder):
    """Says one word."""

    word = b"hello"

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.write(self.word)


class Recorders(Factory):
    """Builds protocols, and keeps them.

    @ivar build: what makes the next one.
    """

    noisy = False

    def __init__(self, build: Callable[[], Any] = Greeter) -> None:
        self.build = build
        self.built: list[Any] = []

    def buildProtocol(self, addr: object) -> Any:
        protocol = self.build()
        self.built.append(protocol)
        return protocol


class PortCase(StreamCase):
    """Ports of ours, and visitors."""

    def setUp(self) -> None:
        super().setUp()
        self.streams = StreamReactor(reactor)
        self.factory = Recorders()
        self.number = free_port()

    def listen(self, factory: Any = None) -> StreamPort:
        port = self.streams.listenTCP(self.number, factory or self.factory, interface=HOST)
        self.addCleanup(lambda: port.stopListening())
        self.addCleanup(self.clear)
        return port

    async def clear(self) -> None:
        """Nobody is left over."""
        for protocol in self.factory.built:
            if protocol is not None and protocol.reason is None:
                protocol.transport.abortConnection()
        await self.until(lambda: all(protocol is None or protocol.reason for protocol in self.factory.built))

    def visit(self) -> Far:
        skt = socket.create_connection((HOST, self.number))
        self.addCleanup(skt.close)
        return Far(skt)


class StreamPortTests(PortCase):
    """Accepting."""

    async def test_accepts(self) -> None:
        """Visitors in any number are answered by streams."""
        self.patch(streamport, "ACCEPTS", 2)
        port = self.listen()
        for interface in (IListeningPort, IReadDescriptor):
            verifyObject(interface, port)
        self.assertEqual((port.getHost().host, port.getHost().port), (HOST, self.number))
        fars = [self.visit() for _ in range(7)]
        await self.until(lambda: all(far.got == b"hello" for far in fars), *fars)
        self.assertTrue(all(isinstance(protocol.transport, Stream) for protocol in self.factory.built))
        peers = {protocol.transport.getPeer().port for protocol in self.factory.built}
        self.assertEqual(peers, {far.socket.getsockname()[1] for far in fars})

    async def test_stops(self) -> None:
        """A port that is closed is free, connections that are there go on, and a second time does no harm."""
        port = self.listen()
        far = self.visit()
        await self.until(lambda: far.got == b"hello", far)
        await port.stopListening()
        self.assertIsNone(port.stopListening())
        self.assertRaises(OSError, socket.create_connection, (HOST, self.number))
        self.factory.built[0].transport.write(b" again")
        await self.until(lambda: far.got == b"hello again", far)

    async def test_secure(self) -> None:
        """TLS from the first octet on, with C{connectionMade} before the handshake."""
        self.listen(SecureFactory(self.server_tls, self.factory))
        far = self.visit()
        far.secure(self.client_context())
        await self.until(lambda: far.got == b"hello", far)
        self.assertEqual(self.factory.built[0].log, ["made", "secured"])

    async def test_unwanted(self) -> None:
        """A factory that builds nothing, or breaks, costs that visitor the connection and nobody else."""
        self.listen()

        def broken() -> Any:
            raise ZeroDivisionError

        for build, errors in ((lambda: None, 0), (broken, 1), (BrokenGreeter, 1)):
            self.factory.build = build
            far = self.visit()
            await self.until(lambda far=far: far.ended, far)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), errors)
        self.factory.build = Greeter
        far = self.visit()
        await self.until(lambda: far.got == b"hello", far)

    def exhaust(self) -> Callable[[], None]:
        """Leave no descriptor to anybody; gives back what ends that."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        fillers = [os.dup(0)]
        while fillers[-1] < used:
            fillers.append(os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, limits[1]))

        def relax() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            while fillers:
                os.close(fillers.pop())

        self.addCleanup(relax)
        return relax

    async def test_no_descriptors(self) -> None:
        """Visitors for whom there is no descriptor are turned away, and do not wait; later ones are served."""
        self.listen()
        await self.turns(1)  # the reactor itself needs descriptors to start
        fars = [self.visit() for _ in range(5)]
        relax = self.exhaust()
        await self.until(lambda: all(far.ended for far in fars), *fars)
        self.assertEqual((self.factory.built, [far.got for far in fars]), ([], [b""] * 5))
        relax()
        far = self.visit()
        await self.until(lambda: far.got == b"hello", far)

    async def test_no_descriptors_at_all(self) -> None:
        """Without a spare one the port rests, instead of asking again and again, and then goes on."""
        self.patch(streamport, "BREATH", 0.2)
        port = self.listen()
        await self.turns(1)
        far = self.visit()
        port._give_spare()
        events: list[None] = []
        accept = port.doRead
        port.doRead = lambda: (events.append(None), accept())[1]  # type: ignore[method-assign]
        spare = os.open(os.devnull, os.O_RDONLY)  # takes the place, so that there is really nothing
        relax = self.exhaust()
        await self.turns(50)
        self.assertLessEqual(len(events), 2)
        relax()
        os.close(spare)
        await self.until(lambda: far.got == b"hello", far)

    async def test_unix(self) -> None:
        """UNIX sockets, where options of TCP mean nothing."""
        path = os.path.relpath(self.mktemp())
        port = await serverFromString(self.streams, f"unix:{path}").listen(self.factory)
        self.addCleanup(lambda: port.stopListening())
        self.addCleanup(self.clear)
        skt = socket.socket(socket.AF_UNIX)
        self.addCleanup(skt.close)
        skt.connect(path)
        far = Far(skt)
        await self.until(lambda: far.got == b"hello", far)
        transport = self.factory.built[0].transport
        transport.setTcpNoDelay(True)
        self.assertIsInstance(transport, Stream)
        self.assertIsInstance(transport.getHost(), UNIXAddress)

    async def test_adopted(self) -> None:
        """Sockets that somebody else has bound."""
        bound = socket.create_server((HOST, self.number))
        bound.setblocking(False)
        port = self.streams.adoptStreamPort(bound.fileno(), socket.AF_INET, self.factory)
        bound.close()
        self.addCleanup(lambda: port.stopListening())
        self.addCleanup(self.clear)
        far = self.visit()
        await self.until(lambda: far.got == b"hello", far)

    async def test_shut_down_by_another(self) -> None:
        """Whoever else has the socket shuts it down, as a master does that stops: it is closed, and nothing breaks."""
        bound = socket.create_server((HOST, self.number))
        bound.setblocking(False)
        self.addCleanup(bound.close)
        port = self.streams.adoptStreamPort(bound.fileno(), socket.AF_INET, self.factory)
        bound.shutdown(socket.SHUT_RDWR)
        await self.until(lambda: not port._open)
        self.assertEqual(self.flushLoggedErrors(), [])


class BrokenGreeter(Recorder):
    def connectionMade(self) -> None:
        raise ZeroDivisionError


class DiallingTests(PortCase):
    """Dialling."""

    def endpoint(self, host: str = HOST, timeout: float = 5) -> StreamEndpoint:
        return StreamEndpoint(self.streams, host, self.number, timeout)

    async def test_connects(self) -> None:
        """The caller gets its protocol on a stream that is connected already."""
        self.listen()
        endpoint = self.endpoint()
        verifyObject(IStreamClientEndpoint, endpoint)
        protocol: Any = await endpoint.connect(self.ours())
        self.assertEqual(protocol.log, ["made"])
        self.assertIsInstance(protocol.transport, Stream)
        self.assertEqual(protocol.transport.getPeer().port, self.number)
        await self.until(lambda: protocol.got == b"hello")

    def ours(self, build: Callable[[], Any] = Recorder) -> Recorders:
        """A factory for dialling."""
        ours = Recorders(build)

        async def clear() -> None:
            for protocol in ours.built:
                if protocol is not None:
                    protocol.transport.abortConnection()
            await self.until(lambda: all(protocol is None or protocol.reason for protocol in ours.built))

        self.addCleanup(clear)
        return ours

    async def test_refused(self) -> None:
        """Nobody is there; or there is no way there."""
        await self.assertFailure(self.endpoint().connect(self.ours()), ConnectionRefusedError)
        await self.assertFailure(self.endpoint("255.255.255.255").connect(self.ours()), ConnectError)

    async def test_unwanted(self) -> None:
        """A factory that builds nothing."""
        self.listen()
        await self.assertFailure(self.endpoint().connect(self.ours(lambda: None)), ConnectError)

    def deaf(self) -> None:
        """Listen, and let no connection be complete."""
        listening = socket.socket()
        self.addCleanup(listening.close)
        listening.bind((HOST, self.number))
        listening.listen(0)
        for _ in range(4):
            skt = socket.socket()
            self.addCleanup(skt.close)
            skt.setblocking(False)
            skt.connect_ex((HOST, self.number))

    async def test_timeout(self) -> None:
        """Nobody answers."""
        self.deaf()
        await self.assertFailure(self.endpoint(timeout=0.1).connect(self.ours()), TimeoutError)

    async def test_cancelled(self) -> None:
        """Nobody wants it any more."""
        self.deaf()
        attempt = self.endpoint().connect(self.ours())
        await self.turns(3)
        attempt.cancel()
        await self.assertFailure(attempt, CancelledError)

    async def test_given_up_twice(self) -> None:
        """One attempt has one outcome."""
        outcomes: list[Any] = []
        for host in (HOST, "255.255.255.255"):
            dialling = Dialling(reactor, (host, self.number), 5, lambda *_: None, outcomes.append)
            verifyObject(IConnector, dialling)
            dialling.connect()
            verifyObject(IWriteDescriptor, dialling)
            dialling.stopConnecting()
            dialling.stopConnecting()
            await self.turns(5)
        self.assertEqual([outcome.type for outcome in outcomes], [UserError, UserError])

    async def test_ipv6(self) -> None:
        """IPv6, both sides."""
        try:
            socket.create_server(("::1", self.number), family=socket.AF_INET6).close()
        except OSError:
            return
        port = self.streams.listenTCP(self.number, self.factory, interface="::1")
        self.addCleanup(lambda: port.stopListening())
        self.addCleanup(self.clear)
        protocol: Any = await self.endpoint("::1").connect(self.ours())
        await self.until(lambda: protocol.got == b"hello")
        for transport in (protocol.transport, self.factory.built[0].transport):
            self.assertIsInstance(transport.getPeer(), IPv6Address)
            self.assertEqual(transport.getHost().host, "::1")

    async def test_names(self) -> None:
        """Names are Twisted's work, what comes of them is a stream."""
        need_names()
        self.listen()
        for interface in (IReactorTCP, IReactorTime, IReactorPluggableNameResolver):
            self.assertTrue(interface.providedBy(self.streams))
        ours = self.ours()
        await HostnameEndpoint(self.streams, "localhost", self.number).connect(ours)
        self.assertIsInstance(self.factory.built[0].transport, Stream)
        await self.until(lambda: ours.built[0].got == b"hello")
        refused = HostnameEndpoint(self.streams, "localhost", free_port()).connect(self.ours())
        await self.assertFailure(refused, ConnectError)

    async def test_bound_address(self) -> None:
        """The address to dial from may be chosen."""
        need_names()
        self.listen()
        ours = self.ours()
        endpoint = HostnameEndpoint(self.streams, "localhost", self.number, bindAddress=("127.0.0.9", 0))
        await endpoint.connect(ours)
        self.assertIsInstance(ours.built[0].transport, Stream)
        self.assertEqual(ours.built[0].transport.getHost().host, "127.0.0.9")


class Listening:
    """A dialogue that only listens."""

    def feed(self, data: bytes) -> list[Any]:
        return []


class UsersTests(PortCase):
    """Listeners and dialer on streams."""

    def service(self, tls: Any) -> ListeningService:
        listener = Listener(protocol="imap", endpoint=f"tcp:{self.number}:interface={HOST}", tls=tls)
        service = ListeningService(self.streams, listener, self.factory, self.server_tls)
        service.privilegedStartService()
        service.startService()
        self.addCleanup(service.stopService)
        self.addCleanup(self.clear)
        return service

    async def test_implicit(self) -> None:
        """A listener with implicit TLS, and another certificate and factory put in its place."""
        service = self.service("implicit")
        far = self.visit()
        far.secure(self.client_context(ssl.TLSVersion.TLSv1_3))
        await self.until(lambda: far.got == b"hello", far)
        self.assertIsInstance(self.factory.built[0].transport, Stream)
        self.factory.build = lambda: type("Other", (Greeter,), {"word": b"other"})()
        service.renew(service._listener, self.factory, self.server_tls)
        far = self.visit()
        far.secure(self.client_context())
        await self.until(lambda: far.got == b"other", far)

    async def test_plain(self) -> None:
        """A listener that begins in plaintext."""
        self.service("starttls")
        far = self.visit()
        await self.until(lambda: far.got == b"hello", far)

    async def test_source(self) -> None:
        """A pool's own addresses are connected from in turn, to addresses and to names."""
        need_names()
        self.service("none")
        pool = {"main": Pool.model_validate({"source": ["127.0.0.8", "::1", "127.0.0.9"]})}
        dialer = Dialer(self.streams, {"main": self.pool_tls}, Limits(), pool)
        hosts = []
        for host in (HOST, "localhost", HOST):
            backend = Backend("main", host, host, self.number, "none")
            connection = await Deferred.fromCoroutine(dialer.connect(backend, Listening()))
            self.assertIsInstance(connection.transport, Stream)
            hosts.append(connection.transport.getHost().host)
            connection.close()
        self.assertEqual(hosts, ["127.0.0.8", "127.0.0.9", "127.0.0.8"])

    async def test_no_such_source(self) -> None:
        """An address that is not ours is a backend that cannot be connected to."""
        self.service("none")
        pool = {"main": Pool.model_validate({"source": "192.0.2.77"})}
        dialer = Dialer(self.streams, {"main": self.pool_tls}, Limits(), pool)
        attempt = Deferred.fromCoroutine(dialer.connect(Backend("main", "b", HOST, self.number, "none"), Listening()))
        failure = await self.assertFailure(attempt, BackendFailed)
        self.assertIs(failure.kind, Failure.CONNECT)

    async def test_dialer(self) -> None:
        """Addresses and names are dialled on streams."""
        need_names()
        self.service("none")
        dialer = Dialer(self.streams, {"main": self.pool_tls}, Limits())
        for host in (HOST, "localhost"):
            backend = Backend("main", host, host, self.number, "none")
            connection = await Deferred.fromCoroutine(dialer.connect(backend, Listening()))
            self.assertIsInstance(connection.transport, Stream)
            connection.close()
