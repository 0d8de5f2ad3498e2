"""The accountant: counts who is logged in, and says when one session of a user is one too many.

It counts sessions that have logged in; L{mailgw.edge.limits} guards what comes before. Whether the sessions of other
workers count too is the tally's matter.
"""

from __future__ import annotations

from zope.interface import implementer

from mailgw.interfaces import IAccountant, ITally
from mailgw.model import Refusal, RefusalKind, SessionKey
from mailgw.settings import Limits


@implementer(IAccountant)
class Accountant:
    """Counts the sessions of one process on a tally.

    @ivar limits: may be replaced at any time; sessions that are already counted stay.
    """

    def __init__(self, limits: Limits, tally: ITally) -> None:
        self.limits = limits
        self._tally = tally
        self._sessions: dict[str, SessionKey] = {}

    async def enter(self, key: SessionKey) -> Refusal | None:
        if key.session_id in self._sessions:
            self.leave(key)  # who logs in anew takes a new place, the old one is free
        most = self.limits.connections_per_user
        if key.username and self._tally.add(_name(key.username)) > most:
            self._tally.take(_name(key.username))
            return Refusal(RefusalKind.LIMIT, f"{key.username} has {most} sessions already")
        self._sessions[key.session_id] = key
        return None

    def leave(self, key: SessionKey) -> None:
        # The name that was counted is the one to take off, whatever the caller knows by now; a session leaves once.
        entered = self._sessions.pop(key.session_id, None)
        if entered is not None and entered.username:
            self._tally.take(_name(entered.username))

    def count(self, username: str) -> int:
        """How many sessions a user has, by canonical name, in all workers."""
        return self._tally.total(_name(username))

    def sessions_of(self, username: str | None) -> list[str]:
        """The ids of the sessions that a user has in this process, of all users where left out."""
        return [one for one, key in self._sessions.items() if username in (None, key.username)]

    def __len__(self) -> int:
        """How many sessions this process has."""
        return len(self._sessions)


def _name(username: str) -> str:
    return f"user {username}"
