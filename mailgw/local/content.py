"""Content: the octets of one stored message as they go over the wire, whoever stored it.

Every method is called in a thread. A message is never held in memory as a whole: one with LF line ends, as Dovecot
delivers them, is turned into a temporary copy with CRLF when it is opened.
"""

from __future__ import annotations

import os
import tempfile
from typing import IO

from mailgw.local.maildir import Entry, Folder

CHUNK = 1 << 18
MEMORY = 1 << 20
"""Octets of a message with LF line ends whose copy may stay in memory."""


class Content:
    """An open message.

    @ivar size: its octets, line ends as CRLF.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """@param file: at its end; every LF in it follows a CR."""
        self._file = file
        self.size = file.tell()

    def read(self, start: int, end: int) -> bytes:
        """The octets from C{start} up to C{end}."""
        self._file.seek(start)
        return self._file.read(max(0, end - start))

    def rewind(self) -> IO[bytes]:
        """The file, at its beginning."""
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def open_content(folder: Folder, entry: Entry) -> Content:
    """Open a message.

    @raise MessageGone: it is not here any more.
    @raise OSError: it cannot be read.
    """
    size = folder.size(entry)  # mostly told by the name: who fetches piece by piece opens the message for each piece
    file = folder.reach(entry, _open)
    if size != os.fstat(file.fileno()).st_size:
        with file:
            file = with_crlf(file)
    file.seek(0, 2)
    return Content(file)


def _open(path: str) -> IO[bytes]:
    return open(path, "rb")


def with_crlf(source: IO[bytes]) -> IO[bytes]:
    """Copy a file, a CR put before every LF that has none."""
    copy: IO[bytes] = tempfile.SpooledTemporaryFile(MEMORY)  # noqa: SIM115 - the caller closes it
    last = b""
    while chunk := source.read(CHUNK):
        starts_bare = chunk[:1] == b"\n" and last != b"\r"
        last = chunk[-1:]
        # Two replacements, so that a CRLF that is already there stays one; the first octet is judged by its left side.
        head, tail = (chunk[:1], chunk[1:]) if chunk[:1] == b"\n" else (b"", chunk)
        copy.write((b"\r" if starts_bare else b"") + head)
        copy.write(tail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    return copy
