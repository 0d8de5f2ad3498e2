"""Writes a mailgw.toml: tables with their keys, and a comment on everything that has no counterpart.

Knows TOML and nothing of what the keys mean. It reads no TOML: what is written here is judged by C{mailgw check}.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mailgw.errors import MailgwError

WIDTH = 110
Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class CannotImport(MailgwError):
    """A configuration of another proxy cannot be understood, or no settings can be made of it."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about the old configuration that whoever runs the gateway should know.

    @ivar line: where it stands there, from 1; 0 for what stands nowhere.
    @ivar subject: the option that it is about.
    @ivar words: what has become of it, and why.
    """

    line: int
    subject: str
    words: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.subject}: {self.words}" if self.line else f"{self.subject}: {self.words}"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to.

    @ivar settings: the text of a mailgw.toml, with the remarks in it.
    @ivar remarks: in the order of the old configuration.
    """

    settings: str
    remarks: tuple[Remark, ...]


class Table:
    """One table of the settings, as it is going to be written.

    @param header: with its brackets, such as C{[[listener]]}.
    """

    def __init__(self, header: str, words: str = "") -> None:
        self._header = header
        self._words = words
        self._lines: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def set(self, key: str, value: Value, words: str = "") -> None:
        """Write a key.

        @param words: a comment behind it.
        """
        self._lines.append((f"{key_text(key)} = {value_text(value)}", words))

    def text(self) -> str:
        """The lines of the table."""
        width = min(max((len(line) for line, words in self._lines if words), default=0), 44)
        lines = [*comment(self._words), self._header]
        for line, words in self._lines:
            lines.append(f"{line:<{width}}   # {words}" if words else line)
        return "\n".join(lines) + "\n"


class Draft:
    """Settings on their way: tables in their order, and the remarks.

    @param origin: the name of what is imported.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._tables: list[Table] = []
        self._remarks: list[Remark] = []

    def table(self, header: str, words: str = "") -> Table:
        """Begin a table; one that stays empty is not written, unless it is of an array or of a pool.

        @param words: a comment above it.
        """
        table = Table(header, words)
        self._tables.append(table)
        return table

    def remark(self, line: int, subject: str, words: str) -> None:
        """Say what has become of an option; the same twice is said once."""
        found = Remark(line, subject, words)
        if found not in self._remarks:
            self._remarks.append(found)

    def finish(self) -> Imported:
        """All that was written."""
        remarks = tuple(sorted(self._remarks, key=lambda remark: remark.line))
        head = f"# mailgw's settings, made from {_plain(self._origin)} by `mailgw import`.\n"
        head += "# `mailgw check` says whether they are good; docs/settings.md explains every key.\n"
        if remarks:
            said = [line for remark in remarks for line in comment(f"- {remark}", "  ")]
            head += "\n".join(["#", "# What has no counterpart, or another one than before:", *said]) + "\n"
        tables = [table.text() for table in self._tables if len(table) or not _may_go(table.text())]
        return Imported("\n".join([head, *tables]), remarks)


def _may_go(text: str) -> bool:
    return not re.search(r"^\[(?:\[|pool\.)", text, re.MULTILINE)


def comment(words: str, indent: str = "") -> list[str]:
    """Words as lines of comment, none of them too long; the second line and those behind it are indented."""
    if not words:
        return []
    lines = textwrap.wrap(
        _plain(words), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [f"# {line}" for line in lines]


def key_text(key: str) -> str:
    """A key, quoted where it has to be."""
    return key if _BARE.fullmatch(key) else value_text(key)


def value_text(value: Value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key_text(key)} = {value_text(one)}" for key, one in value.items()) + "}"
    return _list([value_text(one) for one in value])


def _list(texts: Sequence[str]) -> str:
    line = "[" + ", ".join(texts) + "]"
    if len(line) < WIDTH - 20:
        return line
    return "[\n" + "".join(f"    {text},\n" for text in texts) + "]"


def _string(text: str) -> str:
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's, but for this


def _plain(words: str) -> str:
    """Words fit for a comment: a control character could end it, and what follows would be a setting."""
    return "".join(character if character.isprintable() else " " for character in words)


def listed(names: Iterable[str]) -> str:
    """C{a, b and c}."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
