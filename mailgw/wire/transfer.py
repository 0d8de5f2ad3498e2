"""Transfer: the client's side of SMTP or LMTP towards a backend: greeting, TLS, login, and then transactions.

It never falls back: where TLS or a login is demanded and not to be had, the backend is refused. It does not convert
messages: to a backend without 8BITMIME they go as they are, without the BODY parameter, as Postfix does with
disable_mime_output_conversion; and it decides on no reply, it reports them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from zope.interface import implementer

from mailgw.interfaces import IClientDialogue
from mailgw.model import Access, Failure, Forward
from mailgw.wire import sasl
from mailgw.wire.body import Stuffer
from mailgw.wire.events import Answered, Event, Ready, Refused, Send, StartTLS
from mailgw.wire.replies import ReplyReader, to_reply

MAX_COMMAND = 512
"""Octets of a command line with its CRLF (RFC 5321 §4.5.3.1.4): what every backend takes."""

MAIL, RCPT, DATA, END, RSET = "MAIL", "RCPT", "DATA", "END", "RSET"
QUIT = b"QUIT\r\n"


Step = Callable[[int, list[str]], list[Event]]


@implementer(IClientDialogue)
class Transfer:
    """One connection's conversation. Until L{Ready} only L{feed} and L{secured} may be called.

    @ivar extensions: what the backend announced, upper case, with its parameters; empty again when TLS begins.
    """

    def __init__(
        self,
        access: Access | None,
        forward: Forward,
        starttls: bool,
        hostname: str,
        lmtp: bool = False,
        xclient_login: bool = False,
    ) -> None:
        """
        @param access: the account to log in with, or C{None} for no login.
        @param starttls: demand it before anything else.
        @param hostname: what we call ourselves.
        @param xclient_login: the login is C{XCLIENT LOGIN}, and refused where that is not announced.
        """
        self._access, self._forward, self._starttls = access, forward, starttls
        self._hello_line = f"{'LHLO' if lmtp else 'EHLO'} {hostname}\r\n".encode()
        self._lmtp, self._xclient_login = lmtp, xclient_login
        self._reader = ReplyReader()
        self._expect: Step | None = self._greeting
        self._introduced = False
        self._lines: deque[bytes] = deque()
        self._asked: deque[str] = deque()
        self._accepted = 0
        self._stuffer = Stuffer()
        self.extensions: dict[str, str] = {}

    @property
    def forward(self) -> Forward:
        """What the backend may be told about the client."""
        return self._forward

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        self._reader.feed(data)
        while self._expect is not None and (reply := self._reader.next_reply()) is not None:
            events += self._expect(*reply)
        if self._expect is not None and self._reader.fault:
            events += self._refused(Failure.PROTOCOL, self._reader.fault)
        return events

    def secured(self) -> list[Event]:
        self._reader = ReplyReader()
        self.extensions = {}
        self._starttls = False
        return self._hello()

    # --- until ready -------------------------------------------------------------------------------------------------

    def _refused(self, kind: Failure, text: str) -> list[Event]:
        self._expect = None
        return [Refused(kind, text)]

    def _unwelcome(self, code: int, lines: list[str], what: str) -> list[Event]:
        kind = Failure.TEMPFAIL if 400 <= code < 500 else Failure.PROTOCOL
        return self._refused(kind, f"{what}: {code} {' / '.join(lines)[:200]}")

    def _say(self, line: bytes, expect: Step) -> list[Event]:
        self._expect = expect
        return [Send(line)]

    def _greeting(self, code: int, lines: list[str]) -> list[Event]:
        return self._hello() if code == 220 else self._unwelcome(code, lines, "greeting")

    def _hello(self) -> list[Event]:
        return self._say(self._hello_line, self._hello_answered)

    def _hello_answered(self, code: int, lines: list[str]) -> list[Event]:
        if code != 250:
            return self._unwelcome(code, lines, "EHLO")
        self.extensions = {}
        for line in lines[1:]:
            keyword, _, parameters = line.strip().partition(" ")
            self.extensions[keyword.upper()] = parameters.strip()
        if self._starttls:
            if "STARTTLS" not in self.extensions:
                return self._refused(Failure.TLS, "STARTTLS is not announced")
            return self._say(b"STARTTLS\r\n", self._tls_answered)
        return self._introduce() if not self._introduced else self._log_in()

    def _tls_answered(self, code: int, lines: list[str]) -> list[Event]:
        if code != 220:
            return self._refused(Failure.TLS, f"STARTTLS: {code} {' / '.join(lines)[:200]}")
        if self._reader.pending:
            return self._refused(Failure.TLS, "data in clear behind the go-ahead for TLS")
        self._expect = self._too_early
        return [StartTLS()]

    def _too_early(self, code: int, lines: list[str]) -> list[Event]:
        return self._refused(Failure.TLS, "data in clear behind the go-ahead for TLS")

    def _introduce(self) -> list[Event]:
        """Tell who the client is (XCLIENT), where the backend announces that it wants to know."""
        self._introduced = True
        names = self.extensions.get("XCLIENT", "").upper().split()
        if self._xclient_login and "LOGIN" not in names:
            return self._refused(Failure.PROTOCOL, "XCLIENT LOGIN is not announced")
        self._lines.extend(xclient_lines(self._forward, frozenset(names), self._xclient_login))
        return self._say(self._lines.popleft(), self._xclient_answered) if self._lines else self._log_in()

    def _xclient_answered(self, code: int, lines: list[str]) -> list[Event]:
        if code == 220:
            return self._say(self._lines.popleft(), self._xclient_answered) if self._lines else self._hello()
        if self._xclient_login or code == 421:
            return self._unwelcome(code, lines, "XCLIENT")
        self._lines.clear()  # it does not trust us: it will log our address
        return self._log_in()

    def _log_in(self) -> list[Event]:
        if self._access is None:
            return self._ready()
        if reason := sasl.unfit(self._access):
            return self._refused(Failure.PROTOCOL, reason)
        offered = frozenset(self.extensions.get("AUTH", "").upper().split())
        mechanism = sasl.client_mechanism(offered, self._access)
        if mechanism is None:
            return self._refused(Failure.PROTOCOL, "offers no mechanism of ours")
        if mechanism == "LOGIN":
            self._lines.extend([sasl.encode(self._access.username.encode()), sasl.encode(self._access.password)])
            return self._say(b"AUTH LOGIN\r\n", self._auth_answered)
        response = sasl.encode(sasl.plain_response(self._access))
        line = b"AUTH PLAIN " + response + b"\r\n"
        if len(line) <= MAX_COMMAND:
            return self._say(line, self._auth_answered)
        self._lines.append(response)
        return self._say(b"AUTH PLAIN\r\n", self._auth_answered)

    def _auth_answered(self, code: int, lines: list[str]) -> list[Event]:
        if code == 334 and self._lines:
            return [Send(self._lines.popleft() + b"\r\n")]
        if code == 235:
            return self._ready()
        # A backend may repeat what it was given: of its words at a login only the codes reach the log.
        words = [to_reply(code, lines).enhanced]
        if code == 535:
            return self._refused(Failure.REJECTED, f"AUTH: {code} {words[0]}")
        return self._unwelcome(code, words, "AUTH")

    def _ready(self) -> list[Event]:
        self._access = None
        self._expect = self._answered
        if self._reader.pending:
            return self._refused(Failure.PROTOCOL, "speaks without being asked")
        return [Ready(b"")]

    # --- the transaction ---------------------------------------------------------------------------------------------

    @property
    def pipelining(self) -> bool:
        """MAIL and RCPT may be sent without waiting for replies (RFC 2920)."""
        return "PIPELINING" in self.extensions

    def mail(self, sender: str, size: int | None = None, body: str = "") -> list[Event]:
        """Begin. SIZE and BODY are passed on where the backend knows them."""
        parameters = f" SIZE={size}" if size is not None and "SIZE" in self.extensions else ""
        if body and "8BITMIME" in self.extensions:
            parameters += f" BODY={body}"
        self._accepted = 0
        self._stuffer = Stuffer()
        return self._ask(MAIL, f"MAIL FROM:<{_safe(sender)}>{parameters}\r\n")

    def recipient(self, address: str) -> list[Event]:
        """Name a recipient."""
        return self._ask(RCPT, f"RCPT TO:<{_safe(address)}>\r\n")

    def data(self) -> list[Event]:
        """Ask for the go-ahead, which is the reply 354."""
        return self._ask(DATA, "DATA\r\n")

    def chunk(self, data: bytes) -> list[Event]:
        """Send a piece of the message; it has CRLF line ends and no transparency dots."""
        return [Send(self._stuffer.feed(data))] if data else []

    @property
    def finals(self) -> int:
        """How many replies the final dot has: with LMTP one for each accepted recipient (RFC 2033 §4.2)."""
        return self._accepted if self._lmtp else 1

    def finish(self) -> list[Event]:
        """Send the final dot."""
        self._asked.extend([END] * self.finals)
        return [Send(self._stuffer.finish())]

    def reset(self) -> list[Event]:
        """Give the transaction up."""
        return self._ask(RSET, "RSET\r\n")

    def _ask(self, command: str, line: str) -> list[Event]:
        self._asked.append(command)
        return [Send(line.encode("ascii"))]

    def _answered(self, code: int, lines: list[str]) -> list[Event]:
        if not self._asked or code == 421:
            return self._unwelcome(code, lines, "closing, or unasked")
        command = self._asked.popleft()
        expected = code == 354 if command == DATA else code < 300
        if code < 400 and not expected:
            return self._refused(Failure.PROTOCOL, f"{command}: {code}")
        if command == RCPT and code < 300:
            self._accepted += 1
        return [Answered(command, to_reply(code, lines))]


def _safe(address: str) -> str:
    """Only what L{mailgw.wire.address} lets pass may stand in a command.

    @raise ValueError: it would end the command or the path.
    """
    if not address.isascii() or not address.isprintable():
        raise ValueError("not an envelope address")
    return address


def xtext(text: str) -> str:
    """Encode a value for a parameter (RFC 3461 §4)."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}" for octet in text.encode("utf-8")
    )


def xclient_lines(forward: Forward, announced: frozenset[str], with_login: bool) -> Iterable[bytes]:
    """Make the XCLIENT commands: only what was announced, at most 512 octets each, ADDR last.

    ADDR is last because a server that has taken it judges what follows by the client's address, not by ours.
    """
    peer = forward.peer
    wanted = {
        "SESSION": forward.session_id,
        "TTL": str(forward.ttl),
        "PROTO": "ESMTP",
        "HELO": forward.helo,
        "LOGIN": forward.login if with_login else "",
        "DESTADDR": _address(peer.local_host),
        "DESTPORT": str(peer.local_port or ""),
        "PORT": str(peer.port or ""),
        "ADDR": _address(peer.host),
    }
    line = b"XCLIENT"
    for name, value in wanted.items():
        if name not in announced or not value:
            continue
        word = f" {name}={xtext(value)}".encode("ascii")
        if len(line) + len(word) + 2 > MAX_COMMAND and line != b"XCLIENT":
            yield line + b"\r\n"
            line = b"XCLIENT"
        line += word
    if line != b"XCLIENT":
        yield line + b"\r\n"


def _address(host: str) -> str:
    return f"IPV6:{host}" if ":" in host else host if host[:1].isdigit() else ""
