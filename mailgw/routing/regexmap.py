"""The rule that matches the user's name with a regular expression, and the map files that hold many of them.

A map file is Perdition's C{popmap.re}; L{mailgw.routing.table} reads and re-reads it. This room looks at canonical
names only: what the client typed never reaches an expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator
from zope.interface import implementer

from mailgw.interfaces import IHouse, IRoutingRule
from mailgw.model import Identity, Origin, Route
from mailgw.names import USER, Keys, KeyTemplates
from mailgw.routing.target import PoolName, backend_user, known_pool, split_host
from mailgw.settings import Names, Table


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


@implementer(IRoutingRule)
class RegexRule:
    """C{kind = "regex"}: names that match go to a pool, or to a backend made of the match."""

    class Options(Table):
        """C{[[route]]} of kind "regex"."""

        match: Annotated[str, AfterValidator(_expression)]
        """Searched for anywhere in a key; C{^} and C{$} tie it down."""
        keys: KeyTemplates = (USER,)
        """What it is searched for in, tried in order; the first that matches counts. {user} is the canonical name."""
        backend: str | None = None
        """A member's name, its host, or else host[:port]; groups as \\1 or \\g<name>. Left out: the pool chooses."""
        username: str | None = None
        """Who to log in as on the backend; groups as in backend. Left out: the canonical name."""
        pool: PoolName
        """Whose members, ports, TLS and login apply."""

        @model_validator(mode="after")
        def _groups_exist(self) -> Self:
            for key, template in (("backend", self.backend), ("username", self.username)):
                try:
                    re.compile(self.match).sub(template or "", "")
                except (re.error, IndexError) as error:
                    raise ValueError(f"{key}: {error}") from None
            return self

    def __init__(
        self, match: str, backend: str | None, pool: str, username: str | None = None, keys: Keys | None = None
    ) -> None:
        self.name = f"regex {match}"
        self._match = re.compile(match)
        self._backend = backend
        self._username = username
        self._pool = pool
        self._keys = keys or Keys((USER,), Names())

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule.

        @raise SettingsError: there is no such pool.
        """
        pool = known_pool(name, options.pool, house.pools)
        keys = Keys(options.keys, house.settings.names)
        return cls(options.match, options.backend, pool, options.username, keys)

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        found = self._keys.first(self._match.search, identity.username, origin)
        if found is None:
            return None
        username = None if self._username is None else backend_user(found.expand(self._username))
        return Route(self._pool, None if self._backend is None else found.expand(self._backend), username=username)


class MapFaults(ValueError):
    """A map file cannot be understood.

    @ivar faults: C{LINE: what is wrong}, one for each line at fault.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with the number of their first one; a backslash at the end of a line joins the next one to it."""
    first = 0
    parts: list[str] = []
    for number, line in enumerate(re.split(r"\r?\n", text), 1):
        first = first if parts else number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            parts.append(line[:-1])
            continue
        yield first, "".join([*parts, line])
        parts = []
    if parts:
        yield first, "".join(parts)


class RegexMap:
    """Perdition's C{popmap.re}: C{expression: host} lines, of which the first that matches wins.

    @ivar notes: what is odd about the file and yet no fault, C{LINE: what}.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, entries: Sequence[tuple[re.Pattern[str], str]]) -> None:
        self._entries = tuple(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a file's text.

        @raise MapFaults: a line has no host, or an expression that does not compile.
        """
        entries, faults = [], []
        for number, line in logical_lines(text):
            try:
                if words := _words(line):
                    entries.append(_entry(words))
            except ValueError as error:
                faults.append(f"{number}: {error}")
        if faults:
            raise MapFaults(faults)
        return cls(entries)

    def find(self, username: str) -> str | None:
        """The first matching line's C{[user@]host[:port]}, its $1 to $9 filled in ($0: all that matched)."""
        for expression, replacement in self._entries:
            if found := expression.search(username):
                return _filled(replacement, found)
        return None


def _filled(replacement: str, found: re.Match[str]) -> str:
    groups = (found[0], *found.groups())

    def group(reference: re.Match[str]) -> str:
        number = int(reference[1])
        value = groups[number] if number < len(groups) else None
        return reference[0] if value is None else value  # as Perdition has it; a $ is in no host, so it is refused

    return re.sub(r"\$([0-9])", group, replacement)


Word = list[tuple[str, bool]]
"""Characters, each with whether a backslash went before it."""


def _words(line: str) -> list[Word]:
    """Take a line apart as a shell would: blanks part, quotes and backslashes protect, # begins a comment."""
    words: list[Word] = []
    quote, escaped, inside = "", False, False
    for character in line:
        if not (escaped or quote):
            if character == "#":
                break
            if character in " \t\r":
                inside = False
                continue
        if not inside:
            words.append([])
            inside = True
        if escaped:
            words[-1].append((character, True))
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif character == quote:
            quote = ""
        elif character in "'\"" and not quote:
            quote = character
        else:
            words[-1].append((character, False))
    if quote:
        raise ValueError(f"a {quote} is not closed")
    return words


def _entry(words: list[Word]) -> tuple[re.Pattern[str], str]:
    key = words[0]
    if key and key[-1][0] == ":":
        key = key[:-1]
    if not key:
        raise ValueError("no expression before the colon")
    if len(words) < 2:
        raise ValueError("no host after the expression; a blank goes before the host")
    host = "".join(character for character, _ in words[1])  # Perdition ignores what follows it, too
    if "$" not in host:
        split_host(host.rpartition("@")[2])
    try:
        return re.compile(_python(key)), host
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None


def _python(key: Word) -> str:
    """An extended POSIX expression in Python's syntax."""
    parts: list[str] = []
    at, backslash = 0, False
    while at < len(key):
        character, escaped = key[at]
        if character == "[" and not (escaped or backslash):
            part, at = _bracket("".join(character for character, _ in key), at)
            parts.append(part)
            continue
        if escaped and character == "\\":
            parts.append("\\")  # the file's way to write the expression's own backslash
            backslash = not backslash
        else:
            # Perdition drops this backslash, and its dot matches anything; whoever wrote it meant the dot itself.
            parts.append("\\" * (escaped and not backslash and not character.isalnum()) + character)
            backslash = character == "\\" and not escaped and not backslash
        at += 1
    return "".join(parts)


_CLASSES = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "A-Fa-f0-9",
}
_CLASS = re.compile(r"\[:([a-z]+):\]")


def _bracket(text: str, start: int) -> tuple[str, int]:
    """Translate the bracket expression that begins there, and say where it ends: POSIX knows no backslash in it."""
    at = start + 1
    parts = ["["]
    if text[at : at + 1] == "^":
        parts.append("^")
        at += 1
    first = at
    while at < len(text) and (text[at] != "]" or at == first):
        if named := _CLASS.match(text, at):
            if named[1] not in _CLASSES:
                raise ValueError(f"there is no class [:{named[1]}:]")
            parts.append(_CLASSES[named[1]])
            at = named.end()
        elif text.startswith(("[.", "[="), at):
            raise ValueError("[. .] and [= =] are not supported")
        else:
            parts.append(f"\\{text[at]}" if text[at] in "\\[]^&|~" else text[at])
            at += 1
    if at == len(text):
        raise ValueError("a [ is not closed")
    return "".join([*parts, "]"]), at + 1
