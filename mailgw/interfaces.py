"""The interfaces between the rooms. No code; whoever is called through one of these is a plug or a test's double.

Implementers do not repeat the contracts. Async methods are coroutines and never block the reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.mail import smtp
from zope.interface import Attribute, Interface

from mailgw.model import Failure

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IProtocolFactory
    from twisted.mail import imap4, pop3

    from mailgw.model import Arrival, Backend, Envelope, Identity, Login, Origin, Refusal, Route, SessionKey, Step
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
    board = Attribute("L{IBoard}, the same across reloads")
    is_first = Attribute("C{bool}: this process does what one of all workers is to do; may change at any time")

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

    async def route(identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        """Where this user goes, or C{None}: not my business, ask the next rule.

        @param protocol: C{"imap"}, C{"pop3"}, C{"smtp"} or C{"managesieve"}.
        @param origin: the session that asks, where there is one; for a mail's recipient, the one that brings the mail.
        @raise LoginRefused: with C{UNAVAILABLE} where the rule cannot tell now; no later rule is asked.
        """


class ILookingRule(IRoutingRule):
    """A rule that holds connections, threads or what it was told; L{IRoutingRule} alone is enough for others."""

    def flush(user: str | None = None) -> int:
        """Forget what is remembered of a user, by canonical name, or everything; return how many answers that were."""

    async def stop() -> None:
        """Release what the rule holds; it is asked nothing afterwards."""


class IRouter(Interface):
    """All rules in order, as realm and delivery see them."""

    async def route(identity: Identity, protocol: str, origin: Origin | None = None) -> Route:
        """Where this user goes, and as whom; parameters as L{IRoutingRule} has them.

        @raise LoginRefused: C{UNAVAILABLE}, because a rule failed or none answered.
        """

    async def explain(identity: Identity, protocol: str, origin: Origin | None = None) -> list[Step]:
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
        @raise BackendFailed: the route names something that is no host, the pool does not speak the protocol, or
            there is nobody who could be tried now.
        """

    def succeeded(backend: Backend, protocol: str) -> None:
        """A backend answered."""

    def failed(
        backend: Backend, protocol: str, kind: Failure = Failure.CONNECT, username: str = "", client: str = ""
    ) -> None:
        """A backend could not be connected to, or did not answer.

        @param username: whose login it was; C{client}: the address it came from.
        """

    async def reserve(backend: Backend, username: str = "") -> None:
        """Begin a login, as soon as the backend's caps allow; L{release} has to follow.

        @param username: who stays on this backend while it has a session there; C{""} for nobody.
        @raise BackendFailed: C{FULL}, they did not allow it in time.
        """

    def release(backend: Backend, username: str = "") -> None:
        """The login that L{reserve} announced is over, however it ended; after L{opened}, where there is a session."""

    def opened(backend: Backend, protocol: str, username: str = "") -> None:
        """A session begins on a backend."""

    def closed(backend: Backend, protocol: str, username: str = "") -> None:
        """A session that L{opened} announced is over."""

    def capabilities(protocol: str) -> frozenset[str] | None:
        """What all members announce of which that is known, C{None} where it is known of none.

        Each is one string, with its parameters behind a blank: C{"AUTH=PLAIN"}, C{"SASL PLAIN LOGIN"}, C{"SIZE 1000"}.
        """

    def rows() -> list[dict[str, Any]]:
        """Describe each service of each member, one row each: C{pool}, C{name}, C{host}, C{port}, C{protocol},
        C{health} (C{up}, C{suspect}, C{down}, or C{unchecked}: nothing is known), C{reason} and C{since} (seconds
        since the epoch, or C{None}) of a health that checks found out, C{admin} (C{up}, C{drain} or C{down}),
        C{sessions} and C{weight}.
        """


class IChecked(Interface):
    """A pool as those see it who check its members."""

    options = Attribute("L{mailgw.settings.Pool}: how often, how long, with which account")

    def services() -> list[tuple[Backend, str]]:
        """Every member's services, with the protocol of each."""

    def key(backend: Backend, protocol: str) -> str:
        """What a service is called on the board, under the kinds C{health} and C{suspect}."""

    def checked(backend: Backend, protocol: str, fault: str, capabilities: frozenset[str] | None) -> bool:
        """A check is done.

        @param fault: what was wrong, C{""} for nothing.
        @param capabilities: as L{IPool.capabilities}.
        @return: it was no surprise, and the next one has time.
        """


class ISession(Interface):
    """A client's connection as the rest of the house sees it; cred's C{mind}."""

    protocol = Attribute("C{str}: imap, pop3, managesieve, submission, mx or lmtp")
    session_id = Attribute("C{str}")
    peer = Attribute("L{mailgw.model.Peer}")
    secure = Attribute("C{bool}: the client speaks TLS")
    login = Attribute("L{mailgw.model.Login} while a login is in progress, else C{None}")
    ttl = Attribute("C{int}: how many more gateways may follow; below 0 it has been too many already")

    def origin() -> Origin:
        """What may be known of the connection now."""

    def client_tls() -> tuple[str, str, str]:
        """Version and cipher of the client's TLS, and the name that it asked for; each C{""} where there is none."""


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


class IBoard(Interface):
    """Words by kind and name, such as C{"down"} for C{"backend"} and C{"main/be1"}; all workers have the same ones."""

    def get(kind: str, name: str) -> str | None:
        """The word there, C{None} if there is none. A look into this process's memory."""

    def words(kind: str) -> Mapping[str, str]:
        """All words of a kind by name, as they are now."""

    def watch(kind: str, call: Callable[[str, str | None], None]) -> Callable[[], None]:
        """Have C{call(name, value)} called after each change of a word of this kind, wherever it was posted.

        @return: ends that.
        """

    def post(kind: str, name: str, value: str | None) -> Deferred[None]:
        """Put a word there, or with C{None} remove it.

        @return: fires once all workers have it; fails with L{mailgw.errors.MailgwError} where a word of a kind that
            lasts cannot be written: then nothing has changed.
        """
