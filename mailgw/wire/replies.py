"""SMTP replies (RFC 5321 §4.2, RFC 3463): the ones we give, how they are written, and how a backend's are read.

What a backend says is untrusted: L{ReplyReader} bounds it, and its text becomes printable ASCII before anybody else
sees it.
"""

from __future__ import annotations

import re

from mailgw.model import RefusalKind
from mailgw.wire import body
from mailgw.wire.events import Reply

MAX_REPLY_LINE = 4096
MAX_REPLY = 64 << 10
"""Octets of one reply with all its lines."""
MAX_TEXT = 400
"""Octets that are kept of a backend's words."""

BAD_SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands")
SAY_HELLO = Reply(503, "5.5.1", "Send EHLO first")
NEED_TLS = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
NEED_AUTH = Reply(530, "5.7.0", "Authentication required")
BAD_ARGUMENTS = Reply(501, "5.5.4", "Syntax error in arguments")
BAD_SENDER = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = Reply(501, "5.1.3", "Bad recipient address syntax")
NO_PARAMETER = Reply(555, "5.5.4", "Parameter not recognized")
NOT_ASCII = Reply(553, "5.6.7", "Addresses beyond ASCII are not supported")
BAD_RESPONSE = Reply(501, "5.5.2", "Cannot decode the response")
WRONG = Reply(535, "5.7.8", "Authentication credentials invalid")
TOO_BIG = Reply(552, "5.3.4", "Message too big")
DONE = Reply(250, "2.0.0", "Ok")
GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
TROUBLE = Reply(451, "4.3.0", "Temporary trouble, try again later")
"""Whatever is wrong behind us: what it is, is for our log."""

FAULTS = {
    body.NUL: Reply(554, "5.6.0", "The message contains NUL"),
    body.BARE: Reply(550, "5.6.11", "The message contains a CR or LF that is no part of CRLF"),
    body.LONG_LINE: Reply(554, "5.6.0", f"A line of the message is longer than {body.MAX_TEXT_LINE} octets"),
    body.TOO_BIG: TOO_BIG,
}
REFUSALS = {
    # One answer for every login that will not do: which of them it was would tell who has an account.
    RefusalKind.CREDENTIALS: WRONG,
    RefusalKind.AUTHZ: WRONG,
    RefusalKind.DISABLED: WRONG,
    RefusalKind.TLS_REQUIRED: NEED_TLS,
    RefusalKind.UNAVAILABLE: Reply(454, "4.7.0", "Temporary authentication failure"),
}

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")


def render(reply: Reply) -> bytes:
    """Write a reply as it goes over the wire: one line for each of its text's, nothing but printable ASCII."""
    lines = reply.text.split("\n")
    enhanced = f"{reply.enhanced} " if reply.enhanced else ""
    return b"".join(
        f"{reply.code}{' ' if number == len(lines) else '-'}{enhanced}{printable(line)}\r\n".encode("ascii")
        for number, line in enumerate(lines, 1)
    )


def printable(text: str) -> str:
    """Replace what is not printable ASCII."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


class ReplyReader:
    """Reads replies from a backend's bytes, however they are cut.

    @ivar fault: why no more replies come, C{""} while all is well.
    """

    __slots__ = ("_buffer", "_code", "_size", "_texts", "fault")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._texts: list[str] = []
        self._code = b""
        self._size = 0
        self.fault = ""

    def feed(self, data: bytes) -> None:
        """Append what came."""
        self._buffer += data

    @property
    def pending(self) -> bool:
        """Something was received that is not a whole reply."""
        return bool(self._buffer or self._texts)

    def next_reply(self) -> tuple[int, list[str]] | None:
        """Return the next reply's code and its lines as printable ASCII, or C{None}: not complete, or a L{fault}."""
        while not self.fault:
            end = self._buffer.find(b"\n")
            if end > MAX_REPLY_LINE or (end < 0 and len(self._buffer) > MAX_REPLY_LINE):
                self.fault = "reply line too long"
            if end < 0 or self.fault:
                return None
            line = bytes(self._buffer[: end + 1]).rstrip(b"\r\n")
            del self._buffer[: end + 1]
            if self._take(line):
                texts, self._texts = self._texts, []
                code, self._code, self._size = int(self._code), b"", 0
                return code, texts
        return None

    def _take(self, line: bytes) -> bool:
        """Add a line; true where it is the reply's last."""
        match = _LINE.fullmatch(line)
        self._size += len(line) + 2
        if match is None or (self._code and match[1] != self._code) or self._size > MAX_REPLY:
            self.fault = "not an SMTP reply" if self._size <= MAX_REPLY else "reply too long"
            return False
        self._code = match[1]
        self._texts.append(printable((match[3] or b"").decode("latin-1")))
        return match[2] != b"-"


def to_reply(code: int, lines: list[str]) -> Reply:
    """Make a backend's reply one that may be passed on: its codes, and its words up to L{MAX_TEXT} octets.

    A reply without enhanced code gets the general one of its class, since we announce to give them.
    """
    words: list[str] = []
    enhanced = ""
    for line in lines:
        match = _ENHANCED.match(line)
        if match and match[1] == str(code)[0]:
            enhanced = enhanced or match[0]
            line = line[match.end() :].lstrip()
        words.append(line)
    if not enhanced and code // 100 in (2, 4, 5):
        enhanced = f"{code // 100}.0.0"
    return Reply(code, enhanced, "\n".join(words)[:MAX_TEXT].rstrip("\n"))
