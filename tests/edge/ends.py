"""Who stands at the two ends of a transport in its tests: a protocol that writes everything down, and the far end.

The far end has the TLS of the standard library; it reads and writes when the test says so.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@implementer(IHandshakeListener)
class Recorder(Protocol):
    """Writes down what it is told.

    @ivar log: names of what was called, in order.
    @ivar react: called with what is received.
    """

    transport: Any

    def __init__(self) -> None:
        self.log: list[str] = []
        self.got = b""
        self.sizes: list[int] = []
        self.reason: Any = None
        self.react: Callable[[bytes], None] = lambda data: None

    def connectionMade(self) -> None:
        self.log.append("made")

    def dataReceived(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.got += data
        self.sizes.append(len(data))
        self.react(data)

    def handshakeCompleted(self) -> None:
        self.log.append("secured")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.log.append("lost")
        self.reason = reason.value


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    """Knows half-closes."""

    def readConnectionLost(self) -> None:
        self.log.append("read lost")

    def writeConnectionLost(self) -> None:
        self.log.append("write lost")


@implementer(IPushProducer)
class Source:
    """Writes blocks to a transport until it has written enough; pauses when told."""

    def __init__(self, transport: Any, blocks: list[bytes]) -> None:
        self.transport, self.blocks = transport, blocks
        self.paused = False
        self.pauses = self.stops = 0

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        while self.blocks and not self.paused:
            self.transport.write(self.blocks.pop(0))
        if not self.blocks:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stops += 1
        self.paused = True


class Drip:
    """A producer that writes one block whenever it is asked."""

    def __init__(self, transport: Any, blocks: list[bytes]) -> None:
        self.transport, self.blocks = transport, blocks

    def resumeProducing(self) -> None:
        self.transport.write(self.blocks.pop(0))
        if not self.blocks:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.blocks = []


class Far:
    """The far end.

    @ivar got: what has come, decrypted.
    @ivar ended: the end has come: "fin", "reset".
    @ivar notified: a close_notify has come.
    @ivar reading: whether L{pump} reads.
    @ivar segment: octets that are sent at once.
    """

    def __init__(self, skt: socket.socket) -> None:
        self.socket = skt
        skt.setblocking(False)
        self.got = b""
        self.ended = ""
        self.notified = False
        self.reading = True
        self.segment = 65536
        self.tls: ssl.SSLObject | None = None
        self.coming, self.going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unsent = b""
        self._shaking = False

    def secure(self, context: ssl.SSLContext, *, server: bool = False) -> None:
        """Begin TLS."""
        self.tls = context.wrap_bio(self.coming, self.going, server, None if server else "localhost")
        self._shaking = True

    def send(self, data: bytes) -> None:
        if self.tls is None:
            self._unsent += data
        else:
            self.tls.write(data)
        self.pump()

    def notify(self) -> None:
        """Send a close_notify."""
        assert self.tls is not None
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.pump()

    def finish(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    @property
    def shaken(self) -> bool:
        return self.tls is not None and not self._shaking

    def pump(self, most: int = 1 << 20) -> None:
        """Read and write what can be read and written."""
        if self.socket.fileno() < 0:
            return
        if self.reading and not self.ended:
            self._receive(most)
        if self.tls is not None:
            self._decrypt()
            self._unsent += self.going.read()
        with contextlib.suppress(OSError):
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent[: self.segment]) :]
                if self.segment < 1000:
                    break

    def _receive(self, most: int) -> None:
        try:
            while most > 0:
                data = self.socket.recv(65536)
                most -= len(data)
                if not data:
                    self.ended = "fin"
                    return
                if self.tls is None:
                    self.got += data
                else:
                    self.coming.write(data)
        except BlockingIOError:
            pass
        except OSError:
            self.ended = "reset"

    def _decrypt(self) -> None:
        assert self.tls is not None
        try:
            if self._shaking:
                self.tls.do_handshake()
                self._shaking = False
            while data := self.tls.read(65536):
                self.got += data
            self.notified = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.notified = True
