"""Places: how many sessions and logins the members of a pool have, and who waits until one may have one more.

It chooses no member: whoever finds one full waits here for a moment, and is told when it was in vain.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailgw.errors import BackendFailed
from mailgw.interfaces import ITally
from mailgw.model import Failure
from mailgw.settings import Pool

LOOK = 0.1
"""Seconds between two looks for places that other processes have given back."""


class Places:
    """The counts of one pool, over all workers."""

    def __init__(
        self, pool: str, options: Pool, protocols: tuple[str, ...], tally: ITally, clock: IReactorTime
    ) -> None:
        """@param protocols: which the pool speaks; sessions are counted for each."""
        self._pool, self._protocols, self._tally, self._clock = pool, protocols, tally, clock
        self._most_sessions, self._most_logins = options.max_connections, options.max_logins
        self._patience = options.queue
        self._capped = bool(self._most_sessions or self._most_logins)
        self._sticky = options.shared and options.balance != "hash"
        self._waiting: dict[str, deque[Deferred[None]]] = {}
        self._look: IDelayedCall | None = None

    def sessions(self, member: str, protocol: str = "") -> int:
        """How many there are, in one protocol or in all."""
        protocols = (protocol,) if protocol else self._protocols
        return sum(self._tally.total(self._session(member, one)) for one in protocols)

    def of_user(self, member: str, username: str) -> int:
        """How many sessions and logins of a user there are; 0 in pools where nobody needs to know."""
        return self._tally.total(self._stay(member, username)) if self._sticky else 0

    def _session(self, member: str, protocol: str) -> str:
        return f"backend {self._pool}/{member} {protocol}"

    def _login(self, member: str) -> str:
        return f"login {self._pool}/{member}"

    def _stay(self, member: str, username: str) -> str:
        return f"stay {self._pool}/{member} {username}"

    # --- logins ------------------------------------------------------------------------------------------------------

    async def reserve(self, member: str, username: str = "") -> None:
        """Begin a login, as soon as there is a place for it.

        @raise BackendFailed: C{FULL}, there was none for too long.
        """
        if self._capped and (self._waiting.get(member) or not self._take(member)):
            await self._queue(member)
        if self._sticky and username:
            self._tally.add(self._stay(member, username))

    def release(self, member: str, username: str = "") -> None:
        """A login that L{reserve} let begin is over."""
        if self._sticky and username:
            self._tally.take(self._stay(member, username))
        if self._capped:
            self._tally.take(self._login(member))
            self._admit(member)

    def _take(self, member: str) -> bool:
        """Count first, ask then: of two workers at most none gets the last place, and then waits a moment."""
        logins = self._tally.add(self._login(member))
        too_many = self._most_logins and logins > self._most_logins
        if too_many or (self._most_sessions and logins + self.sessions(member) > self._most_sessions):
            self._tally.take(self._login(member))
            return False
        return True

    async def _queue(self, member: str) -> None:
        waiting = self._waiting.setdefault(member, deque())
        place: Deferred[None] = Deferred(waiting.remove)
        waiting.append(place)
        self._watch()
        timer = self._clock.callLater(self._patience, self._give_up, member, place)
        try:
            await place
        finally:
            if timer.active():
                timer.cancel()

    def _give_up(self, member: str, place: Deferred[None]) -> None:
        self._waiting[member].remove(place)
        words = f"{self._pool}/{member} is full, and was for {self._patience:g} s"
        place.errback(BackendFailed(Failure.FULL, words))

    def _admit(self, member: str) -> None:
        """Let in those who wait, the first one first, for as many places as there are."""
        waiting = self._waiting.get(member)
        while waiting and self._take(member):
            waiting.popleft().callback(None)

    def _watch(self) -> None:
        if self._look is None:
            self._look = self._clock.callLater(LOOK, self._looked)

    def _looked(self) -> None:
        self._look = None
        for member in list(self._waiting):
            self._admit(member)
            if not self._waiting[member]:
                del self._waiting[member]
        if self._waiting:
            self._watch()

    # --- sessions ----------------------------------------------------------------------------------------------------

    def opened(self, member: str, protocol: str, username: str = "") -> None:
        """A session begins."""
        self._tally.add(self._session(member, protocol))
        if self._sticky and username:
            self._tally.add(self._stay(member, username))

    def closed(self, member: str, protocol: str, username: str = "") -> None:
        """A session is over."""
        self._tally.take(self._session(member, protocol))
        if self._sticky and username:
            self._tally.take(self._stay(member, username))
        if self._capped:
            self._admit(member)
