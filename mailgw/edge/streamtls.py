"""The two ways in which a stream speaks with its socket: in plaintext, and in TLS with OpenSSL on the socket.

Each reads into one buffer that the whole process shares, and writes as much as the socket takes at once. Neither knows
the reactor, a queue or a protocol: when to read and to write again is the stream's business, L{mailgw.edge.stream}.
"""

from __future__ import annotations

import socket
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectionLost

SIZE = 112 * 1024
"""Octets that one event reads at most; objects beyond 128 KiB would be mapped and faulted in anew each time."""
BURST = 128 * 1024
"""Octets that one event writes at most."""
RECORD = 16384
"""Octets that a TLS record carries at most (RFC 8446 §5.1)."""

BROKEN = (ConnectionLost, SSL.Error, VerificationError)
"""What receiving, sending and the handshake raise when a connection is of no use any more."""

_BUFFER = memoryview(bytearray(SIZE))
_SCRAP = bytearray(4096)


class PlainWire:
    """The socket itself."""

    reads_when_writable = writes_when_readable = holds = False
    """Only TLS has these states."""

    __slots__ = ("handle",)

    def __init__(self, skt: socket.socket) -> None:
        self.handle: Any = skt

    def receive(self) -> memoryview | None:
        """Read once.

        @return: in the process's buffer, to be used before anybody reads again; empty for the peer's end, C{None} if
            there is nothing now.
        @raise ConnectionLost: the connection broke.
        """
        try:
            return _BUFFER[: self.handle.recv_into(_BUFFER)]
        except BlockingIOError:
            return None
        except OSError as error:
            raise ConnectionLost(str(error)) from None

    def send(self, data: memoryview) -> int:
        """Write what the socket takes of the first L{BURST} octets.

        @return: how many octets that was.
        @raise ConnectionLost: the connection broke.
        """
        try:
            sent: int = self.handle.send(data[:BURST] if len(data) > BURST else data)
            return sent
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLost(str(error)) from None

    def part(self) -> bool:
        """Find out whether the peer still talks: closing then is a reset, which can destroy our last words on the way.

        @return: it does not, as far as one can know.
        """
        try:
            return not self.handle.recv_into(_SCRAP)
        except OSError:
            return True


class TlsWire:
    """TLS, OpenSSL reading and writing the socket.

    @ivar handle: the L{SSL.Connection}.
    @ivar reads_when_writable: what is read next needs the socket to be writable first.
    @ivar writes_when_readable: what is written next needs the socket to be readable first.
    """

    __slots__ = ("_ended", "_outcome", "handle", "reads_when_writable", "writes_when_readable")

    def __init__(self, connection: SSL.Connection) -> None:
        self.handle: Any = connection
        self.reads_when_writable = self.writes_when_readable = False
        self._outcome: Exception | None = None
        self._ended = False

    def shake(self) -> bool:
        """Go on with the handshake.

        @return: whether it is complete; otherwise the two states tell what the socket has to be.
        @raise Exception: it failed: L{SSL.Error}, L{VerificationError} or L{ConnectionLost}.
        """
        try:
            self.handle.do_handshake()
        except SSL.WantReadError:
            self.reads_when_writable = False
            return False
        except SSL.WantWriteError:
            self.reads_when_writable = True
            return False
        except (SSL.Error, VerificationError) as error:
            raise _told(error) from None
        self.reads_when_writable = False
        return True

    @property
    def holds(self) -> bool:
        """There is something to receive that the socket will not tell of: decrypted octets, or an end behind them."""
        return self._ended or self._outcome is not None or bool(self.handle.pending())

    def receive(self) -> memoryview | None:
        """Read whole records, as many as are there and the buffer takes.

        @return: as L{PlainWire.receive}; empty for the peer's close_notify.
        @raise Exception: the connection broke, or was cut without close_notify (L{ConnectionLost}), or the peer
            breaks the protocol (L{SSL.Error}).
        """
        self.reads_when_writable = False
        filled = 0 if self._outcome is not None or self._ended else self._fill()
        if filled:
            return _BUFFER[:filled]
        if self._outcome is not None:
            raise self._outcome
        return _BUFFER[:0] if self._ended else None

    def _fill(self) -> int:
        """Fill the buffer; what ends that is kept, for it may come behind octets that have to be delivered first."""
        filled, read = 0, self.handle.recv_into
        try:
            # only whole records are asked for, so that OpenSSL keeps none of their octets back
            while filled <= SIZE - RECORD:
                count = read(_BUFFER[filled:] if filled else _BUFFER, RECORD)
                filled += count
                if count < RECORD:
                    break
        except SSL.WantReadError:
            pass
        except SSL.WantWriteError:
            self.reads_when_writable = True
        except SSL.ZeroReturnError:
            self._ended = True
        except SSL.Error as error:
            self._outcome = _told(error)
        return filled

    def send(self, data: memoryview) -> int:
        """Write what the socket takes of the first L{BURST} octets, a record at a time.

        What was not taken has to come first in the next call: OpenSSL may have encrypted some of it already.

        @return: how many octets that was.
        @raise Exception: as L{receive}.
        """
        self.writes_when_readable = False
        if self._outcome is not None:
            raise self._outcome
        sent, size, write = 0, min(len(data), BURST), self.handle.send
        try:
            while sent < size:
                sent += write(data[sent : sent + RECORD])
        except SSL.WantWriteError:
            pass
        except SSL.WantReadError:
            self.writes_when_readable = True
        except SSL.Error as error:
            self._outcome = _told(error)
        return sent

    def part(self) -> bool | None:
        """Send our close_notify.

        @return: whether the peer's has come too; C{None} if the socket does not take ours now.
        """
        try:
            return bool(self.handle.shutdown())
        except SSL.WantWriteError:
            return None
        except SSL.Error:  # the connection is broken, or never was whole: nobody is there to part from
            return True


def _told(error: Exception) -> Exception:
    """What an error of OpenSSL is to a protocol: a connection cut or reset is L{ConnectionLost}, as in plaintext."""
    if isinstance(error, SSL.SysCallError):
        return ConnectionLost("cut without close_notify" if error.args[0] == -1 else str(error.args[1]))
    if isinstance(error, SSL.Error) and not (error.args and error.args[0]):
        return ConnectionLost("cut without close_notify")
    return error
