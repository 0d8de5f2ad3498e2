"""Functions as a site could write them, for the tests of L{mailgw.routing.hook}."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet.defer import Deferred

from mailgw.model import Identity

asked: list[tuple[str, str, str]] = []
"""The thread, the user and the protocol of each call."""
answers: list[Any] = []
"""What they answer; an exception is raised."""
hold = threading.Event()
never: list[Deferred[None]] = []
NOTHING = 7


def _answer(identity: Identity, protocol: str) -> Any:
    asked.append((threading.current_thread().name, identity.username, protocol))
    answer = answers[0]
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def waits(identity: Identity, protocol: str) -> Any:
    """A coroutine."""
    return _answer(identity, protocol)


def blocks(identity: Identity, protocol: str) -> Any:
    """A function."""
    return _answer(identity, protocol)


async def waits_for_ever(identity: Identity, protocol: str) -> Any:
    """A coroutine that does not come back."""
    never.append(Deferred())
    await never[-1]


def hangs(identity: Identity, protocol: str) -> Any:
    """A function that comes back when the test says so."""
    hold.wait(20)


def returns_a_coroutine(identity: Identity, protocol: str) -> Any:
    """A function whose author meant to write async."""
    return waits(identity, protocol)


class _Object:
    async def __call__(self, identity: Identity, protocol: str) -> Any:
        return _answer(identity, protocol)


an_object = _Object()
