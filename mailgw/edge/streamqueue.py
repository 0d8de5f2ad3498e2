"""What a stream has to write: a queue for what its socket does not take, and the producer that has to wait for it.

When to write what is queued, and what follows then, is the stream's business, L{mailgw.edge.stream}.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from mailgw.edge.streamsocket import ConnectedSocket
from mailgw.edge.streamtls import BROKEN, PlainWire, TlsWire

FULL = 64 * 1024
"""Octets in the queue beyond which a producer is paused."""


class Outgoing(ConnectedSocket):
    """A connected socket that is written to.

    @ivar connected: there is somewhere to send to.
    @ivar disconnecting: C{loseConnection} was called; what is queued still goes out.
    @ivar disconnected: the protocol has been told that it is over, or is about to be.
    @ivar TLS: TLS has begun.
    """

    __slots__ = (
        "TLS",
        "_aborted",
        "_finishing",
        "_half",
        "_lingering",
        "_producer_paused",
        "_pull",
        "_queue",
        "_shaking",
        "_wire",
        "connected",
        "disconnected",
        "disconnecting",
        "producer",
        "streamingProducer",
    )

    def __init__(self, skt: socket.socket, peer: Any) -> None:
        """As L{ConnectedSocket}."""
        super().__init__(skt, peer)
        self._wire: PlainWire | TlsWire = PlainWire(skt)
        self._queue: bytearray | None = None
        self.producer: Any = None
        self.streamingProducer = self._producer_paused = False
        self._pull = False  # a producer that writes only when it is asked has to be asked
        self.TLS = self._shaking = False
        self.connected = self.disconnecting = self.disconnected = False
        self._aborted = False
        self._finishing = False  # what is queued is the last, and after it we close our direction
        self._half = ""  # our half-close: "wanted", "done"
        self._lingering = False  # everything is said, but the peer talks on, or its close_notify is missing

    def _watch(self) -> None:
        """Tell the reactor what to watch for."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Nothing waits any more: do what was put off until then, but not from within somebody else's call."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        self._pull = self.producer is not None and not self.streamingProducer
        self._put(memoryview(data), FULL)

    def take(self, data: memoryview) -> None:
        """Write what is in a buffer that somebody else will use again; what has to wait pauses a producer at once."""
        self._put(data, 0)

    def _put(self, data: memoryview, full: int) -> None:
        """Send what the socket takes, and queue the rest."""
        if not self._takes:
            return
        sent = 0
        if not (self._queue or self._shaking or self._wire.writes_when_readable):
            try:
                sent = self._wire.send(data)
            except BROKEN:  # it shows again in the next event, after what the peer has said before it
                sent = 0
        if sent < len(data) or self._pull:
            self.keep(data[sent:], full)

    @property
    def _takes(self) -> bool:
        """Something may still be written."""
        if not self.connected or self._aborted or self._finishing or self._half == "done":
            return False
        return not self.disconnecting or self.producer is not None

    def keep(self, data: memoryview, full: int) -> None:
        """Queue what the socket has not taken.

        @param full: octets in the queue beyond which a producer is paused.
        """
        if self._queue is None:
            self._queue = bytearray(data)
        else:
            self._queue += data
        self._pause_producer(full)
        self._watch()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def _unqueue(self) -> None:
        """Write what the socket takes of what is queued.

        @raise Exception: as L{TlsWire.send}.
        """
        queue = self._queue
        if queue:
            with memoryview(queue) as view:
                sent = self._wire.send(view)
            del queue[:sent]
            if not queue:
                self._queue = None

    @property
    def _held(self) -> bool:
        """The connection waits for a producer: in TLS for any, in plaintext for one whose turn it is; as Twisted's."""
        waits = self.TLS or self._producer_paused or not self.streamingProducer
        return self.producer is not None and not self._finishing and waits

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(f"{producer} cannot be registered: {self.producer} is")
        if self.disconnected or self._aborted or self._finishing or self._lingering:
            producer.stopProducing()
            return
        self.producer, self.streamingProducer, self._producer_paused = producer, streaming, False
        self._pull = not streaming
        self._pause_producer(FULL)
        self._watch()

    def unregisterProducer(self) -> None:
        self.producer, self._producer_paused, self._pull = None, False, False
        if not self._queue and not self._shaking and self.connected:
            self._settle()
        self._watch()

    def _pause_producer(self, full: int) -> None:
        if self.producer is None or self._producer_paused or not self.streamingProducer:
            return
        if self._queue and len(self._queue) > full:
            self._producer_paused = True
            self.producer.pauseProducing()

    def _stop_producer(self) -> None:
        producer, self.producer, self._pull = self.producer, None, False
        if producer is not None:
            producer.stopProducing()
