"""Disk: where the store's file work is done, and the few operations whose order a crash must not change.

It knows no Maildir. What is short runs where it is called; what may wait for the disk (fsync, listing, reading whole
messages) goes through L{Disk.run}, off the reactor's thread.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Threads of a store's own pool. It is not the reactor's, which resolves names as well."""
LOCK_WAIT = 5.0
"""Seconds that a thread waits for a lock of another process before it gives up."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that mean: no room. Everything else is trouble of an unknown kind."""

_counter = itertools.count()


class Disk:
    """The file system as one store uses it.

    @ivar host: this machine's name as it may stand in a file's name.
    """

    def __init__(self, reactor: Any, hostname: str, pool: ThreadPool | None = None) -> None:
        """
        @param reactor: clock and threads.
        @param pool: where L{run} works; the store's own, started at the first use, when left out.
        """
        self._reactor = reactor
        self._pool = pool or ThreadPool(0, THREADS, name="mailgw-store")
        # The Maildir specification's own way to keep the two characters out that have a meaning in names.
        self.host = hostname.replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")

    def now(self) -> float:
        """Seconds since the epoch, by the reactor's clock."""
        return float(self._reactor.seconds())

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Do blocking work in a thread; the Deferred fires in the reactor's thread."""
        if not self._pool.started:
            self._pool.start()
            self._reactor.addSystemEventTrigger("during", "shutdown", self._pool.stop)
        return deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)

    def unique(self) -> str:
        """A file name that nobody has used and nobody will: time, process, counter, chance and host."""
        seconds, micros = divmod(int(self.now() * 1_000_000), 1_000_000)
        chance = secrets.token_hex(4)
        return f"{seconds}.M{micros}P{os.getpid()}Q{next(_counter)}R{chance}.{self.host}"


def sync(path: str) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write every octet, however few the system takes at a time.

    @raise OSError: no room, or the disk is in trouble.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(path: str, data: bytes) -> None:
    """Put a small file in place as a whole, or not at all; the caller holds the lock for that path.

    @raise OSError: nothing has changed.
    """
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync(os.path.dirname(path))


def read_file(path: str) -> bytes | None:
    """Return what a small file holds, or C{None} where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


@contextmanager
def locked(path: str) -> Iterator[int]:
    """Hold an exclusive lock against threads and processes; called in a thread only. Gives the open descriptor.

    @raise OSError: C{EAGAIN} where somebody else has held it for L{LOCK_WAIT} seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _wait_for(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    """Polling, because a blocked flock() cannot be given a deadline without signals."""
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.005)
