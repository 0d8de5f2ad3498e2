"""Splice: octets from one plaintext socket to another through a pipe, past the memory of this process.

It does not know what the sockets belong to, when they are ready, or who counts: that is the stream's business.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

from twisted.internet.error import ConnectionLost

CAPACITY = 1024 * 1024
"""Octets that one event moves at most; so much is kept at most for a target that suddenly takes nothing."""
STRIDE = 64 * 1024
"""Octets that the first event moves at most; the next ones may move more as long as the target takes it."""
BULK = 32 * 1024
"""Octets that one event has to bring before it pays to move them: what is less is cheaper to copy."""
NOTHING = -1
"""No octets are there now."""

_UNABLE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})
"""Errors of a system, or of a kind of socket, that cannot do this."""


class Pipe:
    """Two ends of a pipe. Between two calls it is empty.

    @ivar owner: the process that made it; others must not use it, for octets of their sessions would mix.
    """

    def __init__(self) -> None:
        """@raise OSError: the process has no descriptors left."""
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.owner = os.getpid()
        with suppress(OSError):  # a user's pipes together may have become too large; the usual size will do
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, CAPACITY)

    def fill(self, source: int, most: int) -> int:
        """Move what a socket has received into the pipe.

        @param most: octets.
        @return: how many octets; 0 at the peer's end, L{NOTHING} if nothing is there.
        @raise OSError: the socket is broken, or cannot be spliced.
        """
        try:
            return os.splice(source, self._in, most, flags=_FLAGS)
        except BlockingIOError:
            return NOTHING

    def empty(self, target: int, count: int) -> bytes:
        """Move so many octets from the pipe to a socket.

        @return: those that it did not take; a broken one takes none.
        @raise ConnectionLost: the pipe does not give them back.
        """
        with suppress(OSError):
            while count:
                count -= os.splice(self._out, target, count, flags=_FLAGS)
        left = os.read(self._out, count) if count else b""
        if len(left) < count:  # never seen; but what stayed behind would come out in somebody else's session
            raise ConnectionLost("octets are left in a pipe")
        return left

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)


_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


class Splicer:
    """The process's pipe, made when it is needed first.

    @ivar able: whether the system can do this.
    """

    def __init__(self) -> None:
        self.able = hasattr(os, "splice")
        self._pipe: Pipe | None = None

    def move(self, source: int, target: int, most: int) -> tuple[int, bytes] | None:
        """Move octets from socket to socket.

        @param most: how many.
        @return: how many have come from the source (0 at its end, L{NOTHING}), and those of them that the target did
            not take; C{None}: they have to be read and written.
        @raise ConnectionLost: the source is broken.
        """
        pipe = self._ready()
        if pipe is None:
            return None
        try:
            count = pipe.fill(source, most)
        except OSError as error:
            if error.errno in _UNABLE:
                self.able = False
                return None
            raise ConnectionLost(str(error)) from None
        if count <= 0:
            return count, b""
        try:
            return count, pipe.empty(target, count)
        except BaseException:  # what is in it now belongs to one session
            self.discard()
            raise

    def _ready(self) -> Pipe | None:
        pipe = self._pipe
        if pipe is None or pipe.owner != os.getpid():
            self.discard()
            if self.able:
                with suppress(OSError):  # without descriptors for a pipe, octets can still be copied
                    self._pipe = Pipe()
            pipe = self._pipe
        return pipe

    def discard(self) -> None:
        """Close the pipe, whatever is in it."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()


SPLICER = Splicer()
"""The process's."""
