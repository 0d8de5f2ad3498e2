"""The body of DATA (RFC 5321 §4.1.1.4, §4.5.2): finding its end, and taking off and putting on transparency dots.

It never looks at a message line by line: everything is a search or a count over a whole chunk, and what a chunk cut
in two is held back until the next one. It does not mend a message: a lone CR, LF or NUL is a fault to be reported,
because the next hop may see a line end, or the end of the mail, where we see none.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder

MAX_TEXT_LINE = 8192
"""Octets of a line of text, its CRLF not counted. RFC 5321 §4.5.3.1.6 obliges to 998; senders of long HTML lines
exist, and Postfix takes them, so we are no stricter than memory demands."""

NUL = "NUL in the message"
BARE = "lone CR or LF in the message"
LONG_LINE = "line of the message too long"
TOO_BIG = "message too big"

_END = b"\r\n.\r\n"
_START = b"\r\n"


class BodyScanner:
    """Takes the octets after 354 and gives the message, up to CRLF.CRLF and nothing else.

    The result depends on the octets alone, never on how they were cut. After a fault no more of the message is given,
    but the scanner goes on to the real end: what follows a bad line is still message, never a command.

    @ivar size: octets of the message so far, as RFC 1870 counts them: without transparency dots and final dot.
    """

    __slots__ = ("_held", "_limit", "_line_ends", "_long", "_max_run", "_nul", "_run", "_skip", "size")

    def __init__(self, limit: int = 0, max_line: int = MAX_TEXT_LINE) -> None:
        """@param limit: octets of a message, 0 for any number; C{max_line}: of a line without its CRLF."""
        self._limit = limit
        self._max_run = max_line + 2
        # A dot at offset 0 stands at the start of a line: pretend that a line end came just before.
        self._held = _START
        self._skip = len(_START)
        self._run = 0
        self._nul = self._long = False
        # Tells which of CR, LF and CRLF it has seen, in a third of the time of three counts.
        self._line_ends = IncrementalNewlineDecoder(None, translate=False)
        self.size = 0

    @property
    def fault(self) -> str:
        """C{""}, or L{NUL}, L{BARE}, L{LONG_LINE} or L{TOO_BIG}: the first of these, wherever in the message."""
        if self._nul:
            return NUL
        if self._line_ends.newlines not in (None, "\r\n"):
            return BARE
        if self._long:
            return LONG_LINE
        return TOO_BIG if self._limit and self.size > self._limit else ""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take what came.

        @return: a piece of the message, maybe empty; and what came behind its end, C{None} while it goes on.
        """
        buffer = self._held + data
        dot = _dotted_line(buffer)
        end = buffer.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            self._held = b""
            return self._accept(buffer[: end + 2], dot < end), buffer[end + 5 :]
        held = _open_end(buffer)
        self._held = buffer[len(buffer) - held :]
        return self._accept(buffer[:-held] if held else buffer, dot >= 0), None

    def _accept(self, raw: bytes, dotted: bool) -> bytes:
        """Check a stretch that cuts no CRLF in two, and return it unstuffed, or nothing where there is a fault."""
        text = raw.replace(b"\r\n.", b"\r\n") if dotted else raw
        if self._skip and raw:
            text, raw, self._skip = text[self._skip :], raw[self._skip :], 0
        self.size += len(text)
        self._line_ends.decode(raw.decode("latin-1"), True)
        self._nul = self._nul or b"\0" in raw
        self._check_lines(raw)
        return b"" if self.fault else text

    def _check_lines(self, raw: bytes) -> None:
        """Jump to the last LF that the longest line allows: two jumps cover more than the length of such a line."""
        if self._long:
            return
        position, total = -self._run, len(raw)
        while position + self._max_run <= total:
            last = raw.rfind(b"\n", max(position, 0), position + self._max_run)
            if last < 0:
                self._long = True
                return
            position = last + 1
        last = raw.rfind(b"\n", max(position, 0))
        self._run = total - last - 1 if last >= 0 else total - position


def _dotted_line(data: bytes) -> int:
    """Where the first line that begins with a dot is, or -1.

    Base64 holds no dot at all, and one octet is found far faster than three.
    """
    return data.find(b"\r\n.") if b"." in data else -1


def _open_end(buffer: bytes) -> int:
    """How many of the last octets could be the beginning of the end."""
    for length in (4, 3, 2, 1):
        if buffer.endswith(_END[:length]):
            return length
    return 0


class Stuffer:
    """Puts transparency dots into a message on its way out, and the final dot behind it.

    It expects what L{BodyScanner} gives: no lone CR or LF.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = _START

    def feed(self, chunk: bytes) -> bytes:
        """Return the chunk as it has to be sent."""
        if not chunk:
            return b""
        edge = (self._tail + chunk[:2]).find(b"\r\n.")
        stuffed = chunk.replace(b"\r\n.", b"\r\n..") if _dotted_line(chunk) >= 0 else chunk
        if edge >= 0:  # the line end, or a part of it, was the end of the chunk before
            stuffed = stuffed[:edge] + b"." + stuffed[edge:]
        self._tail = (self._tail + chunk[-2:])[-2:]
        return stuffed

    def finish(self) -> bytes:
        """Return the final dot, after a line end where the message has none."""
        if self._tail == _START:
            return b".\r\n"
        return b"\n.\r\n" if self._tail.endswith(b"\r") else _END
