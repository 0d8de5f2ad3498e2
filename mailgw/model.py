"""The values that travel through the house: all frozen, none with behaviour that does I/O.

Text is C{str}, what goes over the wire is C{bytes}. Passwords are C{bytes} from the client's socket to the
backend's; no C{repr} of anything here shows one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from twisted.cred.credentials import IUsernamePassword
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol


@dataclass(frozen=True, slots=True)
class Peer:
    """Both ends of a client's connection, as a PROXY header or the socket gives them. Hosts are literal addresses."""

    host: str
    port: int
    local_host: str = ""
    local_port: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """The session that a login comes from, for directories that are told of it. No cache may key on it.

    @ivar protocol: the listener's: C{"imap"}, C{"pop3"}, C{"submission"}, C{"mx"} ...
    @ivar secure: the client speaks TLS.
    @ivar attempt: how many logins the connection has seen, this one included.
    @ivar cipher: the version of TLS and the cipher, such as C{("TLSv1.3", "TLS_AES_256_GCM_SHA384")}.
    @ivar sni: the host name that the client asked for in TLS, lower case; C{""} where it asked for none.
    @ivar listener: the listener's endpoint, as the settings have it.
    """

    session_id: str
    protocol: str
    peer: Peer
    secure: bool = False
    attempt: int = 1
    cipher: tuple[str, str] = ("", "")
    sni: str = ""
    listener: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is known of a mail when one of its recipients is looked for: what the client called itself, and its MAIL."""

    origin: Origin
    helo: str = ""
    sender: str = ""


@implementer(IUsernamePassword)
@dataclass(frozen=True, slots=True)
class Login:
    """What a client presented, before anybody checked it. A dialogue yields it as an event.

    C{authzid} is the identity that SASL PLAIN asks to act as (RFC 4616), empty when the client sent none.
    """

    username: str
    password: bytes = field(repr=False)
    mechanism: str = "PLAIN"
    authzid: str = ""
    origin: Origin | None = field(default=None, repr=False, compare=False)

    def checkPassword(self, password: bytes) -> bool:
        """Compare with a stored clear password (L{IUsernamePassword}); our directories do not use it."""
        from hmac import compare_digest

        return compare_digest(self.password, password)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user whom a directory knows; after L{mailgw.interfaces.IDirectory.authenticate}, a verified one.

    @ivar username: the canonical name. Routes, stores, logs and limits use it, never what was typed.
    @ivar directory: the name of the directory that answered, such as C{"ldap-1"}.
    @ivar dn: the entry's distinguished name, empty outside LDAP.
    @ivar addresses: what this user may receive at and send as, lower case.
    @ivar password: for the login on the backend, where the directory names another one than the user's own.
    """

    username: str
    directory: str = ""
    dn: str = ""
    addresses: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    password: bytes | None = field(default=None, repr=False)


class RefusalKind(Enum):
    """Why a login failed, as far as the client may know; each wire file maps it to its protocol's reply."""

    CREDENTIALS = "credentials"
    AUTHZ = "authorization"
    TLS_REQUIRED = "tls-required"
    DISABLED = "disabled"
    LIMIT = "limit"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failed login: the kind is for the wire, the reason for our log only."""

    kind: RefusalKind
    reason: str = ""


class Failure(Enum):
    """Why a backend failed us. Never shown to a client."""

    CONNECT = "connect"
    TLS = "tls"
    PROTOCOL = "protocol"
    REJECTED = "rejected"
    TEMPFAIL = "tempfail"
    TIMEOUT = "timeout"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Backend:
    """One service of one server, ready to be dialled.

    @ivar pool: the name of the pool whose TLS context and login apply.
    @ivar name: what C{mailgw backend} shows; the host unless the settings name it.
    @ivar tls: C{"starttls"}, C{"implicit"} or C{"none"}.
    @ivar speak: for SMTP, C{"smtp"} or C{"lmtp"}; empty elsewhere.
    """

    pool: str
    name: str
    host: str
    port: int
    tls: str = "starttls"
    speak: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.pool}/{self.name} ({host}:{self.port})"


@dataclass(frozen=True, slots=True)
class Route:
    """What a rule answers.

    @ivar pool: the pool, or C{""} for the local store.
    @ivar backend: a member's name, a member's host, or any C{host[:port]}; C{None} leaves the choice to the pool.
    @ivar hashed: choose the member by rendezvous hash whatever the pool's balance is.
    @ivar username: the name to log in with there, where that is not the canonical one.
    @ivar password: the password to log in with there, where that is not the user's own.
    """

    pool: str
    backend: str | None = None
    hashed: bool = False
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """True for the embedded store."""
        return not self.pool


LOCAL = Route("")


@dataclass(frozen=True, slots=True)
class Arrival:
    """What L{mailgw.interfaces.IDestination.open} returns.

    @ivar protocol: reads and writes for the client from now on; gets its transport.
    @ivar text: the success reply's words, for IMAP C{[CAPABILITY ...]} first where it is known.
    """

    protocol: IProtocol
    text: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One line of C{mailgw route}: a rule and what it said."""

    rule: str
    answer: str


@dataclass(frozen=True, slots=True)
class Access:
    """How to log in on a backend: SASL authentication identity, its password, and whom to act as ("" for itself).

    @ivar mechanism: C{"PLAIN"} or C{"LOGIN"} and no other, C{"COMMAND"}: what a protocol has beside SASL, if it has
        something; C{""} for the best that the backend offers.
    """

    username: str
    password: bytes = field(repr=False)
    authzid: str = ""
    mechanism: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """What a backend is told about the client (IMAP ID, XCLIENT).

    @ivar ttl: how many more gateways may follow; backends that count are told (Dovecot: x-proxy-ttl).
    @ivar login: the canonical user name for XCLIENT LOGIN, empty where none is logged in.
    @ivar helo: what an SMTP client called itself.
    @ivar tls: version, cipher and the name that the client asked for by SNI, told in a PROXY header only.
    """

    session_id: str
    peer: Peer
    secure: bool = False
    ttl: int = 7
    login: str = ""
    helo: str = ""
    tls: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What the accountant counts."""

    session_id: str
    protocol: str
    address: str
    username: str = ""
