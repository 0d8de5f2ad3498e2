"""Names: from a user to a path, from a mailbox name to a Maildir++ folder, and back. Nothing here touches a disk.

The two borders that names from outside have to cross are here and nowhere else: what they let through cannot leave
the user's own Maildir. Inside, a mailbox name is decoded text with "." between its levels.
"""

from __future__ import annotations

import binascii
import os
import re

from mailgw.errors import LoginRefused, MailgwError, SettingsError
from mailgw.model import RefusalKind

DELIMITER = "."
"""Between the levels of a mailbox name: the one that Maildir++ writes into folder names, so that no name needs to be
translated and none that contains it can be an alias of another."""
INBOX = "INBOX"
MAX_NAME = 200
"""Octets of an encoded mailbox name; file systems take 255 for one name, and we need a few for ourselves."""

SPECIAL_USE = {
    "Archive": "\\Archive",
    "Drafts": "\\Drafts",
    "Junk": "\\Junk",
    "Sent": "\\Sent",
    "Trash": "\\Trash",
}
"""Folders whose use their name tells (RFC 6154); clients create them under these names."""

_PART = re.compile(r"[a-z0-9._+-]+")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f/\ud800-\udfff]")


class BadName(MailgwError):
    """A mailbox name that no mailbox can have; the text may be shown to the client."""


def check_template(template: str) -> str:
    """Return C{[local] path} if it can give each user a folder of their own.

    @raise SettingsError: it cannot.
    """
    if "{local}" not in template:
        raise SettingsError(["local.path: has no {local}: all users would share one mailbox"])
    if re.search(r"[{}]", template.replace("{local}", "").replace("{domain}", "")):
        raise SettingsError(["local.path: knows only {local} and {domain}"])
    return template


def user_path(template: str, username: str, hostname: str) -> str:
    """Fill C{[local] path} from a canonical user name.

    @param hostname: stands for the domain of a name that has none.
    @raise LoginRefused: a part of the name cannot be a part of a path.
    """
    local, at, domain = username.rpartition("@")
    if not at:
        local, domain = username, hostname
    for part in (local, domain):
        if not _PART.fullmatch(part) or part in (".", ".."):
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"user name {username!r} cannot be a path of the local store")
    return template.replace("{local}", local).replace("{domain}", domain)


def decode(wire: bytes) -> str:
    """Read a mailbox name off the wire: modified UTF-7 (RFC 3501 §5.1.3), INBOX in any case.

    @raise BadName: it is not well encoded, or no mailbox can have this name.
    """
    try:
        name = wire.decode("imap4-utf-7")
        canonical = name.encode("imap4-utf-7")
    except (UnicodeError, binascii.Error, ValueError):
        raise BadName("Mailbox name is not modified UTF-7") from None
    if canonical != wire:  # two spellings of one name would be two folders to Dovecot and one to us
        raise BadName("Mailbox name is not canonical modified UTF-7")
    return checked(name)


def checked(name: str) -> str:
    """Return the name, its INBOX in capitals, if a mailbox can have it.

    @raise BadName: it cannot.
    """
    first, *rest = name.split(DELIMITER)
    if first.upper() == INBOX:
        first = INBOX
    name = DELIMITER.join((first, *rest))
    if not all((first, *rest)) or _FORBIDDEN.search(name):
        raise BadName("Mailbox name has an empty level or a forbidden character")
    if len(encode(name)) > MAX_NAME:
        raise BadName("Mailbox name is too long")
    return name


def creatable(name: str) -> str:
    """Return the name if a new mailbox may get it.

    @raise BadName: it would be a pattern to LIST.
    """
    if "%" in name or "*" in name:
        raise BadName("Mailbox name has a wildcard in it")
    return checked(name)


def encode(name: str) -> bytes:
    """Write a mailbox name as it goes over the wire, and onto the disk."""
    return name.encode("imap4-utf-7")


def folder_path(root: str, name: str) -> str:
    """Where a mailbox of that name is: the root for INBOX, C{.Name.Sub} in it for all others.

    @param name: a name that L{decode} or L{checked} returned.
    """
    if name == INBOX:
        return root
    return os.path.join(root, DELIMITER + encode(name).decode("ascii"))


def folder_name(entry: str) -> str | None:
    """The mailbox name of a folder found in a root, or C{None}: no mailbox of ours."""
    if not entry.startswith(DELIMITER) or entry.startswith(DELIMITER * 2):
        return None
    try:
        return decode(entry[1:].encode("ascii"))
    except (BadName, UnicodeError):
        return None


def matches(pattern: str, name: str) -> bool:
    """Whether LIST's pattern covers a name (RFC 3501 §6.3.8): C{*} is anything, C{%} anything but the delimiter.

    All ways to match are followed at once: a backtracking regular expression would take years for C{*a*a*a*a*b}.
    """
    reached = {0}
    for character in pattern:
        if character == "*":
            reached = set(range(min(reached), len(name) + 1))
        elif character == "%":
            reached = {end for start in reached for end in range(start, _level_end(name, start) + 1)}
        else:
            reached = {at + 1 for at in reached if name[at : at + 1] == character}
        if not reached:
            return False
    return len(name) in reached


def _level_end(name: str, start: int) -> int:
    end = name.find(DELIMITER, start)
    return len(name) if end < 0 else end


def full_pattern(reference: str, wildcard: str) -> str:
    """Put LIST's two arguments together, and write INBOX in capitals."""
    text = reference + wildcard
    first, delimiter, rest = text.partition(DELIMITER)
    return INBOX + delimiter + rest if first.upper() == INBOX else text
