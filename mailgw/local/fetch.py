"""Fetch: what a FETCH command asks for, and the answer for one message (RFC 3501 §6.4.5).

An answer is a list of octets and slices: a slice is a stretch of an open message that the server sends piece by
piece. Making an answer reads files: call it in a thread.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from mailgw.local.content import Content, open_content
from mailgw.local.envelope import envelope, parenthesised, string, structure
from mailgw.local.grammar import ATOM, MONTHS, Bad, Scanner
from mailgw.local.mailbox import Mailbox
from mailgw.local.mime import Part, pick_fields, read_header, scan

INLINE = 1 << 16
"""Octets of a literal that are read with the answer; more becomes a slice."""
MAX_ITEMS = 100
"""Items in one FETCH."""

_SECTION_NUMBER = re.compile(rb"([1-9][0-9]{0,4})(\.?)")
_SECTION_TEXT = re.compile(rb"HEADER\.FIELDS\.NOT|HEADER\.FIELDS|HEADER|TEXT|MIME", re.IGNORECASE)
_PARTIAL = re.compile(rb"<(0|[1-9][0-9]{0,9})\.([1-9][0-9]{0,9})>")
_MACROS = {
    b"ALL": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE"),
    b"FAST": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE"),
    b"FULL": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE", b"BODY"),
}
_SIMPLE = frozenset({b"BODYSTRUCTURE", b"ENVELOPE", b"FLAGS", b"INTERNALDATE", b"UID", b"RFC822.SIZE"})
_SHORT = {b"RFC822": (b"", False), b"RFC822.HEADER": (b"HEADER", True), b"RFC822.TEXT": (b"TEXT", False)}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing asked for.

    @ivar name: in capitals; C{BODY[} for a section.
    @ivar label: how the answer calls it.
    @ivar path: the part's numbers; C{text}: C{HEADER}, C{HEADER.FIELDS}, C{TEXT}, C{MIME} or empty.
    @ivar names: of HEADER.FIELDS, in lower case.
    @ivar partial: offset and number of octets.
    @ivar seen: the answer sets \\\\Seen.
    """

    name: bytes
    label: bytes
    path: tuple[int, ...] = ()
    text: bytes = b""
    names: frozenset[str] = frozenset()
    partial: tuple[int, int] | None = None
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """Octets of a message, from C{start} up to C{end}."""

    content: Content
    start: int
    end: int


Pieces = list[bytes | Slice]


# --- reading the command ---------------------------------------------------------------------------------------------


def items(scanner: Scanner) -> list[Item]:
    """Read FETCH's second argument, to the end of the command."""
    found: list[Item] = []
    if scanner.accept(b"("):
        found.append(_item(scanner))
        while not scanner.accept(b")"):
            scanner.space()
            found.append(_item(scanner))
            if len(found) > MAX_ITEMS:
                raise Bad("Too many items")
    else:
        start = scanner.at
        name = scanner.match(ATOM, "an item")[0].upper()
        if name in _MACROS:
            found = [Item(each, each) for each in _MACROS[name]]
        else:
            scanner.at = start
            found = [_item(scanner)]
    scanner.end()
    return found


_ITEM_NAME = re.compile(rb"[A-Za-z0-9.]+")


def _item(scanner: Scanner) -> Item:
    name = scanner.match(_ITEM_NAME, "an item")[0].upper()
    if name in (b"BODY", b"BODY.PEEK") and scanner.accept(b"["):
        return _section(scanner, peek=name != b"BODY")
    if name in _SHORT:
        text, peek = _SHORT[name]
        return Item(b"BODY[", name, text=text, seen=not peek)
    if name in _SIMPLE or name == b"BODY":
        return Item(name, name)
    raise Bad("Unknown FETCH item")


def _section(scanner: Scanner, *, peek: bool) -> Item:
    path, label, text, names = [], b"", b"", frozenset[str]()
    expects_more = False
    while match := _SECTION_NUMBER.match(scanner.segments[scanner.segment], scanner.at):
        scanner.at = match.end()
        path.append(int(match[1]))
        expects_more = bool(match[2])
        if not expects_more:
            break
    label = b".".join(b"%d" % number for number in path)
    if expects_more or not path:
        if scanner.peek() != b"]" or expects_more:
            text = scanner.match(_SECTION_TEXT, "a section")[0].upper()
            label += (b"." if path else b"") + text
        if text == b"MIME" and not path:
            raise Bad("MIME needs a part")
        if text.startswith(b"HEADER.FIELDS"):
            scanner.space()
            shown, names = _field_names(scanner)
            label += b" " + shown
    scanner.expect(b"]")
    label = b"BODY[" + label + b"]"
    partial = None
    if scanner.peek() == b"<":
        match = scanner.match(_PARTIAL, "a partial")
        partial = (int(match[1]), int(match[2]))
        label += b"<%d>" % partial[0]
    return Item(b"BODY[", label, tuple(path), text, names, partial, not peek)


def _field_names(scanner: Scanner) -> tuple[bytes, frozenset[str]]:
    scanner.expect(b"(")
    names = [scanner.astring()]
    while not scanner.accept(b")"):
        scanner.space()
        names.append(scanner.astring())
    shown = parenthesised(name if ATOM.fullmatch(name) and b"]" not in name else string(name) for name in names)
    return shown, frozenset(name.decode("latin-1").lower() for name in names)


# --- answering -------------------------------------------------------------------------------------------------------


class Answer:
    """The answer for one message; what has to be read is read once. Called in a thread.

    @ivar pieces: what to send, without the parentheses around it.
    """

    def __init__(self, mailbox: Mailbox, number: int) -> None:
        self._mailbox, self._entry = mailbox, mailbox.entries[number - 1]
        self._content: Content | None = None
        self._parts: Part | None = None
        self._header: bytes | None = None
        self.pieces: Pieces = []

    def make(self, wanted: list[Item]) -> Answer:
        """Answer all items, in their order.

        @raise MessageGone: the message is not here any more.
        @raise OSError: it cannot be read.
        """
        try:
            for count, item in enumerate(wanted):
                self.pieces.append((b" " if count else b"") + item.label + b" ")
                self._answer(item)
        except BaseException:
            self.close()
            raise
        if not any(isinstance(piece, Slice) for piece in self.pieces):
            self.close()
        return self

    def close(self) -> None:
        """Give the message's file back."""
        if self._content is not None:
            self._content.close()

    def _answer(self, item: Item) -> None:
        match item.name:
            case b"UID":
                self.pieces.append(b"%d" % self._entry.uid)
            case b"FLAGS":
                self.pieces.append(flag_list(self._mailbox.flags(self._entry)))
            case b"RFC822.SIZE":
                self.pieces.append(b"%d" % self._mailbox.folder.size(self._entry))
            case b"INTERNALDATE":
                self.pieces.append(internal_date(self._mailbox.folder.status(self._entry).st_mtime))
            case b"ENVELOPE":
                self.pieces.append(envelope(self.header))
            case b"BODY" | b"BODYSTRUCTURE":
                self.pieces.append(structure(self.parts, extended=item.name != b"BODY"))
            case _:
                self._section(item)

    @property
    def content(self) -> Content:
        """The message."""
        if self._content is None:
            self._content = open_content(self._mailbox.folder, self._entry)
        return self._content

    @property
    def header(self) -> bytes:
        """The message's header."""
        if self._header is None:
            self._header = read_header(self.content.rewind())
        return self._header

    @property
    def parts(self) -> Part:
        """The message's parts."""
        if self._parts is None:
            self._parts = scan(self.content.rewind())
        return self._parts

    def _section(self, item: Item) -> None:
        if item.text.startswith(b"HEADER.FIELDS"):
            header = self._part_header(item.path)
            if header is None:
                self.pieces.append(b"NIL")
            else:
                negate = item.text.endswith(b"NOT")
                self._octets(pick_fields(header, item.names, negate=negate), item.partial)
            return
        span = self._span(item)
        if span is None:
            self.pieces.append(b"NIL")
            return
        start, end = span
        if item.partial is not None:
            start = min(start + item.partial[0], end)
            end = min(start + item.partial[1], end)
        self.pieces.append(b"{%d}\r\n" % (end - start))
        if end - start <= INLINE:
            self.pieces.append(self.content.read(start, end))
        else:
            self.pieces.append(Slice(self.content, start, end))

    def _octets(self, octets: bytes, partial: tuple[int, int] | None) -> None:
        if partial is not None:
            octets = octets[partial[0] : partial[0] + partial[1]]
        self.pieces += [b"{%d}\r\n" % len(octets), octets]

    def _part_header(self, path: tuple[int, ...]) -> bytes | None:
        if not path:
            return self.header
        part = find(self.parts, path)
        return part.message.header if part and part.message else None

    def _span(self, item: Item) -> tuple[int, int] | None:
        """First octet and end of a section, C{None} where the message has no such part."""
        if not item.path and not item.text:
            return 0, self.content.size
        if not item.path and item.text == b"HEADER":
            return 0, len(self.header)
        if not item.path:
            return len(self.header), self.content.size
        part = find(self.parts, item.path)
        if part is None:
            return None
        if not item.text:
            return part.body, part.end
        if item.text == b"MIME":
            return part.start, part.body
        if part.message is None:
            return None
        message = part.message
        return (message.start, message.body) if item.text == b"HEADER" else (message.body, message.end)


def find(root: Part, path: tuple[int, ...]) -> Part | None:
    """The part with these numbers (RFC 3501 §6.4.5): a message that is no multipart has one part, its body."""
    part, level = root, root.children or [root]
    for number in path:
        if number > len(level):
            return None
        part = level[number - 1]
        level = part.children
        if part.message is not None:
            level = part.message.children or [part.message]
    return part


def flag_list(flags: tuple[str, ...]) -> bytes:
    """Flags in parentheses."""
    return parenthesised(flag.encode("ascii") for flag in flags)


def internal_date(seconds: float) -> bytes:
    """A date-time in UTC, whatever the locale."""
    t = time.gmtime(seconds)
    clock = b"%02d:%02d:%02d" % (t.tm_hour, t.tm_min, t.tm_sec)
    return b'"%2d-%b-%d %b +0000"' % (t.tm_mday, MONTHS[t.tm_mon - 1], t.tm_year, clock)
