"""Backends that lie: each is a thread with a script, and remembers every octet that it was told.

They are no servers: a script says what it wants whatever it hears. What honest ones do is for Dovecot and Exim to show.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable

from tests.integration.certificates import certificates
from tests.integration.ports import HOST, free_port

BABBLE = b"blabber-of-the-backend"
"""In everything that a liar says of its own, and in nothing that a client should see."""
_SECONDS = 20.0
"""After which a script is over, whatever it waits for."""


class Over(Exception):
    """The gateway ended the connection, or the test is over."""


class Heard:
    """One connection, as a script sees it.

    @ivar all: what was heard, by whether it was in clear.
    """

    def __init__(self, liar: Liar, connection: socket.socket) -> None:
        self._liar, self._socket = liar, connection
        self.all = {True: b"", False: b""}
        self._socket.settimeout(_SECONDS)
        self._buffer = b""
        self._clear = True

    def say(self, *segments: bytes) -> None:
        """Send these."""
        for segment in segments:
            try:
                self._socket.sendall(segment)
            except OSError:
                raise Over from None

    def line(self) -> bytes:
        """The next line, without its CRLF."""
        while b"\r\n" not in self._buffer:
            self.hear()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def until(self, *words: bytes) -> bytes:
        """Read lines up to the first one with one of these words in it."""
        while True:
            line = self.line()
            if any(word in line.upper() for word in words):
                return line

    def listen(self) -> None:
        """Hear all until the gateway ends the connection."""
        while True:
            self.hear()

    def secure(self) -> None:
        """The server's side of the handshake, with the certificate for C{localhost} and 127.0.0.1."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates().certificate, certificates().key)
        try:
            self._socket = context.wrap_socket(self._socket, server_side=True)
        except OSError:
            raise Over from None
        self._clear = False

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        raise Over

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def half_close(self) -> None:
        """Say nothing more, and go on listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def drip(self, data: bytes) -> None:
        """Send an octet a second."""
        for octet in data:
            self.say(bytes([octet]))
            time.sleep(1.0)

    def flood(self, data: bytes, most: int) -> None:
        """Send this again and again, until the gateway ends the connection or took C{most} octets."""
        while self._liar.said < most:
            self.say(data)
            self._liar.said += len(data)

    def hear(self) -> None:
        """Wait for something."""
        try:
            more = self._socket.recv(65536)
        except OSError:
            raise Over from None
        if not more:
            raise Over
        self._buffer += more
        self.all[self._clear] += more


Script = Callable[[Heard], None]


class Liar:
    """One port where a script answers.

    @ivar said: octets that L{Heard.flood} got rid of.
    @ivar visits: connections so far.
    """

    def __init__(self, script: Script, host: str = HOST) -> None:
        self.port, self._script = free_port(), script
        self.said = self.visits = 0
        self._connections: list[Heard] = []
        self._listener = socket.create_server((host, self.port))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def heard(self) -> dict[bool, bytes]:
        """All that was heard, connection by connection, by whether it was in clear."""
        return {clear: b"".join(one.all[clear] for one in self._connections) for clear in (True, False)}

    def forget(self) -> None:
        """What is heard on the connections that there were does not count any more, however late it comes."""
        self._connections = []

    def stop(self) -> None:
        """Accept nobody any more; scripts that still run end with the gateway's connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # stopped
                return
            self.visits += 1
            heard = Heard(self, connection)
            self._connections.append(heard)
            threading.Thread(target=self._play, args=(heard,), daemon=True).start()

    def _play(self, heard: Heard) -> None:
        with contextlib.suppress(Over, OSError):
            self._script(heard)
        heard.close()
