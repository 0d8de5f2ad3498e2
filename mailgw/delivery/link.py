"""Link: a connection to a backend that is ready for mail: questions out, replies in, one deadline for each.

Getting there (dialling, TLS, login) is the dialer's work; what to ask, and what to make of an answer, the onward
transaction's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from mailgw.edge.dialer import BackendConnection
from mailgw.errors import BackendFailed
from mailgw.model import Failure as Kind
from mailgw.wire.events import Answered, Event, Refused, Reply, Send
from mailgw.wire.transfer import QUIT, Transfer

LINGER = 5.0
"""Seconds that a backend may take to part."""

T = TypeVar("T")


async def gather(asked: Sequence[Deferred[T]]) -> list[T]:
    """Wait for all of them, however some end.

    @raise Exception: the first one's that failed.
    """
    results: list[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
    for succeeded, result in results:
        if not succeeded:
            raise result.value
    return [result for _, result in results]


class Link(Protocol):
    """See the module's docstring.

    @ivar failure: why the link is of no use any more, C{None} while it is.
    @ivar watcher: called when it becomes so.
    """

    def __init__(
        self, connection: BackendConnection, transfer: Transfer, clock: IReactorTime, ended: Callable[[], None]
    ) -> None:
        """
        @param connection: logged in; this takes it over.
        @param ended: called once, when the link is over.
        """
        self.backend = connection.backend
        self.transfer = transfer
        self.failure: BackendFailed | None = None
        self._connection, self._clock, self._ended = connection, clock, ended
        self._asked: deque[Deferred[Reply]] = deque()
        self._linger: IDelayedCall | None = None
        self.watcher: Callable[[], None] | None = None
        connection.take_over(self)

    @property
    def transport(self) -> Any:  # type: ignore[override]  # the connection's, never set here
        """Where the backend is written to."""
        return self._connection.transport

    @property
    def busy(self) -> bool:
        """A reply is awaited."""
        return bool(self._asked)

    def ask(self, events: list[Event], seconds: float) -> Deferred[Reply]:
        """Send a question.

        @return: fires with the reply; fails with L{BackendFailed}, which is also the end of the link.
        """
        (deferred,) = self.ask_all(events, 1, seconds)
        return deferred

    def ask_all(self, events: list[Event], count: int, seconds: float) -> list[Deferred[Reply]]:
        """Send a question that has C{count} replies."""
        deferreds: list[Deferred[Reply]] = [Deferred() for _ in range(count)]
        self._asked.extend(deferreds)
        for deferred in deferreds:
            deferred.addTimeout(seconds, self._clock)
            deferred.addErrback(self._timed_out, seconds)
        self.say(events)
        return deferreds

    def say(self, events: list[Event]) -> None:
        """Write what has no reply. On a link that is over it goes nowhere."""
        if self.failure is not None:
            self._fail(self.failure)
            return
        for event in events:
            assert isinstance(event, Send)
            self.transport.write(event.data)

    def _timed_out(self, failure: Failure, seconds: float) -> Failure:
        if failure.check(DeferredTimeout) is None:
            return failure
        error = BackendFailed(Kind.TIMEOUT, f"{self.backend}: no reply within {seconds:g} s")
        self._fail(error)
        return Failure(error)

    def dataReceived(self, data: bytes) -> None:
        for event in self.transfer.feed(data):
            match event:
                case Answered(_, reply):
                    self._asked.popleft().callback(reply)
                case Refused(kind, text):
                    self._fail(BackendFailed(kind, f"{self.backend}: {text}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self._fail(BackendFailed(Kind.PROTOCOL, f"{self.backend}: connection lost: {reason.getErrorMessage()}"))

    def _fail(self, error: BackendFailed) -> None:
        first = self.failure is None
        self.failure = self.failure or error
        asked, self._asked = self._asked, deque()
        for deferred in asked:
            if not deferred.called:
                deferred.errback(self.failure)
        if first:
            self._ended()
            self._connection.close()
            if self.watcher is not None:
                self.watcher()

    def drop(self) -> None:
        """Hang up in mid-sentence: a backend that has not seen the final dot keeps nothing (RFC 5321 §4.1.1.4)."""
        for deferred in self._asked:
            deferred.addErrback(lambda _: None)
        self._fail(BackendFailed(Kind.PROTOCOL, f"{self.backend}: given up"))

    def quit(self) -> None:
        """Part politely, but not for ever: TLS waits for the other side's farewell."""
        if self.failure is None:
            self.failure = BackendFailed(Kind.PROTOCOL, f"{self.backend}: finished")
            self._ended()
            self._linger = self._clock.callLater(LINGER, self._connection.close)
            self._connection.quit(QUIT)
