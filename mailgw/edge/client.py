"""Who is at the other end of a client's connection, as its transport and those in front of us tell.

Whom to believe is not decided here.
"""

from __future__ import annotations

import os
from typing import Any

from OpenSSL import SSL

from mailgw.model import Peer
from mailgw.names import asked_for

NO_TLS = ("", "", "")


def peer_of(transport: Any) -> Peer:
    """Both ends of a connection; on a UNIX socket nobody has an address."""
    peer, host = transport.getPeer(), transport.getHost()
    return Peer(
        getattr(peer, "host", "local"), getattr(peer, "port", 0), getattr(host, "host", ""), getattr(host, "port", 0)
    )


def complete(told: Peer, ours: Peer) -> Peer:
    """What was told of a client's connection, with our own end where that was not told."""
    return told if told.local_host else Peer(told.host, told.port, ours.local_host, ours.local_port)


def tls_of(transport: Any) -> tuple[str, str, str]:
    """Version and cipher of TLS, and the host name that the client asked for, where the transport can tell."""
    handle = transport.getHandle() if hasattr(transport, "getHandle") else None
    if not isinstance(handle, SSL.Connection):
        return NO_TLS
    return handle.get_protocol_version_name(), handle.get_cipher_name() or "", asked_for(handle.get_servername())


_LETTERS = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""One letter for each octet, each letter for eight of them."""


def new_session_id() -> str:
    """Sixteen letters and digits that name a session in every log on its way."""
    return os.urandom(16).translate(_LETTERS).decode()
