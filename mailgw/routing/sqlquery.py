"""A query with named keys, as the settings have it, and the same query as a database's driver wants it.

Pure: no driver, no database. A key becomes a parameter of the driver; no value ever becomes part of the text.
"""

from __future__ import annotations

import re
from typing import Literal

from mailgw.model import Origin
from mailgw.names import VALUES, Names, split

Style = Literal["named", "pyformat"]
"""How a driver writes a parameter (PEP 249): C{:user}, or C{%(user)s} with every other per cent sign doubled."""

_TOKEN = re.compile(
    r"""
      (?P<quoted> '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | --[^\n]* | /\*.*?\*/ )
    | (?P<open> ['"`] | /\* )
    | (?P<brace> \{\{ | \}\} )
    | \{ (?P<key> [^{}]* ) \}
    | (?P<stray> [{}] )
    | (?P<text> [^'"`{}/-]+ | [/-] )
    """,
    re.VERBOSE | re.DOTALL,
)
_SOME_KEY = re.compile("|".join(rf"\{{{key}\}}" for key in VALUES))


class Query:
    """A query of the settings, taken apart.

    @ivar keys: the names that stand in it.
    """

    def __init__(self, text: str) -> None:
        """Take a query apart. C{{{} and C{}}} are braces; quotes and comments are left alone.

        @raise ValueError: a key is unknown or stands inside quotes, there is none, or something is not closed.
        """
        self._parts: list[tuple[bool, str]] = []
        for token in _TOKEN.finditer(text):
            self._take(token)
        self.keys = frozenset(part for is_key, part in self._parts if is_key)
        if not self.keys:
            raise ValueError(f"asks the same for every user; it needs one of {_listed()}")

    def written(self, style: Style) -> str:
        """The query with the driver's own parameters."""
        if style == "named":
            return "".join(f":{part}" if is_key else part for is_key, part in self._parts)
        return "".join(f"%({part})s" if is_key else part.replace("%", "%%") for is_key, part in self._parts)

    def values(self, username: str, origin: Origin | None, names: Names) -> dict[str, str]:
        """The parameters by key; those that have no value here are empty.

        @param username: the canonical name.
        @param origin: the session, where there is one.
        """
        name = names.lookup(username, origin)
        parts = split(name, names.delimiters)
        return {key: VALUES[key](name, parts, origin) for key in sorted(self.keys)}

    def _take(self, token: re.Match[str]) -> None:
        text = token[0]
        match token.lastgroup:
            case "open":
                raise ValueError(f"{text} is not closed")
            case "stray":
                raise ValueError(f"a single {text}; write {text * 2} for the character")
            case "quoted" if found := _SOME_KEY.search(text):
                raise ValueError(f"{found[0]} stands inside quotes; it becomes a parameter: leave them out")
            case "key" if token["key"] not in VALUES:
                raise ValueError(f"unknown {text}; there are {_listed()}")
            case "key":
                self._parts.append((True, token["key"]))
            case "brace":
                self._parts.append((False, text[0]))
            case _:
                self._parts.append((False, text))


def _listed() -> str:
    return ", ".join(f"{{{key}}}" for key in VALUES)
