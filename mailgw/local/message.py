"""Messages on their way into a folder: IMAP's APPEND, and the inbox of the deliveries (L{IChunkedMessage}).

What came is stored octet for octet, CRLF line ends included: size and text are then the same on the wire and on the
disk, and a big message is sent as it lies there. Dovecot and mutt read such files as well as those with LF. A message
is in C{tmp/} until it is safely on the disk, and no mailbox reader ever sees a part of one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.interfaces import IPreparedMessage
from mailgw.local.disk import FULL, Disk, sync, write_all
from mailgw.local.maildir import Folder
from mailgw.wire.events import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER = 1 << 16
"""Octets that are collected for one write."""

SAVED = Reply(250, "2.0.0", "Message saved")
NO_ROOM = Reply(452, "4.3.1", "Insufficient system storage")
TROUBLE = Reply(451, "4.3.0", "Mail system trouble, try again later")


class Incoming:
    """One message, being written.

    The steps come in this order: L{write} any number of times, L{prepare}, L{commit}; L{discard} is right at any time
    and removes what is not committed. L{prepare} and L{commit} wait for the disk: call them in a thread.

    @ivar size: octets so far.
    """

    def __init__(self, disk: Disk, folder: Folder) -> None:
        """@raise OSError: the file cannot be made."""
        self._folder = folder
        self._base = disk.unique()
        self._path = os.path.join(folder.path, "tmp", self._base)
        self._buffer = bytearray()
        self._virtual, self._last = 0, b""
        self.size = 0
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._present = True

    def write(self, chunk: bytes) -> None:
        """Take a piece of the message.

        @raise OSError: no room, or the disk is in trouble.
        """
        if not chunk:
            return
        self.size += len(chunk)
        self._virtual += chunk.count(b"\n") - chunk.count(b"\r\n") - (self._last == b"\r" and chunk[:1] == b"\n")
        self._last = chunk[-1:]
        self._buffer += chunk
        if len(self._buffer) >= BUFFER:
            self._flush()

    def _flush(self) -> None:
        write_all(self._descriptor, self._buffer)
        self._buffer.clear()

    def prepare(self, date: float | None = None) -> None:
        """Bring the content to the disk; a second time does nothing.

        @param date: the internal date, in seconds since the epoch; now when left out.
        @raise OSError: no room, or the disk is in trouble.
        """
        if self._descriptor < 0:
            return
        self._flush()
        if date is not None:
            os.utime(self._descriptor, (date, date))
        os.fsync(self._descriptor)
        self._close()

    def commit(self, subfolder: str = "new", info: str = "") -> str:
        """Make the prepared message visible, and its name durable.

        @param info: what follows the unique name, such as C{":2,S"}.
        @return: its unique name.
        @raise OSError: the message is not in the folder.
        """
        base = f"{self._base},S={self.size},W={self.size + self._virtual}"
        target = os.path.join(self._folder.path, subfolder, base + info)
        os.rename(self._path, target)
        self._path = target
        sync(os.path.dirname(target))
        self._present = False
        return base

    def discard(self) -> None:
        """Forget the message unless it is committed."""
        self._close()
        if self._present:
            self._present = False
            with suppress(OSError):
                os.unlink(self._path)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@implementer(IPreparedMessage)
class InboxMessage:
    """A delivery into one INBOX.

    L{eomReceived} does both steps. Whoever delivers to several mailboxes at once calls L{prepare} on all of them and
    L{commit} only then: no step of L{commit} needs room on the disk.
    """

    log = Logger()

    def __init__(self, disk: Disk, folder: Folder, head: bytes, committed: Callable[[], None]) -> None:
        """
        @param head: header lines that come before the message.
        @param committed: called when the message is in the folder.
        """
        self._disk, self._folder, self._committed = disk, folder, committed
        self._incoming: Incoming | None = None
        self._refusal: Reply | None = None
        self._dropped = self._busy = False
        self._attempt(lambda: self._begin(head))

    def _begin(self, head: bytes) -> None:
        self._folder.make()
        self._incoming = Incoming(self._disk, self._folder)
        self._incoming.write(head)

    def _attempt(self, step: Callable[[], object]) -> None:
        try:
            step()
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> Reply:
        """Nothing of this message is kept. The first trouble is the reply."""
        self.log.error("delivery to {folder} failed: {error}", folder=self._folder.path, error=error)
        self._refusal = self._refusal or (NO_ROOM if error.errno in FULL else TROUBLE)
        self._drop()
        return self._refusal

    def _drop(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.discard()

    def dataReceived(self, chunk: bytes) -> None:
        incoming = self._incoming
        if incoming is not None:
            self._attempt(lambda: incoming.write(chunk))

    def lineReceived(self, line: bytes) -> None:
        self.dataReceived(line + b"\r\n")

    def eomReceived(self) -> Deferred[Reply]:
        async def both() -> Reply:
            return await self.prepare() or await self.commit()

        return Deferred.fromCoroutine(both())

    async def prepare(self) -> Reply | None:
        """Bring the message to the disk; C{None}, or the reply that refuses it."""
        if self._incoming is None:
            return self._refusal or TROUBLE
        incoming = self._incoming

        def prepare() -> None:
            self._folder.ensure()
            incoming.prepare()

        return await self._step(prepare)

    async def commit(self) -> Reply:
        """Put the prepared message into the folder; the good reply, or the one that refuses it."""
        if self._incoming is None:
            return self._refusal or TROUBLE
        refusal = await self._step(self._incoming.commit)
        if refusal is not None:
            return refusal
        self._incoming = None
        self._committed()
        return SAVED

    async def _step(self, step: Callable[[], object]) -> Reply | None:
        """One step in a thread. A connection lost meanwhile takes effect after it: the thread uses the file."""
        self._busy = True
        try:
            await self._disk.run(step)
        except OSError as error:
            return self._refuse(error)
        finally:
            self._busy = False
            if self._dropped:
                self._drop()
        return TROUBLE if self._incoming is None else None

    def connectionLost(self) -> None:
        self._dropped = True
        if not self._busy:
            self._drop()
