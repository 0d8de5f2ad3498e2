"""Steering: C{mailgw move}, C{backend}, C{flush} and C{route} in a running gateway of one process or several.

What a single process does for that is in L{mailgw.ops.place}; what they all have to know is said on the board.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailgw.interfaces import IBoard
from mailgw.ops.control import Command, Emit, Lost, Refused, Row
from mailgw.ops.guide import OVERRIDE
from mailgw.ops.holds import HOLD
from mailgw.ops.live import Asked

BACKEND = "backend"
"""The kind of word on the board: by C{POOL/MEMBER}, C{"drain"} or C{"down"}; nothing is C{"up"}."""
TURN = 0.05
"""Seconds between two looks at whether the last one is gone."""
PATIENCE = 10.0
"""Seconds that a login which is under way may take to get to where it was going, before it is given up."""
GOODBYE = 20.0
"""Seconds after that for all sessions to be gone; clients that do not listen are cut off in less."""
BATCH = 10_000
"""Sessions that are ended by one question; more would make the line too long."""
STATES = ("up", "drain", "down")

T = TypeVar("T")


class Steering:
    """The commands that change where users go, and those that explain it."""

    log = Logger()

    def __init__(self, reactor: Any, places: Callable[[], Sequence[Asked]], board: IBoard) -> None:
        """
        @param places: as L{mailgw.ops.live.Live}; the last one is the newest.
        @param board: that of those who have the say.
        """
        self._reactor, self._places, self._board = reactor, places, board
        self._moving: set[str] = set()
        self.commands: Mapping[str, Command] = {
            "move": self.move,
            "backend": self.backend,
            "flush": self.flush,
            "route": self.route,
        }

    # --- move --------------------------------------------------------------------------------------------------------

    async def move(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw move}: one row with who was moved where, and how many sessions were ended for it.

        @param arguments: C{user}; C{backend}, C{None} to clear; C{hold}, in seconds.
        """
        backend, hold = arguments.get("backend"), float(arguments.get("hold") or 0)
        (meaning,) = await self._newest("canonical", user=arguments["user"], backend=backend)
        user = meaning["user"] or self._as_typed(arguments["user"], backend)
        if user in self._moving:
            raise Refused(f"{user} is being moved already")
        if meaning["target"] is None and self._board.get(OVERRIDE, user) is None:
            raise Refused(f"{user} was not moved")
        ended = await _to_its_end(self._moved(user, meaning["target"], hold))
        emit({"user": user, "backend": meaning["target"], "ended": ended})

    def _as_typed(self, user: str, backend: str | None) -> str:
        """Somebody whom no directory knows any more may still have an override, which can be cleared."""
        if backend is None and self._board.get(OVERRIDE, user) is not None:
            return user
        raise Refused(f"no directory knows {user!r}")

    async def _moved(self, user: str, target: str | None, hold: float) -> int:
        """Hold, override, end the sessions, release; return how many there were.

        Whoever is not held is counted, in one go: once the hold is known everywhere, all who may still be on their way
        to the old backend are among those whose end is waited for.
        """
        self._moving.add(user)
        limit = max(hold, PATIENCE) + GOODBYE
        try:
            await self._in_time(self._board.post(HOLD, user, f"{hold:g}"), limit)
            await self._in_time(self._board.post(OVERRIDE, user, target), limit)
            await self._flush(user)
            ended = await self._evicted(user, limit)
        finally:
            self._moving.discard(user)
            released = self._board.post(HOLD, user, None)
        await self._in_time(released, limit)
        self.log.info("{user} moved to {target}: {ended} sessions ended", user=user, target=target, ended=ended)
        return ended

    async def _evicted(self, user: str, limit: float) -> int:
        """End all sessions of a user, and wait until they are gone."""
        began, ended = self._reactor.seconds(), set[str]()
        while True:
            spent = self._reactor.seconds() - began
            rows = await self._all("evict", {"user": user, "hurry": spent >= PATIENCE})
            ended.update(one for row in rows for one in row["ended"])
            left = sum(row["left"] for row in rows)
            if not left:
                return len(ended)
            if spent > limit:
                raise Refused(f"{user} is moved, but {left} of the old sessions do not end")
            await deferLater(self._reactor, TURN)

    # --- backend -----------------------------------------------------------------------------------------------------

    async def backend(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw backend}: a row for each service of each member; sets C{state} of C{name} first if there is one."""
        rows = await self._newest("backends")
        name, state = arguments.get("name"), arguments.get("state")
        if name is not None:
            chosen = self._chosen(name, rows)
            await _to_its_end(self._set(chosen, state))
            rows = [row for row in await self._newest("backends") if row["at"] == chosen]
        for row in rows:
            emit(row)

    @staticmethod
    def _chosen(name: str, rows: Sequence[Row]) -> str:
        """C{POOL/MEMBER} of what was typed.

        @raise Refused: there is none, or several.
        """
        meant = sorted({row["at"] for row in rows if name.lower() in (row["at"].lower(), row["name"].lower())})
        if not meant:
            names = ", ".join(sorted({row["at"] for row in rows}))
            raise Refused(f"there is no backend {name!r}; there are {names or 'none'}")
        if len(meant) > 1:
            raise Refused(f"{name} is a member of several pools: write {' or '.join(meant)}")
        return str(meant[0])

    async def _set(self, name: str, state: str | None) -> None:
        """Order a state, and return when no login can get there any more that began before."""
        if state not in STATES:
            raise Refused(f"{state!r} is not one of {', '.join(STATES)}")
        await self._in_time(self._board.post(BACKEND, name, None if state == "up" else state), GOODBYE)
        self.log.info("backend {name} is {state}, by order", name=name, state=state)
        if state == "up":
            return
        await self._arrived()
        if state == "down":
            await self._emptied(name)

    async def _arrived(self) -> None:
        """Wait for those who may have got the old answer; each is there, or gone, after its deadline at the latest."""
        waited_for: set[str] | None = None
        began = self._reactor.seconds()
        while self._reactor.seconds() - began < PATIENCE:
            now = {one for row in await self._all("arriving", {}) for one in row["ids"]}
            waited_for = now if waited_for is None else waited_for & now
            if not waited_for:
                return
            await deferLater(self._reactor, TURN)

    async def _emptied(self, name: str) -> None:
        end = self._reactor.seconds() + GOODBYE
        while found := await self._all("sessions", {"what": f"@{name}"}):
            if self._reactor.seconds() > end:
                raise Refused(f"{name} is down, but {len(found)} of its sessions do not end")
            await self._all("end", {"ids": [row["id"] for row in found[:BATCH]]})
            await deferLater(self._reactor, TURN)

    # --- flush and route ---------------------------------------------------------------------------------------------

    async def flush(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw flush}: one row with how many C{logins} and C{routes} are forgotten."""
        emit(await self._flush(arguments.get("user")))

    async def _flush(self, user: str | None) -> Row:
        rows = await self._all("flush", {"user": user})
        return {what: sum(row[what] for row in rows) for what in ("logins", "routes")}

    async def route(self, arguments: Row, emit: Emit) -> None:
        """C{mailgw route}: one row."""
        for row in await self._newest("explain", user=arguments["user"], protocol=arguments["protocol"]):
            emit(row)

    # --- places ------------------------------------------------------------------------------------------------------

    async def _newest(self, command: str, **arguments: Any) -> list[Row]:
        """Ask the newest place.

        @raise Refused: it refuses, or there is none as long as workers are being started.
        """
        places = self._places()
        if not places:
            raise Refused("no worker is there yet")
        rows: list[Row] = []
        await self._in_time(places[-1].ask(command, arguments, rows.append), GOODBYE)
        return rows

    async def _all(self, command: str, arguments: Row) -> list[Row]:
        """Ask all places at once. One that is gone meanwhile has nothing to say, one that hangs may have.

        @raise Refused: one does not answer.
        """
        rows: list[Row] = []
        asked = [place.ask(command, arguments, rows.append) for place in self._places()]
        for answer in asked:
            await self._in_time(answer.addErrback(lambda gone: gone.trap(Lost)), GOODBYE)
        return rows

    async def _in_time(self, waiting: Deferred[None], limit: float) -> None:
        """@raise Refused: it takes longer; it goes on nevertheless."""
        done: Deferred[None] = Deferred()
        waiting.chainDeferred(done)
        try:
            await done.addTimeout(limit, self._reactor)
        except DeferredTimeout:
            raise Refused(f"a worker has not answered for {limit:g} s") from None


def _to_its_end(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Work that goes on where whoever asked for it goes away: half of it would be worse than all or nothing."""
    done: Deferred[T] = Deferred()
    Deferred.fromCoroutine(work).chainDeferred(done)
    return done
