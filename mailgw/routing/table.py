"""The rule that looks users up in a map file, which it re-reads when it changes.

Perdition's two kinds of map load as they are: C{user: host} lines here, C{expression: host} lines by
L{mailgw.routing.regexmap}. Which of them a file is cannot be told from its text (C{a.b: host} is both), so an option
says it. A file that turns out broken never replaces one that was good, and never lets a user fall to the next rule.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, Self

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.errors import LoginRefused
from mailgw.interfaces import IHouse, IPool, IRoutingRule
from mailgw.model import Identity, Origin, RefusalKind, Route
from mailgw.names import USER, Keys, KeyTemplates
from mailgw.routing.regexmap import MapFaults, RegexMap, logical_lines
from mailgw.routing.target import PoolName, backend_user, known_pool, route_to, split_host
from mailgw.settings import FilePath, Names, Table

SETTLED_AFTER = 1.0
"""Seconds without a change until a file takes the place of what was read before: half a file has not all users."""


class NameMap:
    """Perdition's C{popmap}: C{user: [user@]host[:port]} lines.

    @ivar notes: what is odd about the file and yet no fault, C{LINE: what}.
    """

    def __init__(self, entries: Mapping[str, str], notes: tuple[str, ...] = ()) -> None:
        self._entries = entries
        self.notes = notes

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a file's text. A name that comes twice keeps its first host, as Perdition's makegdbm has it.

        @raise MapFaults: a line is no C{user: host}.
        """
        entries: dict[str, str] = {}
        notes, faults = [], []
        good: set[str] = set()  # a hundred thousand users live on a handful of hosts: each is looked at once
        for number, line in logical_lines(text):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            try:
                name, value = _name_and_value(line)
                if value not in good:
                    split_host(value.rpartition("@")[2])
                    good.add(value)
            except ValueError as error:
                faults.append(f"{number}: {error}")
                continue
            if entries.setdefault(name, value) != value:
                notes.append(f"{number}: {name!r} stands there before, with another host, and that one counts")
        if faults:
            raise MapFaults(faults)
        return cls(entries, tuple(notes))

    def find(self, username: str) -> str | None:
        """The value of exactly that name."""
        return self._entries.get(username)


_COMMENT = re.compile(r"\s+#.*\Z")


def _name_and_value(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if "#" in value:
        value = _COMMENT.sub("", " " + value)
    name, value = name.rstrip(), value.strip()
    if not colon:
        raise ValueError("no colon between user and host")
    if not name:
        raise ValueError("no user before the colon")
    if not value:
        raise ValueError("no host after the colon")
    return name, value


class Map(Protocol):
    """A map file's content: a L{NameMap} or a L{RegexMap}."""

    notes: tuple[str, ...]

    def find(self, username: str) -> str | None:
        """The value for a user, or C{None}."""

    def __len__(self) -> int: ...


def read_map(path: str, match: str) -> tuple[Map, tuple[int, int, int]]:
    """Read a map file.

    @param match: C{"name"} or C{"regex"}.
    @return: its content, and a stamp that differs once the file does.
    @raise MapFaults: the file cannot be understood.
    @raise OSError: the file cannot be read.
    """
    with Path(path).open("rb") as stream:
        stamp = _stamp(os.fstat(stream.fileno()))  # of what is read, even if another file takes its place meanwhile
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MapFaults([f"{line}: not UTF-8"]) from None
    return (RegexMap if match == "regex" else NameMap).parse(text), stamp


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


@implementer(IRoutingRule)
class TableRule:
    """C{kind = "table"}: a map file says where users go."""

    log = Logger()

    class Options(Table):
        """C{[[route]]} of kind "table"."""

        file: FilePath
        """C{user: host} or C{expression: host} lines; read again when it changes."""
        match: Literal["name", "regex"] = "name"
        """Before the colon stands a whole key, or a regular expression to be searched for in it."""
        keys: KeyTemplates = (USER,)
        """What is looked up, in order, until the file has one; {user} is the whole canonical name."""
        pool: PoolName | None = None
        """Whose ports, TLS and login apply to a value that names no pool; left out, every value must name one."""
        username: bool = False
        """true: USER@HOST in the file also says who to log in as on the backend; false: USER@ is read and left out."""

    def __init__(
        self,
        path: str,
        match: str,
        pool: str | None,
        pools: Mapping[str, IPool],
        clock: IReactorTime,
        username: bool = False,
        keys: Keys | None = None,
    ) -> None:
        self.name = f"table {path}"
        self._path = path
        self._match = match
        self._pool = pool
        self._pools = pools
        self._clock = clock
        self._username = username
        self._keys = keys or Keys((USER,), Names())
        self._map: Map | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._trouble = ""
        self._checked = float("-inf")
        self._told_of_users = False

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule and read its file; what is wrong with the file is logged.

        @raise SettingsError: there is no such pool.
        """
        pool = None if options.pool is None else known_pool(name, options.pool, house.pools)
        keys = Keys(options.keys, house.settings.names)
        rule = cls(options.file, options.match, pool, house.pools, house.reactor, options.username, keys)
        rule.refresh()
        return rule

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        self.refresh()
        if self._map is None:
            raise LoginRefused(RefusalKind.UNAVAILABLE, self._trouble)
        value = self._keys.first(self._map.find, identity.username, origin)
        if value is None:
            return None
        user, _, target = value.rpartition("@")
        if not target:
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"{value!r} names no host")
        if self._username:
            return route_to(target, self._pool, self._pools, backend_user(user) if user else None)
        if user not in ("", identity.username):
            self._tell_of_users()
        return route_to(target, self._pool, self._pools)

    def refresh(self) -> None:
        """Read the file if it is another one than last time; looks at most once a second."""
        now = self._clock.seconds()
        if now - self._checked < 1.0:
            return
        self._checked = now
        try:
            status = Path(self._path).stat()
            if _stamp(status) == self._stamp or (
                self._map is not None and 0.0 <= now - status.st_mtime < SETTLED_AFTER
            ):
                return
            self._stamp = _stamp(status)  # whatever comes of it: a broken file is read and complained of once
            self._map, self._stamp = read_map(self._path, self._match)
        except OSError as error:
            self._stamp = None
            self._complain(f"cannot read {self._path}: {error.strerror}")
        except MapFaults as error:
            self._complain("; ".join(f"{self._path}:{fault}" for fault in error.faults))
        else:
            self._welcome(self._map)

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            kept = "nobody can be looked up" if self._map is None else "what was read before stays in force"
            self.log.error("{rule}: {trouble}; {kept}", rule=self.name, trouble=trouble, kept=kept)
        self._trouble = trouble

    def _welcome(self, content: Map) -> None:
        self._trouble = ""
        self.log.info("{rule}: {count} entries", rule=self.name, count=len(content))
        for note in content.notes:
            self.log.warn("{path}:{note}", path=self._path, note=note)

    def _tell_of_users(self) -> None:
        if not self._told_of_users:
            self._told_of_users = True
            self.log.warn("{rule} names users for the backend, which count with username = true only", rule=self.name)
