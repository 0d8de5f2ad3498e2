"""HTTP/1.1 as a client needs it for small questions: a request's head written, an answer read (RFC 9110, RFC 9112).

It knows GET only, keeps no body, follows no redirection and pipelines nothing. What a server sends beyond the bounds
or against the grammar is an L{Answer} that cannot be used again, or L{Malformed}; nothing here raises for a peer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

MAX_HEAD = 16 << 10
"""Octets of status line and headers; interim answers count too."""
MAX_BODY = 64 << 10
"""Octets of a body that are read, and thrown away, so that the connection can be used again."""
MAX_LINE = 256
"""Octets of a chunk's size with its extensions, or of a trailer."""
MAX_INTERIM = 4
"""Answers of the kind 1xx before the answer itself."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TEXT = rb"[^\0-\x08\x0a-\x1f\x7f]*"
_NAME, _VALUE = re.compile(_TOKEN), re.compile(_TEXT)
# One expression for a whole head costs a third of one for each line. A folded line begins with a blank: no name does.
_HEAD = re.compile(
    rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: " + _TEXT + rb")?(?:\r?\n" + _TOKEN + rb":" + _TEXT + rb")*\r?"
)
_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\0-\x08\x0a-\x1f\x7f]*)?")


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer.

    @ivar headers: by name in lower case; the values of a name that came more than once are joined by C{", "}.
    @ivar keep: the connection may be used for another question.
    """

    status: int
    headers: Mapping[bytes, bytes] = field(repr=False)
    keep: bool


@dataclass(frozen=True, slots=True)
class Malformed:
    """The server does not speak HTTP/1, or says too much; the connection is of no use any more."""

    reason: str


def request_line(target: str, host: str) -> bytes:
    """The first two lines of a request.

    @param target: path and query, in ASCII, such as C{/auth}.
    @param host: for the Host header, with a port unless it is the scheme's own.
    @raise ValueError: blanks, control characters or more than ASCII in one of them.
    """
    for text in (target, host):
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"{text!r} cannot stand in a request")
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n".encode("ascii")


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers of a request.

    @raise ValueError: a name that is no token, or a control character in a value; the message quotes no value.
    """
    lines = []
    for name, value in headers:
        octets = value.encode()
        if not _NAME.fullmatch(name.encode()):
            raise ValueError(f"{name!r} is no name of a header")
        if not _VALUE.fullmatch(octets):
            raise ValueError(f"the value of {name} has control characters")
        lines.append(name.encode() + b": " + octets.strip(b" \t") + b"\r\n")
    return b"".join(lines)


class AnswerReader:
    """Reads one answer to one GET. Make a new one for each."""

    __slots__ = ("_answer", "_body", "_buffer", "_interim", "_need")

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: Answer | None = None
        self._need = 0
        self._body: _Chunks | None = None
        self._interim = 0

    def feed(self, data: bytes) -> Answer | Malformed | None:
        """Take what came; C{None} while more is to come. Nothing may be fed once there is an answer."""
        if self._answer is not None:
            return self._drain(data)
        self._buffer = self._buffer + data if self._buffer else data
        return self._read_head()

    def _read_head(self) -> Answer | Malformed | None:
        end = _END.search(self._buffer)
        if end is None or end.start() > MAX_HEAD:
            return Malformed("head too long") if len(self._buffer) > MAX_HEAD else self._looks_like_http()
        head, rest = self._buffer[: end.start()], self._buffer[end.end() :]
        found = _parse(head)
        if isinstance(found, Malformed):
            return found
        minor, status, headers = found
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                return Malformed("interim answers without an end")
            self._buffer = rest
            return self._read_head() if rest else None
        return self._frame(minor, status, headers, rest)

    def _looks_like_http(self) -> Malformed | None:
        """Tell at once, instead of waiting for an end that may never come, that this is another protocol."""
        start = self._buffer[:7]
        return None if b"HTTP/1."[: len(start)] == start else Malformed("not HTTP/1")

    def _frame(self, minor: int, status: int, headers: dict[bytes, bytes], rest: bytes) -> Answer | Malformed | None:
        """How long the body is (RFC 9112 §6.3). What ends with the connection is not waited for."""
        keep = _persistent(minor, headers.get(b"connection", b""))
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if status in (204, 304):
            self._need = 0
        elif coding is not None:
            if length is not None or minor == 0 or coding.lower() != b"chunked":
                return Malformed("a body of doubtful length")
            self._body = _Chunks()
        elif length is None:
            return Answer(status, headers, False)
        else:
            if b"," in length:  # the same one again and again is one (RFC 9110 §8.6)
                lengths = {one.strip(b" \t") for one in length.split(b",")}
                length = lengths.pop() if len(lengths) == 1 else b""
            if not _LENGTH.fullmatch(length):
                return Malformed("a body of doubtful length")
            self._need = int(length)
        if not keep or self._need > MAX_BODY:
            return Answer(status, headers, False)
        self._answer = Answer(status, headers, True)
        return self._drain(rest)

    def _drain(self, data: bytes) -> Answer | Malformed | None:
        """Throw the body away; what follows it was not asked for."""
        answer = self._answer
        assert answer is not None
        if self._body is not None:
            return self._body.feed(data, answer)
        self._need -= len(data)
        if self._need > 0:
            return None
        return answer if self._need == 0 else Answer(answer.status, answer.headers, False)


class _Chunks:
    """Passes over a chunked body (RFC 9112 §7.1)."""

    __slots__ = ("_buffer", "_ended", "_line", "_skip", "_total")

    def __init__(self) -> None:
        self._buffer = b""
        self._line: Callable[[bytes], Malformed | None] = self._size
        self._skip = 0
        self._total = 0
        self._ended = False

    def feed(self, data: bytes, answer: Answer) -> Answer | Malformed | None:
        """Take what came; the answer once the body has ended, or is too long to wait for its end."""
        self._buffer += data
        while True:
            gone = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[gone:], self._skip - gone
            line, newline, rest = self._buffer.partition(b"\n")
            if len(line) > MAX_LINE:
                return Malformed("line too long in a body")
            if self._skip or not newline:
                return None
            self._buffer = rest
            if (fault := self._line(line.removesuffix(b"\r"))) is not None:
                return fault
            if self._ended or self._total > MAX_BODY:
                return Answer(answer.status, answer.headers, self._ended and not self._buffer)

    def _size(self, line: bytes) -> Malformed | None:
        found = _CHUNK.fullmatch(line)
        if found is None:
            return Malformed("not the size of a chunk")
        self._skip = int(found[1], 16)
        self._total += self._skip + len(line)
        self._line = self._after if self._skip else self._trailer
        return None

    def _after(self, line: bytes) -> Malformed | None:
        """A chunk's data ends with a line end that belongs to the framing."""
        self._line = self._size
        return Malformed("a chunk longer than its size") if line else None

    def _trailer(self, line: bytes) -> Malformed | None:
        self._ended = not line
        self._total += len(line)
        return None


def _parse(head: bytes) -> tuple[int, int, dict[bytes, bytes]] | Malformed:
    """Minor version, status and headers."""
    status = _HEAD.fullmatch(head)
    if status is None:
        return Malformed("not the head of an answer")
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t\r")
        headers[name] = headers[name] + b", " + value if name in headers else value
    return int(status[1]), int(status[2]), headers


def _persistent(minor: int, connection: bytes) -> bool:
    """Whether the connection lasts (RFC 9112 §9.3)."""
    if not connection:
        return minor > 0
    options = {option.strip(b" \t") for option in connection.lower().split(b",")}
    return b"close" not in options and (minor > 0 or b"keep-alive" in options)
