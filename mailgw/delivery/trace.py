"""The Received header that every message gets here (RFC 5321 §4.4, RFC 3848).

It is built of checked parts only: a name by the grammar of EHLO, literal addresses, our own id. No header of the
message itself is looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from mailgw.model import Peer


def received(
    peer: Peer,
    helo: str,
    hostname: str,
    session_id: str,
    seconds: float,
    *,
    esmtp: bool,
    secure: bool,
    authenticated: bool,
    recipient: str = "",
) -> bytes:
    """Write the header, with its line end.

    @param helo: what the client called itself, as L{mailgw.wire.address.is_helo} lets it pass.
    @param seconds: since the epoch.
    @param recipient: the only one; empty where there are several, who need not know of each other.
    """
    lines = [
        f"Received: from {helo} ({_literal(peer.host)})",
        f"by {hostname} (mailgw) with {_protocol(esmtp, secure, authenticated)} id {session_id}",
    ]
    if recipient:
        lines.append(f"for <{recipient}>")
    date = format_datetime(datetime.fromtimestamp(seconds, UTC))
    return ("\r\n\t".join(lines) + f";\r\n\t{date}\r\n").encode("ascii", "replace")


def _literal(host: str) -> str:
    """An address literal (RFC 5321 §4.1.3); a UNIX socket has none."""
    if not host[:1].isdigit() and ":" not in host:
        return "local"
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


def _protocol(esmtp: bool, secure: bool, authenticated: bool) -> str:
    if not (esmtp or secure or authenticated):
        return "SMTP"
    return "ESMTP" + "S" * secure + "A" * authenticated
