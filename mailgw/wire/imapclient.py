"""ImapClient: logs in on an IMAP backend, from its greeting to its tagged OK (RFC 9051, RFC 3501).

It sends no other command, follows no referral and trusts no capability that came before TLS. What the backend says
after the login is not its business: a relay carries that.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache

from zope.interface import implementer

from mailgw.interfaces import IClientDialogue
from mailgw.model import Access, Failure, Forward
from mailgw.wire.clientside import MAX_LINE, ClientSide, endpoint, printable
from mailgw.wire.events import Event
from mailgw.wire.sasl import client_mechanism, encode, plain_response

_TAGGED = re.compile(rb"([A-Z]) ((?i:OK|NO|BAD))(?: (.*))?", re.DOTALL)
_GREETING = re.compile(rb"\* ((?i:OK|BYE|PREAUTH))(?: (.*))?", re.DOTALL)
_CODE = re.compile(rb"\[([A-Za-z0-9-]+)(?: ([^\]]*))?\] ?")
_CAPABILITIES = re.compile(rb"\* (?i:CAPABILITY) (.*)", re.DOTALL)
_WORD = re.compile(rb"[!-Z\\^-~]{1,64}")
_LITERAL = re.compile(rb"\{([0-9]{1,4})\}\Z")
_VALUE = re.compile(r"[ -~]{1,1024}")

_REJECTED = frozenset({b"", b"AUTHENTICATIONFAILED", b"AUTHORIZATIONFAILED", b"EXPIRED", b"ALERT"})
"""Codes of a NO that means the credentials (RFC 5530); all others, C{REFERRAL} too, are the backend's trouble."""

_PRIVATE = re.compile(rb"(?i:STARTTLS|LOGINDISABLED|AUTH=.*|SASL-IR|LOGIN-REFERRALS|UNAUTHENTICATE)")
"""Capabilities that cannot cross a gateway: the client has logged in, with us, and stays who it is (RFC 8437)."""


class Stage(Enum):
    """Which reply comes next."""

    GREETING = auto()
    CAPABILITY = auto()
    STARTTLS = auto()
    LOGIN = auto()
    LEARNING = auto()


@implementer(IClientDialogue)
class ImapClient(ClientSide):
    """One login on one backend. Its tags are letters: C for CAPABILITY, S for STARTTLS, I for ID, L for the login and
    P for CAPABILITY after it.
    """

    __slots__ = ("_answers", "_capabilities", "_id_pending", "_in_id", "_kept", "_skip", "_stage", "_text")

    def __init__(self, access: Access, forward: Forward, starttls: bool) -> None:
        super().__init__(access, forward, starttls)
        self._stage = Stage.GREETING
        self._capabilities: list[bytes] | None = None
        self._answers: list[bytes] = []
        self._id_pending = self._in_id = False
        self._skip = 0
        self._kept = self._text = b""

    def _restart(self) -> list[Event]:
        return self._ask()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _next_line(self) -> bytes | None:
        """Pass over a literal in the backend's ID; no other reply up to the end of a login has any."""
        if self._skip:
            gone = self._lines.drain(self._skip)
            self._skip -= gone
            if not self._use(gone) or self._skip:
                return None
        return super()._next_line()

    def _line(self, line: bytes) -> list[Event]:
        if self._in_id or line[:5].upper() == b"* ID ":
            literal = _LITERAL.search(line)
            self._in_id, self._skip = literal is not None, int(literal[1]) if literal else 0
            return []
        if self._stage is Stage.GREETING:
            return self._greeted(line)
        if line.startswith(b"* "):
            return self._untagged(line)
        if line.startswith(b"+"):
            return self._continue(line)
        reply = _TAGGED.fullmatch(line)
        if reply is None:
            return self._refuse(Failure.PROTOCOL, "no IMAP reply", line)
        return self._tagged(reply[1], reply[2].upper() == b"OK", line, reply[3] or b"")

    def _greeted(self, line: bytes) -> list[Event]:
        """C{PREAUTH} would be somebody's mailbox, and STARTTLS impossible: never ours."""
        greeting = _GREETING.fullmatch(line)
        kind = greeting[1].upper() if greeting else b""
        if kind == b"BYE":
            return self._refuse(Failure.TEMPFAIL, "turned away", line)
        if greeting is None or kind != b"OK":
            return self._refuse(Failure.PROTOCOL, "not an IMAP greeting", line)
        code = _CODE.match(greeting[2] or b"")
        if code is None or code[1].upper() != b"CAPABILITY":
            return self._ask()
        self._capabilities = (code[2] or b"").split()
        return self._proceed()

    def _untagged(self, line: bytes) -> list[Event]:
        """Learn capabilities; all else is passed over, or once we are logged in kept for the client."""
        listed = _CAPABILITIES.fullmatch(line)
        if listed:
            self._capabilities = listed[1].split()
        elif line[2:5].upper() == b"BYE":
            return self._refuse(Failure.TEMPFAIL, "it says goodbye", line)
        elif self._stage is Stage.LEARNING:
            self._kept += line + b"\r\n"
        return []

    def _continue(self, line: bytes) -> list[Event]:
        """The backend wants the next part of the credentials, and says so with a C{+} and anything behind it."""
        if self._stage is not Stage.LOGIN or not self._answers:
            return self._refuse(Failure.PROTOCOL, "it asks for more", line)
        answer = self._answers.pop(0)
        return self._send(answer) if self._answers else self._present(answer)

    def _tagged(self, tag: bytes, good: bool, line: bytes, text: bytes) -> list[Event]:
        """The end of a command, one of ours that is under way."""
        match tag, self._stage:
            case b"C", Stage.CAPABILITY:
                if good and self._capabilities is not None:
                    return self._proceed()
                return self._refuse(Failure.TLS if self._starttls else Failure.PROTOCOL, "no capabilities", line)
            case b"S", Stage.STARTTLS:
                return self._upgrade() if good else self._refuse(Failure.TLS, "no STARTTLS", line)
            case b"I", Stage.LOGIN if self._id_pending:
                self._id_pending = False
                return []
            case b"L", Stage.LOGIN:
                return self._logged_in(line, text) if good else self._failed(line, text)
            case b"P", Stage.LEARNING:
                return self._finish()
        return self._refuse(Failure.PROTOCOL, "a reply to no command of ours", line)

    # --- before the login --------------------------------------------------------------------------------------------

    def _ask(self) -> list[Event]:
        self._capabilities = None
        self._stage = Stage.CAPABILITY
        return self._send(b"C CAPABILITY")

    def _offered(self) -> list[bytes]:
        """The capabilities in capital letters."""
        return b" ".join(self._capabilities or ()).upper().split()

    def _proceed(self) -> list[Event]:
        """The capabilities are known: TLS first where it is demanded, and no way around it."""
        if not self._starttls or self._secure:
            return self._login()
        if b"STARTTLS" not in self._offered():
            return self._refuse(Failure.TLS, "STARTTLS is not offered")
        self._stage = Stage.STARTTLS
        return self._send(b"S STARTTLS")

    def _login(self) -> list[Event]:
        """Send ID, where the backend reads it, and the login in one write."""
        way = self._way()
        if way is None:
            return self._refuse(Failure.PROTOCOL, "it offers no login that we can use")
        first, self._answers = way
        lines = [*self._identification(), first]
        self._id_pending = len(lines) > 1
        self._capabilities = None
        self._stage = Stage.LOGIN
        self._presented = not self._answers
        return self._send(*lines)

    def _way(self) -> tuple[bytes, list[bytes]] | None:
        """Choose how to log in: the command, and what the backend will ask for; C{None} where there is no way."""
        access = self._access
        words = self._offered()
        offered = frozenset(word[5:].decode("ascii", "replace") for word in words if word.startswith(b"AUTH="))
        match client_mechanism(offered, access) if access.mechanism != "COMMAND" else None:
            case "PLAIN":
                response = encode(plain_response(access))
                at_once = b"L AUTHENTICATE PLAIN " + response
                if b"SASL-IR" in words and len(at_once) + 2 <= MAX_LINE:
                    return at_once, []
                return b"L AUTHENTICATE PLAIN", [response]
            case "LOGIN":
                return b"L AUTHENTICATE LOGIN", [encode(access.username.encode()), encode(access.password)]
        if access.authzid or access.mechanism in ("PLAIN", "LOGIN") or b"LOGINDISABLED" in words:
            return None
        return self._login_command(b"LITERAL+" in words or b"LITERAL-" in words)

    def _login_command(self, at_once: bool) -> tuple[bytes, list[bytes]]:
        """LOGIN with literals, the only strings that need no quoting; C{at_once} where they may follow unasked."""
        username, password = self._access.username.encode(), self._access.password
        if at_once:
            return b"L LOGIN {%d+}\r\n%b {%d+}\r\n%b" % (len(username), username, len(password), password), []
        return b"L LOGIN {%d}" % len(username), [b"%b {%d}" % (username, len(password)), password]

    def _identification(self) -> list[bytes]:
        """The ID command that tells the backend who the client is, in the fields that Dovecot reads."""
        if b"ID" not in self._offered():
            return []
        peer = self._forward.peer
        host, port = endpoint(peer.host, peer.port)
        local_host, local_port = endpoint(peer.local_host, peer.local_port)
        fields = {
            "x-originating-ip": host,
            "x-originating-port": port,
            "x-connected-ip": local_host,
            "x-connected-port": local_port,
            "x-session-id": _quotable(self._forward.session_id),
            "x-proxy-ttl": str(self._forward.ttl),
        }
        words = [f'"{key}" "{value}"' for key, value in fields.items() if value]
        return [f"I ID ({' '.join(words)})".encode()]

    # --- the login ---------------------------------------------------------------------------------------------------

    def _failed(self, line: bytes, text: bytes) -> list[Event]:
        """A NO may mean the credentials, once they were sent and if its code does not say otherwise."""
        if line[2:3].upper() == b"B":
            return self._refuse(Failure.PROTOCOL, "it does not understand our login", line)
        code = _CODE.match(text)
        if self._presented and (code[1].upper() if code else b"") in _REJECTED:
            return self._refuse(Failure.REJECTED, "login refused", line)
        return self._refuse(Failure.TEMPFAIL, "login failed", line)

    def _logged_in(self, line: bytes, text: bytes) -> list[Event]:
        """Logged in. The client is to learn the backend's capabilities, so ask for them where they did not come."""
        if self._id_pending:
            return self._refuse(Failure.PROTOCOL, "it answers out of order", line)
        if not self._presented:
            return self._refuse(Failure.PROTOCOL, "it lets us in without a password", line)
        code = _CODE.match(text)
        self._text = text[code.end() :] if code else text
        if code and code[1].upper() == b"CAPABILITY":
            self._capabilities = (code[2] or b"").split()
        if self._capabilities is not None:
            return self._finish()
        self._stage = Stage.LEARNING
        return self._send(b"P CAPABILITY")

    def _finish(self) -> list[Event]:
        """Hand over, with those capabilities that cross a gateway."""
        words = _crossing(b" ".join(self._capabilities or ()))
        code = b"[CAPABILITY " + words + b"] " if words else b""
        return self._ready(code + (printable(self._text) or b"Logged in"), self._kept)


@lru_cache(100)
def _crossing(capabilities: bytes) -> bytes:
    """What a client may learn of a backend's capabilities. Backends have few lists of them, and repeat them."""
    words = capabilities.split()
    return b" ".join(word for word in words if _WORD.fullmatch(word) and not _PRIVATE.fullmatch(word))


def _quotable(value: str) -> str:
    """Text as it stands within the quotes of an IMAP string, C{""} where it cannot."""
    return value.replace("\\", "\\\\").replace('"', '\\"') if _VALUE.fullmatch(value) else ""
