"""POP3 up to the login, server side (RFC 1939, 2449, 2595, 5034): greeting, CAPA, STLS, USER and PASS, AUTH.

It knows no maildrop: after the login a backend or the local store goes on. There is no APOP: it would need passwords
in clear text. The side that talks to backends is L{mailgw.wire.pop3client}; both together are L{POP3}.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from zope.interface import implementer

from mailgw.interfaces import IServerDialogue
from mailgw.model import RefusalKind
from mailgw.wire.events import Event, Send
from mailgw.wire.forwarded import from_xclient
from mailgw.wire.pop3client import Pop3Client
from mailgw.wire.protocol import LoginProtocol, Terms
from mailgw.wire.sasl import MECHANISMS, present
from mailgw.wire.serverside import ServerSide

_AUTH = re.compile(rb"([A-Za-z0-9_-]{1,20})(?: ([A-Za-z0-9+/=]+))?")
_AFTER_LOGIN = frozenset({"TOP", "UIDL", "EXPIRE", "LOGIN-DELAY"})
"""Capabilities of the backend that a client is to know of before it is there (RFC 2449 §6)."""

_REFUSALS = {
    RefusalKind.CREDENTIALS: "-ERR [AUTH] Wrong user name or password\r\n",
    RefusalKind.AUTHZ: "-ERR [AUTH] You may not act as this user\r\n",
    RefusalKind.TLS_REQUIRED: "-ERR [AUTH] Use STLS before you log in\r\n",
    RefusalKind.DISABLED: "-ERR [AUTH] This account may not log in here\r\n",
    RefusalKind.LIMIT: "-ERR [IN-USE] Too many connections or attempts\r\n",
    RefusalKind.UNAVAILABLE: "-ERR [SYS/TEMP] Temporary trouble, try again later\r\n",
}


@implementer(IServerDialogue)
class Pop3Server(ServerSide):
    """The dialogue with one POP3 client up to its login.

    The argument of USER and of PASS is all that is behind the first blank: blanks belong to it.
    """

    __slots__ = ("_greeted", "_username")

    def __init__(self, terms: Terms, secure: bool) -> None:
        super().__init__(terms, secure)
        self._greeted = False
        self._username: bytes | None = None

    def greet(self) -> list[Event]:
        """The greeting, without a timestamp: there is no APOP."""
        self._greeted = True
        hint = b"[XCLIENT] " if self._terms.trusted else b""
        return [Send(b"+OK " + hint + self._terms.hostname.encode("ascii", "replace") + b" ready\r\n")]

    def secured(self) -> list[Event]:
        """TLS is up: a USER that came before it is forgotten too."""
        self._username = None
        return super().secured()

    def expire(self, reason: str) -> bytes:
        """The parting words. Who is turned away before our greeting has met a limit (RFC 2449 §8.1.2)."""
        return super().expire(reason if self._greeted else f"[IN-USE] {reason}")

    # --- words -------------------------------------------------------------------------------------------------------

    def _capabilities(self) -> list[str]:
        """What holds at this moment; and what holds after the login, because clients ask only once."""
        words = list(self._terms.capabilities) or [*self._afterwards(), "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]
        if self._upgradable():
            words.append("STLS")
        if self._may_login():
            words += ["USER", " ".join(["SASL", *MECHANISMS])]
        if self._terms.trusted:
            words.append("XCLIENT")
        return words

    def _afterwards(self) -> list[str]:
        """What every backend does, where that is known; else what every server has done for decades."""
        learned = self._terms.learned()
        told = sorted(word for word in learned if word.partition(" ")[0] in _AFTER_LOGIN)
        return told if learned else ["TOP", "UIDL"]

    def _bad(self, text: str) -> bytes:
        return f"-ERR {text}\r\n".encode()

    def _refusal(self, kind: RefusalKind) -> bytes:
        return _REFUSALS[kind].encode()

    def _success(self, text: bytes) -> bytes:
        return b"+OK " + (text or b"Logged in") + b"\r\n"

    def _closing(self, reply: bytes, text: str) -> bytes:
        """A command has one reply; where it has had none, the reason is it."""
        return reply or self._bad(text)

    def _listed(self, words: list[str]) -> list[Event]:
        """A reply of several lines (RFC 1939 §3)."""
        return [Send("\r\n".join(["+OK", *words, ".\r\n"]).encode())]

    # --- commands ----------------------------------------------------------------------------------------------------

    def _command(self, line: bytes) -> list[Event]:
        """PASS goes with the USER right before it, and no other (RFC 1939 §7)."""
        name, blank, argument = line.partition(b" ")
        name = name.upper()
        username, self._username = self._username, None
        if name in _LOGINS and not self._may_login():
            return self._wrong(self._refusal(RefusalKind.TLS_REQUIRED))
        if name == b"PASS":
            return self._pass(username, argument)
        if name in _TAKE_ARGUMENTS:
            return _TAKE_ARGUMENTS[name](self, argument)
        if name in _ALONE:
            return self._wrong(self._bad("No arguments expected")) if blank else _ALONE[name](self)
        return self._wrong(self._bad("Unknown command"))

    def _capa(self) -> list[Event]:
        return self._listed(self._capabilities())

    def _noop(self) -> list[Event]:
        return [Send(b"+OK\r\n")]

    def _quit(self) -> list[Event]:
        return self._close(b"+OK Goodbye\r\n", "logged out")

    def _stls(self) -> list[Event]:
        if not self._upgradable():
            return self._wrong(self._bad("TLS is active already" if self._secure else "STLS is not offered"))
        return self._upgrade(b"+OK Begin TLS\r\n")

    def _apop(self, argument: bytes) -> list[Event]:
        return self._wrong(self._bad("APOP is not supported"))

    def _xclient(self, argument: bytes) -> list[Event]:
        """As Dovecot has it: a proxy in front that we trust tells of the client behind it."""
        if not self._terms.trusted:
            return self._wrong(self._bad("Unknown command"))
        told = from_xclient(argument.decode("latin-1"))
        return self._wrong(self._bad("Invalid arguments")) if told is None else [told, Send(b"+OK Updated\r\n")]

    def _user(self, argument: bytes) -> list[Event]:
        """Any name is fine for now: which ones exist is nobody's business."""
        if not argument:
            return self._wrong(self._bad("Missing user name"))
        self._username = argument
        return [Send(b"+OK\r\n")]

    def _pass(self, username: bytes | None, password: bytes) -> list[Event]:
        if username is None:
            return self._wrong(self._bad("USER comes first"))
        return self._present(present(username, password, "USER"))

    def _auth(self, argument: bytes) -> list[Event]:
        """Without an argument, list the mechanisms, as clients older than CAPA ask (RFC 5034 §4 mentions it)."""
        if not argument:
            return self._listed(list(MECHANISMS))
        parts = _AUTH.fullmatch(argument)
        if parts is None:
            return self._wrong(self._bad("Invalid arguments"))
        events = self._begin(parts[1], parts[2])
        if events is None:
            return self._wrong(self._bad("No such authentication mechanism"))
        return events


_LOGINS = frozenset({b"USER", b"PASS", b"AUTH"})
_TAKE_ARGUMENTS: dict[bytes, Callable[[Pop3Server, bytes], list[Event]]] = {
    b"USER": Pop3Server._user,
    b"AUTH": Pop3Server._auth,
    b"APOP": Pop3Server._apop,
    b"XCLIENT": Pop3Server._xclient,
}
_ALONE: dict[bytes, Callable[[Pop3Server], list[Event]]] = {
    b"CAPA": Pop3Server._capa,
    b"NOOP": Pop3Server._noop,
    b"QUIT": Pop3Server._quit,
    b"STLS": Pop3Server._stls,
}

POP3 = LoginProtocol(name="pop3", ports=(110, 995), server=Pop3Server, client=Pop3Client)
