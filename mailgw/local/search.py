"""Search: SEARCH's keys as a predicate over one message (RFC 3501 §6.4.4).

Reading the command is pure. Asking a predicate may read the message: call it in a thread. Words are looked for in
decoded text, without regard to case, as they stand; there is no stemming and no index.
"""

from __future__ import annotations

import email
import email.policy
import re
import time
from collections.abc import Callable
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parsedate

from mailgw.local.content import Content, open_content
from mailgw.local.grammar import MAX_DEPTH, Bad, No, Scanner, ranges
from mailgw.local.mailbox import Mailbox, Ranges
from mailgw.local.maildir import Entry
from mailgw.local.mime import fields, read_header

MAX_KEYS = 500
"""Keys in one SEARCH."""
MAX_TEXT = 16 << 20
"""Octets of a message whose body is searched; what is behind them is not found."""

Date = tuple[int, int, int]

_WORD = re.compile(rb"[A-Za-z0-9*:,]+|(?=\()")


class Candidate:
    """A message that may match; what has to be read is read once."""

    def __init__(self, mailbox: Mailbox, number: int) -> None:
        self.mailbox, self.number = mailbox, number
        self.entry: Entry = mailbox.entries[number - 1]
        self._content: Content | None = None
        self._header: list[tuple[str, str]] | None = None
        self._body: str | None = None

    def has(self, letter: str) -> bool:
        """Whether it has a system flag."""
        return letter in self.entry.letters

    def has_keyword(self, keyword: str) -> bool:
        """Whether it has a keyword."""
        return keyword.lower() in (flag.lower() for flag in self.mailbox.flags(self.entry))

    @property
    def recent(self) -> bool:
        """Whether this session saw it first."""
        return self.entry.uid in self.mailbox.recent

    @property
    def size(self) -> int:
        """Octets."""
        return self.mailbox.folder.size(self.entry)

    @property
    def arrived(self) -> Date:
        """The internal date, in UTC as FETCH shows it."""
        t = time.gmtime(self.mailbox.folder.status(self.entry).st_mtime)
        return t.tm_year, t.tm_mon, t.tm_mday

    @property
    def sent(self) -> Date | None:
        """The day of the Date field, whatever its zone; C{None} without one."""
        parsed = parsedate(next(iter(self.values("date")), ""))
        return (parsed[0], parsed[1], parsed[2]) if parsed else None

    @property
    def header(self) -> list[tuple[str, str]]:
        """Names and decoded values."""
        if self._header is None:
            self._header = [(name, decoded(value)) for name, value in fields(read_header(self._open().rewind()))]
        return self._header

    def values(self, name: str) -> list[str]:
        """All values of a header field."""
        return [value for key, value in self.header if key == name]

    @property
    def body(self) -> str:
        """The text of all text parts, in lower case; the raw octets of others are not text."""
        if self._body is None:
            raw = self._open().read(0, MAX_TEXT)
            try:
                message = email.message_from_bytes(raw, policy=email.policy.compat32)
                texts = [_text(part) for part in message.walk() if part.get_content_maintype() == "text"]
            except RecursionError:  # nested beyond reason
                texts = [raw.decode("latin-1").lower()]
            self._body = "\n".join(texts)
        return self._body

    def _open(self) -> Content:
        if self._content is None:
            self._content = open_content(self.mailbox.folder, self.entry)
        return self._content

    def close(self) -> None:
        """Give the message's file back."""
        if self._content is not None:
            self._content.close()


Key = Callable[[Candidate], bool]


def decoded(value: bytes) -> str:
    """A header's value with its encoded words (RFC 2047) decoded, in lower case."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    try:
        return str(make_header(decode_header(text))).lower()
    except (HeaderParseError, LookupError, ValueError):
        return text.lower()


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    try:
        return payload.decode(part.get_content_charset("utf-8"), "replace").lower()
    except LookupError:
        return payload.decode("latin-1").lower()


# --- reading the command ---------------------------------------------------------------------------------------------


def parse(scanner: Scanner, mailbox: Mailbox) -> Key:
    """Read SEARCH's arguments, to the end of the command.

    @raise Bad: they break the grammar, or our limits.
    @raise No: C{[BADCHARSET]}.
    """
    start = scanner.at
    if scanner.match(_WORD, "a search key")[0].upper() == b"CHARSET":
        scanner.space()
        if scanner.astring().upper() not in (b"UTF-8", b"US-ASCII"):
            raise No("[BADCHARSET (US-ASCII UTF-8)] Unknown charset")
        scanner.space()
    else:
        scanner.at = start
    reader = _Reader(scanner, mailbox)
    key = reader.every(closing=b"")
    scanner.end()
    return key


class _Reader:
    """Reads keys, counting them."""

    def __init__(self, scanner: Scanner, mailbox: Mailbox) -> None:
        self._scanner, self._mailbox = scanner, mailbox
        self._count = self._depth = 0

    def every(self, closing: bytes) -> Key:
        """Keys up to the closing parenthesis or the end: all have to match."""
        keys = [self.one()]
        while self._scanner.peek() != closing:
            self._scanner.space()
            keys.append(self.one())
        return keys[0] if len(keys) == 1 else lambda message: all(key(message) for key in keys)

    def one(self) -> Key:
        """One key."""
        self._count += 1
        self._depth += 1
        if self._depth > MAX_DEPTH or self._count > MAX_KEYS:
            raise Bad("Search is too complex")
        key = self._one()
        self._depth -= 1
        return key

    def _one(self) -> Key:
        scanner = self._scanner
        if scanner.accept(b"("):
            key = self.every(closing=b")")
            scanner.expect(b")")
            return key
        word = scanner.match(_WORD, "a search key")[0].upper()
        if word[0] in b"0123456789*":
            return self._numbers(ranges(word), by_uid=False)
        if word in _SIMPLE:
            return _SIMPLE[word]
        scanner.space()
        match word:
            case b"NOT":
                negated = self.one()
                return lambda message: not negated(message)
            case b"OR":
                left = self.one()
                scanner.space()
                right = self.one()
                return lambda message: left(message) or right(message)
            case b"UID":
                return self._numbers(scanner.sequence_set(), by_uid=True)
            case b"HEADER":
                name = scanner.astring().decode("latin-1").lower()
                scanner.space()
                return _in_header(name, self._string())
            case b"KEYWORD" | b"UNKEYWORD":
                keyword, wanted = scanner.atom().decode("ascii"), word == b"KEYWORD"
                return lambda message: message.has_keyword(keyword) == wanted
            case b"LARGER":
                size = scanner.number()
                return lambda message: message.size > size
            case b"SMALLER":
                size = scanner.number()
                return lambda message: message.size < size
            case b"BCC" | b"CC" | b"FROM" | b"SUBJECT" | b"TO":
                return _in_header(word.decode("ascii").lower(), self._string())
            case b"BODY":
                text = self._string()
                return lambda message: text in message.body
            case b"TEXT":
                text = self._string()
                return lambda message: any(text in value for _, value in message.header) or text in message.body
        if word not in _DATES:
            raise Bad("Unknown search key")
        return _DATES[word](scanner.date())

    def _string(self) -> str:
        """A string to look for; the octets are UTF-8, whether CHARSET said so or not."""
        return self._scanner.astring().decode("utf-8", "replace").lower()

    def _numbers(self, wanted: Ranges, *, by_uid: bool) -> Key:
        numbers = frozenset(self._mailbox.pick(wanted, by_uid=by_uid) or ())
        return lambda message: message.number in numbers


def _in_header(name: str, text: str) -> Key:
    return lambda message: any(text in value for value in message.values(name))


def _flag(letter: str, wanted: bool) -> Key:
    return lambda message: message.has(letter) == wanted


def _sent(compare: Callable[[Date, Date], bool]) -> Callable[[Date], Key]:
    def key(day: Date) -> Key:
        return lambda message: (sent := message.sent) is not None and compare(sent, day)

    return key


def _arrived(compare: Callable[[Date, Date], bool]) -> Callable[[Date], Key]:
    return lambda day: lambda message: compare(message.arrived, day)


_SIMPLE: dict[bytes, Key] = {
    b"ALL": lambda message: True,
    b"ANSWERED": _flag("R", True),
    b"DELETED": _flag("T", True),
    b"DRAFT": _flag("D", True),
    b"FLAGGED": _flag("F", True),
    b"SEEN": _flag("S", True),
    b"UNANSWERED": _flag("R", False),
    b"UNDELETED": _flag("T", False),
    b"UNDRAFT": _flag("D", False),
    b"UNFLAGGED": _flag("F", False),
    b"UNSEEN": _flag("S", False),
    b"NEW": lambda message: message.recent and not message.has("S"),
    b"OLD": lambda message: not message.recent,
    b"RECENT": lambda message: message.recent,
}
_DATES: dict[bytes, Callable[[Date], Key]] = {
    b"BEFORE": _arrived(lambda left, right: left < right),
    b"ON": _arrived(lambda left, right: left == right),
    b"SINCE": _arrived(lambda left, right: left >= right),
    b"SENTBEFORE": _sent(lambda left, right: left < right),
    b"SENTON": _sent(lambda left, right: left == right),
    b"SENTSINCE": _sent(lambda left, right: left >= right),
}
