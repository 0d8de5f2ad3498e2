"""A database that answers queries: threads, each with a connection of its own, that only read.

Connections are twisted.enterprise.adbapi's, without its threads: those are a crew's, whose queue has an end. It knows
no queries and no rules. What there is to say about each kind of database stands in C{sqlsource.py}.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.enterprise import adbapi

from mailgw.crew import Crew
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.model import RefusalKind
from mailgw.routing.sqlsource import Source


@dataclass(frozen=True, slots=True)
class Rows:
    """What a query brought.

    @ivar columns: their names, in lower case.
    @ivar rows: the first two: whoever wants one must know whether there are more.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


class _NoReactor:
    """What adbapi asks to start its threads, which are not wanted."""

    def callWhenRunning(self, start: Any) -> None:
        """Do nothing."""


class Connections(adbapi.ConnectionPool):
    """One connection a thread. Its methods but L{hang_up} run in the crew's threads."""

    def __init__(self, source: Source, timeout: float) -> None:
        options = {**source.options, "cp_openfun": source.greet, "cp_reactor": _NoReactor()}
        super().__init__(source.module, *source.arguments, **options)
        self._source = source
        self._timeout = timeout
        self._ends: dict[int, float] = {}

    def query(self, text: str, values: Mapping[str, str]) -> Rows:
        """Ask, a second time where the connection turns out to have been lost since the last question.

        Nothing is written, so asking twice does no harm.
        """
        thread = self.threadID()
        end = self._ends[thread] = time.monotonic() + self._timeout
        try:
            known = self.connections.get(thread)
            if known is not None and not self._source.ready(known):
                self.disconnect(known)
                known = None
            try:
                return self._query(text, values)
            except self.dbapi.Error:
                if known is None or self._source.ready(known) or time.monotonic() > end:
                    raise
            self.disconnect(known)
            return self._query(text, values)
        finally:
            del self._ends[thread]

    def cut_overdue(self) -> None:
        """In the reactor's thread: end the connections that keep a thread waiting longer than anybody waits for it."""
        now = time.monotonic()
        for thread in [thread for thread, end in list(self._ends.items()) if end <= now]:
            if (connection := self.connections.get(thread)) is not None:
                self._source.cut(connection)

    def hang_up(self) -> None:
        """Close all connections; nobody may be using one."""
        for connection in list(self.connections.values()):
            connection.close()
        self.connections.clear()

    def _query(self, text: str, values: Mapping[str, str]) -> Rows:
        cursor = self.connect().cursor()
        try:
            cursor.execute(text, values)
            if cursor.description is None:
                raise self.dbapi.ProgrammingError("the query brings no rows")
            return Rows(tuple(str(column[0]).lower() for column in cursor.description), cursor.fetchmany(2))
        finally:
            cursor.close()


class Database:
    """One database, as one rule asks it."""

    def __init__(self, name: str, source: Source, reactor: Any, size: int, queue: int, timeout: float) -> None:
        """Make one that connects with its first question.

        @param name: the rule's, for threads and errors.
        @param size: connections at most, and so questions at a time.
        @param queue: questions that may wait for a connection.
        @param timeout: seconds until a question has failed.
        """
        self.name = name
        self._connections = Connections(source, timeout)
        self._crew = Crew(name, reactor, reactor, size, queue, timeout)
        self._started = False

    async def ask(self, text: str, values: Mapping[str, str]) -> Rows:
        """Ask a question.

        @param text: with the driver's parameters.
        @raise LoginRefused: C{UNAVAILABLE}: there is no answer.
        """
        if not self._started:
            self._started = True
            self._crew.start()
        try:
            return await self._crew.run(self._connections.query, text, values)
        except DirectoryDown as error:
            self._connections.cut_overdue()
            raise LoginRefused(RefusalKind.UNAVAILABLE, str(error)) from None
        except (self._connections.dbapi.Error, OSError, ValueError) as error:
            # ValueError: a name that cannot be encoded. Drivers' words fill several lines.
            words = " ".join(str(error).split()) or type(error).__name__
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name}: {words}") from None

    async def stop(self) -> None:
        """Take no more questions, and hang up."""
        self._started = True
        await self._crew.stop()
        if not self._crew.outstanding:  # a thread that hangs keeps its connection; both end with the process
            self._connections.hang_up()
