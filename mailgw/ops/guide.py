"""The guide: says who a user is and where he goes, and why, without sending him there.

It asks the same directories, router and pools as a login does. What it says is rows for L{mailgw.ops.asking}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailgw.errors import BackendFailed, DirectoryDown, LoginRefused
from mailgw.interfaces import IBoard, IDirectory, IPool, IRouter
from mailgw.model import Identity, Route
from mailgw.ops.control import Refused, Row
from mailgw.ops.holds import HOLD

OVERRIDE = "override"
"""The kind of word on the board: by canonical name, where a user was moved to."""


class Guide:
    """One set of settings, asked by administrators."""

    def __init__(
        self,
        directories: Sequence[IDirectory],
        router: IRouter,
        pools: Mapping[str, IPool],
        board: IBoard,
        form: Callable[[str], str],
        target: Callable[[str], str],
    ) -> None:
        """
        @param form: makes what directories are asked of what was typed.
        @param target: what the backend of a move means, on the board; raises C{ValueError} with words.
        """
        self._directories, self._router, self._pools, self._board = directories, router, pools, board
        self._form, self._target = form, target

    # --- who ---------------------------------------------------------------------------------------------------------

    async def meaning(self, user: str, backend: str | None) -> Row:
        """C{user}: the canonical name, C{None} where nobody knows the user; C{target} for the board.

        @raise Refused: a directory cannot tell now, or the backend means nothing.
        """
        try:
            target = None if backend is None else self._target(backend)
        except ValueError as error:
            raise Refused(str(error)) from None
        identity, asked = await self._identify(user, "imap")
        if identity is None and asked and "trouble" in asked[-1]:
            raise Refused(f"{asked[-1]['directory']} cannot tell who {user!r} is: {asked[-1]['answer']}")
        return {"user": identity and identity.username, "target": target}

    async def _identify(self, user: str, protocol: str) -> tuple[Identity | None, list[Row]]:
        """Ask the directories in their order, as a chain does: trouble ends the search."""
        asked: list[Row] = []
        user = self._form(user)
        for directory in self._directories:
            row = {"directory": directory.name, "query": _question(directory, user)}
            asked.append(row)
            try:
                identity = await _find(directory, user, protocol)
            except (DirectoryDown, LoginRefused) as error:
                row |= {"answer": str(error), "trouble": True}
                return None, asked
            row["answer"] = f"{identity.username} {identity.dn}".rstrip() if identity else "not known here"
            if identity is not None:
                return identity, asked
        return None, asked

    # --- where -------------------------------------------------------------------------------------------------------

    async def explain(self, user: str, protocol: str) -> Row:
        """Everything about the way of a user; what cannot be told is C{None} or empty, and C{refused} says why."""
        identity, asked = await self._identify(user, protocol)
        said: Row = {"user": user, "protocol": protocol, "directories": asked, "username": None, "groups": []}
        said |= {"addresses": [], "attributes": {}, "override": None, "hold": None, "rules": [], "pool": None}
        said |= {"members": [], "backend": None, "refused": None, "cache": None}
        if identity is None:
            trouble = bool(asked) and "trouble" in asked[-1]
            said["refused"] = "a directory cannot tell now" if trouble else "no directory knows this user"
            return said
        said |= {
            "username": identity.username,
            "groups": list(identity.groups),
            "addresses": list(identity.addresses),
            "attributes": {name: list(values) for name, values in identity.attributes.items()},
            "override": self._board.get(OVERRIDE, identity.username),
            "hold": self._board.get(HOLD, identity.username),
            "cache": self._remembered(identity.username),
        }
        said["rules"] = [
            {"rule": step.rule, "answer": step.answer} for step in await self._router.explain(identity, protocol)
        ]
        try:
            self._choose(said, identity.username, protocol, await self._router.route(identity, protocol))
        except (LoginRefused, BackendFailed) as error:
            said["refused"] = str(error)
        return said

    def _choose(self, said: Row, username: str, protocol: str, route: Route) -> None:
        """@raise BackendFailed: the pool has nobody for this user."""
        if route.local:
            said["backend"] = "local"
            return
        pool = self._pools[route.pool]
        said["pool"] = route.pool
        said["members"] = members = [row for row in _rows(pool) if row["protocol"] == protocol]
        candidates = pool.candidates(username, protocol, route)
        order = [backend.name for backend in candidates]
        members.sort(key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
        said["backend"] = str(candidates[0])

    def _remembered(self, username: str) -> Row:
        """How many logins and routes of a user caches hold; C{None} for a cache that cannot tell."""
        counts = [holds(username) for one in self._directories if (holds := getattr(one, "holds", None))]
        routes = getattr(self._router, "holds", None)
        return {"logins": sum(counts) if counts else None, "routes": routes(username) if routes else None}

    # --- backends ----------------------------------------------------------------------------------------------------

    def backends(self) -> list[Row]:
        """The rows of all pools, as L{IPool.rows} has them, with C{at}: POOL/MEMBER."""
        return [row for _, pool in sorted(self._pools.items()) for row in _rows(pool)]

    # --- caches ------------------------------------------------------------------------------------------------------

    def flush(self, user: str | None) -> Row:
        """Forget logins and routes, of a user or all; how many there were."""
        logins = sum(directory.flush(user) for directory in self._directories if hasattr(directory, "flush"))
        flush = getattr(self._router, "flush", None)
        return {"logins": logins, "routes": flush(user) if flush else 0}


def _question(directory: Any, user: str) -> str:
    question = getattr(directory, "question", None)
    return str(question(user)) if question else ""


async def _find(directory: Any, user: str, protocol: str) -> Identity | None:
    """Look a user up, by a question for a reader's place where the directory tells it from one for a recipient's."""
    locate = getattr(directory, "locate", None)
    found: Identity | None = await (locate(user, protocol) if locate and protocol != "smtp" else directory.lookup(user))
    return found


def _rows(pool: IPool) -> list[Row]:
    return [{**row, "at": f"{row['pool']}/{row['name']}"} for row in pool.rows()]
