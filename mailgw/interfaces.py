"""The interfaces between the rooms. No code; whoever is called through one of these is a plug or a test's double.

Implementers do not repeat the contracts. Async methods are coroutines and never block the reactor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.mail import smtp
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory
    from twisted.mail import imap4, pop3

    from mailgw.model import Arrival, Backend, Envelope, Identity, Login, Refusal, Route, SessionKey, Step
    from mailgw.wire.events import Event, Reply


class IHouse(Interface):
    """The composed collaborators of one set of settings, read-only; a reload makes a new one.

    Reaches only C{from_options} and C{make_factory}; objects below get exactly what they use.
    """

    reactor = Attribute("the reactor: clock, threads, network")
    settings = Attribute("L{mailgw.settings.Settings}")
    pools = Attribute("C{Mapping[str, IPool]}: every pool by name")
    portal = Attribute("L{twisted.cred.portal.Portal}")
    turnstile = Attribute("L{mailgw.edge.limits.Turnstile}, the same across reloads")
    sessions = Attribute("the set of all live sessions, the same across reloads")
    counters = Attribute("C{Counter[str]}: what happened since the start, by C{protocol.what}, the same across reloads")

    def server_tls(listener: Any) -> Any:
        """What a listener's connections start TLS with (L{mailgw.edge.tls.ServerTls}), C{None} where it has none."""


class IServerDialogue(Interface):
    """The server's side of a conversation up to a login (IMAP, POP3), or for its whole length (SMTP).

    All methods but L{admit} return events in order. After a L{Login} event it only buffers, under its limits, until
    L{admit} or L{refuse}. It never raises for what a peer sends.
    """

    def greet() -> list[Event]:
        """The connection (with implicit TLS: the handshake) is up."""

    def feed(data: bytes) -> list[Event]:
        """Bytes came from the client."""

    def secured() -> list[Event]:
        """TLS is up after STARTTLS: everything said before it is forgotten (RFC 3207 §4.2)."""

    def admit(text: bytes) -> tuple[bytes, bytes]:
        """The login succeeded: return the success reply, and what the client had pipelined behind its login."""

    def refuse(refusal: Refusal) -> list[Event]:
        """The login failed; say so and go on with what was buffered."""

    def expire(reason: str) -> bytes:
        """The parting words before the session closes the connection: C{* BYE}, C{-ERR} or C{421}."""


class IEnvelopeDialogue(IServerDialogue):
    """SMTP: a server dialogue that goes on after the login. After Mail, Recipient, Data and EndOfMail it waits."""

    def answer(reply: Reply) -> list[Event]:
        """Answer the event that is waiting, and go on with what was buffered."""

    def resume() -> list[Event]:
        """Go on, after C{admit} and its reply, with what the client had pipelined behind its login."""


class IClientDialogue(Interface):
    """The client's side of a login on a backend: from its greeting to L{mailgw.wire.events.Ready} or Refused."""

    def feed(data: bytes) -> list[Event]:
        """Bytes came from the backend: Send, StartTLS, Ready or Refused follow."""

    def secured() -> list[Event]:
        """TLS is up after STARTTLS; what the backend said before it is forgotten."""


class IDirectory(Interface):
    """A source of users."""

    name = Attribute("C{str}: as logs show it, C{kind-number}, such as C{ldap-1}")

    async def authenticate(login: Login) -> Identity | None:
        """Check a password.

        @return: the verified identity, or C{None} where this directory knows no such user.
        @raise LoginRefused: the user is known and may not log in, or the password is wrong.
        @raise DirectoryDown: nobody can tell now.
        """

    async def lookup(address: str, envelope: Envelope | None = None) -> Identity | None:
        """Find the user who receives at an address, no password involved; C{None} where there is none.

        @param envelope: of the mail that is for this address, where there is one.
        @raise DirectoryDown: nobody can tell now.
        """

    def start() -> None:
        """Called once before the first question, in the reactor's thread."""

    async def stop() -> None:
        """Release threads and connections; nothing is asked afterwards."""


class IRoutingRule(Interface):
    """One C{[[route]]} of the settings."""

    name = Attribute("C{str}: as C{mailgw route} shows it, such as C{attribute mailHost}")

    async def route(identity: Identity, protocol: str) -> Route | None:
        """Where this user goes, or C{None}: not my business, ask the next rule.

        @param protocol: C{"imap"}, C{"pop3"}, C{"smtp"} or C{"managesieve"}.
        @raise LoginRefused: with C{UNAVAILABLE} where the rule cannot tell now; no later rule is asked.
        """


class IRouter(Interface):
    """All rules in order, as realm and delivery see them."""

    async def route(identity: Identity, protocol: str) -> Route:
        """Where this user goes.

        @raise LoginRefused: C{UNAVAILABLE}, because a rule failed or none answered.
        """

    async def explain(identity: Identity, protocol: str) -> list[Step]:
        """Every rule asked, and what it said."""


class IPool(Interface):
    """Backends that share ports, TLS and a way to log in.

    @see: L{mailgw.settings.Pool}, its options.
    """

    name = Attribute("C{str}")
    options = Attribute("L{mailgw.settings.Pool}: login, master, TLS, ports")

    def candidates(username: str, protocol: str, route: Route) -> Sequence[Backend]:
        """The backends to try, best first; more than one only where the pool is shared.

        @param username: the canonical name, which is what is hashed.
        @raise BackendFailed: the route names something that is no host, or the pool does not speak the protocol.
        """

    def succeeded(backend: Backend, protocol: str) -> None:
        """A backend answered."""

    def failed(backend: Backend, protocol: str) -> None:
        """A backend could not be connected to, or did not answer."""

    def opened(backend: Backend) -> None:
        """A session begins on a backend."""

    def closed(backend: Backend) -> None:
        """A session that L{opened} announced is over."""


class ISession(Interface):
    """A client's connection as the rest of the house sees it; cred's C{mind}."""

    protocol = Attribute("C{str}: imap, pop3, managesieve, submission, mx or lmtp")
    session_id = Attribute("C{str}")
    peer = Attribute("L{mailgw.model.Peer}")
    secure = Attribute("C{bool}: the client speaks TLS")
    login = Attribute("L{mailgw.model.Login} while a login is in progress, else C{None}")


class IDestination(Interface):
    """Where an authenticated reader continues: a backend behind a relay, or the local store."""

    username = Attribute("C{str}: the canonical name of the user who is going there")

    async def open(session: ISession) -> Arrival:
        """Get there.

        @raise LoginRefused: the backend refused the user's own password, or must not be reached.
        @raise BackendFailed: anything else that is wrong behind us.
        """


class IChunkedMessage(smtp.IMessage):
    """twisted.mail's message, fed by chunk instead of by line; C{lineReceived} is not called.

    C{eomReceived} returns a Deferred with the L{mailgw.wire.events.Reply} that the destination gave, never fails for
    a destination's refusal; C{connectionLost} drops the message: the destination keeps nothing.
    """

    def dataReceived(chunk: bytes) -> None:
        """A piece of the message, with CRLF line ends and without transparency dots, cut anywhere."""


class IPreparedMessage(IChunkedMessage):
    """A message that comes to rest in two steps, so that several copies can do so together.

    C{eomReceived} does both.
    """

    async def prepare() -> Reply | None:
        """Have it safe on the disk, and not yet in its mailbox; what is refused, or C{None} if all is well."""

    async def commit() -> Reply:
        """Put it into its mailbox."""


class IFrontend(Interface):
    """A kind of listener: what C{protocol = "..."} names in the settings."""

    ports = Attribute("C{tuple[int, int]}: the default plain and TLS ports")

    def make_factory(house: Any, listener: Any) -> IProtocolFactory:
        """Build what answers on one listener (L{mailgw.settings.Listener}). TLS on connect is put around it."""


class IMailStore(Interface):
    """Mailboxes of our own, for routes to C{local}."""

    def account(identity: Identity) -> imap4.IAccount:
        """All folders of a user."""

    def mailbox(identity: Identity) -> pop3.IMailbox:
        """The user's INBOX, as a POP3 session sees it."""

    def inbox(identity: Identity, sender: str) -> IPreparedMessage:
        """A new message for the user's INBOX, safely on disk once C{eomReceived} has fired.

        @param sender: the envelope sender, for Return-Path.
        """


class IAccountant(Interface):
    """Counts sessions for the limits; local, or one for all workers."""

    async def enter(key: SessionKey) -> Refusal | None:
        """Count a session, or say why it is one too many."""

    def leave(key: SessionKey) -> None:
        """A counted session is over."""


class ITally(Interface):
    """How often something is there, by name: in this process, or in all workers together."""

    def add(name: str, until: float = 0.0) -> int:
        """Count one more.

        @param until: forget the name then (seconds since the epoch), unless it is counted again; 0 is never.
        @return: how many there are now, with this one, in all workers.
        """

    def take(name: str, until: float = 0.0) -> None:
        """Count one less; C{until} as with L{add}, and never mixed with 0 for one name."""

    def total(name: str) -> int:
        """How many there are in all workers."""
