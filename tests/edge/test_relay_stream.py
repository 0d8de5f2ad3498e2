"""Tests of relays between two streams, over TCP on loopback: octets past the protocols, in TLS and through the pipe."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import random
import struct
import termios
from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.edge import stream
from mailgw.edge.dialer import BackendConnection
from mailgw.edge.relay import Relay, Sweeper
from mailgw.edge.splice import CAPACITY, SPLICER
from mailgw.edge.streamqueue import FULL
from mailgw.edge.streamtls import SIZE
from mailgw.model import Backend
from tests.edge.contract_transport import reactor
from tests.edge.ends import Far, Recorder
from tests.edge.test_stream import StreamCase

AMOUNT = 20 << 20
"""Octets each way."""
KINDS = ((False, False), (True, False), (False, True), (True, True))
"""Whether the client, and whether the backend, speaks TLS."""


@implementer(IHandshakeListener, IHalfCloseableProtocol)
class Shell(Protocol):
    """As much of a session as its relay needs; octets must not come by here."""

    transport: Any

    def __init__(self) -> None:
        self.stage: Any = None
        self.secured = False
        self.received = b""
        self.reason: Any = None

    def handshakeCompleted(self) -> None:
        self.secured = True

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.stage.readConnectionLost()

    def writeConnectionLost(self) -> None:
        self.stage.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason.value
        self.stage.connectionLost(reason)


class Torrent:
    """A far end that sends much and reads slowly, and keeps no more of either than it needs."""

    def __init__(self, far: Far, seed: int) -> None:
        self.far = far
        self._dice = random.Random(seed)
        self._left = AMOUNT
        self.sent, self.got = hashlib.sha256(), hashlib.sha256()
        self.count = 0

    def step(self) -> None:
        """Send a piece if the last one is gone, and read a little, or nothing for once."""
        far = self.far
        far.reading = self._dice.random() < 0.8
        if self._left and not far._unsent:
            piece = self._dice.randbytes(min(self._left, self._dice.choice((10, 3000, 400_000))))
            self._left -= len(piece)
            self.sent.update(piece)
            far.send(piece)
        far.pump(self._dice.choice((5000, 100_000, 1 << 20)))
        self.got.update(far.got)
        self.count += len(far.got)
        far.got = b""


def waiting_in_the_pipe() -> int:
    """Octets that the process's pipe holds."""
    pipe = SPLICER._pipe
    assert pipe is not None
    number: int = struct.unpack("i", fcntl.ioctl(pipe._out, termios.FIONREAD, bytes(4)))[0]
    return number


class RelayStreamCase(StreamCase):
    """Relays on streams."""

    idle = 0.0

    def setUp(self) -> None:
        super().setUp()
        self.sweeper = Sweeper(reactor)
        self.over = 0
        self.moves: list[int] = []
        move = SPLICER.move

        def moved(source: int, target: int, most: int) -> Any:
            result = move(source, target, most)
            self.moves.append(result[0] if result else -1)
            return result

        self.patch(SPLICER, "move", moved)

    def ended(self) -> None:
        self.over += 1

    def join(self, protocol: Any, *, dialled: bool) -> Far:
        """Connect a protocol with a far end."""
        _, far = self.pair(lambda: protocol, dialled=dialled)  # type: ignore[arg-type]
        return far

    async def relay(self, client_tls: bool = False, backend_tls: bool = False) -> tuple[Relay, Far, Far]:
        """A relay, the client and the backend."""
        backend = Backend("main", "be1", "localhost", 143, tls="implicit" if backend_tls else "none")
        connection: Any = BackendConnection(backend, None, self.pool_tls.creator("localhost"))  # type: ignore[arg-type]
        connection.reason = None
        shell = self.shell = Shell()
        far_backend, far_client = self.join(connection, dialled=True), self.join(shell, dialled=False)
        connection.rest()
        if backend_tls:
            far_backend.secure(self.server_context(), server=True)
        if client_tls:
            shell.transport.startTLS(self.server_tls)
            far_client.secure(self.client_context())
        await self.until(
            lambda: (far_client.shaken or not client_tls) and (far_backend.shaken or not backend_tls),
            far_client,
            far_backend,
        )
        await self.turns(3)
        relay = Relay(connection, b"", self.sweeper, self.idle, self.ended)
        shell.stage = relay.client
        relay.client.makeConnection(shell.transport)
        self.near_client, self.near_backend = shell.transport, connection.transport
        self.addCleanup(self._abort, self.near_client, self.near_backend)
        return relay, far_client, far_backend

    async def _abort(self, *nears: Any) -> None:
        for near in nears:
            near.abortConnection()
        await self.until(lambda: all(near.disconnected for near in nears))

    async def _clean(self, protocol: Any, far: Any) -> None:
        far.close()

    async def flows(self, sender: Far, reader: Far, data: bytes) -> None:
        """Send, and see that it arrives."""
        sender.send(data)
        await self.until(lambda: reader.got == data, sender, reader)
        reader.got = b""


class TorrentTests(RelayStreamCase):
    """Much, both ways at once."""

    async def torrents(self, kind: tuple[bool, bool]) -> None:
        relay, client, backend = await self.relay(*kind)
        ends = Torrent(client, 1), Torrent(backend, 2)

        def done() -> bool:
            for end in ends:
                end.step()
            return all(end.count == AMOUNT for end in ends)

        await self.until(done, seconds=25.0)
        for one, other in (ends, ends[::-1]):
            self.assertEqual(one.sent.digest(), other.got.digest())
        self.assertEqual(relay.traffic(), ("main/be1", AMOUNT, AMOUNT))
        self.assertIn(f"in={AMOUNT} out={AMOUNT}", relay.summary())
        self.assertEqual(self.shell.received, b"")
        self.assertEqual(bool(self.moves), kind == (False, False))

    async def test_plain(self) -> None:
        """Through the pipe, which is empty afterwards."""
        await self.torrents((False, False))
        self.assertGreater(max(self.moves), FULL)
        self.assertEqual(waiting_in_the_pipe(), 0)

    async def test_tls_client(self) -> None:
        """From TLS to plaintext and back."""
        await self.torrents((True, False))

    async def test_tls_backend(self) -> None:
        """From plaintext to TLS and back."""
        await self.torrents((False, True))

    async def test_tls(self) -> None:
        """From TLS to TLS."""
        await self.torrents((True, True))


class StallTests(RelayStreamCase):
    """A reader that reads nothing."""

    async def test_stall(self) -> None:
        """It costs no more memory than one event moves, stops the reading, and gets everything in the end."""
        for kind in KINDS:
            relay, client, backend = await self.relay(*kind)
            client.reading = False
            pieces = self.pieces()
            data = b""
            quiet = 0
            while quiet < 30:
                if not backend._unsent and len(data) < 48 << 20:
                    piece = next(pieces)
                    data += piece
                    backend.send(piece)
                before = relay.traffic()
                backend.pump()
                await self.turns(1)
                quiet = quiet + 1 if relay.traffic() == before else 0
            most = SIZE if any(kind) else CAPACITY
            self.assertLessEqual(len(self.near_client._queue), most)
            self.assertFalse(self.near_backend._reads)
            await self.flows(client, backend, b"the other way")
            client.reading = True
            digest, count = hashlib.sha256(), 0
            while count < len(data):
                await self.until(lambda client=client: client.got, backend, client)
                digest.update(client.got)
                count += len(client.got)
                client.got = b""
            self.assertEqual(digest.digest(), hashlib.sha256(data).digest())
            self.assertIsNone(self.near_client._queue)
            self.assertTrue(self.near_backend._reads)

    def pieces(self) -> Iterator[bytes]:
        dice = random.Random(3)
        while True:
            yield dice.randbytes(1 << 20)

    async def test_others_meanwhile(self) -> None:
        """Octets of a stalled relay never come out of another one."""
        _, stalled, talker = await self.relay()
        stalled.reading = False
        talker.send(b"s" * (16 << 20))
        await self.turns(30)
        _, client, backend = await self.relay()
        for number in range(20):
            await self.flows(backend, client, b"%d" % number * 5000)
            talker.pump()
        self.assertEqual(waiting_in_the_pipe(), 0)


class EndTests(RelayStreamCase):
    """Ends on the way."""

    async def test_half_closes(self) -> None:
        """Each side finishes on its own; what was sent before arrives, and what is said afterwards too."""
        for first, second in ((1, 2), (2, 1)):
            parts = await self.relay()
            one: Any = parts[first]
            other: Any = parts[second]
            data = random.Random(4).randbytes(3 << 20)
            one.send(data)
            await self.until(lambda one=one: not one._unsent, one, other)
            one.finish()
            await self.until(lambda other=other: other.ended, other)
            self.assertTrue(other.got == data)
            await self.flows(other, one, b"but still")
            self.assertEqual(self.over, first - 1)
            other.finish()
            await self.until(lambda one=one, first=first: one.ended and self.over == first, one)
            self.assertIn(len(data), parts[0].traffic())
            self.assertIn(9, parts[0].traffic())

    async def test_last_words_to_a_slow_reader(self) -> None:
        """A backend that says much and closes: all of it arrives, then the end, in every kind."""
        for kind in KINDS:
            relay, client, backend = await self.relay(*kind)
            client.reading = False
            data = random.Random(5).randbytes(2 << 20)
            backend.send(data)
            await self.until(lambda backend=backend: not backend._unsent, backend)
            backend.notify() if kind[1] else backend.finish()
            client.reading = True
            if not any(kind):
                await self.until(lambda client=client: client.ended, client)
                client.finish()
            await self.until(lambda client=client: client.ended or client.notified, client, backend)
            self.assertTrue(client.got == data)
            self.assertEqual(relay.traffic()[2], len(data))

    async def test_resets(self) -> None:
        """Either side is reset in the middle of it: the other side is closed, once, and the pipe is empty."""
        self.patch(stream, "LINGER", 0.2)
        for kind in KINDS:
            for sender, victim in ((1, 2), (2, 1), (1, 1), (2, 2)):
                self.over = 0
                parts: Any = await self.relay(*kind)
                talker, lost = parts[sender], parts[victim]
                parts[3 - sender].reading = False
                for _ in range(8):
                    talker.send(b"r" * 200_000)
                    await self.turns(1)
                lost.reset()
                other = parts[3 - victim]
                other.reading = True
                await self.until_over(other)
                self.assertEqual((self.over, self.sweeper.relays), (1, set()))
        self.assertEqual(waiting_in_the_pipe(), 0)

    async def until_over(self, other: Far) -> None:
        def over() -> bool:
            with contextlib.suppress(OSError):
                other.pump()
                other.got = b""
                if other.notified or other.ended:
                    other.finish()
            return self.over > 0

        await self.until(over)

    async def test_abort(self) -> None:
        """We end it, as a sweep or an administrator does, while much is on its way."""
        for kind in KINDS:
            self.over = 0
            relay, client, backend = await self.relay(*kind)
            client.reading = False
            backend.send(b"a" * (6 << 20))
            await self.turns(5)
            relay._abort()
            await self.until(lambda: self.over)
            self.assertTrue(self.near_client.disconnected and self.near_backend.disconnected)
            self.assertEqual(self.over, 1)
            client.reading = True
            await self.until(lambda client=client: client.ended == "reset", client)

    async def test_sweeps(self) -> None:
        """Octets that no protocol has seen keep a relay from being idle all the same."""
        self.idle = 100.0
        for kind in KINDS:
            self.over = 0
            relay, client, backend = await self.relay(*kind)
            relay.sweep(1000.0)
            for now, sender, reader in ((1090.0, client, backend), (1180.0, backend, client)):
                await self.flows(sender, reader, b"x")
                relay.sweep(now)
            relay.sweep(1279.0)
            await self.turns(3)
            self.assertEqual(self.over, 0)
            relay.sweep(1281.0)
            await self.until(lambda: self.over)
            self.assertIn("in=1 out=1 idle", relay.summary())


class WithoutSpliceTests(RelayStreamCase):
    """Where the system cannot splice, octets are copied."""

    async def test_unable(self) -> None:
        """They arrive all the same, and are counted."""
        self.patch(SPLICER, "able", False)
        relay, client, backend = await self.relay()
        await self.flows(client, backend, b"one way" * 1000)
        await self.flows(backend, client, b"the other")
        self.assertEqual(relay.traffic(), ("main/be1", 7000, 9))
        self.assertEqual(self.moves, [])

    async def test_only_relays(self) -> None:
        """Other protocols get octets that are their own to keep."""
        protocol, far = self.pair(Recorder)
        kept: list[bytes] = []
        protocol.react = kept.append
        far.send(b"first")
        await self.until(lambda: kept, far)
        far.send(b"later")
        await self.until(lambda: len(kept) == 2, far)
        self.assertEqual(kept, [b"first", b"later"])
