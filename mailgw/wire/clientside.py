"""ClientSide: what the dialogues with backends share: framing, caps on what a backend may say, STARTTLS, and failures.

It knows no command and no reply: a protocol's dialogue brings both. It trusts nothing that a backend says, and shows
none of it to a client: failures carry their words for our log only.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from mailgw.model import Access, Failure, Forward
from mailgw.wire.events import Event, Ready, Refused, Send, StartTLS
from mailgw.wire.lines import LineBuffer
from mailgw.wire.sasl import encode, plain_response, unfit

MAX_LINE = 8192
"""Octets of one line of a backend."""
MAX_TOTAL = 65536
"""Octets that a backend may use up until we are logged in."""
MAX_QUOTED = 160
"""Octets of a backend's line that our log shows."""

_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+")
_VALUE = re.compile(r"[!-~]{1,255}")
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


class ClientSide(ABC):
    """The state of one login on a backend. What is counted is what was used up, not what has come, so that the same
    octets bring the same events wherever the network cut them.
    """

    __slots__ = (
        "_access",
        "_forward",
        "_lines",
        "_over",
        "_presented",
        "_secure",
        "_starttls",
        "_taken",
        "_unfit",
        "_upgrading",
    )

    def __init__(self, access: Access, forward: Forward, starttls: bool) -> None:
        """@param starttls: TLS comes first, or there is no login."""
        self._access, self._unfit = access, unfit(access)
        self._forward = forward
        self._starttls = starttls
        self._lines = LineBuffer(MAX_LINE)
        self._taken = 0
        self._secure = self._upgrading = self._over = False
        self._presented = False

    @property
    def forward(self) -> Forward:
        """What the backend may be told about the client."""
        return self._forward

    # --- what a protocol brings --------------------------------------------------------------------------------------

    @abstractmethod
    def _line(self, line: bytes) -> list[Event]:
        """A line of the backend."""

    @abstractmethod
    def _restart(self) -> list[Event]:
        """TLS is up: forget what was learnt before, and ask anew."""

    # --- IClientDialogue ---------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Event]:
        """Bytes came from the backend."""
        if self._over:
            return []
        if self._upgrading:
            return self._refuse(Failure.TLS, "bytes in clear behind the go-ahead for TLS")
        if self._unfit:
            return self._refuse(Failure.PROTOCOL, self._unfit)
        self._lines.feed(data)
        return self._advance()

    def secured(self) -> list[Event]:
        """TLS is up; what the backend said before it is forgotten."""
        if self._over:
            return []
        self._secure, self._upgrading = True, False
        self._lines = LineBuffer(MAX_LINE)
        return self._restart()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _advance(self) -> list[Event]:
        events: list[Event] = []
        while not (self._over or self._upgrading):
            line = self._next_line()
            if line is None:
                if self._lines.fault:
                    events += self._refuse(Failure.PROTOCOL, self._lines.fault)
                break
            events += self._line(line)
        return events

    def _next_line(self) -> bytes | None:
        """Return the next line that is to be looked at, or C{None}: it is not all here."""
        line = self._lines.next_line()
        if line is None or not self._use(len(line) + 2):
            return None
        return line

    def _use(self, count: int) -> bool:
        """Count octets that were used up. When they are too many, the buffer gets a fault, and no more lines come."""
        self._taken += count
        if self._taken > MAX_TOTAL:
            self._lines.fault = "too much before we are logged in"
        return self._taken <= MAX_TOTAL

    # --- what every protocol does ------------------------------------------------------------------------------------

    def _send(self, *lines: bytes) -> list[Event]:
        """Send command lines in one write."""
        return [Send(b"".join(line + b"\r\n" for line in lines))]

    def _present(self, line: bytes) -> list[Event]:
        """Send the line that completes the credentials: from now on a refusal means them."""
        self._presented = True
        return self._send(line)

    def _upgrade(self) -> list[Event]:
        """The backend gave its go-ahead. Anything glued to it was said in clear, and would count as encrypted."""
        if len(self._lines):
            return self._refuse(Failure.TLS, "bytes in clear behind the go-ahead for TLS")
        self._upgrading = True
        return [StartTLS()]

    def _ready(self, text: bytes, kept: bytes = b"") -> list[Event]:
        """Logged in. C{kept} are whole lines that the backend sent after its login reply and before its last reply."""
        self._over = True
        return [Ready(text, kept + self._lines.rest())]

    def _refuse(self, kind: Failure, text: str, line: bytes = b"") -> list[Event]:
        """It does not work; the dialogue is over, and keeps nothing of what the backend sent.

        @param line: the backend's words, for the log.
        """
        self._over = True
        self._lines = LineBuffer(0)
        return [Refused(kind, f"{text}: {self._quote(line)}" if line else text)]

    def _quote(self, line: bytes) -> str:
        """A backend's line, fit for a log: escaped, cut, and without the password, should the backend repeat it."""
        password = self._access.password
        secrets = (password, encode(password), encode(plain_response(self._access)))
        if any(secret and secret in line for secret in secrets):
            return "(it repeats the password)"
        return repr(line[:MAX_QUOTED])[2:-1]


def printable(text: bytes) -> bytes:
    """A backend's words as a client may see them: ASCII without control characters."""
    return _UNPRINTABLE.sub(b"?", text)


def endpoint(host: str, port: int) -> tuple[str, str]:
    """Address and port as backends read them, both empty where there is no IP address (a UNIX socket, a zone)."""
    return (host, str(port)) if _ADDRESS.fullmatch(host) else ("", "")


def xclient(forward: Forward) -> bytes:
    """The XCLIENT command of POP3 and ManageSieve as Dovecot reads it; other than in SMTP, IPv6 has no prefix."""
    host, port = endpoint(forward.peer.host, forward.peer.port)
    fields = {"ADDR": host, "PORT": port, "SESSION": forward.session_id, "TTL": str(forward.ttl)}
    words = [f"{name}={value}" for name, value in fields.items() if _VALUE.fullmatch(value)]
    return " ".join(["XCLIENT", *words]).encode()
