"""Pop3Client: logs in on a POP3 backend, from its greeting to the +OK of the password (RFC 1939, 2449, 2595, 5034).

It never uses APOP and trusts no capability that came before TLS. What the backend says after the login is not its
business: a relay carries that.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from zope.interface import implementer

from mailgw.interfaces import IClientDialogue
from mailgw.model import Access, Failure, Forward
from mailgw.wire.clientside import ClientSide, printable, xclient
from mailgw.wire.events import Event
from mailgw.wire.sasl import client_mechanism, encode, plain_response

MAX_COMMAND = 255
"""Octets of a command line that every server takes, its CRLF counted (RFC 2449 §4)."""

_REPLY = re.compile(rb"(\+OK|-ERR)(?: (.*))?", re.DOTALL)
_CODE = re.compile(rb"\[([A-Za-z0-9/-]+)\] ?")
_REJECTED = frozenset({b"", b"AUTH"})
"""Codes of an -ERR that means the credentials (RFC 3206); all others are the backend's trouble."""


class Stage(Enum):
    """Which reply comes next."""

    GREETING = auto()
    CAPA = auto()
    LISTING = auto()
    STLS = auto()
    XCLIENT = auto()
    USER = auto()
    LOGIN = auto()


@implementer(IClientDialogue)
class Pop3Client(ClientSide):
    """One login on one backend."""

    __slots__ = ("_answers", "_capabilities", "_hinted", "_stage")

    def __init__(self, access: Access, forward: Forward, starttls: bool) -> None:
        super().__init__(access, forward, starttls)
        self._stage = Stage.GREETING
        self._capabilities: dict[bytes, frozenset[str]] | None = None
        self._hinted = False
        self._answers: list[bytes] = []

    def _restart(self) -> list[Event]:
        return self._ask()

    def _line(self, line: bytes) -> list[Event]:
        if self._stage is Stage.LISTING:
            return self._listed(line)
        if line.startswith(b"+") and line[:3].upper() != b"+OK":
            return self._continue(line)
        reply = _REPLY.fullmatch(line)
        if reply is None:
            return self._refuse(Failure.PROTOCOL, "no POP3 reply", line)
        return self._replied(reply[1] == b"+OK", line, reply[2] or b"")

    def _replied(self, good: bool, line: bytes, text: bytes) -> list[Event]:
        """The first line of a reply, or its only one."""
        match self._stage:
            case Stage.GREETING:
                return self._greeted(good, line, text)
            case Stage.CAPA:
                return self._announced(good)
            case Stage.STLS:
                return self._upgrade() if good else self._refuse(Failure.TLS, "no STLS", line)
            case Stage.XCLIENT:
                return self._login()
            case Stage.USER:
                return self._pass() if good else self._refuse(Failure.TEMPFAIL, "USER refused", line)
            case _:
                return self._logged_in(line, text) if good else self._failed(line, text)

    # --- before the login --------------------------------------------------------------------------------------------

    def _greeted(self, good: bool, line: bytes, text: bytes) -> list[Event]:
        """Dovecot tells in its greeting, and nowhere else, that it takes XCLIENT from us.

        This is the one thing that is remembered across STLS. Somebody who forges it has us say a client's address to
        the verified server, or keep it to ourselves, and no more.
        """
        if not good:
            return self._refuse(Failure.TEMPFAIL, "turned away", line)
        self._hinted = text.upper().startswith(b"[XCLIENT]")
        return self._ask()

    def _ask(self) -> list[Event]:
        self._capabilities = None
        self._stage = Stage.CAPA
        return self._send(b"CAPA")

    def _announced(self, good: bool) -> list[Event]:
        """A list follows, or there is none: a server older than CAPA, which has USER and PASS and no STLS."""
        if not good:
            return self._proceed()
        self._capabilities = {}
        self._stage = Stage.LISTING
        return []

    def _listed(self, line: bytes) -> list[Event]:
        """A capability and its parameters, or the dot at the end."""
        if line == b".":
            return self._proceed()
        words = line.upper().split()
        if words and self._capabilities is not None:
            self._capabilities[words[0]] = frozenset(word.decode("ascii", "replace") for word in words[1:])
        return []

    def _offers(self, name: bytes) -> bool:
        return self._capabilities is not None and name in self._capabilities

    def _proceed(self) -> list[Event]:
        """The capabilities are known: TLS first where it is demanded, and no way around it."""
        if self._starttls and not self._secure:
            if not self._offers(b"STLS"):
                return self._refuse(Failure.TLS, "STLS is not offered")
            self._stage = Stage.STLS
            return self._send(b"STLS")
        if self._hinted or self._offers(b"XCLIENT"):
            self._stage = Stage.XCLIENT  # whatever it answers, it is not tried again, and the login goes on
            return self._send(xclient(self._forward))
        return self._login()

    # --- the login ---------------------------------------------------------------------------------------------------

    def _login(self) -> list[Event]:
        """SASL PLAIN where it is offered, else USER and PASS, else SASL LOGIN; or what the settings want."""
        access, offered = self._access, (self._capabilities or {}).get(b"SASL", frozenset())
        mechanism = client_mechanism(offered, access) if access.mechanism != "COMMAND" else None
        wants_user = access.mechanism in ("", "COMMAND") and not access.authzid
        self._stage = Stage.LOGIN
        if mechanism == "PLAIN":
            return self._plain(encode(plain_response(access)))
        if wants_user and (self._capabilities is None or self._offers(b"USER")):
            self._stage = Stage.USER
            return self._send(b"USER " + access.username.encode())
        if mechanism == "LOGIN":
            self._answers = [encode(access.username.encode()), encode(access.password)]
            return self._send(b"AUTH LOGIN")
        return self._refuse(Failure.PROTOCOL, "it offers no login that we can use")

    def _plain(self, response: bytes) -> list[Event]:
        """With the initial response, unless the line grows too long for it."""
        at_once = b"AUTH PLAIN " + response
        if len(at_once) + 2 <= MAX_COMMAND:
            return self._present(at_once)
        self._answers = [response]
        return self._send(b"AUTH PLAIN")

    def _pass(self) -> list[Event]:
        self._stage = Stage.LOGIN
        return self._present(b"PASS " + self._access.password)

    def _continue(self, line: bytes) -> list[Event]:
        """The backend wants the next part of the credentials, and says so with a C{+} and anything behind it."""
        if self._stage is not Stage.LOGIN or not self._answers:
            return self._refuse(Failure.PROTOCOL, "it asks for more", line)
        answer = self._answers.pop(0)
        return self._send(answer) if self._answers else self._present(answer)

    def _failed(self, line: bytes, text: bytes) -> list[Event]:
        """An -ERR may mean the credentials, once they were sent and if its code does not say otherwise."""
        code = _CODE.match(text)
        if self._presented and (code[1].upper() if code else b"") in _REJECTED:
            return self._refuse(Failure.REJECTED, "login refused", line)
        return self._refuse(Failure.TEMPFAIL, "login failed", line)

    def _logged_in(self, line: bytes, text: bytes) -> list[Event]:
        if not self._presented:
            return self._refuse(Failure.PROTOCOL, "it lets us in without a password", line)
        code = _CODE.match(text)
        return self._ready(printable(text[code.end() :] if code else text) or b"Logged in")
