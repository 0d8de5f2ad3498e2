"""SieveClient: logs in on a ManageSieve backend, from its greeting to the OK of AUTHENTICATE (RFC 5804).

It follows no referral and trusts no capability that came before TLS. What the backend says after the login is not its
business: a relay carries that.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from zope.interface import implementer

from mailgw.interfaces import IClientDialogue
from mailgw.model import Access, Failure, Forward
from mailgw.wire.clientside import MAX_LINE, ClientSide, printable, xclient
from mailgw.wire.events import Event
from mailgw.wire.sasl import client_mechanism, encode, plain_response

HOLE = b"\n"
"""Stands for a literal in a text: a line can hold any octet but this one."""
MAX_STRING = 1024
"""Octets between the quotes of a quoted string (RFC 5804 §4); what is longer goes as a literal."""
MAX_WORDS = 500
"""Octets of a backend's words that a client sees; escaped they still fit into a quoted string."""

_STRING = rb'(?:"(?:[^"\\\r\n\0]|\\["\\])*"|\n)'
_ONE = re.compile(_STRING)
_SEVERAL = re.compile(_STRING + rb"(?: " + _STRING + rb")*")
_ANNOUNCED = re.compile(rb"\{([0-9]{1,10})\+?\}\Z")
_REPLY = re.compile(
    rb'((?i:OK|NO|BYE))(?: \(([^ ()"\n]{1,64})(?:[^()"\n]|' + _STRING + rb")*\))?(?: (" + _STRING + rb"))?"
)


def strings(text: bytes, literals: list[bytes]) -> list[bytes] | None:
    """Decode strings with one blank between them; C{None}: the text is something else.

    @param literals: what the holes of the text stand for, in order.
    """
    if not _SEVERAL.fullmatch(text):
        return None
    held = iter(literals)
    return [next(held) if token == HOLE else re.sub(rb"\\(.)", rb"\1", token[1:-1]) for token in _ONE.findall(text)]


def quoted(text: bytes) -> bytes:
    """A quoted string of octets without CR, LF and NUL."""
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", text) + b'"'


class Stage(Enum):
    """Which reply comes next."""

    GREETING = auto()
    STARTTLS = auto()
    LOGIN = auto()


@implementer(IClientDialogue)
class SieveClient(ClientSide):
    """One login on one backend.

    Inside TLS it waits for the capabilities that a server must send unasked then (RFC 5804 §2.2); asked for, they
    would come twice, and the second time be taken for the answer to the login.
    """

    __slots__ = ("_answers", "_awaited", "_capabilities", "_introducing", "_literals", "_stage", "_text")

    def __init__(self, access: Access, forward: Forward, starttls: bool) -> None:
        super().__init__(access, forward, starttls)
        self._answers: list[bytes] = []
        self._introducing = False
        self._restart()

    def _restart(self) -> list[Event]:
        self._stage = Stage.GREETING
        self._capabilities: dict[bytes, bytes] = {}
        self._text = b""
        self._literals: list[bytes] = []
        self._awaited: int | None = None
        return []

    # --- from lines and literals to a response -----------------------------------------------------------------------

    def _next_line(self) -> bytes | None:
        if self._awaited is not None:
            octets = self._lines.take(self._awaited)
            if octets is None:
                return None
            self._awaited = None
            self._literals.append(octets)
            if not self._use(len(octets)):
                return None
        return super()._next_line()

    def _line(self, line: bytes) -> list[Event]:
        announced = _ANNOUNCED.search(line)
        if announced is None:
            text, literals = self._text + line, self._literals
            self._text, self._literals = b"", []
            return self._response(text, literals)
        self._text += line[: announced.start()] + HOLE
        self._awaited = int(announced[1])
        if self._awaited > MAX_LINE:
            return self._refuse(Failure.PROTOCOL, "literal too large", line)
        return []

    def _response(self, text: bytes, literals: list[bytes]) -> list[Event]:
        """A capability, a challenge, or the OK, NO or BYE at the end."""
        reply = _REPLY.fullmatch(text)
        if reply is None:
            return self._told(text, strings(text, literals) or [])
        [words] = strings(reply[3], literals[-1:]) or [b""] if reply[3] else [b""]
        return self._replied(reply[1].upper(), (reply[2] or b"").upper(), words, text)

    def _told(self, text: bytes, parts: list[bytes]) -> list[Event]:
        """One or two strings: a capability where those are told, else a challenge."""
        if self._stage is Stage.GREETING and 1 <= len(parts) <= 2:
            self._capabilities[parts[0].upper()] = parts[-1].upper()
            return []
        if self._stage is Stage.LOGIN and len(parts) == 1 and self._answers and not self._introducing:
            answer = quoted(self._answers.pop(0))
            return self._send(answer) if self._answers else self._present(answer)
        return self._refuse(Failure.PROTOCOL, "no ManageSieve reply that belongs here", text)

    def _replied(self, status: bytes, code: bytes, words: bytes, text: bytes) -> list[Event]:
        """The end of the greeting, or of a command of ours."""
        if status == b"BYE":
            return self._refuse(Failure.TEMPFAIL, "it says goodbye", text)
        good = status == b"OK"
        match self._stage:
            case Stage.GREETING:
                return self._proceed() if good else self._refuse(Failure.TEMPFAIL, "turned away", text)
            case Stage.STARTTLS:
                return self._upgrade() if good else self._refuse(Failure.TLS, "no STARTTLS", text)
            case _ if self._introducing:  # whatever it answers, it is not tried again
                self._introducing = False
                return []
            case _:
                return self._logged_in(words, text) if good else self._failed(code, text)

    # --- before the login --------------------------------------------------------------------------------------------

    def _proceed(self) -> list[Event]:
        """The capabilities are known: TLS first where it is demanded, and no way around it."""
        if not self._starttls or self._secure:
            return self._login()
        if b"STARTTLS" not in self._capabilities:
            return self._refuse(Failure.TLS, "STARTTLS is not offered")
        self._stage = Stage.STARTTLS
        return self._send(b"STARTTLS")

    def _login(self) -> list[Event]:
        """Send XCLIENT, where the backend takes it from us, and the login in one write."""
        access = self._access
        offered = frozenset(self._capabilities.get(b"SASL", b"").decode("ascii", "replace").split())
        mechanism = client_mechanism(offered, access)
        if mechanism is None:
            return self._refuse(Failure.PROTOCOL, "it offers no login that we can use")
        line = b'AUTHENTICATE "%b"' % mechanism.encode()
        if mechanism == "PLAIN":
            line += b" " + _string(encode(plain_response(access)))
        else:
            self._answers = [encode(access.username.encode()), encode(access.password)]
        self._introducing = b"XCLIENT" in self._capabilities
        self._presented = not self._answers
        self._stage = Stage.LOGIN
        return self._send(xclient(self._forward), line) if self._introducing else self._send(line)

    # --- the login ---------------------------------------------------------------------------------------------------

    def _failed(self, code: bytes, text: bytes) -> list[Event]:
        """A bare NO means the credentials, once they were sent; every response code is the backend's trouble."""
        if self._presented and not code:
            return self._refuse(Failure.REJECTED, "login refused", text)
        return self._refuse(Failure.TEMPFAIL, "login failed", text)

    def _logged_in(self, words: bytes, text: bytes) -> list[Event]:
        if not self._presented:
            return self._refuse(Failure.PROTOCOL, "it lets us in without a password", text)
        return self._ready(printable(words[:MAX_WORDS]) or b"Logged in")


def _string(text: bytes) -> bytes:
    """A string as a client may send it."""
    return quoted(text) if len(text) <= MAX_STRING else b"{%d+}\r\n%b" % (len(text), text)
