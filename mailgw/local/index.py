"""Index: the UIDs of one folder, in a file of our own beside its messages.

It does not look at the messages: it remembers which unique name has which UID, across restarts and whoever else
changes the folder. A file that is lost or damaged is not guessed at: the folder gets a new UIDVALIDITY.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from mailgw.local.disk import locked, read_file, replace_file

FILE = "mailgw-uids"
VALIDITY_FILE = "mailgw-uidvalidity"
"""In a Maildir's root: the last UIDVALIDITY given to any of its folders, so that a folder deleted and made again
within a second does not look like the old one."""
MAX_VALIDITY = 0xFFFFFFFF

_HEAD = re.compile(rb"mailgw-uids 1 (\d{1,10}) (\d{1,10}) ([0-9a-f]{8})\n")
_ROW = re.compile(rb"(\d{1,10}) ([^\n]+)\n")
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class Index:
    """The UIDs of one folder.

    @ivar uids: UID by unique name, in ascending order of UID.
    @ivar next_uid: the UID that the next message gets; never one that was given before.
    """

    validity: int
    next_uid: int = 1
    uids: dict[str, int] = field(default_factory=dict)

    def update(self, present: Iterable[str]) -> bool:
        """Forget names that are gone, and give UIDs to new ones in the order of their arrival; true if any changed."""
        names = set(present)
        gone = [name for name in self.uids if name not in names]
        for name in gone:
            del self.uids[name]
        fresh = sorted(names.difference(self.uids), key=_arrival)
        for name in fresh:
            self.uids[name] = self.next_uid
            self.next_uid += 1
        return bool(gone or fresh)

    def dump(self) -> bytes:
        """The file's whole content."""
        rows = b"".join(b"%d %b\n" % (uid, os.fsencode(name)) for name, uid in self.uids.items())
        return b"mailgw-uids 1 %d %d %08x\n" % (self.validity, self.next_uid, self._checksum(rows)) + rows

    def _checksum(self, rows: bytes) -> int:
        return zlib.crc32(rows, zlib.crc32(b"%d %d" % (self.validity, self.next_uid)))

    @classmethod
    def parse(cls, data: bytes) -> Index | None:
        """Read a file's content, or return C{None}: it is damaged."""
        head = _HEAD.match(data)
        if head is None:
            return None
        index = cls(int(head[1]), int(head[2]))
        rows = data[head.end() :]
        if index._checksum(rows) != int(head[3], 16):
            return None
        for uid, name in _ROW.findall(rows):
            index.uids[os.fsdecode(name)] = int(uid)
        return index


def _arrival(name: str) -> tuple[int, str]:
    """Unique names begin with the second of their making; others come first, by name."""
    match = _NUMBER.match(name)
    return (int(match[0]) if match else 0, name)


def load(folder: str, root: str, now: float) -> tuple[Index, bool]:
    """Read a folder's index, or begin a new one; true with it if it is new. The caller holds the folder's lock.

    @param now: seconds since the epoch.
    """
    data = read_file(os.path.join(folder, FILE))
    index = Index.parse(data) if data is not None else None
    if index is not None:
        return index, False
    return Index(_new_validity(root, now)), True


def save(folder: str, index: Index) -> None:
    """Write a folder's index; durable when this returns. The caller holds the folder's lock.

    @raise OSError: the old one is still in place.
    """
    replace_file(os.path.join(folder, FILE), index.dump())


def _new_validity(root: str, now: float) -> int:
    """Greater than any UIDVALIDITY that this Maildir has seen (RFC 3501 §2.3.1.1)."""
    with locked(os.path.join(root, VALIDITY_FILE)) as descriptor:
        text = os.pread(descriptor, 32, 0).strip()
        last = int(text) if text.isdigit() else 0
        validity = min(max(int(now), last + 1, 1), MAX_VALIDITY)
        os.pwrite(descriptor, b"%010d\n" % validity, 0)
        os.fsync(descriptor)
    return validity
