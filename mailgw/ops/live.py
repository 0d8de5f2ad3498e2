"""The live commands: what C{mailgw who}, C{kick}, C{stats} and C{reload} do in a running gateway.

They are carried out at places: the one process there is, or all workers of a master. What a place can do by itself is
in L{Here}; whatever concerns several of them, such as the pace of C{kick}, is in L{Live}.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailgw.ops.control import Command, Emit, Refused, Row

PATIENCE = 10.0
"""Seconds that one of our processes may take to answer a question: one that hangs must not stop all answers."""


class Asked(Protocol):
    """Who can be asked: a L{Here}, or a L{mailgw.ops.control.ControlLink} to a process that has one."""

    def ask(self, command: str, arguments: Row, emit: Emit) -> Deferred[None]:
        """As L{mailgw.ops.control.ControlLink.ask}."""


class LiveSession(Protocol):
    """What a session lets an administrator see and do."""

    def facts(self) -> Row:
        """Its line of C{mailgw who}: id, user, protocol, client, tls, backend, age (seconds), in and out (octets)."""

    def kick(self) -> None:
        """End it."""


class Here:
    """The sessions and the counters of this process."""

    def __init__(self, sessions: Collection[LiveSession], counters: Counter[str]) -> None:
        """
        @param sessions: all that there are.
        @param counters: what happened since the start, by C{protocol.what}.
        """
        self._sessions, self._counters = sessions, counters
        self.commands: Mapping[str, Command] = {"sessions": self.tell, "end": self.end, "counts": self.count}

    def ask(self, command: str, arguments: Row, emit: Emit) -> Deferred[None]:
        return Deferred.fromCoroutine(self.commands[command](arguments, emit))  # type: ignore[arg-type]

    async def tell(self, arguments: Row, emit: Emit) -> None:
        """One row for each session that C{what} stands for."""
        for facts in sorted((session.facts() for session in list(self._sessions)), key=lambda row: -row["age"]):
            if stands_for(arguments.get("what"), facts):
                emit({**facts, "pid": os.getpid()})

    async def end(self, arguments: Row, emit: Emit) -> None:
        """End the sessions with these C{ids}; one row for each that was there."""
        ids = set(arguments["ids"])
        for session in list(self._sessions):
            facts = session.facts()
            if facts["id"] in ids:
                session.kick()
                emit(facts)

    async def count(self, arguments: Row, emit: Emit) -> None:
        """One row with everything that is counted."""
        emit(self.counts())

    def counts(self) -> dict[str, int]:
        """What happened, and what is there now."""
        counts = Counter(self._counters)
        for session in list(self._sessions):
            facts = session.facts()
            counts[f"{facts['protocol']}.sessions"] += 1
            counts[f"{facts['protocol']}.bytes.in"] += facts["in"]
            counts[f"{facts['protocol']}.bytes.out"] += facts["out"]
        return dict(counts)


def stands_for(what: str | None, facts: Row) -> bool:
    """Whether C{USER}, C{ID} or C{@BACKEND} means a session; nothing means all of them."""
    if what is None:
        return True
    if what.startswith("@"):
        backend: str = facts["backend"].lower()
        return what[1:].lower() in {backend, backend.rpartition("/")[2]}
    return what.lower() in {facts["id"], facts["user"].lower()}


class Live:
    """The commands of the control socket."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        places: Callable[[], Sequence[Asked]],
        reload: Callable[[], Deferred[list[str]]],
        counts: Callable[[], Mapping[str, int]],
    ) -> None:
        """
        @param places: all that can be asked now.
        @param reload: puts the settings file in force; fires with what went wrong, in words.
        @param counts: what is known here and at no place.
        """
        self._reactor, self._places, self._reload, self._counts = reactor, places, reload, counts
        self.commands: Mapping[str, Command] = {
            "who": self.who,
            "kick": self.kick,
            "stats": self.stats,
            "reload": self.reload,
        }

    async def _gather(self, command: str, arguments: Row) -> list[tuple[Asked, Row]]:
        """Ask all places at once; what one does not answer that goes away meanwhile is not there any more."""
        rows: list[tuple[Asked, Row]] = []

        async def ask(place: Asked) -> None:
            with suppress(Refused):
                await self._ask(place, command, arguments, lambda row: rows.append((place, row)))

        for asked in [Deferred.fromCoroutine(ask(place)) for place in self._places()]:
            await asked
        return rows

    async def _ask(self, place: Asked, command: str, arguments: Row, emit: Emit) -> None:
        try:
            await place.ask(command, arguments, emit).addTimeout(PATIENCE, self._reactor)
        except DeferredTimeout:
            self.log.error("{command}: one of our processes has not answered", command=command)

    async def who(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw who}: the oldest first."""
        found = [row for _, row in await self._gather("sessions", {"what": arguments.get("what")})]
        for row in sorted(found, key=lambda row: -row["age"]):
            emit(row)

    async def kick(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw kick}: one row for each session that was ended; C{rate} is how many a second, 0 all at once."""
        what, rate = arguments["what"], float(arguments.get("rate") or 0)
        found = await self._gather("sessions", {"what": what})
        if not found:
            raise Refused(f"no live session is {what}")
        for number, (place, ids) in enumerate(_one_by_one(found) if rate else _by_place(found)):
            if rate and number:
                await deferLater(self._reactor, 1 / rate)
            with suppress(Refused):  # its process is gone, and so are they
                await self._ask(place, "end", {"ids": ids}, emit)

    async def stats(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw stats}: one row with everything that is counted."""
        total = Counter(self._counts())
        for _, row in await self._gather("counts", {}):
            total.update(row)
        emit(dict(sorted(total.items())))

    async def reload(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw reload}: done when the new settings are in force."""
        done: Deferred[list[str]] = Deferred()
        self._reload().chainDeferred(done)  # whoever asked may go away: that stops no reload
        faults = await done
        if faults:
            raise Refused("\n".join(faults))


def _one_by_one(found: Iterable[tuple[Asked, Row]]) -> Iterator[tuple[Asked, list[str]]]:
    """The id of each session, with its place."""
    return ((place, [row["id"]]) for place, row in found)


def _by_place(found: Iterable[tuple[Asked, Row]]) -> Iterator[tuple[Asked, list[str]]]:
    """The ids of all sessions of a place, place by place."""
    ids: dict[int, tuple[Asked, list[str]]] = {}
    for place, row in found:
        ids.setdefault(id(place), (place, []))[1].append(row["id"])
    yield from ids.values()
