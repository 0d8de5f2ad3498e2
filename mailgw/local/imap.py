"""The IMAP server of the local store: a client that is logged in, and its Maildir (RFC 3501 and a few more).

What a command is, and one at a time, is L{framing}; folders are L{imapfolders}; here are the commands about the
messages of a selected mailbox. Log in and STARTTLS are behind us and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgw.local.bell import Bell
from mailgw.local.fetch import Answer, Item, Slice, flag_list, items
from mailgw.local.grammar import Bad, No, Scanner, compact
from mailgw.local.imapfolders import FOLDER_COMMANDS, FolderCommands
from mailgw.local.keywords import SYSTEM_FLAGS
from mailgw.local.mailbox import Changes, Mailbox
from mailgw.local.maildir import Folder, MessageGone
from mailgw.local.names import decode
from mailgw.local.search import Candidate, Key, parse

POLL = 5.0
"""Seconds between two looks at the folder while the client is in IDLE: what this process does itself is told at once,
what others do waits for this."""
CHUNK = 1 << 18
"""Octets of a long literal that are read at a time."""
BATCH = 16
"""Messages that are answered in one go."""
BATCH_OCTETS = 1 << 20
SEARCH_BATCH = 100
MAX_WRONG_LINES = 3
"""Lines other than DONE in IDLE, before we hang up."""

SESSION_COMMANDS = {b"NOOP": "do_noop", b"IDLE": "do_idle", b"SELECT": "do_select", b"EXAMINE": "do_examine"}
MAILBOX_COMMANDS = {
    b"CHECK": "do_check",
    b"CLOSE": "do_close",
    b"UNSELECT": "do_unselect",
    b"EXPUNGE": "do_expunge",
    b"UID EXPUNGE": "do_uid_expunge",
}
NUMBERED_COMMANDS = {
    b"FETCH": "do_fetch",
    b"STORE": "do_store",
    b"SEARCH": "do_search",
    b"COPY": "do_copy",
    b"MOVE": "do_move",
}
UID = Item(b"UID", b"UID")
FLAGS = Item(b"FLAGS", b"FLAGS")
AT_HAND = frozenset({b"UID", b"FLAGS"})
"""Items that need no file."""


class LocalImap(FolderCommands):
    """See the module's docstring."""

    def command(self, verb: bytes) -> Callable[[bytes, Scanner], Any] | None:
        if verb in FOLDER_COMMANDS:
            return super().command(verb)
        if verb in SESSION_COMMANDS:
            return getattr(self, SESSION_COMMANDS[verb], None)
        if self.mbox is None:
            return None
        if verb in MAILBOX_COMMANDS:
            return getattr(self, MAILBOX_COMMANDS[verb], None)
        self._by_uid = verb.startswith(b"UID ")
        return getattr(self, NUMBERED_COMMANDS.get(verb.removeprefix(b"UID "), ""), None)

    def left(self) -> None:
        self.mbox = None

    @property
    def _box(self) -> Mailbox:
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
        flags = flag_list(tuple(box.getFlags()))
        self.untagged(b"FLAGS " + flags)
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
        self.untagged(b"%d EXISTS" % len(self._box.entries))
        self.untagged(b"%d RECENT" % len(self._box.recent))

    async def do_check(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        await self.refresh()
        return b"CHECK completed"

    async def do_close(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        if self._box.writable:
            await self.disk.run(self._box.expunge)
            self.board.tell(self._box.folder.path)
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
            await self._tell(await self.disk.run(box.poll))

    async def _tell(self, changes: Changes) -> None:
        """Untagged responses for what has changed; messages that are gone first: their numbers are the old ones."""
        for number in changes.expunged:
            await self.send(b"* %d EXPUNGE\r\n" % number)
        if changes.exists is not None:
            self._counts()
        await self._tell_flags(list(changes.flagged), with_uid=False)

    async def _tell_flags(self, numbers: list[int], *, with_uid: bool) -> None:
        box = self._box
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

    # --- reading -----------------------------------------------------------------------------------------------------

    async def do_fetch(self, tag: bytes, scanner: Scanner) -> bytes:
        by_uid = self._by_uid
        numbers = self._numbers(scanner, by_uid)
        scanner.space()
        wanted = items(scanner)
        if by_uid and UID not in wanted:
            wanted.insert(0, UID)
        if any(item.seen for item in wanted) and self._box.writable:
            unseen = [number for number in numbers if "S" not in self._box.entries[number - 1].letters]
            if unseen:
                await self._store(unseen, ["\\Seen"], 1)
                wanted = wanted if FLAGS in wanted else [*wanted, FLAGS]
        gone = False
        for start in range(0, len(numbers), BATCH):
            gone = await self._fetch_batch(numbers[start : start + BATCH], wanted) or gone
        if gone:
            raise MessageGone
        return b"FETCH completed"

    def _numbers(self, scanner: Scanner, by_uid: bool) -> list[int]:
        scanner.space()
        numbers = self._box.pick(scanner.sequence_set(), by_uid=by_uid)
        if numbers is None:
            raise Bad("No such message")
        return numbers

    async def _fetch_batch(self, numbers: list[int], wanted: list[Item]) -> bool:
        """Answer for some messages; true if one of them is gone."""
        box, rest, gone = self._box, numbers, False
        at_hand = all(item.name in AT_HAND for item in wanted)
        while rest:
            if at_hand:
                answers = _answers(box, rest, wanted)
            else:
                answers = await self.disk.run(_answers, box, rest, wanted)
            for number, answer in zip(rest, answers, strict=False):
                if answer is None:
                    gone = True
                else:
                    await self._send_answer(number, answer)
            rest = rest[len(answers) :]
        return gone

    async def _send_answer(self, number: int, answer: Answer) -> None:
        """Send one message's answer, long literals piece by piece as the client reads them."""
        try:
            parts = [b"* %d FETCH (" % number]
            for piece in answer.pieces:
                if isinstance(piece, Slice):
                    await self.send(b"".join(parts))
                    parts = []
                    await self._send_slice(piece)
                else:
                    parts.append(piece)
            await self.send(b"".join([*parts, b")\r\n"]))
        finally:
            answer.close()

    async def _send_slice(self, piece: Slice) -> None:
        for start in range(piece.start, piece.end, CHUNK):
            end = min(start + CHUNK, piece.end)
            data = await self.disk.run(piece.content.read, start, end)
            if len(data) != end - start:  # the file shrank: the literal's length is told already, and cannot be kept
                self.transport.abortConnection()
                return
            await self.send(data)
            self.resetTimeout()

    async def do_search(self, tag: bytes, scanner: Scanner) -> bytes:
        by_uid, box = self._by_uid, self._box
        scanner.space()
        key = parse(scanner, box)
        found: list[int] = []
        for start in range(0, len(box.entries), SEARCH_BATCH):
            numbers = range(start + 1, min(start + SEARCH_BATCH, len(box.entries)) + 1)
            found += await self.disk.run(_matching, box, numbers, key)
        if by_uid:
            found = [box.entries[number - 1].uid for number in found]
        await self.send(b" ".join([b"* SEARCH", *(b"%d" % number for number in found)]) + b"\r\n")
        return b"SEARCH completed"

    # --- changing ----------------------------------------------------------------------------------------------------

    async def do_store(self, tag: bytes, scanner: Scanner) -> bytes:
        by_uid = self._by_uid
        numbers = self._numbers(scanner, by_uid)
        scanner.space()
        mode = 1 if scanner.accept(b"+") else -1 if scanner.accept(b"-") else 0
        word = scanner.atom().upper()
        if word not in (b"FLAGS", b"FLAGS.SILENT"):
            raise Bad("Unknown STORE item")
        scanner.space()
        flags = scanner.bare_flags()
        scanner.end()
        self._want_writable()
        known = self._box.keywords.known
        alive = await self._store(numbers, flags, mode)
        if self._box.keywords.known != known:
            self.untagged(b"FLAGS " + flag_list(tuple(self._box.getFlags())))
        if word == b"FLAGS":
            await self._tell_flags(alive, with_uid=by_uid)
        if len(alive) < len(numbers):
            raise MessageGone
        return b"STORE completed"

    def _want_writable(self) -> None:
        if not self._box.writable:
            raise No("[READ-ONLY] Mailbox is open for reading only")

    async def _store(self, numbers: list[int], flags: list[str], mode: int) -> list[int]:
        alive = await self.disk.run(self._box.store, numbers, flags, mode)
        self.board.tell(self._box.folder.path)
        return alive

    async def do_expunge(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        return await self._expunge(None)

    async def do_uid_expunge(self, tag: bytes, scanner: Scanner) -> bytes:
        numbers = self._numbers(scanner, True)
        scanner.end()
        return await self._expunge(frozenset(self._box.entries[number - 1].uid for number in numbers))

    async def _expunge(self, only: frozenset[int] | None) -> bytes:
        self._want_writable()
        await self._tell(await self.disk.run(self._box.expunge, only))
        self.board.tell(self._box.folder.path)
        return b"EXPUNGE completed"

    async def do_copy(self, tag: bytes, scanner: Scanner) -> bytes:
        _, target, code = await self._copy(scanner)
        await self.refresh(target)
        return code + b"COPY completed"

    async def do_move(self, tag: bytes, scanner: Scanner) -> bytes:
        """MOVE (RFC 6851): a copy that is told before the originals go."""
        self._want_writable()
        uids, _, code = await self._copy(scanner)
        if code:
            self.untagged(b"OK " + code + b"Moved")
        await self._tell(await self.disk.run(self._box.remove, frozenset(uids)))
        self.board.tell(self._box.folder.path)
        return b"MOVE completed"

    async def _copy(self, scanner: Scanner) -> tuple[list[int], Folder, bytes]:
        """Copy messages; their UIDs, where to, and the response code C{COPYUID} with a space behind it."""
        numbers = self._numbers(scanner, self._by_uid)
        scanner.space()
        name = decode(scanner.astring())
        scanner.end()
        entries = [self._box.entries[number - 1] for number in numbers]
        uids = [entry.uid for entry in entries]
        target, validity, new = await self.disk.run(self._copy_in_thread, entries, name)
        if not new:
            return uids, target, b""
        self.board.tell(target.path)
        return uids, target, b"[COPYUID %d %b %b] " % (validity, compact(uids), compact(new))

    def _copy_in_thread(self, entries: list[Any], name: str) -> tuple[Folder, int, list[int]]:
        target = self.account.folder(name)
        if not target.exists():
            raise No("[TRYCREATE] No such mailbox")
        bases = self._box.folder.copy(entries, target)
        snapshot = target.look(adopt=False)
        uids = {entry.base: entry.uid for entry in snapshot.entries}
        return target, snapshot.validity, [uids[base] for base in bases]


def _answers(box: Mailbox, numbers: list[int], wanted: list[Item]) -> list[Answer | None]:
    """Answers for the first of the messages, as many as fit; C{None} for one that is gone. Called in a thread."""
    answers: list[Answer | None] = []
    size = 0
    for number in numbers:
        try:
            answer = Answer(box, number).make(wanted)
        except MessageGone:
            answers.append(None)
            continue
        answers.append(answer)
        size += sum(len(piece) for piece in answer.pieces if isinstance(piece, bytes))
        if size > BATCH_OCTETS:
            break
    return answers


def _matching(box: Mailbox, numbers: range, key: Key) -> list[int]:
    """The numbers of the messages that match; called in a thread."""
    found = []
    for number in numbers:
        candidate = Candidate(box, number)
        try:
            if key(candidate):
                found.append(number)
        except MessageGone:
            continue
        finally:
            candidate.close()
    return found
