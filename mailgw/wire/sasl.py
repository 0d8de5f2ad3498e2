"""SASL: the mechanisms, server and client side, each a C{step(response)}; and the rules for names and passwords.

Base64 and the protocol's framing of it stay with the protocols; L{decode} is the strict decoder they share.
Adding a mechanism is adding one class here and one entry in L{MECHANISMS}.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Protocol

from mailgw.model import Access, Login

MAX_USERNAME = 256
"""Octets of a user name; a longer one is malformed."""
MAX_PASSWORD = 1024
"""Octets of a password; a longer one is malformed."""
MAX_RESPONSE = 8192
"""Octets of one base64 response (Dovecot's limit too: OAuth tokens are long)."""

_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_FORBIDDEN_IN_PASSWORD = re.compile(rb"[\r\n\0]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Challenge:
    """Ask the client for another response; C{data} is not yet base64."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """The exchange is over: what the client sent is no answer of this mechanism, or breaks the rules for names."""

    reason: str


Outcome = Challenge | Login | Malformed


class ServerMechanism(Protocol):
    """The server's side of one exchange. Feed it the initial response, or C{None} where the client sent none."""

    def step(self, response: bytes | None) -> Outcome:
        """Take a decoded response and return what comes next."""


def decode(text: bytes) -> bytes | None:
    """Decode base64 strictly (RFC 4648 §3.5 padding included), or return C{None}. C{b"="} is the empty response."""
    if text == b"=":
        return b""
    if len(text) > MAX_RESPONSE or not _BASE64.fullmatch(text):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def encode(data: bytes) -> bytes:
    """Base64 without line breaks."""
    return base64.b64encode(data)


def present(username: bytes, password: bytes, mechanism: str, authzid: bytes = b"") -> Login | Malformed:
    """Make a L{Login} of what a client sent, or say what is wrong with it.

    Control characters in a name, and CR, LF or NUL in a password, would become commands on the next hop. An empty
    password would be an anonymous bind that succeeds (RFC 4513 §5.1.2).
    """
    if not username or not password:
        return Malformed("empty user name or password")
    if len(username) > MAX_USERNAME or len(authzid) > MAX_USERNAME or len(password) > MAX_PASSWORD:
        return Malformed("user name or password too long")
    if _FORBIDDEN_IN_PASSWORD.search(password):
        return Malformed("CR, LF or NUL in the password")
    try:
        name, other = username.decode("utf-8"), authzid.decode("utf-8")
    except UnicodeDecodeError:
        return Malformed("user name is not UTF-8")
    if _CONTROL.search(name) or _CONTROL.search(other):
        return Malformed("control character in the user name")
    return Login(name, password, mechanism, other)


class PlainServer:
    """PLAIN (RFC 4616)."""

    def step(self, response: bytes | None) -> Outcome:
        """Take C{authzid NUL authcid NUL password}."""
        if response is None:
            return Challenge(b"")
        parts = response.split(b"\0")
        if len(parts) != 3:
            return Malformed("not a PLAIN response")
        return present(parts[1], parts[2], "PLAIN", parts[0])


class LoginServer:
    """LOGIN, as draft-murchison-sasl-login-00 describes it; the user name may come as the initial response."""

    def __init__(self) -> None:
        self._username: bytes | None = None

    def step(self, response: bytes | None) -> Outcome:
        """Take the user name, then the password."""
        if response is None:
            return Challenge(b"Username:")
        if self._username is None:
            self._username = response
            return Challenge(b"Password:")
        return present(self._username, response, "LOGIN")


MECHANISMS: dict[str, type[ServerMechanism]] = {"PLAIN": PlainServer, "LOGIN": LoginServer}
"""What we offer, in the order of preference that capability lists show."""


# --- client side -----------------------------------------------------------------------------------------------------


def plain_response(access: Access) -> bytes:
    """The one message of PLAIN, not yet base64."""
    return b"\0".join((access.authzid.encode(), access.username.encode(), access.password))


def unfit(access: Access) -> str:
    """Say why no protocol can carry these credentials, or return C{""}.

    Those of clients went through L{present}; these may as well come from settings. CR and LF would end a command, NUL
    a part of PLAIN's message.
    """
    try:
        names = access.username.encode() + access.authzid.encode()
    except UnicodeEncodeError:
        return "the user name is not Unicode text"
    if _FORBIDDEN_IN_PASSWORD.search(names + access.password):
        return "CR, LF or NUL in the user name or password"
    return ""


def client_mechanism(offered: frozenset[str], access: Access) -> str | None:
    """Choose C{"PLAIN"} or C{"LOGIN"} of what a backend offers, or C{None}. LOGIN has no authorization identity."""
    if "PLAIN" in offered and access.mechanism != "LOGIN":
        return "PLAIN"
    if "LOGIN" in offered and access.mechanism != "PLAIN" and not access.authzid:
        return "LOGIN"
    return None
