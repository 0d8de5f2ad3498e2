"""LineBuffer: bytes from a socket, cut into CRLF lines and counted literals.

It knows no protocol. A lone LF never ends a line: it is a fault, found at once and wherever the bytes were cut, so
that no two readers of one stream can disagree on where a command ends.
"""

from __future__ import annotations

OVERLONG = "line too long"
BARE_LF = "line not ended by CRLF"


class LineBuffer:
    """A queue of bytes with CRLF framing.

    @ivar fault: C{""}, L{OVERLONG} or L{BARE_LF}; once set, no more lines come.
    """

    __slots__ = ("_buffer", "_seen", "fault", "max_line")

    def __init__(self, max_line: int = 8192) -> None:
        """@param max_line: octets of a line, its CRLF not counted."""
        self._buffer = bytearray()
        self._seen = 0
        self.fault = ""
        self.max_line = max_line

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append what the socket gave."""
        self._buffer += data

    def begins(self, prefix: bytes) -> bool:
        """True where the next octets are C{prefix}, whether or not a line is complete."""
        return self._buffer.startswith(prefix)

    def next_line(self) -> bytes | None:
        """Return the next line without its CRLF, or C{None}: not complete, or a L{fault}."""
        if self.fault:
            return None
        end = self._buffer.find(b"\n", self._seen)
        if end < 0:
            self._seen = len(self._buffer)
            if self._seen > self.max_line + 1:
                self.fault = OVERLONG
            return None
        if end > self.max_line + 1:  # first, as the line would be found too long before its LF came
            self.fault = OVERLONG
            return None
        if end == 0 or self._buffer[end - 1] != 13:
            self.fault = BARE_LF
            return None
        line = bytes(self._buffer[: end - 1])
        del self._buffer[: end + 1]
        self._seen = 0
        return line

    def take(self, count: int) -> bytes | None:
        """Return the next C{count} octets, whatever they are, or C{None} while they are not all here."""
        if len(self._buffer) < count:
            return None
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._seen = 0
        return taken

    def drain(self, limit: int) -> int:
        """Throw away up to C{limit} octets and return how many there were."""
        count = min(limit, len(self._buffer))
        del self._buffer[:count]
        self._seen = 0
        return count

    def rest(self) -> bytes:
        """Empty the buffer and return what was in it: the reader after us continues with it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._seen = 0
        return rest
