"""What LDAP servers answer, read: entries become identities, result codes become reasons.

Pure: it asks nobody, and it does not know ldap3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mailgw.directory.names import well_formed
from mailgw.model import Identity

SUCCESS = 0
SIZE_LIMIT_EXCEEDED = 4
TROUBLED = frozenset({51, 52})
"""busy, unavailable (RFC 4511 §A.2): another server may do better."""
REFUSED: Mapping[int, str] = MappingProxyType(
    {
        19: "constraint violation, as a locked account answers",
        32: "the entry is gone",
        48: "the entry has no password",
        49: "wrong password",
        53: "unwilling to perform, as a disabled account answers",
    }
)
"""Result codes of a bind that are about the user, not about the server."""
_PASSWORD_POLICY = {0: "password expired", 1: "account locked", 2: "password must be changed"}
_ACTIVE_DIRECTORY = {
    "525": "no such user",
    "530": "not at this time of day",
    "531": "not from this machine",
    "532": "password expired",
    "533": "account disabled",
    "701": "account expired",
    "773": "password must be changed",
    "775": "account locked",
}
_DATA = re.compile(r"\bdata ([0-9a-f]{3}),")
_PLACE = re.compile(r"\{(\w*)\}")
_ESCAPE = re.compile(rb"\\([0-9a-fA-F]{2}|.)")


class EntryFault(ValueError):
    """The directory's data do not say who this is: no canonical name, or several entries."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A server's result (RFC 4511 §4.1.9).

    @ivar control: the value of the password policy's response control (draft-behera-ldap-password-policy), or C{b""}.
    """

    code: int
    text: str = ""
    control: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry found; the names of its attributes are in lower case."""

    dn: str
    attributes: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, dn: str, raw: Mapping[str, Iterable[bytes]]) -> Entry:
        """Decode an entry; values that are not UTF-8 are left out, no mail attribute is binary."""
        return cls(dn, {name.lower(): tuple(_decoded(values)) for name, values in raw.items()})

    def values(self, name: str) -> tuple[str, ...]:
        """The values of an attribute, blanks around them removed."""
        return tuple(value.strip() for value in self.attributes.get(name.lower(), ()) if value.strip())


def read_identity(
    entry: Entry, directory: str, username: str, addresses: Iterable[str], others: Iterable[str], groups: Iterable[str]
) -> Identity:
    """Make an identity of an entry.

    @param username: the attribute that is the canonical name.
    @param addresses: the attributes that hold addresses; Active Directory's C{smtp:} before one is taken off.
    @param others: the attributes that routing rules look at; they keep the names given here.
    @raise EntryFault: there is no canonical name, or more than one, or it holds control characters. The order of
        values means nothing (RFC 4512 §2.5.2): the first could be another one tomorrow.
    """
    names = entry.values(username)
    if len(names) != 1:
        raise EntryFault(f"{entry.dn} has {len(names)} values of {username}; the canonical name needs exactly one")
    if not well_formed(names[0]):
        raise EntryFault(f"{entry.dn}: {username} is no user name")
    mail = (value.lower().removeprefix("smtp:") for name in addresses for value in entry.values(name))
    attributes = {name: values for name in others if (values := entry.values(name))}
    return Identity(names[0], directory, entry.dn, tuple(dict.fromkeys(mail)), tuple(groups), attributes)


def why_refused(outcome: Outcome) -> str:
    """The reason of a refused bind, for our log only."""
    reason = REFUSED.get(outcome.code, f"result code {outcome.code}")
    if (known := _DATA.search(outcome.text)) and known[1] in _ACTIVE_DIRECTORY:
        reason = _ACTIVE_DIRECTORY[known[1]]
    if outcome.control[-3:-1] == b"\x81\x01":  # the error is the last element: [1] ENUMERATED of one octet
        reason = _PASSWORD_POLICY.get(outcome.control[-1], reason)
    return reason


def places(template: str) -> set[str]:
    """The names in braces that a filter's template uses."""
    return set(_PLACE.findall(template))


def fill(template: str, escape: Callable[[str], str], values: Mapping[str, str]) -> str:
    """Put values into a filter's template, each of them escaped; there is no way around that."""
    return _PLACE.sub(lambda place: escape(values[place[1]]), template)


def comparable_dn(dn: str) -> bytes:
    """A distinguished name in a form that can be compared: lower case, no blanks at separators, escapes resolved.

    Good for telling whether two spellings of a group's name mean one group; not a full RFC 4518 preparation.
    """
    text = re.sub(r"\s*(?<!\\)([,;+=])\s*", lambda match: match[1].replace(";", ","), dn.strip()).lower()

    def resolve(match: re.Match[bytes]) -> bytes:
        octets = bytes.fromhex(match[1].decode()) if len(match[1]) == 2 else match[1]
        # An escaped separator must not become one.
        return b"\\" + octets if octets in b',+=";<>#\\' else octets

    return _ESCAPE.sub(resolve, text.encode())


def _decoded(values: Iterable[bytes]) -> Iterable[str]:
    for value in values:
        try:
            yield value.decode("utf-8")
        except UnicodeDecodeError:
            continue
