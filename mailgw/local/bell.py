"""Bell: one waits, others ring; and the board on which a folder's sessions learn that something has changed.

The board knows only this process. What happens elsewhere is found by looking at the folder.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred


class Bell:
    """Rings for one who waits; a ring that nobody waited for is heard at the next L{wait}."""

    def __init__(self) -> None:
        self._waiting: Deferred[None] | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake who waits."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._rung = True
        else:
            waiting.callback(None)

    async def wait(self) -> None:
        """Wait for the next ring."""
        if not self._rung:
            self._waiting = Deferred()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._rung = False


class Board:
    """Who wants to know of changes, by folder."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Callable[[], None]]] = {}

    def listen(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back at every change of the folder at that path.

        @return: call it to hear no more.
        """
        self._listeners.setdefault(path, set()).add(callback)

        def forget() -> None:
            listeners = self._listeners.get(path, set())
            listeners.discard(callback)
            if not listeners:
                self._listeners.pop(path, None)

        return forget

    def tell(self, path: str) -> None:
        """The folder at that path has changed."""
        for callback in list(self._listeners.get(path, ())):
            callback()
