"""Waits: deadlines that are all equally long, and mostly met: one timer watches all of them.

Only for waits of one length: they end in the order in which they began. It decides nothing; who waits says what to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any


class Wait:
    """One deadline.

    @ivar late: called once when the time is over, without arguments; C{None} when nobody waits any more.
    """

    __slots__ = ("due", "late")

    def __init__(self, due: float, late: Callable[[], None]) -> None:
        self.due = due
        self.late: Callable[[], None] | None = late


class Waits:
    """A queue of deadlines. The reactor keeps its own in a heap, which costs each of them some twenty steps."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        """@param seconds: how long each of them is."""
        self._reactor, self._seconds = reactor, seconds
        self._queue: deque[Wait] = deque()
        self._timer: Any = None

    def begin(self, late: Callable[[], None]) -> Wait:
        """Wait, and call C{late} unless L{end} comes in time."""
        wait = Wait(self._reactor.seconds() + self._seconds, late)
        self._queue.append(wait)
        if self._timer is None:
            self._timer = self._reactor.callLater(self._seconds, self._due)
        return wait

    def end(self, wait: Wait) -> None:
        """Wait no more. A wait that is over may end too."""
        wait.late = None
        self._forget()
        if not self._queue and self._timer is not None:
            timer, self._timer = self._timer, None
            timer.cancel()

    def _forget(self) -> None:
        """Drop what nobody waits for: the first of the queue is always somebody's."""
        queue = self._queue
        while queue and queue[0].late is None:
            queue.popleft()

    def _due(self) -> None:
        """Call the first, if it is its time, and set the timer for the next: an event each, as the reactor's own."""
        late, self._timer = None, None
        now = self._reactor.seconds()
        if self._queue[0].due <= now:
            wait = self._queue.popleft()
            late, wait.late = wait.late, None
        self._forget()
        if self._queue:
            self._timer = self._reactor.callLater(max(0.0, self._queue[0].due - now), self._due)
        if late is not None:
            late()
