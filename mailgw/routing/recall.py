"""What a rule that asks somebody remembers of the answers: routes, "not my business", and trouble, each for a time.

What an answer depends on, and what counts as trouble, is the rule's own affair: it says so with the key.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime

from mailgw.errors import LoginRefused
from mailgw.memory import MAX_ENTRIES, Memory, SharedCalls
from mailgw.model import Refusal, Route
from mailgw.settings import Duration, Table

Ask = Callable[[], Coroutine[Any, Any, Route | None]]


class Recalling(Table):
    """The options of a rule that remembers."""

    cache: Duration = 0.0
    """How long an answer is remembered; "0s": never."""
    cache_negative: Duration = 0.0
    """How long it is remembered that a user is not this rule's business; "0s": never."""
    cache_trouble: Duration = 0.0
    """How long trouble is remembered before it is tried again for the same user; "0s": never."""


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer; with a refusal, trouble."""

    route: Route | None = None
    refusal: Refusal | None = None


class Recall:
    """The answers of one rule. Equal questions at the same time are asked once."""

    def __init__(self, options: Recalling, clock: IReactorTime, size: int = MAX_ENTRIES) -> None:
        """
        @param size: how many answers are remembered at most; the one not used for longest goes first.
        """
        self._options = options
        self._memory: Memory[_Said] = Memory(clock, size)
        self._calls: SharedCalls[_Said] = SharedCalls()

    async def ask(self, key: Hashable, username: str, ask: Ask) -> Route | None:
        """What is remembered, or else what the asking brings.

        @param key: all that the answer depends on; what a client makes up at will should not be in it.
        @param username: the canonical name, by which L{flush} finds the answer.
        @raise LoginRefused: as the rule refused, now or while that is remembered.
        """
        said = self._memory.recall(key)
        if said is None:
            # Who asks after a flush must not get the answer to a question from before it.
            said = await self._calls.ask((key, self._memory.flushes), lambda: self._said(key, username, ask))
        if said.refusal is not None:
            raise LoginRefused(said.refusal.kind, said.refusal.reason)
        return said.route

    def flush(self, user: str | None = None) -> int:
        """Forget a user by canonical name, or everybody; return how many answers that were."""
        return self._memory.flush(user)

    async def _said(self, key: Hashable, username: str, ask: Ask) -> _Said:
        flushes = self._memory.flushes
        try:
            said = _Said(await ask())
        except LoginRefused as error:
            said = _Said(refusal=error.refusal)
        seconds = self._lifetime(said)
        if seconds > 0 and flushes == self._memory.flushes:
            self._memory.keep(key, said, seconds, username)
        return said

    def _lifetime(self, said: _Said) -> float:
        if said.refusal is not None:
            return self._options.cache_trouble
        if said.route is None:
            return self._options.cache_negative
        # No password outlives the login that it is for.
        return self._options.cache if said.route.password is None else 0.0
