"""Tallies: how often something is there, by name, in one process or summed over all workers.

They know nothing of users and addresses: what a name stands for and how many are too many is their askers' business.
L{SharedTally} needs no lock and asks nobody: each worker writes a region of the shared memory that is its own, and
reads those of all others.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b

from twisted.logger import Logger
from zope.interface import implementer

from mailgw.interfaces import ITally

REMEMBERED = 100_000
"""Names with an expiry that one process remembers; the one that was touched first is forgotten first."""

_BUCKETS, _WAYS = 16384, 8
_ENTRY = struct.Struct("=QiI")
"""What the name is hashed to, how many, and when that expires: seconds since the epoch, 0 for never."""
_BUCKET = _ENTRY.size * _WAYS
_REGION = _BUCKET * _BUCKETS
_HEADER = mmap.PAGESIZE
"""One octet for each region: whether somebody writes it."""


@implementer(ITally)
class LocalTally:
    """The tally of a process that has no siblings."""

    def __init__(self, clock: Callable[[], float], remembered: int = REMEMBERED) -> None:
        """@param clock: seconds since the epoch."""
        self._clock, self._remembered = clock, remembered
        self._lasting: Counter[str] = Counter()
        self._expiring: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def add(self, name: str, until: float = 0.0) -> int:
        if not until:
            self._lasting[name] += 1
            return self._lasting[name]
        return self._change(name, 1, until)

    def take(self, name: str, until: float = 0.0) -> None:
        if until:
            self._change(name, -1, until)
        elif self._lasting[name] > 1:
            self._lasting[name] -= 1
        else:
            del self._lasting[name]

    def _change(self, name: str, step: int, until: float) -> int:
        count = max(0, self.total(name) + step)
        self._expiring.pop(name, None)
        if count:
            self._expiring[name] = count, until
        if len(self._expiring) > self._remembered:
            self._expiring.popitem(last=False)
        return count

    def total(self, name: str) -> int:
        count, until = self._expiring.get(name, (0, 0.0))
        return count if until > self._clock() else self._lasting.get(name, 0)

    def __len__(self) -> int:
        """How many names are remembered."""
        return len(self._lasting) + len(self._expiring)


class SharedMemory:
    """The memory behind the L{SharedTally} of every worker, whatever its generation.

    @ivar fileno: inherited by whoever shall map it, too.
    """

    def __init__(self, regions: int, fileno: int | None = None) -> None:
        """
        @param regions: how many writers there may be at a time, below 4096.
        @param fileno: of what another process made; a new one where left out.
        """
        self.regions = regions
        size = _HEADER + regions * _REGION
        if fileno is None:
            fileno = os.memfd_create("mailgw-tally", os.MFD_CLOEXEC)
            os.ftruncate(fileno, size)
        self.fileno = fileno
        self.memory = mmap.mmap(fileno, size)

    def take_region(self) -> int | None:
        """Reserve a region for a writer; C{None}: there is none left."""
        free = self.memory.find(b"\0", 0, self.regions)
        if free < 0:
            return None
        self.memory[free] = 1
        return free

    def give_region(self, region: int) -> None:
        """The writer of a region is gone: what it counted counts no more."""
        start = _HEADER + region * _REGION
        self.memory.madvise(mmap.MADV_REMOVE, start, _REGION)  # gives the pages back, and zeroes what they held
        self.memory[region] = 0

    def written(self) -> Iterator[int]:
        """Where the regions begin that somebody writes."""
        for region, taken in enumerate(self.memory[: self.regions]):
            if taken:
                yield _HEADER + region * _REGION

    def close(self) -> None:
        self.memory.close()
        os.close(self.fileno)


@implementer(ITally)
class SharedTally:
    """The tally of one worker among several.

    A name is a number of 64 bits here, which no two names share in practice, and stands in one of eight places. A
    worker that has more than eight names for the same places counts the rest for itself alone.
    """

    log = Logger()

    def __init__(self, shared: SharedMemory, region: int, secret: bytes, clock: Callable[[], float]) -> None:
        """
        @param region: from L{SharedMemory.take_region}; nobody else writes it.
        @param secret: the same for all: without it nobody can choose names that meet in one place.
        @param clock: seconds since the epoch.
        """
        self._shared, self._secret, self._clock = shared, secret, clock
        self._memory = shared.memory
        self._own = _HEADER + region * _REGION
        self._alone: Counter[str] = Counter()

    def add(self, name: str, until: float = 0.0) -> int:
        place = self._place(name)
        if not self._change(place, 1, until) and not until:  # what would expire anyway is not worth the memory
            self._alone[name] += 1
            self.log.warn("{count} names are counted in this worker alone", count=len(self._alone))
        return self._sum(name, place)

    def take(self, name: str, until: float = 0.0) -> None:
        if self._alone.get(name, 0) > 1:
            self._alone[name] -= 1
        elif name in self._alone:
            del self._alone[name]
        else:
            self._change(self._place(name), -1, until)

    def total(self, name: str) -> int:
        return self._sum(name, self._place(name))

    def _sum(self, name: str, place: tuple[int, int]) -> int:
        number, offset = place
        now = self._clock()
        count = self._alone.get(name, 0)
        for region in self._shared.written():
            for known, some, until in _ENTRY.iter_unpack(self._memory[region + offset : region + offset + _BUCKET]):
                if known == number:
                    count += some if not until or until > now else 0
                    break
        return max(0, count)

    def _place(self, name: str) -> tuple[int, int]:
        """What stands for a name, and where in a region it may stand."""
        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=self._secret).digest()
        number = int.from_bytes(digest, "little") or 1
        return number, number % _BUCKETS * _BUCKET

    def _change(self, place: tuple[int, int], step: int, until: float) -> bool:
        """Write what is counted in the own region, and tell whether there was a place for it."""
        number, offset = place
        start = self._own + offset
        entries = list(_ENTRY.iter_unpack(self._memory[start : start + _BUCKET]))
        way = self._way(entries, number)
        if way is None:
            return False
        known, count, expiry = entries[way]
        if known != number or (expiry and expiry <= self._clock()):
            count = 0
        if not until and count + step < 0:
            return True  # taken off once too often
        _ENTRY.pack_into(self._memory, start + way * _ENTRY.size, number, count + step, int(until))
        return True

    def _way(self, entries: list[tuple[int, int, int]], number: int) -> int | None:
        """Which of its places a name has, or may take: a free one, or that of what would be forgotten soonest."""
        now = self._clock()
        free = soonest = None
        for way, (known, count, until) in enumerate(entries):
            if known == number:
                return way
            if not count or (until and until <= now):
                free = way if free is None else free
            elif until and (soonest is None or until < entries[soonest][2]):
                soonest = way
        return free if free is not None else soonest
