"""The accountant: counts who is logged in, and says when one session of a user is one too many.

Counts within this process only, and only sessions that have logged in: L{mailgw.edge.limits} guards what comes before.
"""

from __future__ import annotations

from collections import Counter

from zope.interface import implementer

from mailgw.interfaces import IAccountant
from mailgw.model import Refusal, RefusalKind, SessionKey
from mailgw.settings import Limits


@implementer(IAccountant)
class LocalAccountant:
    """The accountant of one process.

    @ivar limits: may be replaced at any time; sessions that are already counted stay.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sessions: dict[str, SessionKey] = {}
        self._users: Counter[str] = Counter()

    async def enter(self, key: SessionKey) -> Refusal | None:
        if key.session_id in self._sessions:
            self.leave(key)  # who logs in anew takes a new place, the old one is free
        most = self.limits.connections_per_user
        if key.username and self._users[key.username] >= most:
            return Refusal(RefusalKind.LIMIT, f"{key.username} has {most} sessions already")
        self._sessions[key.session_id] = key
        if key.username:
            self._users[key.username] += 1
        return None

    def leave(self, key: SessionKey) -> None:
        # The name that was counted is the one to take off, whatever the caller knows by now; a session leaves once.
        entered = self._sessions.pop(key.session_id, None)
        if entered is None or not entered.username:
            return
        self._users[entered.username] -= 1
        if not self._users[entered.username]:
            del self._users[entered.username]  # names that are gone must not pile up

    def count(self, username: str) -> int:
        """How many sessions a user has, by canonical name."""
        return self._users.get(username, 0)

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)
