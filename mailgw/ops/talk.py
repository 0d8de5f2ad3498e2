"""The few lines of IMAP, POP3, SMTP and ManageSieve that C{mailgw probe} speaks, over a blocking socket.

Says hello, asks for capabilities, asks for TLS; logs in nowhere. A tool of the command line: the gateway itself never
imports it.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from dataclasses import dataclass

_LONGEST = 65536
"""Octets that a server may send before it is told off."""


class TalkError(Exception):
    """The server does not speak as it should; the message says what it did."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers at one point of the conversation.

    @ivar sasl: its SASL mechanisms.
    @ivar login: a password would be taken now, by SASL or by the protocol's own command.
    """

    starttls: bool
    sasl: tuple[str, ...]
    login: bool


class Line:
    """A connection, read line by line until a point in time."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.socket = connection
        self._until = time.monotonic() + seconds
        self._buffer = b""
        self._read = 0

    def patience(self) -> float:
        """Seconds that are left.

        @raise TimeoutError: none.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        return left

    def send(self, text: str) -> None:
        """Send one line."""
        self.socket.settimeout(self.patience())
        self.socket.sendall(text.encode() + b"\r\n")

    def receive(self) -> str:
        """Receive one line, without its end; odd octets escaped.

        @raise TalkError: the server hangs up or goes on without end.
        @raise TimeoutError: it says nothing.
        """
        while b"\n" not in self._buffer:
            self.socket.settimeout(self.patience())
            data = self.socket.recv(4096)
            self._read += len(data)
            if not data:
                raise TalkError("the server hangs up")
            if self._read > _LONGEST:
                raise TalkError("the server talks without end")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return printable(line.rstrip(b"\r").decode("utf-8", "backslashreplace"))

    def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Shake hands.

        @param name: for SNI, and what the certificate is checked against.
        @raise TalkError: there is more in clear behind the go-ahead.
        @raise ssl.SSLError: the handshake fails.
        """
        if self._buffer:
            raise TalkError("the server sends more in clear behind its go-ahead for TLS")
        self.socket.settimeout(self.patience())
        self.socket = context.wrap_socket(self.socket, server_hostname=name)


class Imap:
    """RFC 3501."""

    starttls = "STARTTLS"

    def greet(self, line: Line) -> None:
        """Wait for the greeting."""
        _expect(line.receive(), "* OK", "* PREAUTH")

    def offer(self, line: Line) -> Offer:
        """Ask what is offered."""
        words: set[str] = set()
        for text in self._command(line, "CAPABILITY"):
            if text.upper().startswith("* CAPABILITY "):
                words |= set(text.upper().split()[2:])
        sasl = tuple(sorted(word[5:] for word in words if word.startswith("AUTH=")))
        return Offer("STARTTLS" in words, sasl, "LOGINDISABLED" not in words or bool(sasl))

    def ask_for_tls(self, line: Line) -> None:
        """Get the go-ahead."""
        self._command(line, self.starttls)

    def farewell(self, line: Line) -> None:
        """Leave politely."""
        line.send("z LOGOUT")

    def _command(self, line: Line, command: str) -> list[str]:
        line.send(f"p {command}")
        texts = []
        while not (text := line.receive()).startswith("p "):
            texts.append(text)
        _expect(text, "p OK")
        return texts


class Pop3:
    """RFC 1939, RFC 2449, RFC 2595."""

    starttls = "STLS"

    def greet(self, line: Line) -> None:
        """Wait for the greeting."""
        _expect(line.receive(), "+OK")

    def offer(self, line: Line) -> Offer:
        """Ask what is offered."""
        line.send("CAPA")
        _expect(line.receive(), "+OK")
        words: dict[str, list[str]] = {}
        while (text := line.receive()) != ".":
            name, *rest = text.upper().split() or [""]
            words[name] = rest
        sasl = tuple(sorted(words.get("SASL", [])))
        return Offer("STLS" in words, sasl, "USER" in words or bool(sasl))

    def ask_for_tls(self, line: Line) -> None:
        """Get the go-ahead."""
        line.send(self.starttls)
        _expect(line.receive(), "+OK")

    def farewell(self, line: Line) -> None:
        """Leave politely."""
        line.send("QUIT")


class Smtp:
    """RFC 5321, RFC 3207, RFC 4954; with another hello also LMTP (RFC 2033)."""

    starttls = "STARTTLS"

    def __init__(self, hello: str = "EHLO") -> None:
        self._hello = hello

    def greet(self, line: Line) -> None:
        """Wait for the greeting."""
        self._reply(line, "220")

    def offer(self, line: Line) -> Offer:
        """Ask what is offered."""
        line.send(f"{self._hello} [127.0.0.1]")
        words = [text[4:].upper().replace("AUTH=", "AUTH ") for text in self._reply(line, "250")[1:]]
        sasl = sorted({name for text in words if text.startswith("AUTH ") for name in text.split()[1:]})
        return Offer("STARTTLS" in words, tuple(sasl), bool(sasl))

    def ask_for_tls(self, line: Line) -> None:
        """Get the go-ahead."""
        line.send(self.starttls)
        self._reply(line, "220")

    def farewell(self, line: Line) -> None:
        """Leave politely."""
        line.send("QUIT")

    def _reply(self, line: Line, code: str) -> list[str]:
        texts = [line.receive()]
        while texts[-1][3:4] == "-":
            texts.append(line.receive())
        _expect(texts[-1], code)
        return texts


class ManageSieve:
    """RFC 5804: capabilities come unasked, at first and after TLS."""

    starttls = "STARTTLS"

    def __init__(self) -> None:
        self._pending: list[str] = []

    def greet(self, line: Line) -> None:
        """Wait for the greeting, which has the capabilities."""
        self._pending = self._until_ok(line)

    def offer(self, line: Line) -> Offer:
        """What was announced last."""
        texts, self._pending = self._pending or self._until_ok(line), []
        words = {name.upper(): value for name, value in (self._split(text) for text in texts)}
        sasl = tuple(sorted(words.get("SASL", "").upper().split()))
        return Offer("STARTTLS" in words, sasl, bool(sasl))

    def ask_for_tls(self, line: Line) -> None:
        """Get the go-ahead."""
        line.send(self.starttls)
        _expect(line.receive(), "OK")

    def farewell(self, line: Line) -> None:
        """Leave politely."""
        line.send("LOGOUT")

    def _until_ok(self, line: Line) -> list[str]:
        texts = []
        while (text := line.receive()).startswith('"'):
            texts.append(text)
        _expect(text, "OK")
        return texts

    def _split(self, text: str) -> tuple[str, str]:
        parts = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
        return (parts[0], parts[1] if len(parts) > 1 else "") if parts else ("", "")


Dialect = Imap | Pop3 | Smtp | ManageSieve


def dialect(service: str) -> Dialect:
    """How to talk to a service: imap, pop3, managesieve, lmtp, or one of SMTP's names."""
    if service == "lmtp":
        return Smtp("LHLO")
    kinds: dict[str, type[Dialect]] = {"imap": Imap, "pop3": Pop3, "managesieve": ManageSieve}
    return kinds.get(service, Smtp)()


def printable(text: str) -> str:
    """A server's words, fit for a terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[:500])


def _expect(text: str, *starts: str) -> None:
    if not text.upper().startswith(tuple(start.upper() for start in starts)):
        raise TalkError(f"the server says {text!r}")
