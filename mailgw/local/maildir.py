"""Folder: one Maildir directory with its messages, flags and UIDs. Every method is called in a thread.

It speaks no protocol and knows no other folder. Whatever it changes, it changes by rename or link, so that Dovecot,
mutt and our own other processes may work on the same folder at the same time.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from mailgw.errors import MailgwError
from mailgw.local import index as uids
from mailgw.local.disk import Disk, locked, sync
from mailgw.local.keywords import Keywords

T = TypeVar("T")

LOCK_FILE = "mailgw-lock"
STALE = 36 * 3600.0
"""Seconds after which a file in tmp/ belongs to nobody (the Maildir specification's own figure)."""
SETTLED = 2.0
"""Seconds after which a folder's modification time can be trusted to show every later change: kernels and network
file systems round it."""
NO_LINK = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP})
"""Errors of link() that a copy gets around."""

_SIZES = re.compile(r",S=(\d+)(?:,W=(\d+))?")
_CONTROL = re.compile("[\x00-\x1f\x7f]")


class FolderGone(MailgwError):
    """The folder was deleted or renamed."""


class MessageGone(MailgwError):
    """The message was expunged, by us or by somebody else."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message.

    @ivar base: the unique name, without flags.
    @ivar subfolder: C{"new"} or C{"cur"}.
    @ivar name: the whole file name.
    """

    uid: int
    base: str
    subfolder: str
    name: str

    @property
    def letters(self) -> str:
        """The flags' letters."""
        _, _, info = self.name.partition(":2,")
        return info


Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder at one moment.

    @ivar entries: in ascending order of UID.
    @ivar fresh: UIDs that this very look moved from new/ to cur/: recent for whoever looked.
    @ivar stamp: the modification times, C{None} where they are too young to be trusted.
    """

    validity: int
    next_uid: int
    entries: tuple[Entry, ...]
    fresh: frozenset[int] = frozenset()
    stamp: Stamp | None = None


class Folder:
    """A Maildir directory.

    @ivar path: the directory that holds tmp, new and cur.
    """

    def __init__(self, path: str, root: str, disk: Disk) -> None:
        """@param root: the Maildir that it belongs to; for INBOX the same as C{path}."""
        self.path, self._root, self._disk = path, root, disk
        self._sizes: dict[str, int] = {}

    # --- the directory -----------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Make what a delivery needs to begin; fast, and not yet safe from a power cut: L{ensure} has to follow.

        @raise OSError: it cannot be made.
        """
        for path in (self.path, os.path.join(self.path, "tmp"), os.path.join(self.path, "new")):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def ensure(self) -> None:
        """Make the folder and bring its name to the disk. It is complete when there is a cur/ in it.

        @raise OSError: it cannot be made.
        """
        if self.exists():
            return
        self.make()
        if self.path != self._root:
            os.close(os.open(os.path.join(self.path, "maildirfolder"), os.O_WRONLY | os.O_CREAT, 0o600))
        path = os.path.abspath(self.path)
        while path != (path := os.path.dirname(path)):  # whoever else makes it now: nobody is done before all is safe
            with suppress(PermissionError):
                sync(path)
        with suppress(FileExistsError):
            os.mkdir(os.path.join(self.path, "cur"), 0o700)
        sync(self.path)

    def tidy(self) -> None:
        """Remove from tmp/ what deliveries cut short have left there long ago."""
        with os.scandir(os.path.join(self.path, "tmp")) as found:
            for file in found:
                with suppress(OSError):
                    if self._disk.now() - file.stat(follow_symlinks=False).st_mtime > STALE:
                        os.unlink(file.path)

    def exists(self) -> bool:
        """True where this is a Maildir."""
        return os.path.isdir(os.path.join(self.path, "cur"))

    def file(self, entry: Entry) -> str:
        """A message's path, as it was when the entry was made."""
        return os.path.join(self.path, entry.subfolder, entry.name)

    def _stamp(self) -> Stamp:
        new, cur = (os.stat(os.path.join(self.path, sub)).st_mtime_ns for sub in ("new", "cur"))
        return new, cur

    def changed(self, stamp: Stamp | None) -> bool:
        """Whether anything may have changed since a snapshot with that stamp.

        @raise FolderGone: there is no such folder any more.
        """
        try:
            return stamp is None or self._stamp() != stamp
        except FileNotFoundError:
            raise FolderGone(self.path) from None

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, *, adopt: bool) -> Snapshot:
        """Read the folder, and bring its index up to date.

        @param adopt: move new messages to cur/, as a client's session does that may change the mailbox.
        @raise FolderGone: there is no such folder any more.
        @raise OSError: it cannot be read, or the index cannot be written.
        """
        with self._locked():
            return self._look(adopt=adopt)

    def _look(self, *, adopt: bool) -> Snapshot:
        index, created = uids.load(self.path, self._root, self._disk.now())
        stamp = self._stamp()
        found = self._list()
        if any(base not in found for base in index.uids):
            found |= self._list()  # a file renamed while the folder is read may be passed over: gone is missed twice
        fresh = self._adopt(found) if adopt else []
        if index.update(found) or created:
            uids.save(self.path, index)
        entries = tuple(Entry(uid, base, *found[base]) for base, uid in index.uids.items())
        settled = not fresh and self._disk.now() - max(stamp) / 1e9 > SETTLED
        recent = frozenset(index.uids[base] for base in fresh)
        return Snapshot(index.validity, index.next_uid, entries, recent, stamp if settled else None)

    def _list(self) -> dict[str, tuple[str, str]]:
        """Subfolder and file name by unique name. new/ comes first: a message moves from there to cur/, never back."""
        found = {}
        for sub in ("new", "cur"):
            with os.scandir(os.path.join(self.path, sub)) as files:
                for file in files:
                    name = file.name
                    if name[0] == "." or _CONTROL.search(name) or not file.is_file(follow_symlinks=False):
                        continue
                    found[name.partition(":")[0]] = (sub, name)
        return found

    def _adopt(self, found: dict[str, tuple[str, str]]) -> list[str]:
        """Move what is in new/ to cur/, in the list as well."""
        moved = []
        for base, (sub, name) in found.items():
            if sub != "new":
                continue
            target = name if ":2," in name else f"{base}:2,"
            with suppress(FileNotFoundError):  # somebody else has moved it meanwhile: the next look finds it
                os.rename(os.path.join(self.path, "new", name), os.path.join(self.path, "cur", target))
                found[base] = ("cur", target)
                moved.append(base)
        return moved

    def current(self, entry: Entry) -> Entry:
        """Find a message again whose file somebody has renamed.

        @raise MessageGone: it is not here any more.
        """
        place = self._list().get(entry.base)
        if place is None:
            raise MessageGone(entry.base)
        return replace(entry, subfolder=place[0], name=place[1])

    # --- changing ----------------------------------------------------------------------------------------------------

    def store(self, entries: Iterable[Entry], flags: Sequence[str], mode: int) -> list[Entry]:
        """Change flags.

        @param mode: 1 adds, -1 removes, 0 replaces, as twisted.mail's L{IMailbox} has it.
        @return: the entries as they are now, without those whose message is gone.
        """
        with self._locked():
            keywords = Keywords(self.path)
            given = set(keywords.letters(flags, learn=mode >= 0))
            after = []
            for entry in entries:
                with suppress(MessageGone):
                    after.append(self._store_one(entry, given, mode, keywords))
            return after

    def letters(self, flags: Sequence[str]) -> str:
        """The letters for flags in this folder; new keywords get one."""
        with self._locked():
            return Keywords(self.path).letters(flags, learn=True)

    def _store_one(self, entry: Entry, given: set[str], mode: int, keywords: Keywords) -> Entry:
        with suppress(FileNotFoundError):
            return self._flag(entry, given, mode, keywords)
        try:
            return self._flag(self.current(entry), given, mode, keywords)
        except FileNotFoundError:
            raise MessageGone(entry.base) from None

    def _flag(self, entry: Entry, given: set[str], mode: int, keywords: Keywords) -> Entry:
        letters = set(entry.letters)
        if mode:
            letters = letters | given if mode > 0 else letters - given
        else:
            letters = given | set(keywords.unnamed(entry.letters))
        after = replace(entry, subfolder="cur", name=f"{entry.base}:2,{''.join(sorted(letters))}")
        os.rename(self.file(entry), self.file(after))
        return after

    def expunge(self, only: frozenset[int] | None = None) -> Snapshot:
        """Remove messages that have the flag \\Deleted now; of these only some, if UIDs are given."""
        return self._remove(lambda entry: "T" in entry.letters and (only is None or entry.uid in only))

    def remove(self, wanted: frozenset[int]) -> Snapshot:
        """Remove messages by UID, whatever their flags."""
        return self._remove(lambda entry: entry.uid in wanted)

    def _remove(self, doomed: Callable[[Entry], bool]) -> Snapshot:
        with self._locked():
            for entry in self._look(adopt=False).entries:
                if doomed(entry):
                    with suppress(FileNotFoundError):
                        os.unlink(self.file(entry))
            sync(os.path.join(self.path, "cur"))
            return self._look(adopt=False)

    def copy(self, entries: Iterable[Entry], target: Folder) -> list[str]:
        """Put messages with their flags and dates into a folder too: all of them, or none.

        @return: their unique names there.
        @raise MessageGone: one of them is not here any more.
        @raise OSError: no room, or the disk is in trouble.
        """
        entries = list(entries)
        flags = Keywords(self.path).flags
        with target._locked():
            keywords = Keywords(target.path)
            letters = [keywords.letters(flags(entry.letters), learn=True) for entry in entries]
        made: list[str] = []
        try:
            for entry, its_letters in zip(entries, letters, strict=True):
                base = self._disk.unique() + "".join(entry.base.partition(",S=")[1:])
                path = os.path.join(target.path, "cur", f"{base}:2,{its_letters}")
                made.append(path)
                self._duplicate(entry, target, path)
            sync(os.path.join(target.path, "cur"))
        except (OSError, MessageGone):
            for path in made:
                with suppress(OSError):
                    os.unlink(path)
            raise
        return [os.path.basename(path).partition(":")[0] for path in made]

    def _duplicate(self, entry: Entry, target: Folder, path: str) -> None:
        """A second name for the file, since a message's content never changes; a copy where links are not possible."""
        try:
            self.reach(entry, lambda source: os.link(source, path))
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            temporary = os.path.join(target.path, "tmp", os.path.basename(path))
            try:
                self.reach(entry, lambda source: shutil.copy2(source, temporary))
                sync(temporary)
                os.rename(temporary, path)
            finally:
                with suppress(OSError):
                    os.unlink(temporary)

    # --- sizes -------------------------------------------------------------------------------------------------------

    def size(self, entry: Entry) -> int:
        """Octets of the message with CRLF line ends, as IMAP and POP3 show it.

        The name tells, if its S= is true; else the message is read once.
        """
        status = self.status(entry)
        if (match := _SIZES.search(entry.base)) and match[2] and int(match[1]) == status.st_size:
            return int(match[2])
        if entry.base not in self._sizes:
            self._sizes[entry.base] = status.st_size + self.reach(entry, count_bare_lf)
        return self._sizes[entry.base]

    def status(self, entry: Entry) -> os.stat_result:
        """The file's status; its modification time is the internal date.

        @raise MessageGone: it is not here any more.
        """
        return self.reach(entry, os.stat)

    def reach(self, entry: Entry, step: Callable[[str], T]) -> T:
        """Do something with a message's file, even if somebody has renamed it meanwhile.

        @raise MessageGone: it is not here any more.
        """
        try:
            return step(self.file(entry))
        except FileNotFoundError:
            return step(self.file(self.current(entry)))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.path.join(self.path, LOCK_FILE)
        if not self.exists():  # or the lock would make a folder of a name that has none
            raise FolderGone(self.path)
        with locked(lock):
            yield


def count_bare_lf(path: str) -> int:
    """How many octets a message has more when its lines end with CRLF."""
    count, last = 0, b""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 18):
            count += chunk.count(b"\n") - chunk.count(b"\r\n") - (last == b"\r" and chunk[:1] == b"\n")
            last = chunk[-1:]
    return count
