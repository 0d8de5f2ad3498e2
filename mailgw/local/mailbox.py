"""Mailbox: a folder as one IMAP session has it selected. Methods that say so are called in a thread.

A session's message numbers must not move while it does not know it: what others do to the folder becomes visible
with L{Mailbox.poll} and nowhere else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from twisted.mail import imap4
from zope.interface import implementer

from mailgw.local.disk import Disk
from mailgw.local.keywords import SYSTEM_FLAGS, Keywords
from mailgw.local.maildir import Entry, Folder, FolderGone, Snapshot
from mailgw.local.names import DELIMITER

Ranges = tuple[tuple[int | None, int | None], ...]
"""A sequence set (RFC 3501 §9): pairs of first and last, C{None} is C{*}."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a client has to be told.

    @ivar expunged: message numbers, each valid once those before it have been told.
    @ivar exists: the new number of messages, C{None} if none came.
    @ivar flagged: message numbers, as they are after all that, whose flags are new.
    """

    expunged: tuple[int, ...] = ()
    exists: int | None = None
    flagged: tuple[int, ...] = ()


NOTHING = Changes()


@implementer(imap4.IMailboxInfo)
class Mailbox:
    """See the module's docstring.

    @ivar entries: the messages; their numbers are their places, counted from 1.
    """

    def __init__(self, folder: Folder, disk: Disk, *, writable: bool) -> None:
        """Called in a thread.

        @param writable: false for EXAMINE.
        @raise FolderGone: there is no such folder.
        """
        self.folder, self._disk, self.writable = folder, disk, writable
        snapshot = folder.look(adopt=writable)
        self.keywords = Keywords(folder.path)  # after the look: a letter that it found has its name by now
        self.validity = snapshot.validity
        self._take(snapshot)
        self.recent = {entry.uid for entry in self.entries if entry.subfolder == "new"} | snapshot.fresh

    def _take(self, snapshot: Snapshot) -> None:
        self.entries = snapshot.entries
        self.next_uid = snapshot.next_uid
        self._stamp = snapshot.stamp
        self._uids = [entry.uid for entry in snapshot.entries]

    # --- what it has -------------------------------------------------------------------------------------------------

    def getFlags(self) -> list[str]:
        return [*SYSTEM_FLAGS, *self.keywords.known]

    def getHierarchicalDelimiter(self) -> str:
        return DELIMITER

    def flags(self, entry: Entry) -> tuple[str, ...]:
        """A message's flags, \\\\Recent included."""
        flags = self.keywords.flags(entry.letters)
        return (*flags, "\\Recent") if entry.uid in self.recent else flags

    def number(self, uid: int) -> int | None:
        """The message number of a UID, C{None} where there is no such message."""
        place = bisect_left(self._uids, uid)
        return place + 1 if place < len(self._uids) and self._uids[place] == uid else None

    def first_unseen(self) -> int | None:
        """The number of the first message without \\\\Seen."""
        return next((number for number, entry in enumerate(self.entries, 1) if "S" not in entry.letters), None)

    def pick(self, ranges: Ranges, *, by_uid: bool) -> list[int] | None:
        """The numbers of the messages in a sequence set, ascending.

        @return: C{None} where a message number is meant that does not exist; UIDs that do not exist are passed over.
        """
        count = len(self._uids)
        highest = (self._uids[-1] if by_uid else count) if count else 0
        spans = [sorted((highest if a is None else a, highest if b is None else b)) for a, b in ranges]
        numbers: list[int] = []
        for low, high in sorted(spans):
            if by_uid:
                low, high = bisect_left(self._uids, low) + 1, bisect_right(self._uids, high)
            elif count and (low < 1 or high > count):
                return None
            # Spans may overlap, ten thousand times over: what is in already is not gone through again.
            numbers.extend(range(max(low, numbers[-1] + 1 if numbers else 1), min(high, count) + 1))
        return numbers

    def replace(self, after: list[Entry]) -> None:
        """Put entries in the place of those with the same UIDs: their flags have changed."""
        by_uid = {entry.uid: entry for entry in after}
        if by_uid:
            self.entries = tuple(by_uid.get(entry.uid, entry) for entry in self.entries)

    # --- what others do to it ----------------------------------------------------------------------------------------

    def poll(self) -> Changes:
        """Look at the folder again; called in a thread.

        @raise FolderGone: the folder is gone, or has become another one.
        """
        if not self.folder.changed(self._stamp):
            return NOTHING
        return self.accept(self.folder.look(adopt=self.writable))

    def expunge(self, only: frozenset[int] | None = None) -> Changes:
        """Remove messages with \\\\Deleted, of these only some if UIDs are given; called in a thread."""
        return self.accept(self.folder.expunge(only))

    def remove(self, uids: frozenset[int]) -> Changes:
        """Remove messages by UID; called in a thread."""
        return self.accept(self.folder.remove(uids))

    def store(self, numbers: list[int], flags: list[str], mode: int) -> list[int]:
        """Change flags; called in a thread.

        @return: the numbers of the messages whose flags are known now: those that are not gone meanwhile.
        """
        entries = [self.entries[number - 1] for number in numbers]
        after = self.folder.store(entries, flags, mode)
        self.keywords = Keywords(self.folder.path)
        self.replace(after)
        alive = {entry.uid for entry in after}
        return [number for number in numbers if self.entries[number - 1].uid in alive]

    def accept(self, snapshot: Snapshot) -> Changes:
        """Make a snapshot the session's view.

        @return: how it differs from the one before.
        @raise FolderGone: the folder's UIDs mean other messages now.
        """
        if snapshot.validity != self.validity:
            raise FolderGone(self.folder.path)
        before, self_count = self.entries, len(self.entries)
        now = {entry.uid: entry for entry in snapshot.entries}
        expunged, flagged, number = [], [], 1
        for entry in before:
            if entry.uid not in now:
                expunged.append(number)
                continue
            if now[entry.uid].letters != entry.letters:
                flagged.append(number)
            number += 1
        self._take(snapshot)
        self.recent = (self.recent & now.keys()) | snapshot.fresh
        if not self.writable:
            last = before[-1].uid if before else 0
            self.recent |= {entry.uid for entry in self.entries if entry.uid > last and entry.subfolder == "new"}
        came = len(self.entries) > self_count - len(expunged)
        if flagged or came:  # either may have brought a keyword that this folder did not have before
            self.keywords = Keywords(self.folder.path)
        return Changes(tuple(expunged), len(self.entries) if came else None, tuple(flagged))
