"""Account: all folders of one user, a Maildir++ tree. Every method is called in a thread.

It is twisted.mail's L{imap4.IAccount}. What is in a folder is not its business.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.mail import imap4
from zope.interface import implementer

from mailgw.local.disk import Disk, locked, read_file, replace_file, sync
from mailgw.local.mailbox import Mailbox
from mailgw.local.maildir import Folder
from mailgw.local.names import (
    DELIMITER,
    INBOX,
    SPECIAL_USE,
    BadName,
    checked,
    creatable,
    folder_name,
    folder_path,
    full_pattern,
    matches,
)

SUBSCRIPTIONS = "subscriptions"
"""Dovecot's file and format, so that both see the same."""
_VERSION_2 = b"V\t2\n\n"
TREE_LOCK = "mailgw-tree-lock"
DOOMED = "..mailgw-deleted-"
"""What a folder is called while it is being removed: two dots, so that nobody takes it for a mailbox."""


class NoSuchMailbox(imap4.NoSuchMailbox):
    """There is no mailbox of that name."""


@implementer(imap4.IMailboxInfo)
class Listed:
    """A mailbox as LIST shows it.

    @ivar selectable: false for a level of the hierarchy that is no mailbox itself.
    """

    def __init__(self, name: str, *, selectable: bool, children: bool) -> None:
        self.name, self.selectable, self.children = name, selectable, children

    @property
    def use(self) -> str | None:
        """The special use, if any."""
        return SPECIAL_USE.get(self.name) if self.selectable else None

    def getFlags(self) -> list[str]:
        flags = [] if self.selectable else ["\\Noselect"]
        flags.append("\\HasChildren" if self.children else "\\HasNoChildren")
        return [*flags, self.use] if self.use else flags

    def getHierarchicalDelimiter(self) -> str:
        return DELIMITER


@implementer(imap4.IAccount, imap4.INamespacePresenter)
class Account:
    """A user's Maildir.

    @ivar root: its directory, which is INBOX as well.
    """

    def __init__(self, root: str, disk: Disk) -> None:
        self.root, self._disk = root, disk

    # --- single folders ----------------------------------------------------------------------------------------------

    def folder(self, name: str) -> Folder:
        """The folder of that name, which need not exist.

        @raise BadName: no mailbox can have this name.
        """
        return Folder(folder_path(self.root, checked(name)), self.root, self._disk)

    def existing(self, name: str) -> Folder:
        """The folder of that name; INBOX is made if it is missing.

        @raise NoSuchMailbox: there is none.
        """
        folder = self.folder(name)
        if folder.path == self.root:
            folder.ensure()
            folder.tidy()
        elif folder.exists():
            folder.make()  # others make new/ and tmp/ only when they need them
        else:
            raise NoSuchMailbox(name)
        return folder

    def select(self, name: str, rw: bool = True) -> Mailbox | None:
        try:
            return Mailbox(self.existing(name), self._disk, writable=bool(rw))
        except NoSuchMailbox:
            return None

    def addMailbox(self, name: str, mbox: Any = None) -> bool:
        return self.create(name)

    def create(self, pathspec: str) -> bool:
        name = creatable(pathspec.removesuffix(DELIMITER))  # RFC 3501 §6.3.3: the client will create names below it
        with self._locked():
            folder = self.folder(name)
            if name == INBOX or folder.exists():
                raise imap4.MailboxCollision(name)
            folder.ensure()
        return True

    def delete(self, name: str) -> bool:
        with self._locked():
            folder = self.existing(name)
            if folder.path == self.root:
                raise BadName("INBOX cannot be deleted")
            doomed = os.path.join(self.root, DOOMED + self._disk.unique())
            os.rename(folder.path, doomed)
            sync(self.root)
        shutil.rmtree(doomed, ignore_errors=True)
        return True

    def rename(self, oldname: str, newname: str) -> bool:
        old, new = checked(oldname), creatable(newname.removesuffix(DELIMITER))
        if INBOX in (old, new):
            raise BadName("INBOX cannot be renamed, nor its name be given to another mailbox")
        with self._locked():
            names = self._names()
            moved = [name for name in names if name == old or name.startswith(old + DELIMITER)]
            if not moved:
                raise NoSuchMailbox(old)
            if new.startswith(old + DELIMITER):
                raise BadName("A mailbox cannot be renamed into itself")
            targets = {name: checked(new + name[len(old) :]) for name in moved}
            if any(target in names for target in targets.values()):
                raise imap4.MailboxCollision(new)
            for name, target in targets.items():
                os.rename(folder_path(self.root, name), folder_path(self.root, target))
            sync(self.root)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Against two sessions that change the tree at once."""
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        with locked(os.path.join(self.root, TREE_LOCK)):
            yield

    # --- all folders -------------------------------------------------------------------------------------------------

    def _names(self) -> set[str]:
        names = set()
        with os.scandir(self.root) as found:
            for entry in found:
                name = folder_name(entry.name)
                if name is not None and os.path.isdir(os.path.join(entry.path, "cur")):
                    names.add(name)
        return names

    def everything(self) -> list[Listed]:
        """INBOX, all other mailboxes, and the levels above them that are none, sorted."""
        names = self._names() | {INBOX}
        parents = {parent for name in names for parent in _parents(name)}
        return [Listed(name, selectable=name in names, children=name in parents) for name in sorted(names | parents)]

    def listMailboxes(self, ref: str, wildcard: str) -> list[tuple[str, Listed]]:
        pattern = full_pattern(ref, wildcard)
        return [(listed.name, listed) for listed in self.everything() if matches(pattern, listed.name)]

    def subscribed(self, ref: str, wildcard: str) -> list[tuple[str, Listed]]:
        """What LSUB shows: subscribed names whether they exist or not, and with C{%} the levels above them."""
        names = set(self.subscriptions())
        parents = {parent for name in names for parent in _parents(name)}
        pattern = full_pattern(ref, wildcard)
        shown = names | (parents if pattern.endswith("%") else set())
        rows = (Listed(name, selectable=name in names, children=name in parents) for name in sorted(shown))
        return [(row.name, row) for row in rows if matches(pattern, row.name)]

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def subscriptions(self) -> list[str]:
        """All subscribed names, in the order of the file."""
        data = read_file(os.path.join(self.root, SUBSCRIPTIONS)) or b""
        second = data.startswith(b"V\t2\n")
        rows = data.split(b"\n")[1 if second else 0 :]
        names = []
        for row in filter(None, rows):
            wire = row.replace(b"\t", DELIMITER.encode()) if second else row
            name = folder_name(DELIMITER + wire.decode("latin-1"))
            if name is not None and name not in names:
                names.append(name)
        return names

    def isSubscribed(self, name: str) -> bool:
        return checked(name) in self.subscriptions()

    def subscribe(self, name: str) -> bool:
        name = checked(name)
        with self._locked():
            names = self.subscriptions()
            if name not in names:
                self._write_subscriptions([*names, name])
        return True

    def unsubscribe(self, name: str) -> bool:
        name = checked(name)
        with self._locked():
            names = self.subscriptions()
            if name in names:
                names.remove(name)
                self._write_subscriptions(names)
        return True

    def _write_subscriptions(self, names: list[str]) -> None:
        rows = (name.encode("imap4-utf-7").replace(DELIMITER.encode(), b"\t") + b"\n" for name in names)
        replace_file(os.path.join(self.root, SUBSCRIPTIONS), _VERSION_2 + b"".join(rows))

    # --- namespaces --------------------------------------------------------------------------------------------------

    def getPersonalNamespaces(self) -> list[list[bytes]]:
        return [[b"", DELIMITER.encode()]]

    def getSharedNamespaces(self) -> None:
        return None

    def getUserNamespaces(self) -> None:
        return None


def _parents(name: str) -> list[str]:
    levels = name.split(DELIMITER)
    return [DELIMITER.join(levels[:count]) for count in range(1, len(levels))]
