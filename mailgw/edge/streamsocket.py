"""The socket of a stream: whose it is, its options, and how it is closed.

Nothing is read or written here.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that is a reset."""
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


_FAMILIES = {IPv4Address: socket.AF_INET, IPv6Address: socket.AF_INET6, UNIXAddress: socket.AF_UNIX}


def address_of(family: int, name: Any) -> Any:
    """One end of a socket of that family, from what the system calls it.

    @return: L{IPv4Address}, L{IPv6Address} or L{UNIXAddress}.
    """
    if family == socket.AF_INET:
        return IPv4Address("TCP", *name)
    if family == socket.AF_INET6:
        host = socket.getnameinfo(name, _NUMERIC)[0] if name[3] else name[0]  # an address with its scope
        return IPv6Address("TCP", host, *name[1:])
    return UNIXAddress(name or None)


class ConnectedSocket:
    """A socket with somebody at the other end."""

    __slots__ = ("_host", "_peer", "socket")

    def __init__(self, skt: socket.socket, peer: Any) -> None:
        """@param peer: the other end's address."""
        skt.setblocking(False)
        self.socket = skt
        self._peer = peer
        self._host: Any = None

    def set_ends(self, peer: Any, host: Any) -> None:
        """Let these be both ends' addresses from now on, as a proxy in front has told them."""
        self._peer, self._host = peer, host

    def fileno(self) -> int:
        return self.socket.fileno()

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host or address_of(_FAMILIES[type(self._peer)], self.socket.getsockname())

    def getTcpNoDelay(self) -> bool:
        return bool(self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._set(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._set(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def _set(self, level: int, option: int, enabled: bool) -> None:
        try:
            self.socket.setsockopt(level, option, enabled)
        except OSError:  # a UNIX socket has no such option, a closed connection no use for it
            return

    def finish_socket(self) -> bool:
        """Close our direction; tell whether the connection was still there to do that."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def close_socket(self, *, reset: bool) -> None:
        """Close it, with a reset instead of an end if C{reset}."""
        if reset:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()
