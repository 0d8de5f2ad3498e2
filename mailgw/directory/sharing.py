"""Calls that several askers share: who asks the same thing while it is being asked gets the same answer.

It remembers nothing: once the answer is there, the next asker asks again. Keeping answers is C{cache.py}'s work.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

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
