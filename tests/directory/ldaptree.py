"""A double of LDAP servers that hold the same entries, for tests without any.

It understands filters that are nothing but equalities, joined by "or".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from twisted.internet.task import Clock

from mailgw.directory.ldapentry import Entry, Outcome
from mailgw.directory.servers import NoAnswer

_EQUALITY = re.compile(r"\((\w+)=([^()]*)\)")
_HEX = re.compile(r"\\([0-9a-f]{2})")


class Tree:
    """The servers.

    @ivar asked: what they were asked, as C{(uri, operation, DN or filter)}.
    @ivar down: URIs that do not answer.
    @ivar binds: outcomes of binds that differ from the normal one, by DN.
    @ivar searched: the outcome of searches, if it is not a success.
    @ivar cost: seconds that binds take, by result code.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: dict[str, Entry] = {}
        self.passwords: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.links: list[Connection] = []
        self.down: set[str] = set()
        self.binds: dict[str, Outcome] = {}
        self.searched = Outcome(0)
        self.cost: dict[str, float] = {}
        self.attributes: Sequence[str] = ()
        self.error: Exception | None = None

    def add(self, dn: str, password: bytes = b"", **attributes: str | list[str]) -> None:
        values = {name: [value] if isinstance(value, str) else value for name, value in attributes.items()}
        self.entries[dn] = Entry.read(dn, {name: [value.encode() for value in some] for name, some in values.items()})
        if password:
            self.passwords[dn] = password

    def connect(self, uri: str, until: float) -> Connection:
        if uri in self.down:
            raise NoAnswer("connection refused")
        self.links.append(Connection(self, uri))
        return self.links[-1]

    def operations(self, name: str) -> list[str]:
        """The DNs or filters of one operation, in order."""
        return [subject for _, operation, subject in self.asked if operation == name]


class Connection:
    """A connection to one of the servers."""

    def __init__(self, tree: Tree, uri: str) -> None:
        self.tree, self.uri = tree, uri
        self.bound: list[str] = []
        self.searches = 0
        self.open = True

    def bind(self, dn: str, password: bytes, until: float) -> Outcome:
        tree = self._ask("bind", dn)
        assert dn
        assert password
        self.bound.append(dn)
        tree.clock.advance(tree.cost.get(dn, 0))
        if dn in tree.binds:
            return tree.binds[dn]
        return Outcome(0 if tree.passwords.get(dn) == password else 49)

    def search(
        self, base: str, text: str, attributes: Sequence[str], limit: int, until: float
    ) -> tuple[Outcome, list[Entry]]:
        tree = self._ask("search", text)
        self.searches += 1
        tree.attributes = attributes
        wanted = {(name.lower(), _unescaped(value).lower().strip()) for name, value in _EQUALITY.findall(text)}
        found = [
            entry
            for dn, entry in tree.entries.items()
            if dn.endswith(base)
            and wanted & {(name, value.lower()) for name, values in entry.attributes.items() for value in values}
        ]
        if limit and len(found) > limit:
            return Outcome(4), found[:limit]
        return tree.searched, found if tree.searched.code in (0, 4) else []

    def close(self) -> None:
        self.open = False

    def abandon(self) -> None:
        self.open = False

    def _ask(self, operation: str, subject: str) -> Tree:
        assert self.open, "used after it was closed"
        if self.uri in self.tree.down:
            raise NoAnswer("connection reset")
        if self.tree.error is not None:
            raise self.tree.error
        self.tree.asked.append((self.uri, operation, subject))
        return self.tree


def _unescaped(value: str) -> str:
    return _HEX.sub(lambda match: chr(int(match[1], 16)), value)
