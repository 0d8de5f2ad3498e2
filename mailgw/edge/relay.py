"""Relay: the byte pump between a logged-in client and its backend, and the Sweeper that ends what is idle.

A relayed session holds no parser and no password; it counts bytes and passes them on, each side reading only as
fast as the other is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import TimerService
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IReactorTime, ITransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.edge.dialer import BackendConnection
from mailgw.edge.stream import Stream

SWEEP = 5.0
"""Seconds between two looks at all relays."""
FLUSH = 30.0
"""Seconds that a side may take to read what was left for it when the other side ended."""


@implementer(IProtocol, IHalfCloseableProtocol)
class Half:
    """One side of a relay: what it receives goes to the other side's transport."""

    __slots__ = ("_count", "_relay", "closed", "finished", "peer", "transport")
    peer: Half

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.transport: Any = None
        self._count = 0
        self.finished = self.closed = False

    def said(self, count: int) -> None:
        """Count octets that came before the relay."""
        self._count += count

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport
        self._relay.couple()

    def connectionMade(self) -> None:
        """Long ago."""

    def dataReceived(self, data: bytes) -> None:
        self._count += len(data)
        self.peer.transport.write(data)

    @property
    def count(self) -> int:
        """Octets that came from this side."""
        return self._count + getattr(self.transport, "poured", 0)

    def readConnectionLost(self) -> None:
        """This side has finished sending; what the other side still has to say goes on (plain TCP only)."""
        self.finished = True
        other = self.peer.transport
        if self.peer.finished or getattr(other, "TLS", False) or not hasattr(other, "loseWriteConnection"):
            self._relay.end(self)  # TLS, as Twisted speaks it, has no half-close
        else:
            other.unregisterProducer()  # there is nothing more to ask this side for but its end, again and again
            other.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """The other side's half-close went out; nothing follows."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.finished = self.closed = True
        self._relay.end(self)

    def summary(self) -> str:
        """For the session's last log line."""
        return self._relay.summary()

    def traffic(self) -> tuple[str, int, int]:
        """The backend, and how many octets came from the client and from the backend."""
        return self._relay.traffic()


class Relay:
    """Two halves that are each other's consumer and producer.

    @ivar client: becomes the session's stage, and couples the two when it gets the client's transport.
    """

    __slots__ = (
        "_backend",
        "_connection",
        "_counted",
        "_ending",
        "_first",
        "_idle",
        "_over",
        "_since",
        "_sweeper",
        "client",
    )

    def __init__(
        self,
        connection: BackendConnection,
        first: bytes,
        sweeper: Sweeper,
        idle: float,
        over: Callable[[], None],
    ) -> None:
        """
        @param connection: logged in, its dialogue over.
        @param first: what the backend has already said to the client.
        @param idle: seconds without a byte either way; 0 is for ever.
        @param over: called once, when both sides are closed.
        """
        self._connection, self._first, self._over = connection, first, over
        self._sweeper, self._idle = sweeper, idle
        self.client, self._backend = Half(self), Half(self)
        self.client.peer, self._backend.peer = self._backend, self.client
        self._backend.transport = connection.transport
        self._backend.said(len(first))
        self._counted = -1
        self._since = 0.0
        self._ending = ""

    def couple(self) -> None:
        """Both transports are there: let the bytes flow."""
        client, backend = self.client.transport, self._backend.transport
        first, self._first = self._first, b""
        if first:
            client.write(first)
        client.registerProducer(backend, True)
        backend.registerProducer(client, True)
        self._since = self._sweeper.clock.seconds()
        self._sweeper.relays.add(self)
        self._connection.take_over(self._backend)
        if isinstance(client, Stream) and isinstance(backend, Stream):
            client.pour_into(backend)
            backend.pour_into(client)

    def end(self, half: Half) -> None:
        """One side has nothing more to say: give the other what is on its way, then close it too."""
        if not self._ending:
            self._ending = "closed by the client" if half is self.client else "closed by the backend"
            self._since = self._sweeper.clock.seconds()
            for side in (half, half.peer):
                if not side.closed:
                    side.transport.unregisterProducer()
        if not half.peer.closed:
            half.peer.transport.resumeProducing()  # or it would not see the other end close
            half.peer.transport.loseConnection()
        if self.client.closed and self._backend.closed:
            self._sweeper.relays.discard(self)
            over, self._over = self._over, _nothing
            over()

    def sweep(self, now: float) -> None:
        """Abort what has been idle, or has not read our last bytes, for too long."""
        counted = self.client.count + self._backend.count
        if counted != self._counted:
            self._counted, self._since = counted, now
        elif self._ending and now - self._since >= FLUSH:
            self._abort()
        elif self._idle and now - self._since >= self._idle:
            self._ending = self._ending or "idle"
            self._abort()

    def _abort(self) -> None:
        for side in (self.client, self._backend):
            if not side.closed:
                side.transport.abortConnection()

    def traffic(self) -> tuple[str, int, int]:
        """As L{Half.traffic}."""
        backend = self._connection.backend
        return f"{backend.pool}/{backend.name}", self.client.count, self._backend.count

    def summary(self) -> str:
        """Backend, bytes each way and who ended it."""
        name = self._connection.backend
        return f"backend={name} in={self.client.count} out={self._backend.count} {self._ending}"


def _nothing() -> None:
    """Told already."""


class Sweeper(TimerService):
    """One timer for the idle checks of all relays."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.relays: set[Relay] = set()
        TimerService.__init__(self, SWEEP, self._sweep)
        self.clock: Any = clock

    def _sweep(self) -> None:
        now = self.clock.seconds()
        for relay in list(self.relays):
            try:
                relay.sweep(now)
            except Exception:  # or one that breaks would end the checks of all others, for ever
                self.relays.discard(relay)
                self.log.failure("the check of a relay broke: {relay}", relay=relay.summary())
