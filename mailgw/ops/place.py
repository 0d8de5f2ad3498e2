"""A place: what one process of a gateway can be asked to do, besides telling and ending its sessions (L{Here}).

Whatever concerns several places, such as a move, is in L{mailgw.ops.steering}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from mailgw.ops.accounting import Accountant
from mailgw.ops.control import Command, Emit, Row
from mailgw.ops.guide import Guide
from mailgw.ops.live import Here, LiveSession


class Place(Here):
    """The sessions, the counters and the guide of this process."""

    def __init__(
        self,
        sessions: Collection[LiveSession],
        counters: Counter[str],
        accountant: Accountant,
        guide: Callable[[], Guide],
    ) -> None:
        """
        @param accountant: who counts these sessions.
        @param guide: that of the settings in force.
        """
        super().__init__(sessions, counters)
        self._accountant, self._guide = accountant, guide
        self.commands: Mapping[str, Command] = {
            **self.commands,
            "evict": self.evict,
            "arriving": self.arriving,
            "flush": self.flush,
            "canonical": self.canonical,
            "explain": self.explain,
            "backends": self.backends,
        }

    async def evict(self, arguments: Row, emit: Emit) -> None:
        """End the sessions of a C{user}; one row: how many were told to end, how many are left.

        @param arguments: with C{hurry} also those that are still logging in on a backend. To give these up is no
            proof that they do not get there: a password that was sent can be read by the backend later.
        """
        counted = set(self._accountant.sessions_of(arguments["user"]))
        ended = []
        for session in list(self._sessions):
            facts = session.facts()
            if facts["id"] in counted and (facts["user"] != "-" or arguments["hurry"]):
                session.kick()
                ended.append(facts["id"])
        emit({"ended": ended, "left": len(self._accountant.sessions_of(arguments["user"]))})

    async def arriving(self, arguments: Row, emit: Emit) -> None:
        """One row: the ids of those who have been asked for a route and are not there yet."""
        counted = set(self._accountant.sessions_of(None))
        there = {facts["id"] for facts in (one.facts() for one in list(self._sessions)) if facts["user"] != "-"}
        emit({"ids": sorted(counted - there)})

    async def flush(self, arguments: Row, emit: Emit) -> None:
        """One row: how many logins and routes were forgotten."""
        emit(self._guide().flush(arguments.get("user")))

    async def canonical(self, arguments: Row, emit: Emit) -> None:
        """One row: the canonical name of a C{user}, and what a C{backend} means on the board."""
        emit(await self._guide().meaning(arguments["user"], arguments.get("backend")))

    async def explain(self, arguments: Row, emit: Emit) -> None:
        """One row: where a C{user} goes by C{protocol}, and why."""
        emit(await self._guide().explain(arguments["user"], arguments["protocol"]))

    async def backends(self, arguments: Row, emit: Emit) -> None:
        """A row for each service of each member of each pool."""
        for row in self._guide().backends():
            emit(row)
