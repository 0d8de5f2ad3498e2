"""Which names and passwords a directory looks at at all, and how a name falls into its parts.

Nothing here knows a directory. What a dialogue let through is checked again: a directory must be safe by itself.
"""

from __future__ import annotations

import re

from mailgw.errors import LoginRefused
from mailgw.model import Login, RefusalKind

MAX_NAME = 256
"""Octets."""
MAX_PASSWORD = 1024
"""Octets."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_FORBIDDEN_IN_PASSWORD = re.compile(rb"[\r\n\0]")


def well_formed(name: str) -> bool:
    """True for a name that may be looked for: not empty, not too long, no control characters."""
    return 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME and not _CONTROL.search(name)


def password_fault(password: bytes) -> str:
    """Say what is wrong with a password, or C{""}.

    An empty one would be an LDAP bind that succeeds for anybody (RFC 4513 §5.1.2).
    """
    if not password:
        return "empty password"
    if len(password) > MAX_PASSWORD:
        return "password too long"
    return "CR, LF or NUL in the password" if _FORBIDDEN_IN_PASSWORD.search(password) else ""


def refuse_malformed(login: Login) -> None:
    """Refuse a login that no directory may be asked about.

    @raise LoginRefused: with C{CREDENTIALS}.
    """
    if not well_formed(login.username):
        raise LoginRefused(RefusalKind.CREDENTIALS, "malformed user name")
    if fault := password_fault(login.password):
        raise LoginRefused(RefusalKind.CREDENTIALS, fault)


def split_name(name: str) -> tuple[str, str]:
    """Cut at the last C{@}: local part and domain; without a domain the local part is the whole name."""
    local, at, domain = name.rpartition("@")
    return (local, domain) if at else (name, "")
