"""Where each key of a TOML text stands: tomllib keeps no line numbers, and a fault without one is half a fault.

Reads only texts that tomllib has accepted, so it checks nothing and knows no types.
"""

from __future__ import annotations

import re
from bisect import bisect_left

Path = tuple[str | int, ...]
"""Keys and, for elements of arrays, indices from 0: C{("listener", 1, "endpoint")}."""

_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' r"'''(?:.)*?'{3,5}|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'",
    re.DOTALL,
)
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([btnfr"\\]))')
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_SCALAR = re.compile(r"[^,\]}#\n]*")


class Lines:
    """The lines of every table, key and array element of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._found: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}
        self._at = 0
        self._document()

    def find(self, path: Path) -> int:
        """The line, from 1, of the nearest thing that is there: the key, else its table, else the first line."""
        for length in range(len(path), 0, -1):
            if (line := self._found.get(path[:length])) is not None:
                return line
        return 1

    def _document(self) -> None:
        table: Path = ()
        while self._skip():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._assignment(table)

    def _header(self) -> Path:
        start, double = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if double else 1
        keys = self._keys()
        self._at = self._text.index("]", self._at) + (2 if double else 1)
        path = self._resolve(keys[:-1]) + keys[-1:]
        if double:
            self._arrays[path] = self._arrays.get(path, -1) + 1
            self._note(path, start)
        path = self._resolve(path[-1:], path[:-1])
        self._found[path] = self._line(start)
        return path

    def _resolve(self, keys: Path, prefix: Path = ()) -> Path:
        """Put the index of the newest element behind every name of an array of tables."""
        for key in keys:
            prefix += (key,)
            if prefix in self._arrays:
                prefix += (self._arrays[prefix],)
        return prefix

    def _assignment(self, table: Path) -> None:
        start = self._at
        path = table
        for key in self._keys():
            path += (key,)
            self._note(path, start)
        self._skip()
        self._at += 1  # the equals sign
        self._skip()
        self._value(path)

    def _keys(self) -> Path:
        keys: Path = ()
        while True:
            self._skip()
            if match := _STRING.match(self._text, self._at):
                keys += (_unquote(match[0]),)
            else:
                match = _BARE_KEY.match(self._text, self._at)
                assert match is not None, "tomllib would have refused this"
                keys += (match[0],)
            self._at = match.end()
            self._skip()
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        self._note(path, self._at)
        opening = self._text[self._at : self._at + 1]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            match = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            assert match is not None, "a scalar may be empty here"
            self._at = match.end()

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip() and self._text[self._at] != "]":
            self._value((*path, index))
            index += 1
            self._comma()
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip() and self._text[self._at] != "}":
            self._assignment(path)
            self._comma()
        self._at += 1

    def _comma(self) -> None:
        if self._skip() and self._text[self._at] == ",":
            self._at += 1

    def _skip(self) -> bool:
        match = _SPACE.match(self._text, self._at)
        assert match is not None, "it also matches nothing"
        self._at = match.end()
        return self._at < len(self._text)

    def _note(self, path: Path, offset: int) -> None:
        self._found.setdefault(path, self._line(offset))

    def _line(self, offset: int) -> int:
        return bisect_left(self._newlines, offset) + 1


def _unquote(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]

    def plain(match: re.Match[str]) -> str:
        digits = match[1] or match[2]
        return chr(int(digits, 16)) if digits else _ESCAPES[match[3]]

    return _ESCAPE.sub(plain, key[1:-1])
