"""The IMAP commands about which mailbox is selected, and how its client learns what others do to it."""

from __future__ import annotations

from mailgw.local.bell import Bell
from mailgw.local.fetch import flag_list
from mailgw.local.grammar import No, Scanner
from mailgw.local.imapfolders import FolderCommands
from mailgw.local.keywords import SYSTEM_FLAGS
from mailgw.local.mailbox import Changes, Mailbox
from mailgw.local.maildir import Folder

POLL = 5.0
"""Seconds between two looks at the folder while the client is in IDLE: what this process does itself is told at once,
what others do waits for this."""
MAX_WRONG_LINES = 3
"""Lines other than DONE in IDLE, before we hang up."""


class SelectCommands(FolderCommands):
    """See the module's docstring."""

    _told_keywords: tuple[str, ...] = ()

    def left(self) -> None:
        self.mbox = None

    @property
    def box(self) -> Mailbox:
        """The selected mailbox; the table of commands has seen to it that there is one."""
        assert self.mbox is not None
        return self.mbox

    # --- selecting ---------------------------------------------------------------------------------------------------

    async def do_select(self, tag: bytes, scanner: Scanner) -> bytes:
        return await self._select(scanner, writable=True)

    async def do_examine(self, tag: bytes, scanner: Scanner) -> bytes:
        return await self._select(scanner, writable=False)

    async def _select(self, scanner: Scanner, *, writable: bool) -> bytes:
        name = self._only_name(scanner)
        self._deselect()  # even if what follows fails (RFC 3501 §6.3.1)
        box = await self.disk.run(self.account.select, name, writable)
        if box is None:
            raise No("[NONEXISTENT] No such mailbox")
        self.mbox, self.state = box, "select"
        self.tell_keywords(always=True)
        kept = flag_list((*SYSTEM_FLAGS, *box.keywords.known, "\\*")) if writable else b"()"
        self.untagged(b"OK [PERMANENTFLAGS %b] Flags that are kept" % kept)
        self._counts()
        if (unseen := box.first_unseen()) is not None:
            self.untagged(b"OK [UNSEEN %d] First unseen" % unseen)
        self.untagged(b"OK [UIDVALIDITY %d] UIDs valid" % box.validity)
        self.untagged(b"OK [UIDNEXT %d] Next UID" % box.next_uid)
        return b"[READ-WRITE] SELECT completed" if writable else b"[READ-ONLY] EXAMINE completed"

    def _deselect(self) -> None:
        self.mbox, self.state = None, "auth"

    def _counts(self) -> None:
        self.untagged(b"%d EXISTS" % len(self.box.entries))
        self.untagged(b"%d RECENT" % len(self.box.recent))

    async def do_check(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        await self.refresh()
        return b"CHECK completed"

    async def do_close(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        if self.box.writable:
            await self.disk.run(self.box.expunge)
            self.board.tell(self.box.folder.path)
        self._deselect()
        return b"CLOSE completed"

    async def do_unselect(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        self._deselect()
        return b"UNSELECT completed"

    # --- news --------------------------------------------------------------------------------------------------------

    async def do_noop(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        await self.refresh()
        return b"NOOP completed"

    async def refresh(self, folder: Folder | None = None) -> None:
        box = self.mbox
        if box is not None and (folder is None or folder.path == box.folder.path):
            await self.tell(await self.disk.run(box.poll))

    async def tell(self, changes: Changes) -> None:
        """Untagged responses for what has changed; messages that are gone first: their numbers are the old ones."""
        for number in changes.expunged:
            await self.send(b"* %d EXPUNGE\r\n" % number)
        self.tell_keywords()
        if changes.exists is not None:
            self._counts()
        await self.tell_flags(list(changes.flagged), with_uid=False)

    def tell_keywords(self, *, always: bool = False) -> None:
        """FLAGS, before the client sees a message with a keyword that it has not heard of (RFC 3501 §7.2.6)."""
        known = self.box.keywords.known
        if always or known != self._told_keywords:
            self._told_keywords = known
            self.untagged(b"FLAGS " + flag_list(tuple(self.box.getFlags())))

    async def tell_flags(self, numbers: list[int], *, with_uid: bool) -> None:
        box = self.box
        for number in numbers:
            entry = box.entries[number - 1]
            uid = b"UID %d " % entry.uid if with_uid else b""
            await self.send(b"* %d FETCH (%bFLAGS %b)\r\n" % (number, uid, flag_list(box.flags(entry))))

    async def do_idle(self, tag: bytes, scanner: Scanner) -> bytes:
        """IDLE (RFC 2177): news as they come, until DONE and nothing else."""
        scanner.end()
        bell, words = Bell(), list[bytes]()

        def hear(line: bytes) -> None:
            words.append(line.upper())
            if words[-1] == b"DONE":
                self.lines_to(None)  # what follows are commands again
            bell.ring()

        forget = self.board.listen(self.mbox.folder.path, bell.ring) if self.mbox else lambda: None
        self.sendContinuationRequest(b"idling")  # type: ignore[no-untyped-call]
        self.lines_to(hear)
        try:
            while b"DONE" not in words:
                if len(words) > MAX_WRONG_LINES:
                    self.goodbye(b"Expected DONE")
                    return b""
                await self.refresh()
                await self._wait(bell, words)
        finally:
            forget()
        return b"IDLE completed"

    async def _wait(self, bell: Bell, words: list[bytes]) -> None:
        before = len(words)
        alarm = self._clock.callLater(POLL, bell.ring)
        try:
            await bell.wait()
        finally:
            if alarm.active():
                alarm.cancel()
        if len(words) > before and words[-1] != b"DONE":
            self.untagged(b"BAD Expected DONE")
