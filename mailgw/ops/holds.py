"""Holds: users whose new logins wait, because they are being moved.

L{mailgw.ops.steering} says on the board when a hold begins and ends. Who waits here is not counted as a session yet.
"""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailgw.errors import LoginRefused
from mailgw.interfaces import IBoard
from mailgw.model import RefusalKind

HOLD = "hold"
"""The kind of word on the board: by canonical name, for how many seconds at most a login waits."""

T = TypeVar("T")


class Holds:
    """Who waits in this process."""

    def __init__(self, board: IBoard, clock: IReactorTime) -> None:
        self._board, self._clock = board, clock
        self._waiting: dict[str, list[Deferred[None]]] = {}
        board.watch(HOLD, self._changed)

    def over(self, username: str) -> Deferred[None] | None:
        """When a login may go on.

        @param username: the canonical name.
        @return: C{None}: at once. Else fires at the end of the hold, and fails with L{LoginRefused} if that takes too
            long. May be cancelled.
        """
        longest = self._board.get(HOLD, username)
        if longest is None:
            return None
        waiting: Deferred[None] = Deferred(lambda gone: self._forget(username, gone))
        self._waiting.setdefault(username, []).append(waiting)
        timer = self._clock.callLater(float(longest), self._too_long, username, waiting)

        def done(result: T) -> T:
            if timer.active():
                timer.cancel()
            return result

        return waiting.addBoth(done)

    def _forget(self, username: str, waiting: Deferred[None]) -> None:
        waiters = self._waiting.get(username, [])
        if waiting in waiters:
            waiters.remove(waiting)
        if not waiters:
            self._waiting.pop(username, None)

    def _too_long(self, username: str, waiting: Deferred[None]) -> None:
        self._forget(username, waiting)
        waiting.errback(LoginRefused(RefusalKind.UNAVAILABLE, f"{username} is being moved, and that takes too long"))

    def _changed(self, username: str, longest: str | None) -> None:
        if longest is None:
            for waiting in self._waiting.pop(username, []):
                waiting.callback(None)
