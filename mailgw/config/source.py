"""A settings file as text: its tables, the line of every key, and what C{--set} puts in their place.

Judges nothing but TOML itself; what the tables mean is L{mailgw.config.file}'s work.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path as FileSystemPath
from typing import Any

from mailgw.config.lines import Lines, Path
from mailgw.errors import SettingsError

_AT = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


class Source:
    """One file, read and parsed when it is made.

    @raise SettingsError: it cannot be read, or is not TOML.
    """

    def __init__(self, path: str | FileSystemPath) -> None:
        self.name = str(path)
        self.folder = os.path.dirname(os.path.abspath(self.name))
        self._overridden: set[Path] = set()
        text = self._read()
        self.tables = self._parse(text)
        self._lines = Lines(text)

    def tell(self, path: Path, words: str) -> str:
        """A finished line: C{FILE:LINE: path.to.key: what is wrong}; elements of arrays count from 1."""
        place = "--set" if self._from_command_line(path) else f"{self.name}:{self._lines.find(path)}"
        return f"{place}: {dotted(path)}: {words}" if path else f"{place}: {words}"

    def line(self, path: Path) -> int:
        """The line of a key, from 1; 0 for what C{--set} gave."""
        return 0 if self._from_command_line(path) else self._lines.find(path)

    def override(self, setting: str) -> None:
        """Apply one C{table.key=value}; the value is TOML, else a string as it stands.

        @raise ValueError: it is no such thing; the message is fit for the user and has no value in it.
        """
        name, equals, text = setting.partition("=")
        keys = _key_parts(name.strip())
        if not equals or not keys:
            raise ValueError("--set: write table.key=value, such as gateway.drain=10s")
        path, table = self._descend(keys[:-1], name)
        table[keys[-1]] = _toml_value(text.strip())
        self._overridden.add((*path, keys[-1]))

    def _descend(self, keys: Sequence[str], name: str) -> tuple[Path, dict[str, Any]]:
        path: Path = ()
        here: Any = self.tables
        for key in keys:
            if isinstance(here, list):
                if not key.isdecimal() or not 1 <= int(key) <= len(here):
                    raise ValueError(f"--set: {name}: {dotted(path)} has the elements 1 to {len(here)}, no {key!r}")
                here, path = here[int(key) - 1], (*path, int(key) - 1)
            else:
                here, path = here.setdefault(key, {}), (*path, key)
            if not isinstance(here, dict | list):
                raise ValueError(f"--set: {name}: {dotted(path)} is a value, not a table")
        if not isinstance(here, dict):
            raise ValueError(f"--set: {name}: {dotted(path)} is a list; write the number of an element behind it")
        return path, here

    def _from_command_line(self, path: Path) -> bool:
        return any(path[: len(one)] == one for one in self._overridden)

    def _read(self) -> str:
        try:
            with open(self.name, "rb") as file:
                data = file.read()
        except OSError as error:
            raise SettingsError([f"{self.name}: cannot be read: {error.strerror}"]) from None
        try:
            return data.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise SettingsError([f"{self.name}:{line}: not UTF-8 text"]) from None

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            message = str(error)
            at = _AT.search(message)
            line = int(at[1]) if at and at[1] else text.count("\n") + 1
            column = f" (column {at[2]})" if at and at[2] else ""
            words = f"not valid TOML: {_AT.sub('', message)}{column}"
            raise SettingsError([f"{self.name}:{line}: {words}"]) from None


def dotted(path: Path) -> str:
    """A path as people write it: C{listener.2.endpoint}, elements counted from 1."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in path)


def _key_parts(name: str) -> list[str]:
    """The parts of a dotted key, quoted ones included; none where it is no key."""
    try:
        here: Any = tomllib.loads(f"{name} = 0")
    except tomllib.TOMLDecodeError:
        return []
    parts = []
    while isinstance(here, dict) and len(here) == 1:
        ((key, here),) = here.items()
        parts.append(key)
    return parts if here == 0 else []


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text
