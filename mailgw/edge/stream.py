"""Stream: a TCP connection as the reactor and a protocol see it, in plaintext or TLS, accepted or dialled.

It does what Twisted's own transports do for the same interfaces, in fewer steps: OpenSSL works on the socket itself,
what is written goes out at once, and only what the socket does not take is queued. It neither listens nor dials, which
L{mailgw.edge.streamport} does, and it does not know what a wire is made of.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

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
from zope.interface import directlyProvides, implementer

from mailgw.edge.streamsocket import ConnectedSocket
from mailgw.edge.streamtls import BROKEN, PlainWire, TlsWire

FULL = 64 * 1024
"""Octets in the queue beyond which a producer is paused."""
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
class Stream(ConnectedSocket):
    """A connected socket. In TLS it provides L{INegotiated} too, which is an L{ISSLTransport}.

    What the reactor has to watch for follows from the state alone, in L{_watch}; each change of the state ends there.

    @ivar connected: there is somewhere to send to.
    @ivar disconnecting: C{loseConnection} was called; what is queued still goes out.
    @ivar disconnected: the protocol has been told that it is over, or is about to be.
    @ivar TLS: TLS has begun.
    """

    log = Logger()
    producer: Any = None
    streamingProducer = False
    TLS = connected = disconnecting = disconnected = False
    _paused = _producer_paused = False
    _shaking = False
    _ended = False  # the peer sends nothing more
    _aborted = False
    _finishing = False  # what is queued is the last, and after it we close our direction
    _half = ""  # our half-close: "wanted", "done"
    _lingering = False  # everything is said, but the peer talks on, or its close_notify is missing
    _parting = False  # our close_notify did not fit into the socket yet
    _clear: bytearray | None = None  # plaintext that was written before TLS and goes out before it
    _timer: IDelayedCall | None = None
    _reads = _writes = False  # what the reactor watches for
    _again = False  # a read without the reactor's word is due
    _pull = False  # a producer that writes only when it is asked has to be asked

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
        self._plain = PlainWire(skt)
        self._wire: PlainWire | TlsWire = self._plain
        self._queue = bytearray()

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
        """Tell the reactor what to watch for."""
        reads, writes = self._wanted()
        if reads != self._reads:
            self._reads = reads
            (self.reactor.addReader if reads else self.reactor.removeReader)(self)
        if writes != self._writes:
            self._writes = writes
            (self.reactor.addWriter if writes else self.reactor.removeWriter)(self)

    def _wanted(self) -> tuple[bool, bool]:
        """Whether readable and whether writable would let us go on."""
        if self.disconnected or self._aborted:
            return False, False
        if self._clear is not None:
            return False, True
        wire, reading = self._wire, self._reading
        if self._shaking:
            return not wire.reads_when_writable, wire.reads_when_writable
        sending = bool(self._queue) or self._parting or self._pull
        return (
            (reading and not wire.reads_when_writable) or (sending and wire.writes_when_readable),
            (sending and not wire.writes_when_readable) or (reading and wire.reads_when_writable),
        )

    @property
    def _reading(self) -> bool:
        return self._lingering or not (self._paused or self._ended or self.disconnecting)

    def doRead(self) -> None:
        self._go_on(self._readable)

    def doWrite(self) -> None:
        self._go_on(self._writable)

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
        wire = self._wire
        waited = wire.reads_when_writable
        try:
            data = wire.receive()
        except BROKEN as error:
            return error
        if wire.reads_when_writable is not waited:
            self._watch()
        if data:
            if not self._lingering:
                self.protocol.dataReceived(data)
            self._read_again()
        elif data is not None:
            return self._read_ended()
        return None

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

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        if not self.connected or self._aborted or self._finishing or self._half == "done":
            return
        if self.disconnecting and self.producer is None:
            return
        sent = 0
        if not (self._queue or self._shaking or self._wire.writes_when_readable):
            # a break shows again in the next event, after what the peer has said before it
            with suppress(*BROKEN):
                sent = self._wire.send(memoryview(data))
        self._pull = self.producer is not None and not self.streamingProducer
        if sent < len(data) or self._pull:
            self._queue += memoryview(data)[sent:]
            self._pause_producer()
            self._watch()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def _flush(self) -> Exception | None:
        """Write what is queued, and do what waits for that."""
        try:
            if self._queue:
                with memoryview(self._queue) as view:
                    sent = self._wire.send(view)
                del self._queue[:sent]
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
        self._pause_producer()
        self._watch()

    def unregisterProducer(self) -> None:
        self.producer, self._producer_paused, self._pull = None, False, False
        if not self._queue and not self._shaking and self.connected:
            self._settle()
        self._watch()

    def _pause_producer(self) -> None:
        full = len(self._queue) > FULL
        if full and self.streamingProducer and self.producer is not None and not self._producer_paused:
            self._producer_paused = True
            self.producer.pauseProducing()

    def _stop_producer(self) -> None:
        producer, self.producer, self._pull = self.producer, None, False
        if producer is not None:
            producer.stopProducing()

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
        if self._lingering and not reason.check(ConnectionAborted):
            reason = Failure(ConnectionDone())  # however it ended, everything had been said
        self._stop_producer()
        self._watch()
        self._close(reset=reason.check(ConnectionAborted) is not None)
        self._queue.clear()
        protocol, self.protocol = self.protocol, None  # or each would keep the other from being freed at once
        protocol.connectionLost(reason)

    def _close(self, *, reset: bool) -> None:
        wire, self._wire = self._wire, self._plain  # OpenSSL must not meet the descriptor's next owner
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
            self._clear, self._queue = self._queue, bytearray()
        self._wire = TlsWire(connection)
        self.TLS = self._shaking = True
        directlyProvides(self, INegotiated)
        if client and self._clear is None:
            self._wire.reads_when_writable = True  # the client speaks first
        self._watch()

    def _flush_clear(self, clear: bytearray) -> Exception | None:
        """Write the plaintext that was queued when TLS began."""
        try:
            with memoryview(clear) as view:
                sent = self._plain.send(view)
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

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """What ALPN has chosen."""
        return self._wire.handle.get_alpn_proto_negotiated() or None if isinstance(self._wire, TlsWire) else None
