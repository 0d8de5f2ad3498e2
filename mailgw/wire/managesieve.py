"""ManageSieve up to the login, server side (RFC 5804): greeting, CAPABILITY, STARTTLS, AUTHENTICATE, NOOP, LOGOUT.

It knows no script: after the login a backend goes on. The side that talks to backends is
L{mailgw.wire.managesieveclient}; both together are L{MANAGESIEVE}, at the end of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from zope.interface import implementer

from mailgw.interfaces import IServerDialogue
from mailgw.model import RefusalKind
from mailgw.wire.events import Event, Send
from mailgw.wire.forwarded import from_xclient
from mailgw.wire.managesieveclient import HOLE, MAX_STRING, SieveClient, quoted, strings
from mailgw.wire.protocol import LoginProtocol, Terms
from mailgw.wire.sasl import MECHANISMS
from mailgw.wire.serverside import ServerSide, Stage

EXTENSIONS = (
    "fileinto reject envelope encoded-character vacation subaddress comparator-i;ascii-numeric relational imap4flags"
    " copy include variables body enotify environment mailbox date index ihave duplicate"
)
"""What C{SIEVE} tells before the login. It must tell something (RFC 5804 §1.7), and whose server a client will reach is
not known then: these are what Dovecot, Cyrus and Stalwart all do. Clients that never ask again, webmail among them,
offer their users nothing else; those that ask after the login learn the backend's own list."""

_ANNOUNCED = re.compile(rb"\{([^{}]*)\}\Z")
_LITERAL = re.compile(rb"(0|[1-9][0-9]{0,9})\+")
_UNQUOTABLE = re.compile(rb"[\r\n\0]")

_REFUSALS = {
    RefusalKind.CREDENTIALS: 'NO "Wrong user name or password"\r\n',
    RefusalKind.AUTHZ: 'NO "You may not act as this user"\r\n',
    RefusalKind.TLS_REQUIRED: 'NO (ENCRYPT-NEEDED) "Use STARTTLS before you log in"\r\n',
    RefusalKind.DISABLED: 'NO "This account may not log in here"\r\n',
    RefusalKind.LIMIT: 'NO (TRYLATER) "Too many connections or attempts"\r\n',
    RefusalKind.UNAVAILABLE: 'NO (TRYLATER) "Temporary trouble, try again later"\r\n',
}


@implementer(IServerDialogue)
class SieveServer(ServerSide):
    """The dialogue with one ManageSieve client up to its login."""

    __slots__ = ("_awaited", "_greeted", "_literals", "_responding", "_size", "_text")

    def __init__(self, terms: Terms, secure: bool) -> None:
        super().__init__(terms, secure)
        self._greeted = False
        self._forget()

    def _forget(self) -> None:
        """No command and no response is under way."""
        self._text, self._size, self._awaited, self._responding = b"", 0, 0, False
        self._literals: list[bytes] = []

    def greet(self) -> list[Event]:
        """The greeting, which is the capabilities."""
        self._greeted = True
        return self._tell_capabilities(self._terms.hostname.encode("ascii", "replace") + b" ready")

    def secured(self) -> list[Event]:
        """TLS is up: a half-sent command is forgotten, and the capabilities come unasked (RFC 5804 §2.2)."""
        self._forget()
        over = self._stage is Stage.OVER
        events = super().secured()
        return events if over else [*events, *self._tell_capabilities(b"TLS is active")]

    def expire(self, reason: str) -> bytes:
        """The parting words. Who is turned away before our greeting has met a limit, and may come again."""
        return super().expire(reason).replace(b"BYE", b"BYE" if self._greeted else b"BYE (TRYLATER)", 1)

    # --- words -------------------------------------------------------------------------------------------------------

    def _tell_capabilities(self, text: bytes) -> list[Event]:
        """What holds at this moment, and an OK; the list of mechanisms is empty where TLS has to come first."""
        words = ['"IMPLEMENTATION" "mailgw"', f'"SASL" "{" ".join(MECHANISMS) if self._may_login() else ""}"']
        words += [*self._extensions(), *(['"STARTTLS"'] if self._upgradable() else [])]
        words += [*(['"XCLIENT"'] if self._terms.trusted else []), '"VERSION" "1.0"\r\n']
        return [Send("\r\n".join(words).encode() + self._success(text))]

    def _extensions(self) -> list[str]:
        """What the listener is to tell, or else what every backend has, or what most servers have."""
        told = self._terms.capabilities or [one for one in self._terms.learned() if one.startswith("SIEVE ")]
        pairs = [one.partition(" ") for one in told or [f"SIEVE {EXTENSIONS}"]]
        # names of extensions have small letters; a backend's words are compared in capitals
        return [f'"{name}"' + (f' "{value.lower()}"' if value else "") for name, _, value in pairs]

    def _bad(self, text: str) -> bytes:
        return b"NO " + quoted(text.encode()) + b"\r\n"

    def _refusal(self, kind: RefusalKind) -> bytes:
        return _REFUSALS[kind].encode()

    def _success(self, text: bytes) -> bytes:
        return b"OK " + quoted(text or b"Logged in") + b"\r\n"

    def _closing(self, reply: bytes, text: str) -> bytes:
        return reply + b"BYE " + quoted(text.encode()) + b"\r\n"

    def _challenge(self, data: bytes) -> bytes:
        return quoted(data) + b"\r\n"

    # --- from lines and literals to a command or a response ----------------------------------------------------------

    def _step(self) -> list[Event] | None:
        if self._stage is not Stage.LITERAL:
            return super()._step()
        octets = self._lines.take(self._awaited)
        if octets is None:
            return None
        self._stage = Stage.TAIL
        self._literals.append(octets)
        return [] if self._use(len(octets)) else self._overfull()

    def _line(self, line: bytes) -> list[Event]:
        if self._stage is Stage.TAIL:
            return self._extend(line)
        if self._stage is Stage.RESPONSE:
            self._responding = True
            return self._extend(line)
        return super()._line(line)

    def _command(self, line: bytes) -> list[Event]:
        return self._extend(line)

    def _extend(self, line: bytes) -> list[Event]:
        """Take a first line, or the line behind a literal; the last one has no literal at its end."""
        self._size += len(line)
        announced = _ANNOUNCED.search(line)
        if announced is not None:
            self._text += line[: announced.start()] + HOLE
            return self._await_literal(announced[1])
        text, literals, responding = self._text + line, self._literals, self._responding
        self._forget()
        self._stage = Stage.COMMAND
        return self._answer_challenge(text, literals) if responding else self._run(text, literals)

    def _await_literal(self, announced: bytes) -> list[Event]:
        """A literal follows, unasked: ManageSieve's clients know no other. One that we cannot take is the end, as
        nobody can tell its octets, a password maybe, from commands.
        """
        size = _LITERAL.fullmatch(announced)
        if size is None:
            return self._close(self._closing(b"", "Malformed literal"), "malformed literal")
        self._awaited = int(size[1])
        self._size += self._awaited
        if self._awaited > self._terms.max_literal or self._size > self._terms.max_line:
            return self._close(self._closing(b"", "Literal too large"), "literal too large")
        self._stage = Stage.LITERAL
        return []

    def _run(self, text: bytes, literals: list[bytes]) -> list[Event]:
        name, blank, rest = text.partition(b" ")
        name = name.upper()
        if name == b"AUTHENTICATE" and not self._may_login():
            return self._wrong(self._refusal(RefusalKind.TLS_REQUIRED))
        if name == b"XCLIENT" and self._terms.trusted:
            told = from_xclient(rest.decode("latin-1"))
            return self._invalid() if told is None else [told, Send(self._success(b"Updated"))]
        if name in _TAKE_ARGUMENTS:
            arguments = strings(rest, literals) if blank else []
            return self._invalid() if arguments is None else _TAKE_ARGUMENTS[name](self, arguments)
        if name in _ALONE:
            return self._wrong(self._bad("No arguments expected")) if blank else _ALONE[name](self)
        return self._wrong(self._bad("Unknown command"))

    def _answer_challenge(self, text: bytes, literals: list[bytes]) -> list[Event]:
        """A response is one string; anything else ends the exchange, and is no command either."""
        response = strings(text, literals) or []
        if len(response) == 1:
            return self._response(response[0])
        self._mechanism = None
        return self._wrong(self._bad("Not a string"))

    def _invalid(self) -> list[Event]:
        return self._wrong(self._bad("Invalid arguments"))

    # --- commands ----------------------------------------------------------------------------------------------------

    def _capability(self) -> list[Event]:
        return self._tell_capabilities(b"Capability completed")

    def _logout(self) -> list[Event]:
        return self._close(b'OK "Logout completed"\r\n', "logged out")

    def _starttls(self) -> list[Event]:
        if not self._upgradable():
            return self._wrong(self._bad("TLS is active already" if self._secure else "STARTTLS is not offered"))
        return self._upgrade(b'OK "Begin TLS"\r\n')

    def _noop(self, arguments: list[bytes]) -> list[Event]:
        """A string given is given back (RFC 5804 §2.13)."""
        if len(arguments) > 1:
            return self._invalid()
        tag = b"".join(b" (TAG %b)" % _string(text) for text in arguments)
        return [Send(b"OK" + tag + b' "Noop completed"\r\n')]

    def _authenticate(self, arguments: list[bytes]) -> list[Event]:
        if not 1 <= len(arguments) <= 2:
            return self._invalid()
        events = self._begin(arguments[0], arguments[1] if len(arguments) == 2 else None)
        if events is None:
            return self._wrong(self._bad("No such authentication mechanism"))
        return events


def _string(text: bytes) -> bytes:
    """A string as a server may send it: a literal where a quoted one cannot hold these octets."""
    if len(text) <= MAX_STRING and not _UNQUOTABLE.search(text):
        return quoted(text)
    return b"{%d}\r\n%b" % (len(text), text)


_TAKE_ARGUMENTS: dict[bytes, Callable[[SieveServer, list[bytes]], list[Event]]] = {
    b"AUTHENTICATE": SieveServer._authenticate,
    b"NOOP": SieveServer._noop,
}
_ALONE: dict[bytes, Callable[[SieveServer], list[Event]]] = {
    b"CAPABILITY": SieveServer._capability,
    b"LOGOUT": SieveServer._logout,
    b"STARTTLS": SieveServer._starttls,
}

MANAGESIEVE = LoginProtocol(name="managesieve", ports=(4190, 4190), server=SieveServer, client=SieveClient)
