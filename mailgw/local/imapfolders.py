"""The IMAP commands about folders, subscriptions and the session itself: all that need no selected mailbox."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.mail import imap4

from mailgw.local.bell import Board
from mailgw.local.disk import Disk
from mailgw.local.envelope import parenthesised, string
from mailgw.local.folders import Account, Listed
from mailgw.local.framing import FramedServer
from mailgw.local.grammar import LIST_MAILBOX, Bad, No, Scanner
from mailgw.local.mailbox import Mailbox
from mailgw.local.maildir import Folder
from mailgw.local.message import Incoming
from mailgw.local.names import DELIMITER, INBOX, BadName, decode, encode

T = TypeVar("T")

STATUS_ITEMS = frozenset({b"MESSAGES", b"RECENT", b"UIDNEXT", b"UIDVALIDITY", b"UNSEEN", b"APPENDLIMIT"})
RESERVE = 1 << 20
"""Octets of the disk that an APPEND may not take."""


MAX_PATTERNS = 20
"""In one LIST (RFC 5258 §3): each is looked for in all folders."""


class FolderCommands(FramedServer):
    """See the module's docstring.

    @ivar account: the user's folders.
    @ivar mbox: the selected mailbox, or C{None}.
    """

    account: Account
    mbox: Mailbox | None

    def __init__(
        self,
        account: Account,
        disk: Disk,
        board: Board,
        clock: IReactorTime,
        *,
        session_id: str = "-",
        idle: float = 1800.0,
        append_limit: int = 50 << 20,
    ) -> None:
        """
        @param idle: seconds without a word from the client, after which the connection is closed.
        @param append_limit: octets of a message that APPEND takes.
        """
        super().__init__(session_id, clock, idle)
        self.account, self.disk, self.board = account, disk, board
        self.append_limit = append_limit

    # --- the session -------------------------------------------------------------------------------------------------

    def capability_words(self) -> bytes:
        """What we really do, as CAPABILITY lists it."""
        words = b"IMAP4rev1 LITERAL- ID IDLE NAMESPACE CHILDREN SPECIAL-USE UIDPLUS UNSELECT MOVE"
        return words + b" APPENDLIMIT=%d" % self.append_limit

    async def do_capability(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        self.untagged(b"CAPABILITY " + self.capability_words())
        return b"CAPABILITY completed"

    async def do_id(self, tag: bytes, scanner: Scanner) -> bytes:
        self.untagged(b'ID ("name" "mailgw")')
        return b"ID completed"

    async def do_logout(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        self.goodbye(b"Logging out", tag + b" OK LOGOUT completed\r\n")
        return b""

    async def do_namespace(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        self.untagged(b'NAMESPACE (("" "%b")) NIL NIL' % DELIMITER.encode())
        return b"NAMESPACE completed"

    def untagged(self, text: bytes) -> None:
        """Send an untagged response."""
        self.transport.write(b"* " + text + b"\r\n")

    # --- folders -----------------------------------------------------------------------------------------------------

    async def do_create(self, tag: bytes, scanner: Scanner) -> bytes:
        name = self._only_name(scanner)
        if name == INBOX:
            raise imap4.MailboxCollision(name)
        await self.disk.run(self.account.create, name)
        return b"CREATE completed"

    async def do_delete(self, tag: bytes, scanner: Scanner) -> bytes:
        name = self._only_name(scanner)
        await self.disk.run(self.account.delete, name)
        self.board.tell(self.account.folder(name).path)
        return b"DELETE completed"

    async def do_rename(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.space()
        old = decode(scanner.astring())
        await self.disk.run(self.account.rename, old, self._only_name(scanner))
        self.board.tell(self.account.folder(old).path)
        return b"RENAME completed"

    async def do_subscribe(self, tag: bytes, scanner: Scanner) -> bytes:
        await self.disk.run(self.account.subscribe, self._only_name(scanner))
        return b"SUBSCRIBE completed"

    async def do_unsubscribe(self, tag: bytes, scanner: Scanner) -> bytes:
        await self.disk.run(self.account.unsubscribe, self._only_name(scanner))
        return b"UNSUBSCRIBE completed"

    async def do_list(self, tag: bytes, scanner: Scanner) -> bytes:
        """LIST, and of extended LIST (RFC 5258) what SPECIAL-USE (RFC 6154) asks for."""
        scanner.space()
        selection = scanner.atoms() if scanner.peek() == b"(" else []
        if selection:
            scanner.space()
        reference = _wildcards(scanner.astring())
        scanner.space()
        patterns = _patterns(scanner)
        if scanner.accept(b" "):
            if scanner.atom().upper() != b"RETURN":
                raise Bad("Expected RETURN")
            scanner.space()
            scanner.atoms()
        scanner.end()
        if set(selection) - {b"SPECIAL-USE", b"SUBSCRIBED", b"REMOTE", b"RECURSIVEMATCH"}:
            raise Bad("Unknown selection option")
        if patterns == [""]:
            self.untagged(b'LIST (\\Noselect) "%b" ""' % DELIMITER.encode())
            return b"LIST completed"
        look = self.account.subscribed if b"SUBSCRIBED" in selection else self.account.listMailboxes
        for pattern in patterns:
            for name, listed in await self.disk.run(look, reference, pattern):
                if listed.use or b"SPECIAL-USE" not in selection:
                    await self._listed(b"LIST", name, listed)
        return b"LIST completed"

    async def do_lsub(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.space()
        reference = _wildcards(scanner.astring())
        scanner.space()
        pattern = _wildcards(scanner.astring(LIST_MAILBOX))
        scanner.end()
        for name, listed in await self.disk.run(self.account.subscribed, reference, pattern):
            await self._listed(b"LSUB", name, listed)
        return b"LSUB completed"

    async def _listed(self, word: bytes, name: str, listed: Listed) -> None:
        flags = parenthesised(flag.encode("ascii") for flag in listed.getFlags())
        await self.send(b'* %b %b "%b" %b\r\n' % (word, flags, DELIMITER.encode(), string(encode(name))))

    async def do_status(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.space()
        name = decode(scanner.astring())
        scanner.space()
        wanted = scanner.atoms()
        scanner.end()
        if not wanted or set(wanted) - STATUS_ITEMS:
            raise Bad("Unknown STATUS item")
        values = await self.disk.run(self._status, name)
        values[b"APPENDLIMIT"] = self.append_limit
        items = parenthesised(b"%b %d" % (item, values[item]) for item in wanted)
        self.untagged(b"STATUS " + string(encode(name)) + b" " + items)
        return b"STATUS completed"

    def _status(self, name: str) -> dict[bytes, int]:
        box = Mailbox(self.account.existing(name), self.disk, writable=False)
        return {
            b"MESSAGES": len(box.entries),
            b"RECENT": len(box.recent),
            b"UIDNEXT": box.next_uid,
            b"UIDVALIDITY": box.validity,
            b"UNSEEN": sum("S" not in entry.letters for entry in box.entries),
        }

    def _only_name(self, scanner: Scanner) -> str:
        """A mailbox name that is the last argument."""
        scanner.space()
        name = scanner.astring()
        scanner.end()
        return decode(name.removesuffix(DELIMITER.encode()))

    # --- APPEND ------------------------------------------------------------------------------------------------------

    def takes_stream(self, verb: bytes, scanner: Scanner) -> bool:
        if verb != b"APPEND":
            return False
        scanner.space()
        if scanner.at_end:
            return False  # the mailbox's name is the literal
        _append_arguments(scanner)
        return True

    async def do_append(self, tag: bytes, scanner: Scanner) -> bytes:
        """APPEND (RFC 3501 §6.3.11): everything that can be refused is refused before the message is asked for."""
        if self.literal_size is None:
            raise Bad("APPEND needs a literal")
        size = self.literal_size
        scanner.space()
        name, flags, date = _append_arguments(scanner)
        try:
            folder = await self.disk.run(self._append_target, name, size)
        except (No, BadName, OSError):
            if self.literal_unasked:
                await self._swallow(size)
            raise
        incoming = Incoming(self.disk, folder)
        try:
            await self._append_literal(incoming, size)
            validity, uid = await self.disk.run(_store_appended, folder, incoming, flags, date)
        finally:
            incoming.discard()
        self.board.tell(folder.path)
        await self.refresh(folder)
        return b"[APPENDUID %d %d] APPEND completed" % (validity, uid)

    def _append_target(self, name: bytes, size: int) -> Folder:
        try:
            folder = self.account.existing(decode(name))
        except imap4.NoSuchMailbox:
            raise No("[TRYCREATE] No such mailbox") from None
        if size > self.append_limit:
            raise No("[TOOBIG] Message too big")
        if not size:
            raise No("An empty message is no message")
        status = os.statvfs(folder.path)
        if size + RESERVE > status.f_bavail * status.f_frsize:
            raise No("[OVERQUOTA] No room")
        return folder

    async def _append_literal(self, incoming: Incoming, size: int) -> None:
        """Take the message. If the disk fails on the way, the rest still comes, and is thrown away."""
        trouble: list[OSError] = []

        def write(data: bytes) -> None:
            try:
                if not trouble:
                    incoming.write(data)
            except OSError as error:
                trouble.append(error)

        if not self.literal_unasked:
            self.go_ahead()
        await self.receive(size, write)
        if await self.line():
            raise Bad("Unexpected arguments after the message")
        if trouble:
            raise trouble[0]

    async def _swallow(self, size: int) -> None:
        await self.receive(size, lambda data: None)
        await self.line()

    async def refresh(self, folder: Folder | None = None) -> None:
        """Tell the client what has changed in the selected mailbox, if that is the folder meant."""
        raise NotImplementedError

    def command(self, verb: bytes) -> Callable[[bytes, Scanner], Any] | None:
        return getattr(self, FOLDER_COMMANDS.get(verb, ""), None)


FOLDER_COMMANDS = {
    verb: f"do_{verb.decode('ascii').lower()}"
    for verb in (
        b"CAPABILITY",
        b"ID",
        b"LOGOUT",
        b"NAMESPACE",
        b"CREATE",
        b"DELETE",
        b"RENAME",
        b"SUBSCRIBE",
        b"UNSUBSCRIBE",
        b"LIST",
        b"LSUB",
        b"STATUS",
        b"APPEND",
    )
}


def _append_arguments(scanner: Scanner) -> tuple[bytes, list[str], float | None]:
    """Mailbox (as it came), flags and date of an APPEND, up to the space before the message."""
    name, flags, date = scanner.astring(), [], None
    scanner.space()
    if scanner.peek() == b"(":
        flags = scanner.flags()
        scanner.space()
    if scanner.peek() == b'"':
        date = scanner.date_time()
        scanner.space()
    scanner.end()
    return name, flags, date


def _store_appended(folder: Folder, incoming: Incoming, flags: list[str], date: float | None) -> tuple[int, int]:
    """Bring an appended message into its folder; called in a thread.

    @return: the folder's UIDVALIDITY, and the message's UID.
    """
    incoming.prepare(date)
    letters = folder.letters(flags)
    base = incoming.commit("cur", f":2,{letters}") if letters else incoming.commit()
    snapshot = folder.look(adopt=False)
    return snapshot.validity, next(entry.uid for entry in snapshot.entries if entry.base == base)


def _wildcards(wire: bytes) -> str:
    """LIST's arguments: names in which C{%} and C{*} may stand, and parts may be missing."""
    try:
        return wire.decode("imap4-utf-7")
    except (UnicodeError, ValueError):
        raise BadName("Mailbox name is not modified UTF-7") from None


def _patterns(scanner: Scanner) -> list[str]:
    if not scanner.accept(b"("):
        return [_wildcards(scanner.astring(LIST_MAILBOX))]
    found = [_wildcards(scanner.astring(LIST_MAILBOX))]
    while not scanner.accept(b")"):
        scanner.space()
        found.append(_wildcards(scanner.astring(LIST_MAILBOX)))
        if len(found) > MAX_PATTERNS:
            raise Bad("Too many patterns")
    return found
