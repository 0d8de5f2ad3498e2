"""MIME: where the parts of a message begin and end (RFC 2045, RFC 2046). One pass, line by line, over an open file.

It decodes nothing and holds nothing but headers. What is too deep or too much for an honest message is left as one
part, undivided.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import IO

MAX_DEPTH = 50
MAX_PARTS = 2000
MAX_HEADER = 1 << 18
"""Octets of one part's header that are looked at."""
MAX_LINE = 1 << 16
"""Octets that are looked at in one go; a longer line comes in pieces."""

_FIELD = re.compile(rb"^([\x21-\x39\x3b-\x7e]+)[ \t]*:((?:[^\n]*(?:\n[ \t])?)*)", re.MULTILINE)
_FOLD = re.compile(rb"\r?\n")


@dataclass(slots=True)
class Part:
    """A message, or a part of one. Offsets are octets from the message's beginning.

    @ivar start: where its header begins; C{body}: where its body begins; C{end}: where that ends.
    @ivar lines: line ends in the body.
    @ivar children: the parts of a multipart.
    @ivar message: what a message/rfc822 part contains.
    """

    start: int
    body: int = 0
    end: int = 0
    lines: int = 0
    header: bytes = b""
    kind: tuple[str, str] = ("text", "plain")
    parameters: tuple[tuple[str, str], ...] = ()
    children: list[Part] = field(default_factory=list)
    message: Part | None = None

    @property
    def multipart(self) -> bool:
        """It is divided into children."""
        return bool(self.children)

    def first(self, name: str) -> bytes | None:
        """The first header field of that name, unfolded; C{None} where there is none."""
        return next((value for key, value in fields(self.header) if key == name), None)


def fields(header: bytes) -> list[tuple[str, bytes]]:
    """All header fields: lower-case names and unfolded values, in order."""
    return [(name.decode("ascii").lower(), unfold(value)) for name, value in _FIELD.findall(header)]


def unfold(value: bytes) -> bytes:
    """A field's value on one line."""
    return _FOLD.sub(b"", value).strip()


def pick_fields(header: bytes, names: frozenset[str], *, negate: bool) -> bytes:
    """The lines of a header whose fields are named (or are not), as they stand there, and the empty line."""
    kept, keep = [], False
    for line in header.splitlines(keepends=True):
        if line[:1] not in (b" ", b"\t"):
            name, colon, _ = line.partition(b":")
            keep = bool(colon) and (name.rstrip().decode("latin-1").lower() in names) != negate
        if keep:
            kept.append(line)
    if kept and not kept[-1].endswith(b"\n"):
        kept.append(b"\r\n")
    return b"".join(kept) + b"\r\n"


def read_header(file: IO[bytes]) -> bytes:
    """The header at the beginning of a file, its empty line included."""
    lines, size, fresh = [], 0, True
    while line := file.readline(MAX_LINE):
        lines.append(line)
        size += len(line)
        if (fresh and line == b"\r\n") or size > MAX_HEADER:
            break
        fresh = line.endswith(b"\n")
    return b"".join(lines)


def scan(file: IO[bytes]) -> Part:
    """Find the parts of a message.

    @param file: at the message's beginning; lines end with CRLF.
    """
    scanner = _Scan()
    fresh = True
    while line := file.readline(MAX_LINE):
        scanner.line(line, fresh=fresh)
        fresh = line.endswith(b"\n")
    return scanner.finish()


@dataclass(slots=True)
class _Open:
    """A part whose end has not come yet.

    @ivar delimiter: of a multipart, with its two hyphens; empty elsewhere.
    @ivar first_line: the number of the line at which its body begins.
    """

    part: Part
    delimiter: bytes = b""
    first_line: int = 0


class _Scan:
    """The parts that are open, outermost first, and whether the innermost one's header is being read."""

    def __init__(self) -> None:
        self._offset = self._lines = self._parts = self._header_size = 0
        self._header: list[bytes] = []
        self._in_header = True
        self._root = Part(0)
        self._open = [_Open(self._root)]

    def line(self, line: bytes, *, fresh: bool) -> None:
        """Take a line, or with C{fresh} false the rest of one."""
        if not (fresh and line.startswith(b"--") and self._boundary(line)) and self._in_header:
            self._header_line(line, fresh)
        self._offset += len(line)
        self._lines += line.endswith(b"\n")

    def finish(self) -> Part:
        """Everything has been read."""
        self._break_headers()
        self._close_down_to(0, self._offset, self._lines)
        return self._root

    # --- headers -----------------------------------------------------------------------------------------------------

    def _header_line(self, line: bytes, fresh: bool) -> None:
        self._header_size += len(line)
        if self._header_size <= MAX_HEADER:
            self._header.append(line)
        if fresh and line == b"\r\n":
            self._end_header(self._offset + len(line), self._lines + 1)

    def _end_header(self, body: int, first_line: int | None = None) -> None:
        here = self._open[-1]
        part = here.part
        part.header, part.body = b"".join(self._header), body
        here.first_line = self._lines if first_line is None else first_line
        self._header, self._header_size, self._in_header = [], 0, False
        part.kind, part.parameters = content_type(part, self._default_kind())
        if len(self._open) >= MAX_DEPTH or self._parts >= MAX_PARTS:
            return
        if part.kind[0] == "multipart":
            boundary = dict(part.parameters).get("boundary", "")
            here.delimiter = b"--" + boundary.encode("latin-1", "replace").rstrip() if boundary else b""
        elif part.kind == ("message", "rfc822"):
            part.message = Part(body)
            self._enter(part.message)

    def _default_kind(self) -> tuple[str, str]:
        """What a part is that does not say it (RFC 2046 §5.1.5)."""
        around = self._open[-2].part.kind if len(self._open) > 1 else ()
        return ("message", "rfc822") if around == ("multipart", "digest") else ("text", "plain")

    def _enter(self, part: Part) -> None:
        self._parts += 1
        self._open.append(_Open(part))
        self._in_header = True

    # --- boundaries --------------------------------------------------------------------------------------------------

    def _boundary(self, line: bytes) -> bool:
        """If the line delimits an open multipart, the innermost such: end what is in it. True if so."""
        text = line.rstrip()
        for level in range(len(self._open) - 1, -1, -1):
            delimiter = self._open[level].delimiter
            if delimiter and text in (delimiter, delimiter + b"--"):
                self._cut(level, self._offset + len(line), last=text != delimiter)
                return True
        return False

    def _cut(self, level: int, behind: int, *, last: bool) -> None:
        """The CRLF before a delimiter belongs to it, not to the part (RFC 2046 §5.1.1)."""
        self._break_headers()
        self._close_down_to(level + 1, max(self._offset - 2, 0), self._lines - 1)
        here = self._open[level]
        if last or self._parts >= MAX_PARTS:
            here.delimiter = b""  # what follows is the epilogue
            return
        part = Part(behind)
        here.part.children.append(part)
        self._enter(part)

    def _break_headers(self) -> None:
        """A header without its empty line is over; so is that of the message which it may announce."""
        while self._in_header:
            self._end_header(self._offset)

    def _close_down_to(self, level: int, end: int, line: int) -> None:
        while len(self._open) > level:
            done = self._open.pop()
            # Where that CRLF was the header's empty line, a body of nothing ends here, and all that is around it.
            end = done.part.end = max(end, done.part.body)
            done.part.lines = max(line - done.first_line, 0)


def content_type(part: Part, default: tuple[str, str]) -> tuple[tuple[str, str], tuple[tuple[str, str], ...]]:
    """What a header says that the body is: type and subtype in lower case, and the parameters."""
    value = part.first("content-type")
    if value is None:
        return default, ()
    name, parameters = parse_parameters(value)
    kind, slash, subtype = name.partition("/")
    if not slash or not kind or not subtype:
        return ("text", "plain"), ()  # RFC 2045 §5.2
    return (kind.strip().lower(), subtype.strip().lower()), parameters


def parse_parameters(value: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Take C{text/plain; charset=x} apart, RFC 2231 left encoded as IMAP wants it."""
    message = Message()
    message["x"] = value.decode("latin-1").replace("\r", " ").replace("\n", " ")
    found = message.get_params(header="x", unquote=True) or [("", "")]
    first, *rest = found
    return first[0], tuple((name.lower(), text) for name, text in _plain(rest))


def _plain(parameters: Sequence[tuple[str, object]]) -> list[tuple[str, str]]:
    """The standard library gives a tuple where it has joined the pieces of RFC 2231; IMAP clients take either form."""
    from email.utils import collapse_rfc2231_value

    return [
        (name, text if isinstance(text, str) else collapse_rfc2231_value(text))  # type: ignore[arg-type]
        for name, text in parameters
    ]
