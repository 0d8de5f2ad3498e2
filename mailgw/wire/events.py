"""The vocabulary of the dialogues: what they yield to whoever carries their bytes.

A dialogue's methods return a list of events, to be carried out in order. L{mailgw.model.Login} is an event too.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailgw.model import Failure, Login, Peer


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Write these bytes (a server's go-ahead; empty on the client side), start TLS, call C{secured()} when it is up."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Close:
    """Write these bytes and close. C{reason} is for our log."""

    data: bytes = b""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Who is in front of us tells of the client behind it; needs no answer.

    @ivar peer: the client's end, and the end that it has connected to, as far as that was told.
    @ivar session_id: what the connection is called there.
    @ivar ttl: how many gateways may follow, this one included.
    @ivar helo: what an SMTP client called itself there.
    """

    peer: Peer | None = None
    session_id: str = ""
    ttl: int | None = None
    helo: str = ""


# --- client side -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """We are logged in on the backend.

    @ivar text: what the tagged OK or +OK said, without tag and status: for IMAP it begins with the backend's
        C{[CAPABILITY ...]} where that is known.
    @ivar rest: what the backend sent after it; the client gets it first.
    """

    text: bytes
    rest: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """The backend did not let us in; the dialogue is over. C{text} is for our log."""

    kind: Failure
    text: str = ""


# --- SMTP, server side -----------------------------------------------------------------------------------------------
# Mail, Recipient, Data and EndOfMail stop the dialogue until it is given a Reply by answer(); what the client
# pipelines meanwhile is kept, under a limit, and looked at then: replies can never change their order.


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM (RFC 5321 §4.1.1.2).

    @ivar sender: C{local@domain}, or C{""} for the null sender.
    @ivar size: octets from the SIZE parameter (RFC 1870), C{None} where it was not given.
    @ivar body: C{"7BIT"} or C{"8BITMIME"} (RFC 6152), C{""} where it was not given.
    """

    sender: str
    size: int | None = None
    body: str = ""


@dataclass(frozen=True, slots=True)
class Recipient:
    """RCPT TO (RFC 5321 §4.1.1.3); C{address} is C{local@domain}, or C{"postmaster"}."""

    address: str


@dataclass(frozen=True, slots=True)
class Data:
    """DATA after at least one accepted recipient: answer 354 to go on, anything else to refuse the message."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the message, transparency dots removed, lines ended by CRLF, cut anywhere; needs no answer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfMail:
    """The final dot.

    @ivar fault: why this message cannot be taken whatever the destinations say (C{""} if it can): a lone CR, LF or
        NUL, or a line or message too long. The dialogue has its own reply for that; C{answer} is not awaited.
    """

    fault: str = ""


@dataclass(frozen=True, slots=True)
class Reset:
    """The transaction, if any, is void: RSET, a new EHLO, STARTTLS or the end of the session."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply: code, enhanced code (RFC 3463; C{""} where there is none, as for 354) and one or more lines."""

    code: int
    enhanced: str
    text: str

    @property
    def good(self) -> bool:
        """True for 2xx and 3xx."""
        return self.code < 400


# --- SMTP, client side -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """The backend's reply to what was asked: L{mailgw.wire.transfer.MAIL}, C{RCPT}, C{DATA}, C{END} (the
    final dot) or C{RSET}.

    Replies come in the order of the questions; with LMTP the final dot has one for each accepted recipient.
    """

    command: str
    reply: Reply


Event = (
    Send
    | StartTLS
    | Close
    | Forwarded
    | Login
    | Ready
    | Refused
    | Mail
    | Recipient
    | Data
    | Chunk
    | EndOfMail
    | Reset
    | Answered
)
