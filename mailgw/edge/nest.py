"""The nest: watches all streams with an epoll of its own, which the reactor watches as one reader.

Twisted's reactor gives each event a logging context of its own and keeps sets of what it watches, which costs more
than most of our events do. Here an event is a call. Timers, and everything that is not a stream, stay the reactor's.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

MOST = 256
"""Events that one turn of the reactor takes from us at most; its timers wait meanwhile."""

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_ENDED = select.EPOLLHUP | select.EPOLLERR


@implementer(IReactorFDSet, IReadDescriptor)
class Nest:
    """A set of descriptors for streams, with C{addReader} and its like as the reactor has them."""

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self.seconds = reactor.seconds
        self._reactor = reactor
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._busy = False
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self._wanted: dict[int, int] = {}
        self._watched: dict[int, Any] = {}
        self._new: set[int] = set()

    # --- what streams ask for ----------------------------------------------------------------------------------------

    def callLater(self, delay: float, call: Callable[..., object], *arguments: Any) -> Any:
        """As the reactor's, but that a call without a delay from within an event costs no timer, and cannot be
        cancelled: it comes when all events of this turn are over.
        """
        if delay or not self._busy:
            return self._reactor.callLater(delay, call, *arguments)
        self._soon.append((call, arguments))
        return None

    def addReader(self, reader: Any) -> None:
        self._want(reader, _IN)

    def addWriter(self, writer: Any) -> None:
        self._want(writer, _OUT)

    def removeReader(self, reader: Any) -> None:
        self._leave(reader, _IN)

    def removeWriter(self, writer: Any) -> None:
        self._leave(writer, _OUT)

    def _want(self, selectable: Any, event: int) -> None:
        number = selectable.fileno()
        wanted = self._wanted.get(number, 0)
        if wanted & event:
            return
        if wanted:
            self._epoll.modify(number, wanted | event)
        else:
            if not self._watched:
                self._reactor.addReader(self)
            self._epoll.register(number, event)
            self._watched[number] = selectable
            self._new.add(number)
        self._wanted[number] = wanted | event

    def _leave(self, selectable: Any, event: int) -> None:
        number = selectable.fileno()
        wanted = self._wanted.get(number, 0)
        if not wanted & event:
            return
        if wanted != event:
            self._wanted[number] = wanted & ~event
            self._epoll.modify(number, wanted & ~event)
            return
        del self._wanted[number], self._watched[number]
        self._epoll.unregister(number)
        if not self._watched:
            self._reactor.removeReader(self)

    def getReaders(self) -> list[Any]:
        """All that wait to read."""
        return [self._watched[number] for number, wanted in self._wanted.items() if wanted & _IN]

    def getWriters(self) -> list[Any]:
        """All that wait to write."""
        return [self._watched[number] for number, wanted in self._wanted.items() if wanted & _OUT]

    def removeAll(self) -> list[Any]:
        """Watch nothing any more; what was watched."""
        watched = list(self._watched.values())
        for selectable in watched:
            self.removeReader(selectable)
            self.removeWriter(selectable)
        return watched

    # --- the reactor -------------------------------------------------------------------------------------------------

    def doRead(self) -> None:
        events = self._epoll.poll(0, MOST)
        self._new.clear()
        self._busy = True
        try:
            for number, event in events:
                # an event before this one may have ended whom it was for, and the number be another's now
                if number in self._watched and number not in self._new:
                    self._tell(self._watched[number], number, event)
        finally:
            self._busy = False
        if self._soon:
            self._call_soon()

    def _tell(self, selectable: Any, number: int, event: int) -> None:
        try:
            if event & _IN:
                selectable.doRead()
            elif event & _ENDED:
                self._ended(selectable, event)
            if event & _OUT and self._wanted.get(number, 0) & _OUT and self._watched[number] is selectable:
                selectable.doWrite()
        except Exception:  # what a protocol raises ends its connection, and no other
            self.log.failure("a protocol broke")
            selectable.connectionLost(Failure())

    def _call_soon(self) -> None:
        """Make the calls that were put off; what they put off in turn comes in the reactor's next turn."""
        soon, self._soon = self._soon, deque()
        for call, arguments in soon:
            try:
                call(*arguments)
            except Exception:
                self.log.failure("a call that was put off broke")

    def _ended(self, selectable: Any, event: int) -> None:
        """There is nothing to read, and never will be: as the reactor tells it."""
        reading = self._wanted.get(selectable.fileno(), 0) & _IN
        if reading and event & select.EPOLLHUP and IHalfCloseableDescriptor.providedBy(selectable):
            self.removeReader(selectable)
            selectable.readConnectionLost(Failure(ConnectionDone()))
        else:
            selectable.connectionLost(Failure(ConnectionLost()))

    def logPrefix(self) -> str:
        return "Nest"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped: so have all connections."""
        for selectable in self.removeAll():
            selectable.connectionLost(reason)
