"""Mail clients for tests: those of the standard library with a trusted authority, bare connections, and openssl.

They block: the gateway under test is another process.
"""

from __future__ import annotations

import imaplib
import poplib
import re
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.integration.ports import HOST, program

imaplib.Commands.setdefault("ID", ("NONAUTH", "AUTH", "SELECTED"))
_SECONDS = 30.0


def trusting(ca: Path) -> ssl.SSLContext:
    """A client's TLS context that trusts this authority and nobody else, and checks the name."""
    return ssl.create_default_context(cafile=str(ca))


class Imap(imaplib.IMAP4):
    """An IMAP client, from an address of loopback that tells it apart in logs.

    @ivar tls: C{"starttls"}, C{"implicit"} or C{"none"}.
    """

    def __init__(
        self, port: int, tls: str, context: ssl.SSLContext | None, source: str = HOST, seconds: float = _SECONDS
    ) -> None:
        self._context, self._implicit, self._source = context, tls == "implicit", source
        super().__init__("localhost", port, seconds)
        if tls == "starttls":
            self.starttls(context)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return _connected(self.port, timeout, self._source, self._context if self._implicit else None)

    def append_message(self, message: bytes, folder: str = "INBOX") -> None:
        """APPEND, or the test fails."""
        answer = self.append(folder, "", "", message)
        assert answer[0] == "OK", answer

    def count(self) -> int:
        """How many messages the selected folder has."""
        told: Any = self.untagged_responses["EXISTS"][-1]
        return int(told)

    def message(self, number: int | str = 1) -> bytes:
        """The whole of one message, its flags unchanged."""
        parts: list[Any] = self.fetch(str(number), "(BODY.PEEK[])")[1]
        assert isinstance(parts[0], tuple), parts
        found: bytes = parts[0][1]
        return found


class Pop3(poplib.POP3):
    """A POP3 client, from an address of loopback that tells it apart in logs."""

    def __init__(
        self, port: int, tls: str, context: ssl.SSLContext | None, source: str = HOST, seconds: float = _SECONDS
    ) -> None:
        self._context, self._implicit, self._source = context, tls == "implicit", source
        super().__init__("localhost", port, seconds)
        if tls == "starttls":
            self.stls(context)

    def _create_socket(self, timeout: float) -> socket.socket:
        return _connected(self.port, timeout, self._source, self._context if self._implicit else None)

    def login(self, user: str, password: bytes) -> bytes:
        """USER and PASS; any octet but CR, LF and NUL in the password.

        @raise poplib.error_proto: refused.
        """
        self.user(user)
        return self._ask(b"PASS " + password)

    def _ask(self, command: bytes) -> bytes:
        poplib_self: Any = self  # typeshed does not know what stands below the commands
        poplib_self._putline(command)
        answer: bytes = poplib_self._getresp()
        return answer

    def message(self, number: int = 1) -> bytes:
        """The whole of one message.

        poplib refuses lines over 2048 octets, which mail may have; this reads on.
        """
        self._ask(b"RETR %d" % number)
        lines: list[bytes] = []
        while (line := self.file.readline()) != b".\r\n":
            assert line.endswith(b"\r\n"), line[-100:]
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)


class Smtp(smtplib.SMTP):
    """An SMTP client, from an address of loopback that tells it apart in logs; EHLO is said."""

    def __init__(
        self, port: int, tls: str, context: ssl.SSLContext | None, source: str = HOST, seconds: float = _SECONDS
    ) -> None:
        self._context, self._implicit, self._source = context, tls == "implicit", source
        super().__init__("localhost", port, "client.example", seconds)
        self.ehlo()
        if tls == "starttls":
            self.starttls(context=context)
            self.ehlo()

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return _connected(port, timeout, self._source, self._context if self._implicit else None)


def _connected(port: int, timeout: float | None, source: str, context: ssl.SSLContext | None) -> socket.socket:
    raw = socket.create_connection((HOST, port), timeout, (source, 0))
    return context.wrap_socket(raw, server_hostname="localhost") if context is not None else raw


class Wire:
    """A bare connection: sends what it is told, in the segments that it is told."""

    def __init__(
        self, port: int, context: ssl.SSLContext | None = None, seconds: float = _SECONDS, source: str = HOST
    ) -> None:
        """
        @param context: TLS from the first byte on.
        """
        self._socket = _connected(port, seconds, source, context)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *unused: object) -> None:
        self._socket.close()

    def send(self, *segments: bytes) -> None:
        """Send these, each with a write (a TLS record) of its own."""
        for segment in segments:
            self._socket.sendall(segment)

    def line(self) -> bytes:
        """The next line, without its CRLF; what there is when the connection ends."""
        return self.until(b"\r\n").removesuffix(b"\r\n")

    def until(self, mark: bytes) -> bytes:
        """All up to and with that mark; what there is when the connection ends."""
        while mark not in self._buffer and (more := self._more()):
            self._buffer += more
        end = self._buffer.find(mark) + len(mark) if mark in self._buffer else len(self._buffer)
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found

    def rest(self) -> bytes:
        """All until the connection ends.

        @raise TimeoutError: the peer does not end it.
        """
        while more := self._more():
            self._buffer += more
        found, self._buffer = self._buffer, b""
        return found

    def reply(self) -> bytes:
        """An SMTP reply with all its lines."""
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return b"\r\n".join(lines)

    def tagged(self, tag: bytes) -> list[bytes]:
        """IMAP: the lines up to and with the one of that tag."""
        lines = [self.line()]
        while lines[-1] and not lines[-1].startswith(tag + b" "):
            lines.append(self.line())
        return lines

    def secure(self, context: ssl.SSLContext) -> None:
        """The handshake after a go-ahead.

        @raise ssl.SSLError, OSError: the peer does not take part.
        """
        assert not self._buffer, f"after the go-ahead, in clear: {self._buffer!r}"
        self._socket = context.wrap_socket(self._socket, server_hostname="localhost")

    def _more(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""


def handshake(port: int, ca: Path, starttls: str = "", more: Sequence[str] = ()) -> str:
    """What C{openssl s_client} tells about a verified TLS handshake.

    @param starttls: imap, pop3 or smtp; empty for implicit TLS.
    @raise AssertionError: no handshake, or the certificate or its name is wrong.
    """
    command = [program("openssl") or "openssl", "s_client", "-connect", f"{HOST}:{port}", "-CAfile", str(ca)]
    command += ["-verify_return_error", "-verify_hostname", "localhost", "-brief", *more]
    command += ["-starttls", starttls] if starttls else []
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
    told = (done.stderr + done.stdout).decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode}\n{told}"
    assert re.search(r"^Verification: OK$", told, re.MULTILINE), told
    return told
