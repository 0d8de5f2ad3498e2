"""What every transport of the edge does, Twisted's own as ours: over TCP on loopback, with the real reactor.

A transport is made on a connected socket, whose other end L{tests.edge.ends.Far} has.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
    ITLSTransport,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from mailgw.edge.selfsigned import write_pair
from mailgw.edge.tls import Identities, PoolTls, ServerTls
from mailgw.settings import Pool, Tls
from tests.edge.ends import VERSIONS, Drip, Far, HalfRecorder, Recorder, Source
from tests.integration.ports import free_port

reactor: Any = _reactor


class TransportCase(TestCase):
    """Connections over loopback.

    @cvar near: makes a transport.
    """

    timeout = 30.0

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        write_pair(["localhost"], folder, 30, datetime.now(UTC))
        self.certificate, self.key = str(folder / "localhost.crt"), str(folder / "localhost.key")
        self.server_tls = ServerTls(Identities(Tls(certificate=(self.certificate,), key=(self.key,))), "imap")
        self.pool_tls = PoolTls(Pool(members=({"host": "localhost"},), ca=self.certificate), "1.2")  # type: ignore[arg-type]

    def transport(self, skt: socket.socket, protocol: Protocol, *, dialled: bool) -> None:
        """Put a transport on a connected socket, and give it to the protocol."""
        raise NotImplementedError

    def pair(self, recorder: type[Recorder] = Recorder, *, dialled: bool = False) -> tuple[Any, Far]:
        """A protocol on its transport, and the far end."""
        with socket.create_server(("127.0.0.1", free_port())) as listening:
            far = socket.create_connection(listening.getsockname())
            near, _ = listening.accept()
        protocol = recorder()
        self.transport(near, protocol, dialled=dialled)
        self.addCleanup(self._clean, protocol, far)
        return protocol, Far(far)

    async def _clean(self, protocol: Recorder, far: socket.socket) -> None:
        far.close()
        if protocol.reason is None:
            protocol.transport.abortConnection()
            await self.until(lambda: protocol.reason is not None)

    async def until(self, true: Callable[[], Any], *fars: Far, seconds: float = 10.0) -> None:
        """Turn the reactor until something is true; meanwhile far ends read and write."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise AssertionError("it does not come true")
            for far in fars:
                far.pump()
            await deferLater(reactor, 0.001)

    async def arrives(self, data: bytes, far: Far) -> None:
        """Wait until all of it has come to the far end, and see that it is that."""
        await self.until(lambda: len(far.got) >= len(data), far)
        self.assertEqual(hashlib.sha256(far.got).digest(), hashlib.sha256(data).digest())

    async def turns(self, count: int = 20) -> None:
        """Let the reactor do what it has to do."""
        for _ in range(count):
            await deferLater(reactor, 0.001)

    def client_context(self, version: Any = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.certificate)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    def server_context(self, version: Any = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    async def secured(
        self, version: Any = None, *, dialled: bool = False, recorder: type[Recorder] = Recorder
    ) -> tuple[Any, Far]:
        """As L{pair}, the handshake done."""
        protocol, far = self.pair(recorder, dialled=dialled)
        if dialled:
            protocol.transport.startTLS(self.pool_tls.creator("localhost"))
            far.secure(self.server_context(version), server=True)
        else:
            protocol.transport.startTLS(self.server_tls)
            far.secure(self.client_context(version))
        await self.until(lambda: far.shaken and "secured" in protocol.log, far)
        return protocol, far


class TransportContract:
    """What holds for every transport; mixed into a L{TransportCase} that says how to make one."""

    # --- plaintext ---------------------------------------------------------------------------------------------------

    async def test_interfaces(self) -> None:
        """It is what it says, in TLS too."""
        protocol, _ = self.pair()
        for interface in (ITCPTransport, ITLSTransport, IConsumer, IPushProducer):
            verifyObject(interface, protocol.transport)
        self.assertFalse(ISSLTransport.providedBy(protocol.transport))
        secured, _ = await self.secured()
        self.assertTrue(ISSLTransport.providedBy(secured.transport))
        self.assertTrue(secured.transport.TLS)

    async def test_both_ways(self) -> None:
        """What is written comes out at the other end, either way."""
        protocol, far = self.pair()
        protocol.transport.write(b"one ")
        protocol.transport.writeSequence([b"two ", b"", b"three"])
        protocol.transport.write(b"")
        far.send(b"four")
        await self.until(lambda: far.got == b"one two three" and protocol.got == b"four", far)
        self.assertRaises(TypeError, protocol.transport.write, "text")

    async def test_addresses(self) -> None:
        """Both ends are known, and options can be set."""
        protocol, far = self.pair()
        here, there = protocol.transport.getHost(), protocol.transport.getPeer()
        self.assertEqual((here.host, here.port), far.socket.getpeername())
        self.assertEqual((there.host, there.port), far.socket.getsockname())
        for enabled in (True, False):
            protocol.transport.setTcpNoDelay(enabled)
            protocol.transport.setTcpKeepAlive(enabled)
            self.assertEqual(
                (protocol.transport.getTcpNoDelay(), protocol.transport.getTcpKeepAlive()), (enabled, enabled)
            )

    async def test_much_to_a_slow_reader(self) -> None:
        """What does not fit waits, in order, and pieces written meanwhile come behind it."""
        protocol, far = self.pair()
        data = random.Random(1).randbytes(6 << 20)
        protocol.transport.write(data[: 5 << 20])
        for begin in range(5 << 20, 6 << 20, 1 << 16):
            protocol.transport.write(data[begin : begin + (1 << 16)])
            await self.turns(1)
        await self.arrives(data, far)

    async def test_pause(self) -> None:
        """Nothing is delivered while reading is paused, and everything afterwards."""
        protocol, far = self.pair()
        protocol.transport.pauseProducing()
        far.send(b"held")
        await self.turns()
        self.assertEqual(protocol.got, b"")
        protocol.transport.resumeProducing()
        await self.until(lambda: protocol.got == b"held", far)

    async def test_push_producer(self) -> None:
        """A producer is paused when the reader is slow, resumed when it is not, and its bytes come in order."""
        for secure in (False, True):
            protocol, far = await self.secured() if secure else self.pair()
            data = random.Random(2).randbytes(12 << 20)
            source = Source(protocol.transport, [data[i : i + 50000] for i in range(0, len(data), 50000)])
            protocol.transport.registerProducer(source, True)
            self.assertRaises(RuntimeError, protocol.transport.registerProducer, source, True)
            source.resumeProducing()
            await self.turns()
            self.assertTrue(source.paused)
            await self.arrives(data, far)
            self.assertGreater(source.pauses, 1 if secure else 0)
            self.assertEqual(source.stops, 0)

    async def test_pull_producer(self) -> None:
        """A producer that has to be asked is asked until it has no more."""
        for secure in (False, True):
            protocol, far = await self.secured() if secure else self.pair()
            blocks = [bytes([i]) * 30000 for i in range(50)]
            protocol.transport.registerProducer(Drip(protocol.transport, list(blocks)), False)
            await self.arrives(b"".join(blocks), far)

    async def test_producer_of_a_lost_connection(self) -> None:
        """A producer is told to stop when its consumer goes, before the protocol hears of it; and when it is gone."""
        protocol, far = self.pair()
        source = Source(protocol.transport, [])
        source.stopProducing = lambda: protocol.log.append("stopped")  # type: ignore[method-assign]
        protocol.transport.registerProducer(source, True)
        far.socket.close()
        await self.until(lambda: "lost" in protocol.log)
        self.assertEqual(protocol.log, ["made", "stopped", "lost"])
        protocol.transport.registerProducer(source, True)
        self.assertEqual(protocol.log[3:], ["stopped"])

    async def test_lose(self) -> None:
        """What was written goes out before the connection closes; the protocol is told later, and once."""
        protocol, far = self.pair()
        data = random.Random(3).randbytes(4 << 20)
        protocol.transport.write(data)
        protocol.transport.loseConnection()
        protocol.transport.loseConnection()
        self.assertNotIn("lost", protocol.log)
        self.assertTrue(protocol.transport.disconnecting)
        await self.until(lambda: protocol.reason is not None and far.ended, far)
        self.assertEqual((protocol.log, far.got == data, far.ended), (["made", "lost"], True, "fin"))
        self.assertIsInstance(protocol.reason, ConnectionDone)
        protocol.transport.write(b"nothing")
        protocol.transport.abortConnection()
        await self.turns()
        self.assertEqual(protocol.log.count("lost"), 1)

    async def test_lose_at_once(self) -> None:
        """With nothing to send the protocol is told in a later turn all the same."""
        protocol, far = self.pair()
        protocol.react = lambda data: protocol.transport.loseConnection() or protocol.log.append("back")
        far.send(b"x")
        await self.until(lambda: protocol.reason is not None and far.ended, far)
        self.assertEqual(protocol.log, ["made", "back", "lost"])

    async def test_abort(self) -> None:
        """An abort drops what is queued, delivers nothing more, and resets."""
        for secure in (False, True):
            protocol, far = await self.secured() if secure else self.pair()
            far.reading = False
            protocol.transport.write(bytes(8 << 20))
            far.send(b"x")
            protocol.transport.abortConnection()
            protocol.transport.abortConnection()
            self.assertNotIn("lost", protocol.log)
            await self.until(lambda p=protocol: p.reason is not None)
            self.assertIsInstance(protocol.reason, ConnectionLost)  # ConnectionAborted is one
            self.assertEqual(protocol.got, b"")
            far.reading = True
            await self.until(lambda f=far: f.ended == "reset", far)

    async def test_end(self) -> None:
        """The far end's end is ours, for a protocol that knows no half-close."""
        protocol, far = self.pair()
        far.send(b"last")
        far.finish()
        await self.until(lambda: protocol.reason is not None)
        self.assertEqual((protocol.got, type(protocol.reason)), (b"last", ConnectionDone))

    async def test_reset(self) -> None:
        """A reset is a lost connection, in TLS too, and while reading is paused it is seen by writing."""
        for secure in (False, True):
            for paused in (False, True):
                protocol, far = await self.secured() if secure else self.pair()
                if paused:
                    protocol.transport.pauseProducing()
                    protocol.transport.write(bytes(8 << 20))
                    await self.turns(2)
                far.reset()
                await self.until(lambda p=protocol: p.reason is not None)
                self.assertIsInstance(protocol.reason, ConnectionLost)

    async def test_half_close_by_the_far_end(self) -> None:
        """Its end is told once, and what we still say gets there."""
        protocol, far = self.pair(HalfRecorder)
        far.send(b"question")
        far.finish()
        await self.until(lambda: "read lost" in protocol.log)
        protocol.transport.write(b"answer")
        await self.until(lambda: far.got == b"answer", far)
        self.assertEqual(protocol.log, ["made", "read lost"])
        protocol.transport.loseConnection()
        await self.until(lambda: protocol.reason is not None)
        self.assertIsInstance(protocol.reason, ConnectionDone)

    async def test_end_with_a_producer(self) -> None:
        """A client that leaves is gone at once, though its session stands ready to be paused."""
        protocol, far = self.pair(HalfRecorder)
        protocol.readConnectionLost = protocol.transport.loseConnection
        source = Source(protocol.transport, [])
        protocol.transport.registerProducer(source, True)
        far.socket.close()
        await self.until(lambda: protocol.reason is not None, seconds=2.0)
        self.assertEqual(source.stops, 1)

    async def test_half_close_by_us(self) -> None:
        """Our end comes behind what was written; reading goes on."""
        protocol, far = self.pair(HalfRecorder)
        data = bytes(4 << 20)
        protocol.transport.write(data)
        protocol.transport.loseWriteConnection()
        await self.until(lambda: far.ended == "fin" and "write lost" in protocol.log, far)
        self.assertEqual(far.got, data)
        protocol.transport.write(b"too late")
        far.send(b"still here")
        await self.until(lambda: protocol.got == b"still here")
        far.finish()
        await self.until(lambda: "read lost" in protocol.log)
        protocol.transport.loseConnection()
        await self.until(lambda: protocol.reason is not None)
        self.assertEqual(protocol.log, ["made", "write lost", "read lost", "lost"])

    async def test_a_protocol_that_breaks(self) -> None:
        """It is logged, and costs the connection."""
        for secure in (False, True):
            protocol, far = await self.secured() if secure else self.pair()

            def broken(data: bytes) -> None:
                raise ZeroDivisionError

            protocol.react = broken
            far.send(b"x")
            await self.until(lambda p=protocol: p.reason is not None, far)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    # --- TLS ---------------------------------------------------------------------------------------------------------

    async def test_versions(self) -> None:
        """Both versions, on either side of the handshake, with much data both ways at once."""
        data = random.Random(4).randbytes(3 << 20)
        for version in VERSIONS:
            for dialled in (False, True):
                protocol, far = await self.secured(version, dialled=dialled)
                self.assertEqual(protocol.log, ["made", "secured"])
                for begin in range(0, len(data), 300_000):
                    protocol.transport.write(data[begin : begin + 300_000])
                    far.send(data[begin : begin + 300_000])
                await self.until(lambda p=protocol, f=far: len(p.got) == len(f.got) == len(data), far)
                self.assertTrue(protocol.got == far.got == data)
                self.assertEqual(protocol.transport.getPeerCertificate() is not None, dialled)

    async def test_start_behind_plaintext(self) -> None:
        """Plaintext that still waits when TLS begins goes out in plaintext; what is written then, in TLS."""
        protocol, far = self.pair()
        clear = bytes(6 << 20)
        protocol.transport.write(clear)
        protocol.transport.startTLS(self.server_tls)
        protocol.transport.write(b"secret")
        await self.until(lambda: len(far.got) == len(clear), far)
        far.got = b""
        far.secure(self.client_context())
        await self.until(lambda: far.got == b"secret", far)
        self.assertEqual(protocol.log, ["made", "secured"])

    async def test_start_in_a_delivery(self) -> None:
        """As STARTTLS does it, on both sides; what came along in plaintext is nobody's command."""
        for dialled in (False, True):
            protocol, far = self.pair(dialled=dialled)
            tls = self.pool_tls.creator("localhost") if dialled else self.server_tls

            def start(data: bytes, protocol: Any = protocol, tls: Any = tls) -> None:
                protocol.transport.write(b"go ahead\r\n")
                protocol.transport.startTLS(tls)
                protocol.react = lambda data: None

            protocol.react = start
            far.send(b"STARTTLS\r\n")
            await self.until(lambda f=far: f.got == b"go ahead\r\n" or f.got[:10] == b"go ahead\r\n", far)
            rest, far.got = far.got[10:], b""
            far.coming.write(rest)
            far.secure(self.server_context() if dialled else self.client_context(), server=dialled)
            await self.until(lambda f=far, p=protocol: f.shaken and "secured" in p.log, far)
            far.send(b"in private")
            await self.until(lambda p=protocol: p.got == b"STARTTLS\r\nin private", far)

    async def test_plaintext_after_the_start(self) -> None:
        """It is not delivered, it ends the connection."""
        protocol, far = self.pair()
        protocol.transport.startTLS(self.server_tls)
        far.send(b"a LOGIN joe secret\r\n")
        await self.until(lambda: protocol.reason is not None)
        self.assertIsInstance(protocol.reason, SSL.Error)
        self.assertEqual((protocol.got, protocol.log), (b"", ["made", "lost"]))

    async def test_wrong_name(self) -> None:
        """A certificate for somebody else fails the handshake, with the reason told."""
        protocol, far = self.pair(dialled=True)
        protocol.transport.startTLS(self.pool_tls.creator("other.example"))
        protocol.transport.write(b"password")
        far.secure(self.server_context(), server=True)
        await self.failing(protocol, far)
        self.assertIsInstance(protocol.reason, VerificationError)
        self.assertEqual((far.got, protocol.log), (b"", ["made", "lost"]))

    async def test_untrusted(self) -> None:
        """A certificate of an unknown authority fails the handshake, unless nobody asked."""
        pool = Pool(members=({"host": "localhost"},), verify=True)  # type: ignore[arg-type]
        protocol, far = self.pair(dialled=True)
        protocol.transport.startTLS(PoolTls(pool, "1.2").creator("localhost"))
        far.secure(self.server_context(), server=True)
        await self.failing(protocol, far)
        self.assertIsInstance(protocol.reason, SSL.Error)
        careless = Pool(members=({"host": "localhost"},), verify=False)  # type: ignore[arg-type]
        protocol, far = self.pair(dialled=True)
        protocol.transport.startTLS(PoolTls(careless, "1.2").creator("localhost"))
        far.secure(self.server_context(), server=True)
        await self.until(lambda: "secured" in protocol.log, far)

    async def failing(self, protocol: Recorder, far: Far) -> None:
        """Wait until a handshake has failed; the far end's TLS may say so, too."""
        while protocol.reason is None:
            with contextlib.suppress(ssl.SSLError):
                far.pump()
            await deferLater(reactor, 0.001)

    async def test_end_in_tls(self) -> None:
        """A close_notify is a clean end, and is answered; what came right before it is delivered."""
        for version in VERSIONS:
            protocol, far = await self.secured(version, recorder=HalfRecorder)
            assert far.tls is not None
            far.tls.write(b"last words" * 5000)
            far.notify()
            await self.until(lambda p=protocol: p.reason is not None, far)
            self.assertIsInstance(protocol.reason, ConnectionDone)
            self.assertEqual(protocol.got, b"last words" * 5000)
            await self.until(lambda f=far: f.ended, far)
            self.assertEqual(protocol.log, ["made", "secured", "lost"])

    async def test_truncation(self) -> None:
        """An end without close_notify is none: anybody on the way could have made it."""
        for version in VERSIONS:
            protocol, far = await self.secured(version)
            far.send(b"cut he")
            far.finish()
            await self.until(lambda p=protocol: p.reason is not None, far)
            self.assertEqual((protocol.got, type(protocol.reason)), (b"cut he", ConnectionLost))

    async def test_lose_in_tls(self) -> None:
        """What was written goes out, then our close_notify, then the end."""
        for version in VERSIONS:
            protocol, far = await self.secured(version)
            data = random.Random(5).randbytes(4 << 20)
            protocol.transport.write(data)
            protocol.transport.loseConnection()
            protocol.transport.write(b"too late")
            await self.until(lambda f=far: f.notified, far)
            self.assertEqual(far.got, data)
            far.notify()
            await self.until(lambda p=protocol, f=far: p.reason is not None and f.ended, far)
            self.assertIsInstance(protocol.reason, ConnectionDone)
            self.assertEqual(protocol.log.count("lost"), 1)

    async def test_lose_in_the_handshake(self) -> None:
        """Nothing was said, and nobody waits for the rest of it."""
        protocol, _ = self.pair()
        protocol.transport.startTLS(self.server_tls)
        protocol.transport.loseConnection()
        await self.until(lambda: protocol.reason is not None)
        self.assertNotIn("secured", protocol.log)

    async def test_end_in_the_handshake(self) -> None:
        """Who leaves in the middle of it is lost."""
        protocol, far = self.pair()
        protocol.transport.startTLS(self.server_tls)
        far.send(b"\x16\x03\x01")
        far.finish()
        await self.until(lambda: protocol.reason is not None)
        self.assertIsInstance(protocol.reason, ConnectionLost)

    async def test_octet_by_octet(self) -> None:
        """A handshake and data that come in the smallest pieces."""
        protocol, far = self.pair()
        protocol.transport.startTLS(self.server_tls)
        far.secure(self.client_context())
        far.segment = 1
        await self.until(lambda: far.shaken and "secured" in protocol.log, far)
        far.send(b"slow")
        await self.until(lambda: protocol.got == b"slow", far)
