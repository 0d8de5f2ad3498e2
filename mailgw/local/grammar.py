"""Grammar: one complete IMAP command, read token by token (RFC 3501 §9). Pure: octets in, values out.

The framing has already put lines and literals together. What is not in the grammar is L{Bad}; what is, and is not
done here, is L{No}; both carry words for the client.
"""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass

from mailgw.errors import MailgwError
from mailgw.local.mailbox import Ranges

MAX_DEPTH = 50
"""Parentheses within parentheses; people write three."""

ATOM = re.compile(rb"[\x21\x23\x24\x26\x27\x2b-\x5b\x5d-\x7a\x7c-\x7e]+")
TAG = re.compile(rb"[\x21\x23\x24\x26\x27\x2c-\x5b\x5d-\x7a\x7c-\x7e]{1,64}")
LITERAL = re.compile(rb"\{(0|[1-9][0-9]{0,9})(\+?)\}")
LIST_MAILBOX = re.compile(rb"[\x21\x23-\x27\x2a-\x5b\x5d-\x7a\x7c-\x7e]+")

_NUMBER = re.compile(rb"0|[1-9][0-9]{0,9}")
_SET = re.compile(rb"[0-9*:,]+")
_FLAG = re.compile(rb"\\?[\x21\x23\x24\x26\x27\x2b-\x5b\x5e-\x7a\x7c-\x7e]+")
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\0]|\\["\\])*)"')
_ESCAPE = re.compile(rb'\\(["\\])')
_DATE_TIME = re.compile(rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{4})"')
_DATE = re.compile(rb'"?([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})"?')
MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


class Bad(MailgwError):
    """The command breaks the grammar: answered with a tagged BAD and these words."""


class No(MailgwError):
    """The command cannot be done: answered with a tagged NO and these words, a response code first if there is one."""


@dataclass(slots=True)
class Scanner:
    """Reads one command.

    @ivar segments: the command's lines without their literal announcements, and between them the literals.
    """

    segments: list[bytes]
    at: int = 0
    segment: int = 0

    def peek(self) -> bytes:
        """The next octet; empty at the end of a line, where a literal or nothing follows."""
        return self.segments[self.segment][self.at : self.at + 1]

    @property
    def at_literal(self) -> bool:
        """A literal is next."""
        return not self.peek() and self.segment + 1 < len(self.segments)

    @property
    def at_end(self) -> bool:
        """Nothing is left."""
        return not self.peek() and self.segment + 1 >= len(self.segments)

    def end(self) -> None:
        """Expect nothing more."""
        if not self.at_end:
            raise Bad("Unexpected arguments")

    def space(self) -> None:
        """Expect one space."""
        self.expect(b" ")

    def expect(self, octet: bytes) -> None:
        """Expect this octet."""
        if not self.accept(octet):
            raise Bad("Missing argument" if octet == b" " else f"Expected {octet.decode('ascii')}")

    def accept(self, octet: bytes) -> bool:
        """Take this octet if it is next."""
        if self.peek() != octet:
            return False
        self.at += 1
        return True

    def match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        """Expect what a pattern describes."""
        found = pattern.match(self.segments[self.segment], self.at)
        if found is None:
            raise Bad(f"Expected {what}")
        self.at = found.end()
        return found

    def atom(self) -> bytes:
        """An atom."""
        return self.match(ATOM, "an atom")[0]

    def string(self) -> bytes:
        """A quoted string or a literal."""
        if self.at_literal:
            self.segment += 2
            self.at = 0
            return self.segments[self.segment - 1]
        return _ESCAPE.sub(rb"\1", self.match(_QUOTED, "a string")[1])

    def astring(self, atom: re.Pattern[bytes] = ATOM) -> bytes:
        """An atom or a string."""
        if self.peek() == b'"' or self.at_literal:
            return self.string()
        return self.match(atom, "a string")[0]

    def number(self) -> int:
        """A number of 32 bits."""
        value = int(self.match(_NUMBER, "a number")[0])
        if value > 0xFFFFFFFF:
            raise Bad("Number too big")
        return value

    def sequence_set(self) -> Ranges:
        """Message numbers or UIDs."""
        return ranges(self.match(_SET, "a sequence set")[0])

    def flags(self) -> list[str]:
        """A list of flags in parentheses."""
        self.expect(b"(")
        found: list[str] = []
        while not self.accept(b")"):
            if found:
                self.space()
            found.append(self.match(_FLAG, "a flag")[0].decode("ascii"))
        return found

    def bare_flags(self) -> list[str]:
        """A list of flags with or without parentheses."""
        if self.peek() == b"(":
            return self.flags()
        found = [self.match(_FLAG, "a flag")[0].decode("ascii")]
        while self.accept(b" "):
            found.append(self.match(_FLAG, "a flag")[0].decode("ascii"))
        return found

    def atoms(self) -> list[bytes]:
        """A list of atoms in parentheses, in capitals."""
        self.expect(b"(")
        found: list[bytes] = []
        while not self.accept(b")"):
            if found:
                self.space()
            found.append(self.atom().upper())
        return found

    def date_time(self) -> float:
        """A date with time and zone; seconds since the epoch."""
        day, month, year, hour, minute, second, sign, zone = self.match(_DATE_TIME, "a date and time").groups()
        offset = (int(zone[:2]) * 60 + int(zone[2:])) * (60 if sign == b"+" else -60)
        fields = (int(year), _month(month), int(day), int(hour), int(minute), int(second))
        if not (1970 <= fields[0] < 10000 and 1 <= fields[2] <= 31 and fields[3] < 24 and fields[4] < 60):
            raise Bad("Not a date")
        return float(max(0, timegm(fields) - offset))

    def date(self) -> tuple[int, int, int]:
        """A date; year, month and day."""
        day, month, year = self.match(_DATE, "a date").groups()
        return int(year), _month(month), int(day)


def _month(name: bytes) -> int:
    if name.capitalize() not in MONTHS:
        raise Bad("Not a month")
    return MONTHS.index(name.capitalize()) + 1


def ranges(text: bytes) -> Ranges:
    """Read a sequence set.

    @raise Bad: it is none.
    """
    return tuple(_range(part) for part in text.split(b","))


def _range(part: bytes) -> tuple[int | None, int | None]:
    ends = [_end(number) for number in part.split(b":")]
    if len(ends) > 2:
        raise Bad("Not a sequence set")
    return ends[0], ends[-1]


def _end(number: bytes) -> int | None:
    if number == b"*":
        return None
    if not _NUMBER.fullmatch(number) or not 0 < int(number) <= 0xFFFFFFFF:
        raise Bad("Not a message number")
    return int(number)


def compact(numbers: list[int]) -> bytes:
    """Write numbers as a sequence set, in their order."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in parts)
