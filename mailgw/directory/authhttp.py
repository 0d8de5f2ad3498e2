"""nginx's auth_http protocol (ngx_mail_auth_http_module): the headers of a question, and what an answer's mean.

It sends nothing and waits for nothing. What nginx shows to its clients, the reason in Auth-Status, is for our log only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mailgw.directory.names import password_fault, well_formed
from mailgw.model import Envelope, Origin
from mailgw.wire.http import Answer

MAX_WAIT = 30
"""Seconds that an Auth-Wait may hold up an answer; a longer one counts as this."""
_CONTROL = re.compile(rb"[\0-\x1f\x7f]")
_ESCAPED = re.compile(rb"[\0-\x20%]")
_NUMBER = re.compile(rb"[0-9]{1,9}")
_PROTOCOLS = {"submission": "smtp", "mx": "smtp", "lmtp": "smtp"}
"""What nginx calls the protocols that it has other names for."""
_RESOLVED = b"Client-Host: [UNAVAILABLE]\r\n"
"""nginx sends this on SMTP where it has no resolver, and elsewhere no Client-Host at all."""


class StrangeAnswer(Exception):
    """An answer that says neither yes nor no; the message is for the log."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an auth_http server said.

    @ivar status: C{"OK"}, C{"WAIT"}, or why not.
    @ivar wait: seconds, up to L{MAX_WAIT}, before a refusal is passed on, or before the question is put again.
    @ivar temporary: the refusal has an Auth-Error-Code of the kind 4xx: trouble, not a wrong password.
    @ivar server: where to go, with C{port}; C{""} where the answer does not say.
    @ivar username: the name to log in with there; C{""} for the one that was typed.
    @ivar password: the password to log in with there; C{None} for the one that was typed.
    """

    status: str
    wait: int = 0
    temporary: bool = False
    server: str = ""
    port: str = ""
    username: str = ""
    password: bytes | None = field(default=None, repr=False)


def escape(octets: bytes) -> bytes:
    """A user name or password as nginx writes it: control characters, blanks and C{%} as C{%XX}."""
    if not _ESCAPED.search(octets):
        return octets
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], octets)


def nginx_name(protocol: str) -> str:
    """C{"imap"}, C{"pop3"} or C{"smtp"}; what nginx does not know keeps its own name."""
    return _PROTOCOLS.get(protocol, protocol)


def login_question(username: str, password: bytes, origin: Origin | None) -> bytes:
    """The headers that ask about a name and a password."""
    credentials = b"Auth-Method: plain\r\nAuth-User: %b\r\nAuth-Pass: %b\r\n" % (
        escape(username.encode("utf-8", "surrogateescape")),
        escape(password),
    )
    return credentials + (_about(origin) if origin is not None else b"Auth-Protocol: imap\r\nAuth-Login-Attempt: 1\r\n")


def _about(origin: Origin, envelope: bytes = b"") -> bytes:
    """Where the question comes from."""
    protocol = nginx_name(origin.protocol)
    return b"Auth-Protocol: %b\r\nAuth-Login-Attempt: %d\r\nClient-IP: %b\r\n%b%b%b" % (
        protocol.encode(),
        origin.attempt,
        origin.peer.host.encode(),
        _RESOLVED if protocol == "smtp" else b"",
        envelope,
        _tls(*origin.cipher) if origin.secure else b"",
    )


def _tls(version: str, cipher: str) -> bytes:
    known = b"Auth-SSL-Protocol: %b\r\nAuth-SSL-Cipher: %b\r\n" % (version.encode(), cipher.encode())
    return b"Auth-SSL: on\r\n" + (known if version else b"")


def recipient_question(address: str, envelope: Envelope | None) -> bytes:
    """The headers that ask about a recipient, as nginx does where C{smtp_auth} is C{none}."""
    helo, sender = (envelope.helo, envelope.sender) if envelope is not None else ("", "")
    lines = b"Auth-SMTP-Helo: %b\r\nAuth-SMTP-From: MAIL FROM:<%b>\r\nAuth-SMTP-To: RCPT TO:<%b>\r\n" % tuple(
        _CONTROL.sub(b"?", text.encode("utf-8", "surrogateescape")) for text in (helo, sender, address)
    )
    nobody = b"Auth-Method: none\r\nAuth-User: \r\nAuth-Pass: \r\n"
    if envelope is None:
        return nobody + b"Auth-Protocol: smtp\r\nAuth-Login-Attempt: 1\r\n" + lines
    return nobody + _about(envelope.origin, lines)


def place_question(username: str, protocol: str) -> bytes:
    """The headers that ask where a user belongs whom somebody else has let in. nginx has no such question."""
    return b"Auth-Method: none\r\nAuth-User: %b\r\nAuth-Pass: \r\nAuth-Protocol: %b\r\nAuth-Login-Attempt: 1\r\n" % (
        escape(username.encode("utf-8", "surrogateescape")),
        nginx_name(protocol).encode(),
    )


def read_answer(answer: Answer) -> Verdict:
    """Understand an answer.

    nginx does not look at the HTTP status, and neither is it looked at here where the answer refuses.

    @raise StrangeAnswer: no Auth-Status, a yes with a bad HTTP status, or a name, password or wait that is none.
    """
    headers = answer.headers
    raw = headers.get(b"auth-status")
    if not raw:
        raise StrangeAnswer(f"HTTP status {answer.status} without Auth-Status")
    wait = headers.get(b"auth-wait", b"0")
    # nginx passes over an Auth-Wait that is no number
    seconds = min(int(wait), MAX_WAIT) if _NUMBER.fullmatch(wait) else 0
    if raw == b"WAIT":
        return Verdict("WAIT", seconds)
    if raw != b"OK":
        code = headers.get(b"auth-error-code", b"")
        return Verdict(raw.decode("utf-8", "backslashreplace"), seconds, code.startswith(b"4"))
    if not 200 <= answer.status < 300:
        raise StrangeAnswer(f"HTTP status {answer.status} with Auth-Status OK")
    return Verdict(
        "OK",
        server=_text(headers.get(b"auth-server", b""), "Auth-Server"),
        port=_text(headers.get(b"auth-port", b""), "Auth-Port"),
        username=_text(headers.get(b"auth-user", b""), "Auth-User"),
        password=_password(headers.get(b"auth-pass", b"")),
    )


def _text(octets: bytes, name: str) -> str:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text and not well_formed(text):
        raise StrangeAnswer(f"{name} is malformed")
    return text


def _password(octets: bytes) -> bytes | None:
    if octets and (fault := password_fault(octets)):
        raise StrangeAnswer(f"Auth-Pass: {fault}")
    return octets or None
