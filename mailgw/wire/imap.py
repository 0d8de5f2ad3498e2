"""IMAP up to the login, server side (RFC 9051, RFC 3501): greeting, capabilities, ID, STARTTLS, LOGIN, AUTHENTICATE.

It knows no mailbox: after the login a backend or the local store goes on. The side that talks to backends is
L{mailgw.wire.imapclient}; both together are L{IMAP}, at the end of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from zope.interface import implementer

from mailgw.interfaces import IServerDialogue
from mailgw.model import RefusalKind
from mailgw.wire.events import Event, Forwarded, Send
from mailgw.wire.forwarded import from_id, hops
from mailgw.wire.imapclient import ImapClient
from mailgw.wire.protocol import LoginProtocol, Terms
from mailgw.wire.sasl import MECHANISMS, present
from mailgw.wire.serverside import ServerSide, Stage

_TAG = re.compile(rb"([!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]{1,64})(?: |\Z)")
"""ASTRING-CHAR without C{+} (RFC 9051 §9), and no more than 64 of them."""
_ANNOUNCED = re.compile(rb"\{([^{}]*)\}\Z")
_LITERAL = re.compile(rb"(0|[1-9][0-9]{0,9})(\+?)")
_HOLE = b"\n"
"""Stands for a literal in a command's text: a line can hold any octet but this one."""
_STRING = rb'(?:"(?:[^"\\\r\n\0]|\\["\\])*"|\n)'
_ASTRING = rb'(?:"(?:[^"\\\r\n\0]|\\["\\])*"|\n|[!#$&\'+,\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+)'
_LOGIN = re.compile(rb"(" + _ASTRING + rb") (" + _ASTRING + rb")")
_PAIR = re.compile(rb"(" + _STRING + rb") ((?i:NIL)|" + _STRING + rb")(?: (?!\Z)|\Z)")
_AUTHENTICATE = re.compile(rb"([A-Za-z0-9_-]{1,20})(?: ([A-Za-z0-9+/=]+))?")

OWN = ("IMAP4rev1", "LITERAL+", "ID")
"""What we do before the login, whatever the listener's terms are."""
ID_PAIRS, ID_KEY, ID_VALUE = 30, 30, 1024
"""What a client may say of itself at most (RFC 2971 §3.3)."""

_REFUSALS = {
    RefusalKind.CREDENTIALS: "NO [AUTHENTICATIONFAILED] Wrong user name or password",
    RefusalKind.AUTHZ: "NO [AUTHORIZATIONFAILED] You may not act as this user",
    RefusalKind.TLS_REQUIRED: "NO [PRIVACYREQUIRED] Use STARTTLS before you log in",
    RefusalKind.DISABLED: "NO [CONTACTADMIN] This account may not log in here",
    RefusalKind.LIMIT: "NO [LIMIT] Too many connections or attempts",
    RefusalKind.UNAVAILABLE: "NO [UNAVAILABLE] Temporary trouble, try again later",
}


class _Fill:
    """Puts the literals of a command back where its text has holes, and takes quoted strings out of their quotes."""

    __slots__ = ("_literals",)

    def __init__(self, literals: list[bytes]) -> None:
        self._literals = iter(literals)

    def __call__(self, token: bytes) -> bytes:
        """Decode the next astring or nstring of the text; they must be asked for in order."""
        if token == _HOLE:
            return next(self._literals)
        if token.startswith(b'"'):
            return re.sub(rb"\\(.)", rb"\1", token[1:-1]) if b"\\" in token else token[1:-1]
        return token


@implementer(IServerDialogue)
class ImapServer(ServerSide):
    """The dialogue with one IMAP client up to its login.

    @ivar client_id: what the client said of itself by ID, keys in lower case; C{NIL} values left out.
    """

    __slots__ = ("_answer", "_awaited", "_literals", "_offset", "_size", "_tag", "_text", "_welcome", "client_id")

    def __init__(self, terms: Terms, secure: bool) -> None:
        super().__init__(terms, secure)
        self.client_id: Mapping[bytes, bytes] = MappingProxyType({})
        self._forget()

    def _forget(self) -> None:
        """No command is under way."""
        self._tag, self._text, self._offset, self._size, self._awaited = b"*", b"", 0, 0, 0
        self._literals: list[bytes] = []
        self._answer: _Answer = partial(ImapServer._complain, text="Missing command")
        self._welcome = False

    def greet(self) -> list[Event]:
        """The greeting, which tells the capabilities too."""
        host = self._terms.hostname.encode("ascii", "replace")
        return [Send(b"* OK [" + self._capabilities() + b"] " + host + b" ready\r\n")]

    def secured(self) -> list[Event]:
        """TLS is up: a half-sent command and the client's ID are forgotten too."""
        self._forget()
        self.client_id = MappingProxyType({})
        return super().secured()

    # --- words -------------------------------------------------------------------------------------------------------

    def _capabilities(self) -> bytes:
        """What holds at this moment, never what will after the login."""
        words = ["CAPABILITY", *(self._terms.capabilities or OWN)]
        if self._upgradable():
            words.append("STARTTLS")
        if self._may_login():
            words += ["SASL-IR", *(f"AUTH={name}" for name in MECHANISMS)]
        else:
            words.append("LOGINDISABLED")
        return " ".join(words).encode()

    def _tagged(self, text: str) -> bytes:
        return self._tag + b" " + text.encode() + b"\r\n"

    def _bad(self, text: str) -> bytes:
        return self._tagged(f"BAD {text}")

    def _refusal(self, kind: RefusalKind) -> bytes:
        return self._tagged(_REFUSALS[kind])

    def _success(self, text: bytes) -> bytes:
        return self._tag + b" OK " + (text or b"Logged in") + b"\r\n"

    def _closing(self, reply: bytes, text: str) -> bytes:
        return reply + f"* BYE {text}\r\n".encode()

    def _complain(self, text: str) -> list[Event]:
        return self._wrong(self._bad(text))

    def _ok(self, text: str, untagged: bytes = b"") -> list[Event]:
        return [Send(untagged + self._tagged(f"OK {text}"))]

    # --- from lines and literals to a command ------------------------------------------------------------------------

    def _step(self) -> list[Event] | None:
        if self._stage is not Stage.LITERAL:
            return super()._step()
        octets = self._lines.take(self._awaited)
        if octets is None:
            return None
        self._stage = Stage.TAIL
        if not self._use(len(octets)):
            return self._overfull()
        if self._welcome:
            self._literals.append(octets)
        return []

    def _line(self, line: bytes) -> list[Event]:
        return self._extend(line) if self._stage is Stage.TAIL else super()._line(line)

    def _command(self, line: bytes) -> list[Event]:
        self._forget()
        self._answer = self._recognize(line)
        return self._extend(line)

    def _recognize(self, line: bytes) -> _Answer:
        """Read tag and name from a command's first line and choose what answers it once it is complete.

        What is chosen is not bound to this dialogue: it would keep itself, and what it knows, alive in a cycle.
        """
        tag = _TAG.match(line)
        if tag is None:
            return partial(ImapServer._complain, text="Invalid tag")
        self._tag = tag[1]
        name, blank, _ = line[tag.end() :].partition(b" ")
        name = name.upper()
        self._offset = tag.end() + len(name) + 1
        if name in _NEED_ARGUMENTS:
            if not self._may_login() and name != b"ID":
                return partial(ImapServer._wrong, reply=self._refusal(RefusalKind.TLS_REQUIRED))
            self._welcome = name != b"AUTHENTICATE"
            return _NEED_ARGUMENTS[name]
        if name in _ALONE:
            return partial(ImapServer._complain, text="No arguments expected") if blank else _ALONE[name]
        return partial(ImapServer._complain, text="Unknown command" if name else "Missing command")

    def _extend(self, line: bytes) -> list[Event]:
        """Take a command's first line, or the line behind a literal; the last one has no literal at its end."""
        self._size += len(line)
        announced = _ANNOUNCED.search(line)
        if announced is None:
            self._text += line
            return self._complete()
        self._text += line[: announced.start()] + _HOLE
        self._stage = Stage.COMMAND
        literal = _LITERAL.fullmatch(announced[1])
        if literal is None:
            return self._malformed(announced[1])
        return self._announce(int(literal[1]), bool(literal[2]))

    def _complete(self) -> list[Event]:
        """Answer the command. Its text may hold a password, and is not kept."""
        self._stage = Stage.COMMAND
        events = self._answer(self)
        self._text, self._literals = b"", []
        return events

    def _malformed(self, announced: bytes) -> list[Event]:
        """No number that RFC 9051 knows. Behind a C{+} follow octets, and nobody can tell how many."""
        reply = self._bad("Malformed literal")
        if announced.endswith(b"+"):
            return self._close(self._closing(reply, "Malformed literal"), "malformed literal")
        return self._wrong(reply)

    def _announce(self, size: int, unasked: bool) -> list[Event]:
        """A literal is announced. One that we do not want gets no go-ahead: its octets, a password maybe, stay away.

        @param unasked: C{{n+}}, the octets follow whether we want them or not (RFC 7888); they are swallowed.
        """
        self._size += size
        if self._size > self._terms.max_line or size > self._terms.max_literal:
            reply = self._bad("Literal too large")
            if unasked and size > self._terms.max_literal:
                return self._close(self._closing(reply, "Literal too large"), "literal too large")
            self._answer, self._welcome = partial(ImapServer._wrong, reply=reply), False
        if not self._welcome and not unasked:
            return self._complete()
        self._stage, self._awaited = Stage.LITERAL, size
        return [] if unasked else [Send(b"+ OK\r\n")]

    # --- commands ----------------------------------------------------------------------------------------------------

    def _capability(self) -> list[Event]:
        return self._ok("Capability completed", b"* " + self._capabilities() + b"\r\n")

    def _noop(self) -> list[Event]:
        return self._ok("Noop completed")

    def _logout(self) -> list[Event]:
        return self._close(b"* BYE Logging out\r\n" + self._tagged("OK Logout completed"), "logged out")

    def _starttls(self) -> list[Event]:
        if not self._upgradable():
            return self._complain("TLS is active already" if self._secure else "STARTTLS is not offered")
        return self._upgrade(self._tagged("OK Begin TLS"))

    def _id(self) -> list[Event]:
        """RFC 2971. We say who we are, and never in which version."""
        said = self._read_id(self._text[self._offset :])
        if said is None:
            return self._complain("Invalid ID")
        self.client_id = MappingProxyType(said)
        # that a loop has gone on for long enough is believed of everybody: it can only end a login
        told = from_id(said) if self._terms.trusted else Forwarded(ttl=hops(said))
        answer = self._ok("ID completed", b'* ID ("name" "mailgw")\r\n')
        return answer if told == Forwarded() else [told, *answer]

    def _read_id(self, text: bytes) -> dict[bytes, bytes] | None:
        """Read an ID list, or return C{None}: it is none, or too long for RFC 2971."""
        if text.upper() == b"NIL":
            return {}
        if not (text.startswith(b"(") and text.endswith(b")")):
            return None
        inside, place, fill = text[1:-1], 0, _Fill(self._literals)
        said: dict[bytes, bytes] = {}
        for _ in range(ID_PAIRS):
            pair = _PAIR.match(inside, place)
            if pair is None:
                break
            key, nil = fill(pair[1]).lower(), pair[2].upper() == b"NIL"
            value = b"" if nil else fill(pair[2])
            if len(key) > ID_KEY or len(value) > ID_VALUE:
                return None
            if not nil:
                said[key] = value
            place = pair.end()
        return said if place == len(inside) else None

    def _login(self) -> list[Event]:
        parts = _LOGIN.fullmatch(self._text, self._offset)
        if parts is None:
            return self._complain("Invalid arguments")
        fill = _Fill(self._literals)
        return self._present(present(fill(parts[1]), fill(parts[2]), "LOGIN"))

    def _authenticate(self) -> list[Event]:
        parts = _AUTHENTICATE.fullmatch(self._text, self._offset)
        if parts is None:
            return self._complain("Invalid arguments")
        events = self._begin(parts[1], parts[2])
        if events is None:
            return self._wrong(self._tagged("NO [CANNOT] No such authentication mechanism"))
        return events


_Answer = Callable[[ImapServer], list[Event]]
_ALONE: dict[bytes, _Answer] = {
    b"CAPABILITY": ImapServer._capability,
    b"NOOP": ImapServer._noop,
    b"LOGOUT": ImapServer._logout,
    b"STARTTLS": ImapServer._starttls,
}
_NEED_ARGUMENTS: dict[bytes, _Answer] = {
    b"ID": ImapServer._id,
    b"LOGIN": ImapServer._login,
    b"AUTHENTICATE": ImapServer._authenticate,
}

IMAP = LoginProtocol(name="imap", ports=(143, 993), server=ImapServer, client=ImapClient)
