"""Keywords: IMAP flags as the letters in a Maildir file's name, and back.

The five system flags and $Forwarded have letters of their own. Other keywords are lower-case letters whose meaning
stands in the folder's file C{dovecot-keywords}: Dovecot's format, so that both see the same labels.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable

from mailgw.local.disk import read_file, replace_file

FILE = "dovecot-keywords"
LETTERS = {
    "\\Draft": "D",
    "\\Flagged": "F",
    "$Forwarded": "P",
    "\\Answered": "R",
    "\\Seen": "S",
    "\\Deleted": "T",
}
SYSTEM_FLAGS = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")

_FLAGS = {letter: flag for flag, letter in LETTERS.items()}
_CANONICAL = {flag.lower(): flag for flag in LETTERS}
_ROW = re.compile(rb"^(\d{1,2}) ([\x21-\x7e]+)$", re.MULTILINE)


class Keywords:
    """The keywords of one folder, as its file has them now."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, FILE)
        self._names: dict[str, str] = {}
        for number, name in _ROW.findall(read_file(self._path) or b""):
            if int(number) < len(string.ascii_lowercase):
                self._names[string.ascii_lowercase[int(number)]] = name.decode("ascii")

    @property
    def known(self) -> tuple[str, ...]:
        """All keywords that a message of this folder may have, $Forwarded first."""
        return ("$Forwarded", *self._names.values())

    def flags(self, letters: str) -> tuple[str, ...]:
        """The flags that letters stand for; a letter whose meaning is lost stands for none."""
        named = (_FLAGS.get(letter) or self._names.get(letter) for letter in letters)
        return tuple(flag for flag in named if flag)

    def letters(self, flags: Iterable[str], *, learn: bool) -> str:
        """The letters for flags, sorted; flags that cannot be kept have none.

        @param learn: give new keywords a letter; the caller holds the folder's lock.
        @raise OSError: the file could not be written.
        """
        by_name = {name.lower(): letter for letter, name in self._names.items()}
        found, new = set(), []
        for flag in flags:
            letter = LETTERS.get(_CANONICAL.get(flag.lower(), "")) or by_name.get(flag.lower())
            if letter:
                found.add(letter)
            elif not flag.startswith("\\"):
                new.append(flag)
        if learn and new:
            found.update(self._learn(new))
        return "".join(sorted(found))

    def unnamed(self, letters: str) -> str:
        """Those of the letters that stand for nothing we know: kept as they are, whatever a client stores."""
        return "".join(letter for letter in letters if letter not in _FLAGS and letter not in self._names)

    def _learn(self, flags: list[str]) -> str:
        free = [letter for letter in string.ascii_lowercase if letter not in self._names]
        given = dict(zip(free, dict.fromkeys(flags), strict=False))
        self._names.update(given)
        rows = sorted((string.ascii_lowercase.index(letter), name) for letter, name in self._names.items())
        replace_file(self._path, b"".join(b"%d %b\n" % (number, name.encode("ascii")) for number, name in rows))
        return "".join(given)
