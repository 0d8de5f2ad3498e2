"""Stream: a TCP connection as the reactor and a protocol see it, in plaintext or TLS, accepted or dialled.

It does what Twisted's own transports do for the same interfaces, in fewer steps: OpenSSL works on the socket itself,
what is written goes out at once, and only what the socket does not take is queued. It neither listens nor dials, which
L{mailgw.edge.streamport} does, and it does not know what a wire is made of.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, ClassVar

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IHandshakeListener,
    ILoggingContext,
    INegotiated,
    IProtocol,
    IPushProducer,
    IReadWriteDescriptor,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.edge.splice import BULK, CAPACITY, SPLICER, STRIDE
from mailgw.edge.streamqueue import FULL, Outgoing
from mailgw.edge.streamtls import BROKEN, PlainWire, TlsWire

__all__ = ["FULL", "LINGER", "Stream"]

LINGER = 2.0
"""Seconds that a peer may take to answer our close_notify, or talk on; what it says then is thrown away."""


@implementer(
    ITCPTransport,
    ITLSTransport,
    IConsumer,
    IPushProducer,
    IReadWriteDescriptor,
    IHalfCloseableDescriptor,
    ISystemHandle,
    ILoggingContext,
)
class Stream(Outgoing):
    """A connected socket. In TLS it provides L{INegotiated} too, which is an L{ISSLTransport}.

    What the reactor has to watch for follows from the state alone, in L{_watch}; each change of the state ends there.

    @ivar poured: octets that L{pour_into} gave to another stream.
    """

    log = Logger()
    secure: ClassVar[type[Stream]]
    __slots__ = (
        "__weakref__",
        "_again",
        "_clear",
        "_dialled",
        "_ended",
        "_parting",
        "_paused",
        "_reads",
        "_stride",
        "_target",
        "_timer",
        "_writes",
        "poured",
        "protocol",
        "reactor",
    )

    def __init__(self, skt: socket.socket, protocol: IProtocol, peer: IAddress, reactor: Any, *, dialled: bool) -> None:
        """
        @param skt: connected.
        @param peer: its other end's address.
        @param dialled: we have opened the connection: in TLS, unless somebody says otherwise, we are the client.
        """
        super().__init__(skt, peer)
        self.protocol: Any = protocol
        self.reactor = reactor
        self._dialled = dialled
        self._paused = False
        self._ended = False  # the peer sends nothing more
        self._parting = False  # our close_notify did not fit into the socket yet
        self._clear: bytearray | None = None  # plaintext that was written before TLS and goes out before it
        self._timer: IDelayedCall | None = None
        self._reads = self._writes = False  # what the reactor watches for
        self._again = False  # a read without the reactor's word is due
        self._target: Stream | None = None  # gets what comes, in the place of the protocol
        self._stride = 0  # octets that are spliced at once
        self.poured = 0

    def begin(self, creator: Any = None) -> None:
        """Give the protocol its transport, and begin to read.

        @param creator: as L{startTLS}: TLS begins at once, with the handshake after C{connectionMade}.
        """
        self.connected = True
        if creator is not None:
            self.startTLS(creator)
        self._watch()
        self.protocol.makeConnection(self)

    # --- the reactor -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Tell the reactor what to watch for: whether readable and whether writable would let us go on."""
        wire = self._wire
        if self.disconnected or self._aborted:
            reads, writes = False, False
        elif self._clear is not None:
            reads, writes = False, True
        elif self._shaking:
            writes = wire.reads_when_writable
            reads = not writes
        else:
            reading, sending = self._reading, bool(self._queue) or self._parting or self._pull
            reads = (reading and not wire.reads_when_writable) or (sending and wire.writes_when_readable)
            writes = (sending and not wire.writes_when_readable) or (reading and wire.reads_when_writable)
        if reads != self._reads:
            self._reads = reads
            (self.reactor.addReader if reads else self.reactor.removeReader)(self)
        if writes != self._writes:
            self._writes = writes
            (self.reactor.addWriter if writes else self.reactor.removeWriter)(self)

    @property
    def _reading(self) -> bool:
        return self._lingering or not (self._paused or self._ended or self.disconnecting)

    def doRead(self) -> None:
        if not (self.disconnected or self._aborted) and (error := self._readable()) is not None:
            self.connectionLost(Failure(error))

    def doWrite(self) -> None:
        if not (self.disconnected or self._aborted) and (error := self._writable()) is not None:
            self.connectionLost(Failure(error))

    def _go_on(self, step: Callable[[], Exception | None]) -> None:
        """Take a step, unless it is too late, and end where that ends it: a step tells why, it does not raise."""
        if self.disconnected or self._aborted:
            return
        error = step()
        if error is not None:
            self.connectionLost(Failure(error))

    def _soon(self, step: Callable[[], Exception | None]) -> None:
        """Take a step in the reactor's next turn, whatever the socket is then."""
        self.reactor.callLater(0, self._unasked, step)

    def _unasked(self, step: Callable[[], Exception | None]) -> None:
        try:
            self._go_on(step)
        except Exception:  # what a protocol raises ends its connection, as the reactor has it in its own events
            self.log.failure("a protocol broke")
            self.connectionLost(Failure())

    def _readable(self) -> Exception | None:
        if self._shaking:
            return self._shake()
        if self._wire.writes_when_readable and (error := self._flush()) is not None:
            return error
        return self._read() if self._reading else None

    def _writable(self) -> Exception | None:
        if self._clear is not None:
            return self._flush_clear(self._clear)
        if self._shaking:
            return self._shake()
        if self._wire.reads_when_writable and self._reading and (error := self._read()) is not None:
            return error
        return self._flush()

    def logPrefix(self) -> str:
        return type(self.protocol).__name__

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self) -> Exception | None:
        """Deliver what is there, one buffer of it at most: there are others to be served."""
        wire, target = self._wire, self._target
        waited = wire.reads_when_writable
        try:
            if target is not None and (moved := self._splice(target)) is not None:
                return self._read_ended() if moved == 0 else None
            data = wire.receive()
        except BROKEN as error:
            return error
        if wire.reads_when_writable is not waited:
            self._watch()
        if data:
            if target is None or self._lingering:
                self._deliver(data)
            else:
                self.poured += len(data)
                target.take(data)
                if len(data) >= BULK and not (self.TLS or target.TLS):
                    self._stride = STRIDE
            if wire.holds:
                self._read_again()
        elif data is not None:
            return self._read_ended()
        return None

    def _deliver(self, data: memoryview) -> None:
        if not self._lingering:
            self.protocol.dataReceived(bytes(data))

    def _splice(self, target: Stream) -> int | None:
        """Let the system move what is there from plaintext to plaintext; C{None}: it has to be read.

        @return: how many octets, as L{splice.Splicer.move}.
        @raise ConnectionLost: our socket is broken.
        """
        if not self._stride or target._queue or self._lingering or not (SPLICER.able and target._takes):
            return None
        moved = SPLICER.move(self.fileno(), target.fileno(), self._stride)
        if moved is None:
            return None
        count, left = moved
        if count > 0:
            self.poured += count
            if left:
                self._stride = max(STRIDE, count - len(left))
                target.keep(memoryview(left), 0)
            elif count > self._stride // 2:
                self._stride = min(self._stride * 2, CAPACITY)
            elif count < BULK:
                self._stride = 0
        return count

    def pour_into(self, target: Stream) -> None:
        """From now on give all that comes to another stream, in as few steps as possible.

        Our protocol gets no octets any more; it still hears of every end. C{poured} counts them.
        """
        self._target = target

    def _read_again(self) -> None:
        """What the wire holds already makes no socket readable: come back for it in the reactor's next turn."""
        if self._reading and not self._again and not self._shaking and self._wire.holds:
            self._again = True
            self._soon(self._read_held)

    def _read_held(self) -> Exception | None:
        self._again = False
        return self._read() if self._reading and not self._shaking else None

    def _read_ended(self) -> Exception | None:
        """The peer has finished, and has said so."""
        self._ended = True
        if self._lingering:
            return ConnectionDone()
        if self.TLS:
            return self._finish()
        self._watch()
        if not IHalfCloseableProtocol.providedBy(self.protocol):
            return ConnectionDone()
        self.protocol.readConnectionLost()
        return None

    def readConnectionLost(self, reason: Failure) -> None:
        """The reactor saw the end before we read it, and does not watch for reading any more."""
        self._reads = False
        error = ConnectionLost() if self.TLS and not self._lingering else self._read_ended()
        if error is not None:
            self.connectionLost(Failure(error))

    def pauseProducing(self) -> None:
        self._paused = True
        self._watch()

    def resumeProducing(self) -> None:
        self._paused = False
        self._watch()
        self._read_again()

    def stopProducing(self) -> None:
        self.loseConnection()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _flush(self) -> Exception | None:
        """Write what is queued, and do what waits for that."""
        try:
            if self._queue:
                self._unqueue()
        except BROKEN as error:
            return error
        return self._watched(None if self._queue else self._drained())

    def _watched(self, error: Exception | None) -> Exception | None:
        self._watch()
        return error

    def _drained(self) -> Exception | None:
        """Nothing is queued (any more): whose turn is it?"""
        if self._held:
            if self._producer_paused or not self.streamingProducer:
                self._producer_paused = self._pull = False
                self.producer.resumeProducing()
            return None
        if self._finishing or self.disconnecting:
            return self._part()
        if self._half == "wanted":
            self._half_close()
        return None

    # --- endings -----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """L{_drained}, from within somebody else's call: the protocol is told of the end in the next turn only."""
        if (self.disconnecting or self._half == "wanted") and not self._lingering and not self._parting:
            self._soon(self._drain)

    def _drain(self) -> Exception | None:
        return None if self._queue or self._shaking or self._lingering or self._parting else self._flush()

    def loseConnection(self) -> None:
        if not self.connected or self.disconnecting:
            return
        if self._shaking and not self._queue:
            self.abortConnection()  # TLS cannot say goodbye before its handshake
            return
        self.disconnecting = True
        if not self._queue and not self._held:
            self._settle()
        self._watch()

    def _finish(self) -> Exception | None:
        """The peer has parted in TLS: say what we had to say, and part too."""
        self.disconnecting = self._finishing = True
        self._stop_producer()
        return self._watched(None if self._queue else self._part())

    def _part(self) -> Exception | None:
        """Everything has gone out: say goodbye, and wait for the peer's, a little, unless it is silent in plaintext."""
        parted = self._wire.part()
        self._parting = parted is None
        if parted is None or self._lingering:
            return None
        if parted:
            return ConnectionDone()
        if not self.finish_socket():
            return ConnectionDone()
        self._lingering = True
        self._timer = self.reactor.callLater(LINGER, self.connectionLost, Failure(ConnectionDone()))
        self._read_again()
        return None

    def loseWriteConnection(self) -> None:
        """Half-close; TLS has no such thing, there it is the end."""
        if self.TLS:
            self.loseConnection()
        elif not self._half and self.connected:
            self._half = "wanted"
            if not self._queue and not self._held:
                self._settle()

    def _half_close(self) -> None:
        self._half = "done"
        if self.finish_socket() and IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()

    def writeConnectionLost(self, reason: Failure) -> None:
        self.connectionLost(reason)

    def abortConnection(self) -> None:
        if self.disconnected or self._aborted:
            return
        self._aborted = self.disconnecting = True
        self._watch()
        self.reactor.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

    def connectionLost(self, reason: Failure) -> None:
        """It is over. The reactor calls this, and so do we; what is queued is lost."""
        if self.disconnected:
            return
        self.connected, self.disconnected = False, True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        aborted = isinstance(reason.value, ConnectionAborted)
        if self._lingering and not aborted:
            reason = Failure(ConnectionDone())  # however it ended, everything had been said
        self._stop_producer()
        self._watch()
        self._close(reset=aborted)
        self._queue = None
        self._target = None
        protocol, self.protocol = self.protocol, None  # or each would keep the other from being freed at once
        protocol.connectionLost(reason)

    def _close(self, *, reset: bool) -> None:
        wire, self._wire = self._wire, PlainWire(self.socket)  # OpenSSL must not meet the descriptor's next owner
        if self.TLS and not (reset or self._lingering or self._shaking):
            wire.part()
        self.close_socket(reset=reset)

    # --- TLS ---------------------------------------------------------------------------------------------------------

    def startTLS(self, contextFactory: Any, normal: bool = True) -> None:
        """Speak TLS from now on.

        What was written before goes out in plaintext first. Nothing that comes in plaintext is delivered any more:
        OpenSSL reads the socket, and takes it for a handshake gone wrong.

        @param contextFactory: what has C{connection_on}, as the creators of L{mailgw.edge.tls}.
        @param normal: false: who has dialled is the server.
        @raise RuntimeError: TLS has begun already.
        """
        if self.TLS:
            raise RuntimeError("TLS has begun already")
        if not self.connected or self._aborted:
            return
        connection = contextFactory.connection_on(self.socket)
        client = self._dialled == normal
        (connection.set_connect_state if client else connection.set_accept_state)()
        if self._queue:
            self._clear, self._queue = self._queue, None
        self._wire = TlsWire(connection)
        self.TLS = self._shaking = True
        self.__class__ = self.secure
        if client and self._clear is None:
            self._wire.reads_when_writable = True  # the client speaks first
        self._watch()

    def _flush_clear(self, clear: bytearray) -> Exception | None:
        """Write the plaintext that was queued when TLS began."""
        try:
            with memoryview(clear) as view:
                sent = PlainWire(self.socket).send(view)
        except BROKEN as error:
            return error
        del clear[:sent]
        if clear:
            return None
        self._clear = None
        return self._shake()

    def _shake(self) -> Exception | None:
        wire = self._wire
        assert isinstance(wire, TlsWire)
        try:
            complete = wire.shake()
        except BROKEN as error:
            return error
        if complete:
            self._shaking = False
            if IHandshakeListener.providedBy(self.protocol):
                self.protocol.handshakeCompleted()
            self._read_again()
            if not (self._aborted or self.disconnected):
                return self._flush()
        self._watch()
        return None

    def getHandle(self) -> Any:
        return self._wire.handle

    def getPeerCertificate(self) -> Any:
        """The peer's certificate, C{None} if it has shown none."""
        return self._wire.handle.get_peer_certificate() if isinstance(self._wire, TlsWire) else None


@implementer(INegotiated)
class SecureStream(Stream):
    """What a stream becomes when TLS begins: an interface for each of thousands of objects would cost more."""

    __slots__ = ()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """What ALPN has chosen."""
        return self._wire.handle.get_alpn_proto_negotiated() or None if isinstance(self._wire, TlsWire) else None


Stream.secure = SecureStream
