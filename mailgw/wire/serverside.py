"""ServerSide: what the dialogues with clients share up to a login: framing, caps, SASL, and the wait for a verdict.

It knows no command and no reply: a protocol's dialogue brings both. It is not for SMTP, which goes on after the login.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from enum import Enum, auto

from mailgw.model import Login, Refusal, RefusalKind
from mailgw.wire.events import Close, Event, Send, StartTLS
from mailgw.wire.lines import BARE_LF, LineBuffer
from mailgw.wire.protocol import Terms
from mailgw.wire.sasl import MECHANISMS, Challenge, Malformed, Outcome, ServerMechanism, decode, encode

_FOREIGN = re.compile(
    rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PRI)(?: |\Z)|SSH-[0-9]|(?i:Host:|User-Agent:)"
    rb"|PROXY (?:TCP[46]|UNKNOWN)"
)
"""How a client of another protocol begins: a browser made to post to us (ALPACA), a lost SSH client, or a proxy whose
header nobody has asked for."""

_HANDSHAKE = b"\x16"
"""The first octet of a TLS record that carries a ClientHello (RFC 8446 §5.1); no command begins with it."""

MAX_COMMANDS = 100
"""Commands before the login: an answer can be many times as long as its command, and is kept until it is read."""


class Stage(Enum):
    """What the next octets of a client are."""

    COMMAND = auto()
    LITERAL = auto()
    TAIL = auto()
    RESPONSE = auto()
    WAITING = auto()
    UPGRADING = auto()
    OVER = auto()


_READING = frozenset({Stage.COMMAND, Stage.LITERAL, Stage.TAIL, Stage.RESPONSE})


class ServerSide(ABC):
    """The state of one client's connection before its login. Everything counts what was used up, not what has come:
    so the same octets bring the same events, wherever the network cut them.
    """

    __slots__ = (
        *("_bad_commands", "_commands", "_failures", "_lines", "_mechanism", "_secure", "_stage", "_taken", "_terms"),
    )

    def __init__(self, terms: Terms, secure: bool) -> None:
        """@param secure: the connection is encrypted already."""
        self._terms = terms
        self._secure = secure
        self._lines = LineBuffer(terms.max_line)
        self._stage = Stage.COMMAND
        self._mechanism: ServerMechanism | None = None
        self._taken = 0
        self._commands = 0
        self._bad_commands = 0
        self._failures = 0

    # --- what a protocol brings --------------------------------------------------------------------------------------

    @abstractmethod
    def _command(self, line: bytes) -> list[Event]:
        """A line came where a command is expected."""

    @abstractmethod
    def _bad(self, text: str) -> bytes:
        """The reply to a command that is wrong."""

    @abstractmethod
    def _refusal(self, kind: RefusalKind) -> bytes:
        """The reply to a login that failed."""

    @abstractmethod
    def _success(self, text: bytes) -> bytes:
        """The reply to a login that succeeded."""

    @abstractmethod
    def _closing(self, reply: bytes, text: str) -> bytes:
        """The last words: the reply to the last command, if any, and why the connection ends."""

    def _challenge(self, data: bytes) -> bytes:
        """A challenge, already base64."""
        return b"+ " + data + b"\r\n"

    # --- IServerDialogue ---------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Event]:
        """Bytes came from the client."""
        if self._stage is Stage.OVER:
            return []
        if self._stage is Stage.UPGRADING:
            return self._close(b"", "bytes in clear after STARTTLS")
        self._lines.feed(data)
        return self._advance()

    def secured(self) -> list[Event]:
        """TLS is up: nothing that came before it counts, but the caps on what goes wrong."""
        if self._stage is not Stage.OVER:
            self._secure = True
            self._lines = LineBuffer(self._terms.max_line)
            self._stage = Stage.COMMAND
            self._mechanism = None
            self._taken = 0
        return []

    def admit(self, text: bytes) -> tuple[bytes, bytes]:
        """The login succeeded; the dialogue is over."""
        if self._stage is not Stage.WAITING:
            return b"", b""
        self._stage = Stage.OVER
        return self._success(text), self._lines.rest()

    def refuse(self, refusal: Refusal) -> list[Event]:
        """The login failed; say so and go on with what was buffered."""
        if self._stage is not Stage.WAITING:
            return []
        self._stage = Stage.COMMAND
        self._failures += 1
        reply = self._refusal(refusal.kind)
        if self._failures >= self._terms.login_attempts:
            return self._close(self._closing(reply, "Too many failed logins"), "too many failed logins")
        return [Send(reply), *self._advance()]

    def expire(self, reason: str) -> bytes:
        """The parting words."""
        self._stage = Stage.OVER
        return self._closing(b"", _printable(reason))

    # --- reading -----------------------------------------------------------------------------------------------------

    def _advance(self) -> list[Event]:
        """Go as far as the buffer and the stage allow."""
        events: list[Event] = []
        while self._stage in _READING:
            more = self._step()
            if more is None:
                break
            events += more
        if self._stage is Stage.WAITING and self._taken + len(self._lines) > self._terms.max_total:
            events += self._overfull()
        return events

    def _step(self) -> list[Event] | None:
        """Take what the stage asks for and react, or return C{None}: it is not all here."""
        if self._stage is Stage.COMMAND and self._lines.begins(_HANDSHAKE):
            return self._close(b"", "a TLS handshake where a command was expected")
        line = self._lines.next_line()
        if line is None:
            return self._fault()
        if not self._use(len(line) + 2):
            return self._overfull()
        return self._line(line)

    def _line(self, line: bytes) -> list[Event]:
        """A whole line came."""
        if self._stage is Stage.RESPONSE:
            return self._response(line)
        if _FOREIGN.match(line):
            return self._close(b"", "another protocol's client")
        self._commands += 1
        return self._command(line) if self._commands <= MAX_COMMANDS else self._overfull()

    def _use(self, count: int) -> bool:
        """Count octets that were used up; false when they are too many."""
        self._taken += count
        return self._taken <= self._terms.max_total

    def _fault(self) -> list[Event] | None:
        """Why there is no line: a fault, or C{None} where there is just more to come."""
        fault = self._lines.fault
        if not fault:
            return None
        text = "Lines end with CRLF" if fault == BARE_LF else "Line too long"
        return self._close(self._closing(b"", text), fault)

    def _overfull(self) -> list[Event]:
        return self._close(self._closing(b"", "Too much before login"), "too much before login")

    # --- what every protocol does ------------------------------------------------------------------------------------

    def _close(self, last: bytes, reason: str) -> list[Event]:
        """End the dialogue; nothing is kept."""
        self._stage = Stage.OVER
        self._mechanism = None
        self._lines = LineBuffer(0)
        return [Close(last, reason)]

    def _wrong(self, reply: bytes) -> list[Event]:
        """Give the reply to a bad command, and close when there were too many."""
        self._bad_commands += 1
        if self._bad_commands >= self._terms.bad_commands:
            return self._close(self._closing(reply, "Too many bad commands"), "too many bad commands")
        return [Send(reply)]

    def _may_login(self) -> bool:
        """A password may be asked for now."""
        return self._terms.may_login(self._secure)

    def _upgradable(self) -> bool:
        """STARTTLS is offered now."""
        return self._terms.upgradable and not self._secure

    def _upgrade(self, go_ahead: bytes) -> list[Event]:
        """Give the go-ahead for TLS, unless something in clear is behind the command: it would count as encrypted."""
        if len(self._lines):
            return self._close(b"", "bytes in clear behind STARTTLS")
        self._stage = Stage.UPGRADING
        return [StartTLS(go_ahead)]

    def _present(self, outcome: Login | Malformed) -> list[Event]:
        """Hand a login out and wait for its verdict, or say that it is none."""
        if isinstance(outcome, Malformed):
            return self._wrong(self._bad(outcome.reason.capitalize()))
        self._stage = Stage.WAITING
        return [outcome]

    # --- SASL --------------------------------------------------------------------------------------------------------

    def _begin(self, name: bytes, initial: bytes | None) -> list[Event] | None:
        """Begin an exchange, or return C{None}: there is no such mechanism.

        @param initial: the initial response in base64, C{b"="} for an empty one; C{None} where there is none.
        """
        mechanism = MECHANISMS.get(name.decode("ascii", "replace").upper())
        if mechanism is None:
            return None
        self._mechanism = mechanism()
        return self._exchange(self._mechanism.step(None)) if initial is None else self._response(initial)

    def _response(self, line: bytes) -> list[Event]:
        """The client answered a challenge, or cancels with C{*}."""
        mechanism, self._mechanism = self._mechanism, None
        self._stage = Stage.COMMAND
        if mechanism is None or line == b"*":
            return self._wrong(self._bad("Authentication cancelled"))
        response = decode(line)
        if response is None:
            return self._wrong(self._bad("Not base64"))
        self._mechanism = mechanism
        return self._exchange(mechanism.step(response))

    def _exchange(self, outcome: Outcome) -> list[Event]:
        """Carry out what the mechanism said. Nothing of an exchange that is over is kept."""
        if isinstance(outcome, Challenge):
            self._stage = Stage.RESPONSE
            return [Send(self._challenge(encode(outcome.data)))]
        self._mechanism = None
        return self._present(outcome)


def _printable(text: str) -> str:
    """One line of ASCII."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)
