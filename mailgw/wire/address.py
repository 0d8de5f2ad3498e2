"""Envelope addresses: the paths of MAIL and RCPT and the argument of EHLO, by the grammar of RFC 5321 §4.1.2.

It decides on syntax only. What it returns is canonical, printable ASCII and safe between angle brackets: a local part
that is quoted without need comes out unquoted, so that no policy can be walked around with quotes.
"""

from __future__ import annotations

import ipaddress
import re

MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_MAILBOX = 254
"""Octets of C{local@domain}: a path has 256 with its angle brackets (RFC 5321 §4.5.3.1.3)."""

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
# The underscore is no host name's, but senders of real mail have it in their domains; no resolver minds.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\[ -~])+)"')
_HOST = re.compile(_DOMAIN)
_ROUTE = re.compile(rf"@{_DOMAIN}(?:,@{_DOMAIN})*:")
_LITERAL = re.compile(r"\[(IPv6:)?([0-9A-Fa-f.:]{2,45})\]", re.IGNORECASE)
_HELO_LITERAL = re.compile(r"\[[A-Za-z0-9.:%_-]{1,100}\]")
_PATH = re.compile(r' ?<((?:"(?:[ !#-\[\]-~]|\\[ -~])*"|[^<>"])*)>(?: +(.*))?', re.DOTALL)


def split_path(text: str) -> tuple[str, str] | None:
    """Cut what follows C{FROM:} or C{TO:} into what is between the angle brackets and the parameters behind.

    One blank before the path is tolerated, as Postfix does: widespread senders put it there.
    """
    match = _PATH.fullmatch(text)
    return (match[1], match[2] or "") if match else None


def mailbox(text: str) -> str | None:
    """Return C{local@domain} in canonical form, or C{None}. A source route before it is ignored (RFC 5321 §C)."""
    if route := _ROUTE.match(text):
        text = text[route.end() :]
    local, _, domain = text.rpartition("@")
    canonical = _local_part(local)
    if canonical is None or not _is_domain(domain) or len(canonical) + 1 + len(domain) > MAX_MAILBOX:
        return None
    return f"{canonical}@{domain}"


def is_helo(text: str) -> bool:
    """Whether this can be what a client calls itself: a domain, or something like an address literal.

    Literals are taken more widely than in paths: clients name interfaces and leave out C{IPv6:}.
    """
    return len(text) <= MAX_DOMAIN and bool(_HOST.fullmatch(text) or _HELO_LITERAL.fullmatch(text))


def _local_part(text: str) -> str | None:
    if _DOT_STRING.fullmatch(text):
        return text if len(text) <= MAX_LOCAL else None
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return None
    bare = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(bare) > MAX_LOCAL:
        return None
    if _DOT_STRING.fullmatch(bare):
        return bare
    return '"' + re.sub(r'(["\\])', r"\\\1", bare) + '"'


def _is_domain(text: str) -> bool:
    if literal := _LITERAL.fullmatch(text):
        try:
            address = ipaddress.ip_address(literal[2])
        except ValueError:
            return False
        return (address.version == 6) == bool(literal[1])
    return len(text) <= MAX_DOMAIN and bool(_HOST.fullmatch(text))
