"""Envelope: ENVELOPE and BODYSTRUCTURE of a message (RFC 3501 §7.4.2), written from its parts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import getaddresses

from mailgw.local.mime import Part, fields, parse_parameters, unfold

MAX_QUOTED = 1000
"""Octets of a quoted string; a longer one goes as a literal."""
MAX_ADDRESSES = 1000
"""Octets times eight of one address field that is parsed; what the standard library does with it is not linear."""

NIL = b"NIL"


def string(value: bytes | str | None) -> bytes:
    """An nstring: NIL, quoted, or a literal where a quoted string cannot hold it."""
    if value is None:
        return NIL
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    value = value.replace(b"\0", b"")
    if len(value) > MAX_QUOTED or not value.isascii() or b"\r" in value or b"\n" in value:
        return b"{%d}\r\n%b" % (len(value), value)
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def parenthesised(items: Iterable[bytes]) -> bytes:
    """A list."""
    return b"(" + b" ".join(items) + b")"


def envelope(header: bytes) -> bytes:
    """ENVELOPE of a message with that header."""
    first: dict[str, bytes] = {}
    for name, value in fields(header):
        first.setdefault(name, value)
    sender = first.get("from")
    return parenthesised(
        (
            string(first.get("date")),
            string(first.get("subject")),
            addresses(sender),
            addresses(first.get("sender") or sender),
            addresses(first.get("reply-to") or sender),
            addresses(first.get("to")),
            addresses(first.get("cc")),
            addresses(first.get("bcc")),
            string(first.get("in-reply-to")),
            string(first.get("message-id")),
        )
    )


def addresses(value: bytes | None) -> bytes:
    """The addresses of a field, encoded words left as they are; groups lose their names."""
    if not value:
        return NIL
    try:
        found = getaddresses([unfold(value).decode("latin-1")[: MAX_ADDRESSES * 8]])
    except RecursionError:  # a thousand open parentheses, which a stranger may send: these are no addresses
        return NIL
    rows = [_address(name, address) for name, address in found if address]
    return b"(" + b"".join(rows) + b")" if rows else NIL


def _address(name: str, address: str) -> bytes:
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = address, ""
    parts = (name.encode("latin-1") or None, None, local.encode("latin-1"), domain.encode("latin-1"))
    return parenthesised(string(part) for part in parts)


def structure(part: Part, *, extended: bool) -> bytes:
    """BODYSTRUCTURE of a message or part, or BODY where C{extended} is false."""
    if part.multipart:
        return _multipart(part, extended=extended)
    kind, subtype = part.kind
    if kind == "multipart":  # without parts: clients would choke on an empty list
        kind, subtype = "text", "plain"
    items = [string(kind), string(subtype), _parameters(part.parameters or _default(kind))]
    items += [string(part.first("content-id")), string(part.first("content-description"))]
    items += [string(part.first("content-transfer-encoding") or b"7bit"), b"%d" % (part.end - part.body)]
    if part.message is not None:
        items += [envelope(part.message.header), structure(part.message, extended=extended), b"%d" % part.lines]
    elif kind == "message" and subtype == "rfc822":  # too deep to be looked into
        items[:2] = [string("application"), string("octet-stream")]
    elif kind == "text":
        items.append(b"%d" % part.lines)
    if extended:
        items.append(string(part.first("content-md5")))
        items += _extension(part)
    return parenthesised(items)


def _multipart(part: Part, *, extended: bool) -> bytes:
    children = b"".join(structure(child, extended=extended) for child in part.children)
    items = [children, string(part.kind[1])]
    if extended:
        items.append(_parameters(part.parameters))
        items += _extension(part)
    return parenthesised(items)


def _default(kind: str) -> tuple[tuple[str, str], ...]:
    return (("charset", "us-ascii"),) if kind == "text" else ()


def _parameters(parameters: tuple[tuple[str, str], ...]) -> bytes:
    return parenthesised(string(text) for pair in parameters for text in pair) if parameters else NIL


def _extension(part: Part) -> list[bytes]:
    """Disposition, language and location."""
    disposition = NIL
    if value := part.first("content-disposition"):
        name, parameters = parse_parameters(value)
        disposition = parenthesised((string(name.lower()), _parameters(parameters)))
    languages = [word.strip() for word in (part.first("content-language") or b"").split(b",") if word.strip()]
    language = parenthesised(string(word) for word in languages) if languages else NIL
    return [disposition, language, string(part.first("content-location"))]
