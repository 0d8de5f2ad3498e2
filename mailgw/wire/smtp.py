"""SmtpServer: the server's side of SMTP (RFC 5321), for mx and submission listeners.

Strictly one command at a time: after an event that needs a decision it only buffers, so that replies can neither
overtake each other nor lose their order. It decides on syntax and sequence; who may send what to whom is decided by
whoever answers its events. No BDAT, no LHLO, no SMTPUTF8, and what is not offered is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar

from zope.interface import implementer

from mailgw.interfaces import IEnvelopeDialogue
from mailgw.model import Login, Refusal, RefusalKind
from mailgw.wire import body, sasl
from mailgw.wire.address import is_helo, mailbox, split_path
from mailgw.wire.events import (
    Chunk,
    Close,
    Data,
    EndOfMail,
    Event,
    Mail,
    Recipient,
    Reply,
    Reset,
    Send,
    StartTLS,
)
from mailgw.wire.forwarded import ATTRIBUTES, from_xclient
from mailgw.wire.lines import BARE_LF, LineBuffer
from mailgw.wire.protocol import Terms
from mailgw.wire.replies import (
    BAD_ARGUMENTS,
    BAD_RECIPIENT,
    BAD_RESPONSE,
    BAD_SENDER,
    BAD_SEQUENCE,
    DONE,
    FAULTS,
    NEED_AUTH,
    NEED_TLS,
    NO_PARAMETER,
    NOT_ASCII,
    REFUSALS,
    SAY_HELLO,
    TOO_BIG,
    WRONG,
    render,
)

MAX_COMMAND = 2048
"""Octets of a command line but for AUTH, which carries tokens. RFC 5321 §4.5.3.1.4 has 512, extensions add to it."""
MAX_PENDING = 256 << 10
"""Octets kept while a decision is awaited; more than any one read gives, since reading stops meanwhile."""
MAX_IDLE_COMMANDS = 100
"""Commands that move nothing (NOOP, RSET, EHLO, refused addresses …) between two messages; then the connection is
closed."""

_HANDSHAKE = b"\x16"
"""The first octet of a ClientHello (RFC 8446 §5.1); no command begins with it."""
_FOREIGN = re.compile(
    rb"(?:GET|POST|PUT|HEAD|OPTIONS|CONNECT|DELETE|PATCH|TRACE|PRI) |Host:|SSH-|PROXY (?:TCP|UNK)", re.I
)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")


class _State(Enum):
    COMMAND = auto()
    EXCHANGE = auto()
    """In an AUTH exchange: the next line is a response."""
    LOGIN = auto()
    """A L{Login} is being decided."""
    ADMITTED = auto()
    WAITING = auto()
    """An envelope event is being decided."""
    BODY = auto()
    HANDSHAKE = auto()
    CLOSED = auto()


Verb = Callable[["SmtpServer", str], list[Event]]


@implementer(IEnvelopeDialogue)
class SmtpServer:
    """One client's conversation.

    @ivar helo: what the client called itself, checked; C{""} before that.
    @ivar esmtp: it said EHLO.
    @ivar authenticated: a login was admitted.
    """

    def __init__(self, terms: Terms, secure: bool) -> None:
        self._terms = terms
        self.secure = secure
        self.helo = self._told_helo = ""
        self.esmtp = False
        self.authenticated = False
        self._lines = LineBuffer(terms.max_line)
        self._state = _State.COMMAND
        self._total = self._bad = self._idle = self._attempts = 0
        self._mechanism: sasl.ServerMechanism | None = None
        self._waiting: Event | None = None
        self._in_mail = False
        self._recipients = 0
        self._scanner = body.BodyScanner()

    # --- what the session calls --------------------------------------------------------------------------------------

    def greet(self) -> list[Event]:
        return [self._send(Reply(220, "", f"{self._terms.hostname} ESMTP"))]

    def feed(self, data: bytes) -> list[Event]:
        if self._state is _State.CLOSED or not data:
            return []
        if self._state is _State.BODY:
            return self._text(data)
        if self._state is _State.HANDSHAKE:
            return self._close(b"", "data in clear after STARTTLS")
        self._lines.feed(data)
        if len(self._lines) > MAX_PENDING and self._state in (_State.LOGIN, _State.ADMITTED, _State.WAITING):
            return self._close(b"", "pipelined too much")
        return self._work()

    def secured(self) -> list[Event]:
        self.secure = True
        self.helo, self._told_helo, self.esmtp = "", "", False
        self._lines = LineBuffer(self._terms.max_line)
        self._state = _State.COMMAND
        return []

    def admit(self, text: bytes) -> tuple[bytes, bytes]:
        self._state = _State.ADMITTED
        self.authenticated = True
        self._mechanism = None
        return render(Reply(235, "2.7.0", text.decode("ascii", "replace") or "Authentication successful")), b""

    def resume(self) -> list[Event]:
        """Go on, after L{admit} and its reply, with what the client has pipelined behind its login."""
        if self._state is _State.ADMITTED:
            self._state = _State.COMMAND
        return self._work()

    def refuse(self, refusal: Refusal) -> list[Event]:
        self._state = _State.COMMAND
        if refusal.kind is RefusalKind.LIMIT:
            return self._close(self.expire("Too many connections or logins"), "limit")
        if refusal.kind is RefusalKind.UNAVAILABLE:
            return [self._send(REFUSALS[refusal.kind]), *self._work()]
        return [*self._failed_login(REFUSALS[refusal.kind]), *self._work()]

    def expire(self, reason: str) -> bytes:
        return render(Reply(421, "4.7.0", f"{self._terms.hostname} {reason}"))

    def answer(self, reply: Reply) -> list[Event]:
        event, self._waiting = self._waiting, None
        if event is None or self._state is not _State.WAITING:
            return []
        self._state = _State.COMMAND
        match event:
            case Mail():
                self._in_mail, self._recipients = reply.good, 0
            case Recipient():
                self._recipients += reply.good
            case Data():
                return self._begin_text(reply)
            case EndOfMail():
                self._in_mail, self._idle = False, 0
        if reply.code >= 500 and isinstance(event, Mail | Recipient):  # or addresses could be tried out without end
            return [*self._idle_command(reply), *self._work()]
        return [self._send(reply), *self._work()]

    # --- lines -------------------------------------------------------------------------------------------------------

    def _work(self) -> list[Event]:
        """Take lines while nothing is awaited."""
        events: list[Event] = []
        while self._state in (_State.COMMAND, _State.EXCHANGE):
            if self._lines.begins(_HANDSHAKE):
                return events + self._close(b"", "a TLS handshake where a command was expected")
            line = self._lines.next_line()
            if line is None:
                return events + self._line_fault()
            if not self._use(len(line) + 2):
                return events + self._close(self.expire("Too much before login"), "too much before login")
            events += self._response(line) if self._state is _State.EXCHANGE else self._command(line)
        return events

    def _use(self, count: int) -> bool:
        """Count what was used up before the login, so that the network's cuts make no difference; false: too much."""
        if self._terms.authenticate and not self.authenticated:
            self._total += count
        return self._total <= self._terms.max_total

    def _line_fault(self) -> list[Event]:
        if not self._lines.fault:
            return []
        if self._lines.fault == BARE_LF:
            return self._close(render(Reply(500, "5.5.2", "Lines end with CRLF")), "bare LF in a command")
        return self._close(render(Reply(500, "5.5.2", "Line too long")), "line too long")

    def _command(self, line: bytes) -> list[Event]:
        if _FOREIGN.match(line):
            return self._close(b"", "speaks another protocol")
        verb, _, argument = line.rstrip(b" \t").partition(b" ")
        name = verb.upper()
        if len(line) > MAX_COMMAND and name != b"AUTH":
            return self._close(render(Reply(500, "5.5.2", "Line too long")), "line too long")
        if _CONTROL.search(line.rstrip(b"\t")):
            return self._misdeed(Reply(500, "5.5.2", "Control character in a command"))
        perform = self._VERBS.get(name)
        if perform is None:
            return self._misdeed(Reply(500, "5.5.1", "Command unrecognized"))
        # Octets above 127 become lone surrogates unless they are UTF-8: no grammar below takes either.
        return perform(self, argument.strip(b" ").decode("utf-8", "surrogateescape"))

    def _send(self, reply: Reply) -> Event:
        return Send(render(reply))

    def _misdeed(self, reply: Reply) -> list[Event]:
        """Answer a bad command, up to a limit."""
        self._bad += 1
        if self._bad >= self._terms.bad_commands:
            return self._close(render(reply) + self.expire("Too many errors"), "too many bad commands")
        return [self._send(reply)]

    def _idle_command(self, reply: Reply) -> list[Event]:
        self._idle += 1
        if self._idle > MAX_IDLE_COMMANDS:
            return self._close(self.expire("Too many commands without mail"), "too many idle commands")
        return [self._send(reply)]

    def _close(self, words: bytes, reason: str) -> list[Event]:
        events = self._void()
        self._state = _State.CLOSED
        self._lines.rest()
        return [*events, Close(words, reason)]

    def _void(self) -> list[Event]:
        """End the transaction, and say so where there was one."""
        was, self._in_mail = self._in_mail, False
        return [Reset()] if was else []

    def _ask(self, event: Event) -> list[Event]:
        self._state, self._waiting = _State.WAITING, event
        return [event]

    # --- EHLO, STARTTLS, and what moves nothing ----------------------------------------------------------------------

    def _ehlo(self, argument: str) -> list[Event]:
        if not is_helo(argument):
            return self._misdeed(BAD_ARGUMENTS)
        self.helo, self.esmtp = self._told_helo or argument, True
        size = f"SIZE {self._terms.message_size}"
        lines = [self._terms.hostname, *(self._terms.capabilities or ("PIPELINING", size))]
        if self._terms.upgradable and not self.secure:
            lines.append("STARTTLS")
        if self._terms.authenticate and not self.authenticated and self._terms.may_login(self.secure):
            lines.append("AUTH " + " ".join(sasl.MECHANISMS))
        if self._terms.trusted and not self.authenticated:
            lines.append(f"XCLIENT {ATTRIBUTES}")
        lines += () if self._terms.capabilities else ("ENHANCEDSTATUSCODES", "8BITMIME")
        return self._void() + self._idle_command(Reply(250, "", "\n".join(lines)))

    def _helo(self, argument: str) -> list[Event]:
        if not is_helo(argument):
            return self._misdeed(BAD_ARGUMENTS)
        self.helo, self.esmtp = self._told_helo or argument, False
        return self._void() + self._idle_command(Reply(250, "", self._terms.hostname))

    def _starttls(self, argument: str) -> list[Event]:
        if argument:
            return self._misdeed(BAD_ARGUMENTS)
        if self.secure or self.authenticated:
            return self._misdeed(BAD_SEQUENCE)
        if not self._terms.upgradable:
            return self._misdeed(Reply(502, "5.5.1", "STARTTLS is not offered"))
        if len(self._lines):
            return self._close(b"", "data in clear behind STARTTLS")
        events = self._void()
        self._state = _State.HANDSHAKE
        return [*events, StartTLS(render(Reply(220, "2.0.0", "Ready to start TLS")))]

    def _xclient(self, argument: str) -> list[Event]:
        """Postfix's XCLIENT: a proxy in front that we trust tells of the client behind it; all begins anew."""
        if not self._terms.trusted:
            return self._misdeed(Reply(550, "5.7.0", "XCLIENT is not for you"))
        if self.authenticated or self._in_mail:
            return self._misdeed(BAD_SEQUENCE)
        told = from_xclient(argument, xtext=True)
        if told is None:
            return self._misdeed(BAD_ARGUMENTS)
        self.helo, self._told_helo, self.esmtp = "", told.helo or self._told_helo, False
        return [told, *self._idle_command(Reply(220, "", f"{self._terms.hostname} ESMTP"))]

    def _rset(self, argument: str) -> list[Event]:
        return self._misdeed(BAD_ARGUMENTS) if argument else self._void() + self._idle_command(DONE)

    def _noop(self, argument: str) -> list[Event]:
        return self._idle_command(DONE)

    def _help(self, argument: str) -> list[Event]:
        return self._idle_command(Reply(214, "2.0.0", "See RFC 5321"))

    def _vrfy(self, argument: str) -> list[Event]:
        if not argument:
            return self._misdeed(BAD_ARGUMENTS)
        return self._idle_command(Reply(252, "2.0.0", "Send some mail, and we will try to deliver it"))

    def _quit(self, argument: str) -> list[Event]:
        if argument:
            return self._misdeed(BAD_ARGUMENTS)
        return self._close(render(Reply(221, "2.0.0", f"{self._terms.hostname} closing connection")), "QUIT")

    # --- AUTH (RFC 4954) ---------------------------------------------------------------------------------------------

    def _auth(self, argument: str) -> list[Event]:
        if (wrong := self._may_not_auth()) is not None:
            return self._misdeed(wrong)
        name, _, initial = argument.partition(" ")
        mechanism = sasl.MECHANISMS.get(name.upper())
        if not name:
            return self._misdeed(BAD_ARGUMENTS)
        if mechanism is None:
            return self._misdeed(Reply(504, "5.5.4", "Mechanism not supported"))
        self._mechanism = mechanism()
        if not initial:
            return self._step(None)
        return self._response(initial.encode("utf-8", "surrogateescape"))

    def _may_not_auth(self) -> Reply | None:
        if not self._terms.authenticate:
            return Reply(503, "5.5.1", "Authentication is not enabled")
        if not self.helo:
            return SAY_HELLO
        if self.authenticated or self._in_mail:
            return BAD_SEQUENCE
        return None if self._terms.may_login(self.secure) else NEED_TLS

    def _response(self, line: bytes) -> list[Event]:
        """A line of the exchange, or an initial response."""
        cancelled = self._state is _State.EXCHANGE and line == b"*"
        self._state = _State.COMMAND
        response = None if cancelled else sasl.decode(line)
        if response is None:
            self._mechanism = None
            words = "Authentication cancelled" if cancelled else "Cannot decode the response"
            return self._failed_login(Reply(501, "5.5.2", words))
        return self._step(response)

    def _step(self, response: bytes | None) -> list[Event]:
        assert self._mechanism is not None
        match self._mechanism.step(response):
            case sasl.Challenge(data):
                self._state = _State.EXCHANGE
                return [Send(b"334 " + sasl.encode(data) + b"\r\n")]
            case Login() as login:
                self._mechanism = None
                self._state = _State.LOGIN
                return [login]
            case _:
                self._mechanism = None
                return self._failed_login(WRONG if response else BAD_RESPONSE)

    def _failed_login(self, reply: Reply) -> list[Event]:
        self._attempts += 1
        if self._attempts >= self._terms.login_attempts:
            return self._close(render(reply) + self.expire("Too many failed logins"), "too many failed logins")
        return [self._send(reply)]

    # --- the envelope ------------------------------------------------------------------------------------------------

    def _mail(self, argument: str) -> list[Event]:
        if (wrong := self._may_not_mail()) is not None:
            return self._misdeed(wrong)
        if argument[:5].upper() != "FROM:" or (parts := split_path(argument[5:])) is None:
            return self._misdeed(_bad_path(argument, BAD_SENDER))
        path, rest = parts
        sender = mailbox(path) if path else ""
        if sender is None:
            return self._misdeed(_bad_path(path, BAD_SENDER))
        mail = self._parameters(sender, rest)
        if isinstance(mail, Reply):
            return self._misdeed(mail)
        if self._terms.message_size and (mail.size or 0) > self._terms.message_size:
            return self._idle_command(TOO_BIG)
        return self._ask(mail)

    def _may_not_mail(self) -> Reply | None:
        if self._terms.authenticate and not self.authenticated:
            return NEED_AUTH if self._terms.may_login(self.secure) else NEED_TLS
        if not self.helo:
            return SAY_HELLO
        return BAD_SEQUENCE if self._in_mail else None

    def _parameters(self, sender: str, rest: str) -> Mail | Reply:
        """Read what follows the path of MAIL (RFC 1870, RFC 6152, RFC 4954 §5)."""
        given: dict[str, str] = {}
        for word in rest.split():
            match = _PARAMETER.fullmatch(word)
            if match is None or match[1].upper() in given:
                return BAD_ARGUMENTS
            given[match[1].upper()] = match[2] or ""
        size, kind = given.pop("SIZE", None), given.pop("BODY", "").upper()
        if self._terms.authenticate:
            given.pop("AUTH", None)  # who vouches for the sender is our own login, never a claim
        if given:
            return NO_PARAMETER
        if kind not in ("", "7BIT", "8BITMIME") or (size is not None and not re.fullmatch("[0-9]{1,20}", size)):
            return BAD_ARGUMENTS
        return Mail(sender, None if size is None else int(size), kind)

    def _rcpt(self, argument: str) -> list[Event]:
        if not self._in_mail:
            return self._misdeed(BAD_SEQUENCE)
        if argument[:3].upper() != "TO:" or (parts := split_path(argument[3:])) is None:
            return self._misdeed(_bad_path(argument, BAD_RECIPIENT))
        path, rest = parts
        address = "postmaster" if path.lower() == "postmaster" else mailbox(path)
        if address is None:
            return self._misdeed(_bad_path(path, BAD_RECIPIENT))
        if rest:
            return self._misdeed(NO_PARAMETER)
        if self._recipients >= self._terms.recipients:
            return [self._send(Reply(452, "4.5.3", "Too many recipients"))]
        return self._ask(Recipient(address))

    def _data(self, argument: str) -> list[Event]:
        if argument:
            return self._misdeed(BAD_ARGUMENTS)
        if not self._in_mail:
            return self._misdeed(BAD_SEQUENCE)
        if not self._recipients:
            return self._idle_command(Reply(554, "5.5.1", "No valid recipients"))
        return self._ask(Data())

    # --- the message -------------------------------------------------------------------------------------------------

    def _begin_text(self, reply: Reply) -> list[Event]:
        """The answer to DATA is known."""
        if reply.code != 354:
            return [self._send(reply), *self._void(), *self._work()]
        if len(self._lines):
            # Text sent before the go-ahead is a client that speaks blindly: another protocol's, or a smuggler's
            # (RFC 2920 §3.1: DATA is the last command of a group).
            return self._close(render(Reply(554, "5.5.0", "Wait for the reply to DATA")), "text before 354")
        self._state = _State.BODY
        self._scanner = body.BodyScanner(self._terms.message_size)
        return [self._send(reply)]

    def _text(self, data: bytes) -> list[Event]:
        piece, rest = self._scanner.feed(data)
        events: list[Event] = [Chunk(piece)] if piece else []
        if rest is None:
            return events
        self._lines.feed(rest)
        fault = self._scanner.fault
        if not fault:
            return events + self._ask(EndOfMail())
        self._state, self._in_mail, self._idle = _State.COMMAND, False, 0
        return [*events, EndOfMail(fault), self._send(FAULTS[fault]), *self._work()]

    _VERBS: ClassVar[dict[bytes, Verb]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
        b"STARTTLS": _starttls,
        b"XCLIENT": _xclient,
        b"AUTH": _auth,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"HELP": _help,
        b"VRFY": _vrfy,
        b"QUIT": _quit,
    }


def _bad_path(text: str, reply: Reply) -> Reply:
    """What to say of an address we do not take: valid UTF-8 was meant as SMTPUTF8, which we do not offer."""
    if text.isascii() or any("\ud800" <= letter <= "\udfff" for letter in text):
        return reply
    return NOT_ASCII
