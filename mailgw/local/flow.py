"""Flow: what both servers of the local store share: the idle time, the end, and a client that does not read.

It is mixed into twisted.mail's servers, in the place of their C{LineReceiver} and with their C{TimeoutMixin}. It knows
neither protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.wire.lines import LineBuffer

MAX_PIPELINED = 1 << 16
"""Octets that may wait, besides one line, while a command runs; then the client is not read."""
LINGER = 5.0
"""Seconds that a client may take to read our last words."""


@implementer(IPushProducer)
class ClientFlow:
    """One command at a time, and replies only as fast as they are read.

    @ivar buffer: what has come and is not used yet.
    @ivar unread: the client does not read what we write.
    @ivar running: the command that is not answered yet.
    @ivar closing: nothing more is said or heard.
    """

    transport: Any
    setTimeout: Callable[[float | None], float | None]
    resetTimeout: Callable[[], None]

    def start_flow(self, clock: IReactorTime, idle: float, max_line: int) -> None:
        """
        @param idle: seconds without a word from the client, after which the connection is closed.
        @param max_line: octets of a line.
        """
        self._clock, self._idle, self._max_line = clock, idle, max_line
        self.buffer = LineBuffer(max_line)
        self.unread = self.closing = self._pumping = self._held = False
        self.running: Deferred[None] | None = None
        self._drained: Deferred[None] | None = None
        self._linger: IDelayedCall | None = None

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Use some of what has come; false where more has to come, or something has to end, first."""
        raise NotImplementedError

    def left(self) -> None:
        """The connection is gone."""

    # --- the connection ----------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The login dialogue has greeted and said that all is well: nothing is to be said now."""
        self.setTimeout(self._idle)
        self.transport.registerProducer(self, True)

    def callLater(self, period: float, func: Callable[[], Any]) -> IDelayedCall:
        """L{TimeoutMixin}'s clock."""
        return self._clock.callLater(period, func)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closing = True
        self.setTimeout(None)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self.running is not None:
            self.running.cancel()
        self.left()

    def timeoutConnection(self) -> None:
        if self.unread or self.closing:
            self.transport.abortConnection()
        else:
            self.close(self.autologout)

    autologout = b""
    """What is said to a client that was idle for too long."""

    def close(self, words: bytes) -> None:
        """Say our last words and close the connection, whether they are read or not."""
        if self.closing:
            return
        self.closing = True
        if words:
            self.transport.write(words)
        self.transport.unregisterProducer()
        self._linger = self._clock.callLater(LINGER, self.transport.abortConnection)
        self.transport.loseConnection()

    # --- a client that does not read is not read ---------------------------------------------------------------------

    def pauseProducing(self) -> None:
        self.unread = True
        self._hold(True)

    def resumeProducing(self) -> None:
        self.unread = False
        self.resetTimeout()
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.callback(None)
        self.pump()

    def stopProducing(self) -> None:
        self.unread = False

    async def send(self, data: bytes) -> None:
        """Write, and wait while the client has too much unread."""
        self.transport.write(data)
        if self.unread:
            self._drained = Deferred()
            await self._drained

    def _hold(self, hold: bool) -> None:
        if hold == self._held or self.closing:
            return
        self._held = hold
        if hold:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    # --- input -------------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self.closing:
            return
        self.resetTimeout()
        self.buffer.feed(data)
        self.pump()

    def pump(self) -> None:
        """Do what can be done with what has come."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while not self.closing and self.advance():
                pass
        finally:
            self._pumping = False
        self._hold(self.unread or len(self.buffer) > MAX_PIPELINED + self._max_line)
