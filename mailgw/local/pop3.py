"""The POP3 server of the local store (RFC 1939, RFC 2449): twisted.mail's POP3, born in the TRANSACTION state.

Message numbers are 1 to N as they were at the login, whatever happens meanwhile. Nothing is deleted before QUIT, and
nothing at all in a session that ends without it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from typing import IO, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.mail import pop3
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.errors import MailgwError
from mailgw.local.bell import Board
from mailgw.local.content import Content, open_content
from mailgw.local.disk import Disk
from mailgw.local.flow import ClientFlow
from mailgw.local.maildir import Folder, FolderGone, MessageGone
from mailgw.wire.body import Stuffer

MAX_LINE = 512
"""Octets of a command: RFC 2449 §4 allows 255."""
CHUNK = 1 << 18
"""Octets of a message that are read at a time."""

_UIDL = re.compile(r"[\x21-\x7e]{1,70}")
_NUMBER = re.compile(rb"[0-9]{1,10}")


class Refused(MailgwError):
    """The command cannot be done; the words are for the client, a response code first if there is one."""


@implementer(pop3.IMailbox)
class Maildrop:
    """An INBOX as one POP3 session sees it. Every method is called in a thread."""

    def __init__(self, folder: Folder) -> None:
        """@raise FolderGone: there is no such folder."""
        self.folder = folder
        self.entries = folder.look(adopt=False).entries
        self.sizes = [self._size(number) for number in range(len(self.entries))]
        self.deleted: set[int] = set()

    def _size(self, index: int) -> int:
        try:
            return self.folder.size(self.entries[index])
        except MessageGone:
            return 0

    def listMessages(self, i: int | None = None) -> Any:
        if i is None:
            return [0 if index in self.deleted else size for index, size in enumerate(self.sizes)]
        return 0 if self._checked(i) in self.deleted else self.sizes[i]

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self.entries):
            raise ValueError(index)
        return index

    def getMessage(self, index: int) -> IO[bytes]:
        return self.content(index).rewind()

    def content(self, index: int) -> Content:
        """Open a message.

        @raise MessageGone: it is not here any more.
        """
        return open_content(self.folder, self.entries[self._checked(index)])

    def getUidl(self, index: int) -> bytes:
        """The unique name: the same for ever, whoever reads the folder. A name that POP3 cannot show is hashed."""
        name = self.entries[self._checked(index)].base.partition(",")[0]
        if not _UIDL.fullmatch(name):
            name = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        return name.encode("ascii")

    def deleteMessage(self, index: int) -> None:
        self.deleted.add(self._checked(index))

    def undeleteMessages(self) -> None:
        self.deleted.clear()

    def sync(self) -> None:
        if self.deleted:
            self.folder.remove(frozenset(self.entries[index].uid for index in self.deleted))


class LocalPop3(ClientFlow, pop3.POP3):
    """See the module's docstring."""

    log = Logger()
    mbox: Maildrop

    def __init__(
        self, maildrop: Maildrop, disk: Disk, board: Board, clock: IReactorTime, *, session_id: str, idle: float
    ) -> None:
        """@param idle: seconds without a word from the client; RFC 1939 §3 asks for at least 600."""
        self.start_flow(clock, idle, MAX_LINE)
        self.mbox, self._disk, self._board, self._session = maildrop, disk, board, session_id

    # --- one command at a time ---------------------------------------------------------------------------------------

    def advance(self) -> bool:
        if self.running is not None or self.unread:
            return False
        line = self.buffer.next_line()
        if line is None:
            if self.buffer.fault:
                self.close(b"-ERR " + self.buffer.fault.encode("ascii") + b"\r\n")
            return False
        running = self.running = Deferred.fromCoroutine(self._answer(line))
        running.addErrback(self._broke)
        running.addBoth(self._done)
        return True

    def _done(self, result: object) -> None:
        self.running = None
        self.pump()

    async def _answer(self, line: bytes) -> None:
        """Run a command: the one place where errors become responses."""
        verb, *arguments = line.split(b" ")
        try:
            command = self._command(verb.upper(), len(arguments))
            await command(*arguments)
        except Refused as error:
            self._err(str(error))
        except (MessageGone, FolderGone):
            self._err("Message is gone")
        except OSError as error:
            self.log.error("{session} {verb} failed: {error}", session=self._session, verb=verb, error=error)
            self._err("[SYS/TEMP] Temporary trouble, try again later")

    def _command(self, verb: bytes, count: int) -> Callable[..., Coroutine[Any, Any, None]]:
        name, least, most = COMMANDS.get(verb, ("", 0, 0))
        if not name:
            raise Refused("Unknown command")
        if not least <= count <= most:
            raise Refused("Wrong number of arguments")
        command: Callable[..., Coroutine[Any, Any, None]] = getattr(self, name)
        return command

    def _broke(self, failure: Failure) -> None:
        if failure.check(CancelledError) and self.closing:
            return
        self.log.failure("{session} POP3 command broke", failure, session=self._session)
        self._err("[SYS/TEMP] Internal error")

    def _err(self, text: str) -> None:
        if not self.closing:
            self.transport.write(b"-ERR " + text.encode("ascii", "replace") + b"\r\n")

    def _ok(self, text: bytes) -> None:
        self.transport.write(b"+OK " + text + b"\r\n")

    def _index(self, argument: bytes) -> int:
        """A message number from the client: 1 to N, and not deleted."""
        number = int(argument) if _NUMBER.fullmatch(argument) else 0
        if not 1 <= number <= len(self.mbox.entries):
            raise Refused("No such message")
        if number - 1 in self.mbox.deleted:
            raise Refused("Message is deleted")
        return number - 1

    def _left(self) -> list[int]:
        return [index for index in range(len(self.mbox.entries)) if index not in self.mbox.deleted]

    # --- commands ----------------------------------------------------------------------------------------------------

    async def capa(self) -> None:
        """CAPA: what we really do."""
        words = (b"TOP", b"UIDL", b"RESP-CODES", b"PIPELINING", b"IMPLEMENTATION mailgw")
        await self._lines(b"Capabilities follow", list(words))

    async def stat(self) -> None:
        """STAT: how many, how big."""
        left = self._left()
        self._ok(b"%d %d" % (len(left), sum(self.mbox.sizes[index] for index in left)))

    async def list_(self, number: bytes | None = None) -> None:
        """LIST: sizes."""
        await self._table(number, lambda index: b"%d" % self.mbox.sizes[index])

    async def uidl(self, number: bytes | None = None) -> None:
        """UIDL: unique names."""
        await self._table(number, self.mbox.getUidl)

    async def _table(self, number: bytes | None, cell: Callable[[int], bytes]) -> None:
        if number is not None:
            index = self._index(number)
            self._ok(b"%d %b" % (index + 1, cell(index)))
            return
        left = self._left()
        await self._lines(b"%d messages" % len(left), [b"%d %b" % (index + 1, cell(index)) for index in left])

    async def _lines(self, text: bytes, lines: list[bytes]) -> None:
        await self.send(b"".join(line + b"\r\n" for line in [b"+OK " + text, *lines, b"."]))

    async def retr(self, number: bytes) -> None:
        """RETR: a whole message."""
        index = self._index(number)
        content = await self._disk.run(self.mbox.content, index)
        try:
            self._ok(b"%d octets" % content.size)
            await self._message(content.rewind().read, content.size)
        finally:
            content.close()

    async def top(self, number: bytes, lines: bytes) -> None:
        """TOP: the header and some lines."""
        index = self._index(number)
        if not _NUMBER.fullmatch(lines):
            raise Refused("Not a number of lines")
        content = await self._disk.run(self.mbox.content, index)
        try:
            self._ok(b"Top of message follows")
            await self._message(Top(content.rewind(), int(lines)).read)
        finally:
            content.close()

    async def _message(self, read: Callable[[int], bytes], size: int | None = None) -> None:
        """Send a message piece by piece, dots stuffed across the pieces."""
        stuffer = Stuffer()
        while chunk := await self._disk.run(read, CHUNK):
            await self.send(stuffer.feed(chunk))
            self.resetTimeout()
        await self.send(stuffer.finish())

    async def dele(self, number: bytes) -> None:
        """DELE: to be deleted at QUIT."""
        self.mbox.deleteMessage(self._index(number))
        self._ok(b"Marked for deletion")

    async def rset(self) -> None:
        """RSET: nothing is to be deleted."""
        self.mbox.undeleteMessages()
        self._ok(b"Nothing is marked for deletion")

    async def noop(self) -> None:
        """NOOP."""
        self._ok(b"Nothing done")

    async def quit(self) -> None:
        """QUIT: delete what is marked, and only then say that it is."""
        try:
            await self._disk.run(self.mbox.sync)
        except (OSError, FolderGone) as error:
            self.log.error("{session} QUIT could not delete: {error}", session=self._session, error=error)
            self.close(b"-ERR [SYS/TEMP] Some deleted messages not removed\r\n")
            return
        if self.mbox.deleted:
            self._board.tell(self.mbox.folder.path)
        self.close(b"+OK Bye\r\n")


COMMANDS = {
    b"CAPA": ("capa", 0, 0),
    b"STAT": ("stat", 0, 0),
    b"LIST": ("list_", 0, 1),
    b"UIDL": ("uidl", 0, 1),
    b"RETR": ("retr", 1, 1),
    b"TOP": ("top", 2, 2),
    b"DELE": ("dele", 1, 1),
    b"RSET": ("rset", 0, 0),
    b"NOOP": ("noop", 0, 0),
    b"QUIT": ("quit", 0, 0),
}
"""Method, and the least and the greatest number of arguments."""


class Top:
    """Reads a message's header and the first lines of its body."""

    def __init__(self, file: IO[bytes], lines: int) -> None:
        """@param file: at its beginning, lines ended by CRLF."""
        self._file, self._lines, self._in_header, self._fresh = file, lines, True, True

    def read(self, size: int) -> bytes:
        """About C{size} octets more; none at the end."""
        pieces, total = [], 0
        while total < size and (self._in_header or self._lines > 0):
            line = self._file.readline(size)
            if not line:
                break
            pieces.append(line)
            total += len(line)
            ended = line.endswith(b"\n")
            if self._in_header:
                self._in_header = not (self._fresh and line == b"\r\n")
            else:
                self._lines -= ended
            self._fresh = ended
        return b"".join(pieces)
