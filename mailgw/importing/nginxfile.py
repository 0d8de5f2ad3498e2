"""Reads nginx's configuration: words, quotes, comments and blocks become directives, each with its file and line.

Opens no file: an C{include} is a directive like any other until L{expand} is told how to read it. It exists because
crossplane, the only library for this, had its last release in 2022, reads every included file itself (also those of
C{http}, which may be closed to us), and loses the lines; all that is needed of it is written here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mailgw.importing.toml import CannotImport


@dataclass(frozen=True, slots=True)
class Source:
    """A file with its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive.

    @ivar file: the path of the file that has it.
    @ivar line: where it begins, from 1.
    @ivar block: what is between its braces; C{None} where it has none.
    """

    file: str
    line: int
    name: str
    arguments: tuple[str, ...] = ()
    block: tuple[Directive, ...] | None = None


Include = Callable[[str], Sequence[Source]]
"""The files for an absolute path or pattern, in nginx's order."""

_DEEPEST = 20
_TOKEN = re.compile(
    r"""
      (?P<blank>\s+|\#[^\n]*)
    | (?P<mark>[;{}])
    | "(?P<double>(?:[^"\\]|\\.)*)"
    | '(?P<single>(?:[^'\\]|\\.)*)'
    | (?P<word>(?!["'])(?:\$\{|\\.|[^\s;{\\])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n", '"': '"', "'": "'", "\\": "\\"}


def parse(source: Source) -> tuple[Directive, ...]:
    """Read a file's text.

    @raise CannotImport: it is not nginx's grammar; the message has file and line.
    """
    return _Parser(source).file()


class _Parser:
    """One pass over the tokens of a file."""

    def __init__(self, source: Source) -> None:
        self._path = source.path
        self._tokens = self._tokenized(source.text)

    def file(self) -> tuple[Directive, ...]:
        return tuple(self._block(0, 0))

    def _block(self, depth: int, opened: int) -> Iterator[Directive]:
        words: list[str] = []
        first = 0
        for line, token, is_mark in self._tokens:
            if not is_mark:
                first = first if words else line
                words.append(token)
            elif token == "}":
                if words or not depth:
                    raise self._fault(line, f"{words[-1]!r} has no ; behind it" if words else "a } too many")
                return
            elif not words:
                raise self._fault(line, f"nothing before {token}")
            else:
                inner = tuple(self._block(depth + 1, line)) if token == "{" else None
                yield Directive(self._path, first, words[0], tuple(words[1:]), inner)
                words = []
        if words:
            raise self._fault(first, f"{words[-1]!r} has no ; behind it")
        if depth:
            raise self._fault(opened, "this { is not closed")

    def _tokenized(self, text: str) -> Iterator[tuple[int, str, bool]]:
        """Line, text, and whether it is one of C{; { }}."""
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self._fault(line, f"{text[at]} is not closed")
            kind = found.lastgroup
            if kind != "blank":
                word = found[kind or 0]
                yield line, word if kind == "mark" else _ESCAPE.sub(_unescaped, word), kind == "mark"
            line += text.count("\n", at, found.end())
            at = found.end()

    def _fault(self, line: int, words: str) -> CannotImport:
        return CannotImport(f"{self._path}:{line}: {words}")


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPED.get(found[1], found[0])


def expand(directives: Sequence[Directive], include: Include, folder: str, depth: int = 0) -> Iterator[Directive]:
    """The directives of one level, with those of included files in the place of C{include}.

    @param folder: where relative names begin.
    @raise CannotImport: an included file cannot be understood, or includes itself.
    @raise OSError: it cannot be read.
    """
    for one in directives:
        if one.name != "include" or not one.arguments:
            yield one
            continue
        if depth == _DEEPEST:
            raise CannotImport(f"{one.file}:{one.line}: include in include in include; does a file include itself?")
        for source in include(os.path.join(folder, one.arguments[0])):
            yield from expand(parse(source), include, folder, depth + 1)
