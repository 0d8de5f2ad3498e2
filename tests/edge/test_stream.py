"""Tests of the streams: the contract of transports, kept by Twisted's and by ours, and what only ours promise."""

from __future__ import annotations

import random
import socket
import time
from typing import Any

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableDescriptor,
    ILoggingContext,
    INegotiated,
    IReadWriteDescriptor,
    ISystemHandle,
)
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.edge import stream
from mailgw.edge.stream import FULL, Stream
from mailgw.edge.streamport import SecureFactory, StreamReactor
from mailgw.edge.streamtls import BURST, RECORD, SIZE, TlsWire
from tests.edge.contract_transport import TransportCase, TransportContract, reactor
from tests.edge.ends import Recorder, Source
from tests.integration.ports import free_port, needs
from tests.programs import find


class _Accepted(tcp.Server):
    """Twisted's transport without a port."""

    def __init__(self, skt: socket.socket, protocol: Protocol) -> None:
        super().__init__(skt, protocol, skt.getpeername(), None, 0, reactor)  # type: ignore[arg-type]


class _Dialled(_Accepted):
    _tlsClientDefault = True


class TwistedTransportTests(TransportContract, TransportCase):
    """Twisted's own."""

    def transport(self, skt: socket.socket, protocol: Protocol, *, dialled: bool) -> None:
        protocol.makeConnection((_Dialled if dialled else _Accepted)(skt, protocol))


class StreamCase(TransportCase):
    """Ours."""

    def transport(self, skt: socket.socket, protocol: Protocol, *, dialled: bool) -> None:
        peer = IPv4Address("TCP", *skt.getpeername())
        Stream(skt, protocol, peer, reactor, dialled=dialled).begin()


class StreamTransportTests(TransportContract, StreamCase):
    """Ours, in the contract."""


class StreamTests(StreamCase):
    """What a stream does beyond the contract."""

    async def test_more_interfaces(self) -> None:
        """The reactor's side of it."""
        protocol, _ = await self.secured()
        for interface in (IReadWriteDescriptor, IHalfCloseableDescriptor, ISystemHandle, INegotiated, ILoggingContext):
            verifyObject(interface, protocol.transport)
        self.assertIsInstance(protocol.transport.getHandle(), SSL.Connection)
        self.assertIsNone(protocol.transport.negotiatedProtocol)
        self.assertRaises(RuntimeError, protocol.transport.startTLS, self.server_tls)

    async def test_abort_is_told_as_one(self) -> None:
        """In TLS, too."""
        protocol, _ = await self.secured()
        protocol.transport.abortConnection()
        await self.until(lambda: protocol.reason is not None)
        self.assertIsInstance(protocol.reason, ConnectionAborted)

    async def test_written_at_once(self) -> None:
        """What the socket takes does not wait for the reactor; nothing is sent before TLS is there for it."""
        protocol, far = self.pair()
        protocol.transport.write(b"now")
        far.socket.setblocking(True)
        far.socket.settimeout(5)
        self.assertEqual(far.socket.recv(10), b"now")

    async def test_one_buffer_an_event(self) -> None:
        """However much is there, one event delivers no more than one buffer, and all of it arrives."""
        for secure in (False, True):
            protocol, far = await self.secured() if secure else self.pair()
            protocol.transport.pauseProducing()
            data = random.Random(6).randbytes(2 << 20)
            far.send(data)
            await self.turns(5)
            protocol.transport.resumeProducing()
            await self.until(lambda p=protocol: len(p.got) == 2 << 20, far)
            self.assertEqual(protocol.got, data)
            self.assertLessEqual(max(protocol.sizes), SIZE)
            self.assertGreater(max(protocol.sizes), RECORD)

    async def test_pause_within_a_delivery(self) -> None:
        """Not another octet comes, in TLS neither, until reading is resumed."""
        protocol, far = await self.secured()
        protocol.react = lambda data: protocol.transport.pauseProducing()
        data = random.Random(7).randbytes(1 << 20)
        far.send(data)
        while len(protocol.got) < len(data):
            await self.until(lambda: protocol.sizes, far)
            protocol.sizes.clear()
            had = len(protocol.got)
            await self.turns(3)
            self.assertEqual(len(protocol.got), had)
            protocol.transport.resumeProducing()
        self.assertEqual(protocol.got, data)

    async def test_end_while_paused(self) -> None:
        """Data and close_notify of one segment: the one is delivered, the other seen when reading goes on."""
        protocol, far = await self.secured()
        protocol.react = lambda data: protocol.transport.pauseProducing()
        assert far.tls is not None
        far.tls.write(b"last")
        far.notify()
        await self.until(lambda: protocol.got == b"last", far)
        await self.turns()
        self.assertNotIn("lost", protocol.log)
        protocol.transport.resumeProducing()
        await self.until(lambda: protocol.reason is not None)
        self.assertIsInstance(protocol.reason, ConnectionDone)

    async def test_end_with_much_to_say(self) -> None:
        """Who ends TLS still gets what was queued for it, whatever producer there is."""
        protocol, far = await self.secured()
        far.reading = False
        data = random.Random(8).randbytes(6 << 20)
        source = Source(protocol.transport, [])
        protocol.transport.registerProducer(source, True)
        protocol.transport.write(data)
        far.notify()
        await self.until(lambda: source.stops == 1, far)
        protocol.transport.write(b"too late")
        far.reading = True
        await self.until(lambda: far.ended and protocol.reason is not None, far)
        self.assertEqual(far.got, data)
        self.assertTrue(far.notified)
        self.assertIsInstance(protocol.reason, ConnectionDone)

    async def test_no_farewell(self) -> None:
        """A peer that never answers our close_notify is waited for a little, and is not heard any more."""
        self.patch(stream, "LINGER", 0.2)
        protocol, far = await self.secured()
        protocol.transport.write(b"goodbye")
        protocol.transport.loseConnection()
        await self.until(lambda: far.notified, far)
        self.assertNotIn("lost", protocol.log)
        began = time.monotonic()
        far.socket.send(b"no TLS at all")
        await self.until(lambda: protocol.reason is not None)
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual((far.got, protocol.got, type(protocol.reason)), (b"goodbye", b"", ConnectionDone))

    async def test_farewell(self) -> None:
        """The answer to our close_notify is all that is waited for, and so is the end of a talker in plaintext."""
        self.patch(stream, "LINGER", 60)
        protocol, far = await self.secured()
        protocol.transport.loseConnection()
        await self.until(lambda: far.notified, far)
        far.notify()
        await self.until(lambda: protocol.reason is not None)
        self.assertIsInstance(protocol.reason, ConnectionDone)

    async def test_end_behind_whole_records(self) -> None:
        """A close_notify that was read along with octets, and that no socket will tell of again, is seen."""
        for count in (1, 3):
            protocol, far = await self.secured()
            assert far.tls is not None
            far.tls.write(b"r" * RECORD * count)
            far.notify()
            await self.until(lambda p=protocol: p.reason is not None)
            self.assertEqual((len(protocol.got), type(protocol.reason)), (RECORD * count, ConnectionDone))

    async def test_still_talking(self) -> None:
        """A peer that talks on after our close_notify gets its end within the same time."""
        self.patch(stream, "LINGER", 0.2)
        protocol, far = await self.secured()
        protocol.transport.loseConnection()
        while protocol.reason is None:
            far._unsent = b"x" * 100000
            far.pump()
            await self.turns(1)
        self.assertEqual((protocol.got, type(protocol.reason)), (b"", ConnectionDone))

    async def test_last_words_to_a_talker(self) -> None:
        """Plaintext that we did not read must not destroy what we said last, as a reset would."""
        protocol, far = self.pair()
        protocol.transport.pauseProducing()
        for _ in range(20):
            far.send(b"more commands " * 1000)
        await self.turns(5)
        protocol.transport.write(bytes(100_000))
        protocol.transport.loseConnection()
        await self.turns(20)
        far.send(b"and more")
        await self.until(lambda: far.ended, far)
        self.assertEqual((far.ended, far.got, protocol.got), ("fin", bytes(100_000), b""))
        far.finish()
        await self.until(lambda: protocol.reason is not None)
        self.assertIsInstance(protocol.reason, ConnectionDone)

    async def test_loses_after_its_producer(self) -> None:
        """The connection stays until a producer has had its say: in plaintext, one that was paused."""
        for secure in (False, True):
            protocol, far = await self.secured() if secure else self.pair()
            protocol.transport.write(bytes(8 << 20))
            source = Source(protocol.transport, [b"end"])
            protocol.transport.registerProducer(source, True)
            protocol.transport.loseConnection()
            await self.turns(5)
            self.assertEqual((source.paused, "lost" in protocol.log), (True, False))
            await self.until(lambda f=far: f.notified or f.ended, far)
            self.assertEqual(far.got[8 << 20 :], b"end")

    async def test_paused_beyond_the_limit(self) -> None:
        """A producer may queue so much and no more."""
        protocol, far = self.pair()
        far.reading = False
        source = Source(protocol.transport, [bytes(10000)] * 1000)
        protocol.transport.registerProducer(source, True)
        source.resumeProducing()
        self.assertTrue(source.paused)
        self.assertLessEqual(len(protocol.transport._queue or b""), FULL + 10000)
        far.reading = True
        await self.until(lambda: len(far.got) == 10_000_000, far)

    async def test_renegotiation(self) -> None:
        """TLS 1.2 has it, and we refuse it."""
        protocol, far = self.pair()
        protocol.transport.startTLS(self.server_tls)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = SSL.Connection(context, far.socket)
        client.set_connect_state()
        await self.until(lambda: _done(client))
        self.assertTrue(client.renegotiate())
        with self.assertRaises(SSL.Error):
            for _ in range(1000):
                try:
                    client.do_handshake()
                    client.recv(1)
                except SSL.WantReadError:
                    await self.turns(1)
        self.assertEqual(protocol.log.count("secured"), 1)

    async def test_key_update(self) -> None:
        """TLS 1.3 changes keys on the way, asking us to do so too, and nothing is lost."""
        protocol = Recorder()
        protocol.react = lambda data: protocol.transport.write(data.upper())
        factory = Factory()
        factory.buildProtocol = lambda peer: protocol  # type: ignore[method-assign,assignment,return-value]
        number = free_port()
        port = StreamReactor(reactor).listenTCP(number, SecureFactory(self.server_tls, factory), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = _Client()
        openssl = str(find("openssl"))
        arguments = [openssl, "s_client", "-connect", f"127.0.0.1:{number}", "-tls1_3", "-msg"]
        reactor.spawnProcess(client, openssl, arguments)
        self.addCleanup(client.end)
        await self.until(lambda: "secured" in protocol.log)
        for line in (b"before\n", b"K\n", b"between\n", b"k\n", b"after\n"):
            client.transport.write(line)
            await self.until(lambda line=line: line.upper() in client.got or len(line) == 2)
            await self.turns()
        self.assertEqual(protocol.got, b"before\nbetween\nafter\n")
        self.assertGreaterEqual(client.got.count(b"KeyUpdate"), 3)  # two of theirs, one of ours

    test_key_update.skip = needs("openssl")  # type: ignore[attr-defined]


class _Client(ProcessProtocol):
    """A program.

    @ivar got: what it has written.
    """

    transport: Any

    def __init__(self) -> None:
        self.got = b""
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.got += data

    def processEnded(self, reason: object) -> None:
        self.ended.callback(None)

    def end(self) -> Deferred[None]:
        if not self.ended.called:
            self.transport.signalProcess("KILL")
        return self.ended


def _done(connection: SSL.Connection) -> bool:
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    return True


class ScriptedConnection:
    """Stands for an L{SSL.Connection}: each call gives the next of its answers."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent = b""
        self.held = 0

    def _answer(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def recv_into(self, view: memoryview, most: int) -> int:
        data: bytes = self._answer()
        assert len(data) <= most
        view[: len(data)] = data
        return len(data)

    def send(self, data: memoryview) -> int:
        count: int = self._answer()
        self.sent += data[:count]
        return count

    def shutdown(self) -> bool:
        return bool(self._answer())

    def do_handshake(self) -> None:
        self._answer()

    def pending(self) -> int:
        return self.held


class TlsWireTests(SynchronousTestCase):
    """What OpenSSL wants becomes what the stream has to wait for."""

    def wire(self, *answers: Any) -> TlsWire:
        self.connection: Any = ScriptedConnection(*answers)
        return TlsWire(self.connection)

    def test_read_that_wants_to_write(self) -> None:
        """What had been read is given; then the socket has to be writable; then reading goes on."""
        full = b"x" * RECORD
        wire = self.wire(full, SSL.WantWriteError(), SSL.WantWriteError(), b"more", SSL.WantReadError())
        self.assertEqual((wire.receive(), wire.reads_when_writable), (full, True))
        self.assertEqual((wire.receive(), wire.reads_when_writable), (None, True))
        self.assertEqual((wire.receive(), wire.reads_when_writable), (b"more", False))
        self.assertEqual((wire.receive(), wire.reads_when_writable), (None, False))

    def test_write_that_wants_to_read(self) -> None:
        """What was sent counts; then the socket has to be readable."""
        wire = self.wire(RECORD, SSL.WantReadError(), 5)
        data = memoryview(bytes(RECORD + 5))
        self.assertEqual((wire.send(data), wire.writes_when_readable), (RECORD, True))
        self.assertEqual((wire.send(data[RECORD:]), wire.writes_when_readable), (5, False))

    def test_partial_writes(self) -> None:
        """Parts of records are sent until the socket is full, and no more than a burst at once."""
        wire = self.wire(100, 200, SSL.WantWriteError())
        self.assertEqual((wire.send(memoryview(bytes(1000))), wire.writes_when_readable), (300, False))
        wire = self.wire(*[RECORD] * 100)
        self.assertEqual(wire.send(memoryview(bytes(100 * RECORD))), BURST)

    def test_whole_buffer(self) -> None:
        """Reading stops where a whole record might not fit any more."""
        wire = self.wire(*[b"y" * RECORD] * 100)
        data = wire.receive()
        assert data is not None
        self.assertTrue(SIZE - RECORD < len(data) <= SIZE)

    def test_what_comes_behind_octets(self) -> None:
        """An end or a break behind octets is kept for the next time, and the wire tells that it holds it."""
        full = b"z" * RECORD
        wire = self.wire(full, SSL.ZeroReturnError())
        self.assertEqual((wire.receive(), wire.holds), (full, True))
        self.assertEqual(wire.receive(), b"")
        wire = self.wire(full, SSL.SysCallError(-1, "Unexpected EOF"))
        self.assertEqual((wire.receive(), wire.holds), (full, True))
        self.assertRaises(ConnectionLost, wire.receive)
        self.assertRaises(ConnectionLost, wire.send, memoryview(b"x"))

    def test_holds_decrypted_octets(self) -> None:
        """What OpenSSL has decrypted and not given is not forgotten."""
        wire = self.wire(b"a")
        wire.receive()
        self.assertFalse(wire.holds)
        self.connection.held = 3
        self.assertTrue(wire.holds)

    def test_breaks(self) -> None:
        """Cut and reset connections are lost ones; a broken protocol keeps OpenSSL's words."""
        words = SSL.Error([("SSL routines", "", "bad record mac")])
        for error, kind in (
            (SSL.SysCallError(104, "ECONNRESET"), ConnectionLost),
            (SSL.SysCallError(-1, "Unexpected EOF"), ConnectionLost),
            (SSL.Error(), ConnectionLost),
            (SSL.Error([]), ConnectionLost),
            (words, SSL.Error),
        ):
            self.assertRaises(kind, self.wire(error).receive)
            self.assertRaises(kind, self.wire(error).shake)
            wire = self.wire(error)
            self.assertEqual(wire.send(memoryview(b"x")), 0)
            self.assertRaises(kind, wire.send, memoryview(b"x"))

    def test_handshake(self) -> None:
        """It goes on when the socket is what it wanted."""
        wire = self.wire(SSL.WantWriteError(), SSL.WantReadError(), None)
        self.assertEqual((wire.shake(), wire.reads_when_writable), (False, True))
        self.assertEqual((wire.shake(), wire.reads_when_writable), (False, False))
        self.assertTrue(wire.shake())

    def test_parting(self) -> None:
        """Ours may have to wait; a broken connection has nobody to part from."""
        wire = self.wire(SSL.WantWriteError(), False, True, SSL.Error([("", "", "x")]))
        self.assertEqual([wire.part() for _ in range(4)], [None, False, True, True])
