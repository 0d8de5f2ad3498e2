"""The IMAP server of the local store: a client that is logged in, and its Maildir (RFC 3501 and a few more).

What a command is, and one at a time, is L{framing}; folders are L{imapfolders}; selecting and news L{imapselect}; here
are the commands about the messages of a selected mailbox. Logging in and STARTTLS are behind us and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgw.local.fetch import Answer, Item, Slice, items
from mailgw.local.grammar import Bad, No, Scanner, compact
from mailgw.local.imapfolders import FOLDER_COMMANDS
from mailgw.local.imapselect import SelectCommands
from mailgw.local.mailbox import Mailbox
from mailgw.local.maildir import Folder, MessageGone
from mailgw.local.names import decode
from mailgw.local.search import Candidate, Key, parse

CHUNK = 1 << 18
"""Octets of a long literal that are read at a time."""
BATCH = 16
"""Messages that are answered in one go."""
BATCH_OCTETS = 1 << 20
SEARCH_BATCH = 100
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


class LocalImap(SelectCommands):
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

    # --- reading -----------------------------------------------------------------------------------------------------

    async def do_fetch(self, tag: bytes, scanner: Scanner) -> bytes:
        by_uid = self._by_uid
        numbers = self._numbers(scanner, by_uid)
        scanner.space()
        wanted = items(scanner)
        if by_uid and UID not in wanted:
            wanted.insert(0, UID)
        if any(item.seen for item in wanted) and self.box.writable:
            unseen = [number for number in numbers if "S" not in self.box.entries[number - 1].letters]
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
        numbers = self.box.pick(scanner.sequence_set(), by_uid=by_uid)
        if numbers is None:
            raise Bad("No such message")
        return numbers

    async def _fetch_batch(self, numbers: list[int], wanted: list[Item]) -> bool:
        """Answer for some messages; true if one of them is gone."""
        box, rest, gone = self.box, numbers, False
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
        by_uid, box = self._by_uid, self.box
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
        alive = await self._store(numbers, flags, mode)
        if word == b"FLAGS":
            await self.tell_flags(alive, with_uid=by_uid)
        if len(alive) < len(numbers):
            raise MessageGone
        return b"STORE completed"

    def _want_writable(self) -> None:
        if not self.box.writable:
            raise No("[READ-ONLY] Mailbox is open for reading only")

    async def _store(self, numbers: list[int], flags: list[str], mode: int) -> list[int]:
        alive = await self.disk.run(self.box.store, numbers, flags, mode)
        self.tell_keywords()
        self.board.tell(self.box.folder.path)
        return alive

    async def do_expunge(self, tag: bytes, scanner: Scanner) -> bytes:
        scanner.end()
        return await self._expunge(None)

    async def do_uid_expunge(self, tag: bytes, scanner: Scanner) -> bytes:
        numbers = self._numbers(scanner, True)
        scanner.end()
        return await self._expunge(frozenset(self.box.entries[number - 1].uid for number in numbers))

    async def _expunge(self, only: frozenset[int] | None) -> bytes:
        self._want_writable()
        await self.tell(await self.disk.run(self.box.expunge, only))
        self.board.tell(self.box.folder.path)
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
        await self.tell(await self.disk.run(self.box.remove, frozenset(uids)))
        self.board.tell(self.box.folder.path)
        return b"MOVE completed"

    async def _copy(self, scanner: Scanner) -> tuple[list[int], Folder, bytes]:
        """Copy messages; their UIDs, where to, and the response code C{COPYUID} with a space behind it."""
        numbers = self._numbers(scanner, self._by_uid)
        scanner.space()
        name = decode(scanner.astring())
        scanner.end()
        entries = [self.box.entries[number - 1] for number in numbers]
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
        bases = self.box.folder.copy(entries, target)
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
