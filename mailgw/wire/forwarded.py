"""What a proxy or a webmail in front tells of the client behind it: by IMAP ID, in Dovecot's fields, or by XCLIENT.

Whom to believe is not decided here. A login is never made of it: C{LOGIN} is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address

from mailgw.model import Peer
from mailgw.wire.address import is_helo
from mailgw.wire.events import Forwarded

ATTRIBUTES = "NAME ADDR PORT PROTO HELO DESTADDR DESTPORT SESSION TTL"
"""What SMTP announces behind XCLIENT; C{NAME} and C{PROTO} are taken and not used."""

_WORD = re.compile(r"([A-Za-z][A-Za-z-]{0,31})=([!-~]{1,1024})")
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/=@-]{0,99}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_XTEXT = re.compile(r"\+([0-9A-F]{2})")


def from_id(said: Mapping[bytes, bytes]) -> Forwarded:
    """Read the fields of an ID; what makes no sense was not told."""
    values = {key: value.decode("latin-1") for key, value in said.items() if key.startswith(b"x-")}
    host = _host(values.get(b"x-originating-ip", ""))
    session = values.get(b"x-session-id", "")
    peer = Peer(
        host,
        _number(values.get(b"x-originating-port", "")) or 0,
        _host(values.get(b"x-connected-ip", "")),
        _number(values.get(b"x-connected-port", "")) or 0,
    )
    return Forwarded(peer if host else None, session if _SESSION.fullmatch(session) else "", hops(said))


def hops(said: Mapping[bytes, bytes]) -> int | None:
    """The C{x-proxy-ttl} of an ID, C{None} where there is none."""
    return _number(said.get(b"x-proxy-ttl", b"").decode("latin-1"))


def from_xclient(argument: str, xtext: bool = False) -> Forwarded | None:
    """Read an XCLIENT command's attributes, or return C{None}: something in them is wrong.

    @param xtext: values are encoded (RFC 3461 §4), as SMTP has them.
    """
    values = {}
    for word in argument.split():
        parts = _WORD.fullmatch(word)
        if parts is None:
            return None
        value = _XTEXT.sub(lambda match: chr(int(match[1], 16)), parts[2]) if xtext else parts[2]
        values[parts[1].upper()] = "" if value.upper() in _UNKNOWN else value
    host, here = (_host(values.get(name, "")) for name in ("ADDR", "DESTADDR"))
    numbers = {name: _number(values.get(name, "")) for name in ("PORT", "DESTPORT", "TTL")}
    session, helo = values.get("SESSION", ""), values.get("HELO", "")
    odd = [name for name, number in numbers.items() if number is None and values.get(name)]
    odd += [name for name, found in (("ADDR", host), ("DESTADDR", here)) if not found and values.get(name)]
    if not values or odd or (session and not _SESSION.fullmatch(session)) or (helo and not is_helo(helo)):
        return None
    peer = Peer(host, numbers["PORT"] or 0, here, numbers["DESTPORT"] or 0) if host else None
    return Forwarded(peer, session, numbers["TTL"], helo)


def _number(text: str) -> int | None:
    """At most five digits, and no more than a port can be."""
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= 65535 else None


def _host(text: str) -> str:
    """An address as the rest of the house writes it, C{""} for what is none."""
    try:
        address = ip_address(text[5:] if text[:5].upper() == "IPV6:" else text)
    except ValueError:
        return ""
    return "" if "%" in text else str(getattr(address, "ipv4_mapped", None) or address)
