"""What the house remembers for a while: answers by key, bounded, and one question at a time for each key.

It decides nothing about what may be remembered and for how long: that is for those who ask. It stores what it is
given, so that secrets are hashed before they come here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

MAX_ENTRIES = 10_000

V = TypeVar("V")
T = TypeVar("T")


class _Call(Generic[T]):
    """A call under way and those who wait for it."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running: Deferred[None] | None = None
        self.waiting: list[Deferred[T]] = []


class SharedCalls(Generic[T]):
    """At most one call a key at a time."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, _Call[T]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    async def ask(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the call of that key; start it if nobody has.

        An asker that is cancelled leaves the others alone; with the last one the call itself is cancelled.

        @param start: makes the coroutine that finds the answer; what it raises, every asker gets.
        """
        call = self._calls.get(key)
        if call is not None:
            return await self._join(key, call)
        call = self._calls[key] = _Call()
        answer = self._join(key, call)
        call.running = Deferred.fromCoroutine(start()).addBoth(self._deliver, key, call)
        return await answer

    def _join(self, key: Hashable, call: _Call[T]) -> Deferred[T]:
        def leave(waiter: Deferred[T]) -> None:
            call.waiting.remove(waiter)
            if not call.waiting and call.running is not None:
                self._forget(key, call)
                call.running.cancel()

        waiter: Deferred[T] = Deferred(leave)
        call.waiting.append(waiter)
        return waiter

    def _forget(self, key: Hashable, call: _Call[T]) -> None:
        if self._calls.get(key) is call:
            del self._calls[key]

    def _deliver(self, result: T | Failure, key: Hashable, call: _Call[T]) -> None:
        self._forget(key, call)
        waiting, call.waiting = call.waiting, []
        for waiter in waiting:
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(result)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    names: frozenset[str]
    expires: float


class Memory(Generic[V]):
    """Values by key, each for a time and each about a user. The one not used for longest makes room.

    @ivar flushes: grows with every L{flush}: whoever began to ask before one must not remember the answer.
    """

    def __init__(self, clock: IReactorTime, size: int = MAX_ENTRIES) -> None:
        """
        @param size: how many entries there are at most.
        """
        self.flushes = 0
        self._clock = clock
        self._size = size
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()
        self._keys: dict[str, set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, key: Hashable) -> V | None:
        """The value of a key, C{None} where there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is None or entry.expires <= self._clock.seconds():
            return None
        self._entries.move_to_end(key)
        return entry.value

    def keep(self, key: Hashable, value: V, seconds: float, *names: str) -> None:
        """Remember a value for some seconds.

        @param names: what its user is called; L{about} and L{flush} find it by each of them, in any case of letters.
        """
        self.forget(key)
        while len(self._entries) >= self._size:
            self.forget(next(iter(self._entries)))
        folded = frozenset(name.lower() for name in names)
        self._entries[key] = _Entry(value, folded, self._clock.seconds() + seconds)
        for name in folded:
            self._keys.setdefault(name, set()).add(key)

    def about(self, name: str) -> list[tuple[Hashable, V]]:
        """All keys and values of a user."""
        return [(key, self._entries[key].value) for key in self._keys.get(name.lower(), ())]

    def forget(self, key: Hashable) -> None:
        """Drop a key, if it is there."""
        entry = self._entries.pop(key, None)
        for name in entry.names if entry is not None else ():
            self._keys[name].remove(key)
            if not self._keys[name]:
                del self._keys[name]

    def flush(self, name: str | None = None) -> int:
        """Drop all of a user, or everything; return how many entries that were."""
        self.flushes += 1
        gone = list(self._entries) if name is None else [key for key, _ in self.about(name)]
        for key in gone:
            self.forget(key)
        return len(gone)
