"""Session: the one I/O shell around every client's connection, from accept to its last byte.

It carries bytes between the socket and a dialogue, and tells a whole login in one coroutine. It knows no protocol:
what to say is the dialogue's, where to go the portal's, what to do there the destination's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.cred.credentials import ICredentials
from twisted.cred.portal import Portal
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from mailgw.edge.client import NO_TLS, complete, new_session_id, peer_of, tls_of
from mailgw.edge.limits import Turnstile
from mailgw.edge.networks import within
from mailgw.edge.tls import ServerTls
from mailgw.edge.waits import Wait, Waits
from mailgw.errors import BackendFailed, DirectoryDown, LoginRefused
from mailgw.interfaces import IDestination, IPool, IServerDialogue, ISession
from mailgw.model import Login, Origin, Peer, Refusal, RefusalKind
from mailgw.settings import Limits, Listener
from mailgw.wire.events import Close, Event, Forwarded, Send, StartTLS
from mailgw.wire.protocol import Terms

LINGER = 5.0
"""Seconds that a connection which we close may take to read our last words; then it is aborted."""


class Front:
    """What all sessions of one listener share. A reload makes new ones; sessions keep theirs."""

    def __init__(
        self, house: Any, listener: Listener, server: Callable[[Terms, bool], IServerDialogue], *, authenticate: bool
    ) -> None:
        """
        @param house: L{mailgw.interfaces.IHouse}.
        @param server: makes the dialogue with a client.
        @param authenticate: clients log in here; false on mx.
        """
        limits: Limits = house.settings.limits
        self.protocol, self.server, self.limits = listener.protocol, server, limits
        self.endpoint = listener.endpoint
        self.reactor: Any = house.reactor
        self.deadlines = Waits(house.reactor, limits.login_deadline)
        self.portal: Portal = house.portal
        self.turnstile: Turnstile = house.turnstile
        self.sessions: set[Session] = house.sessions
        self.counters: Counter[str] = house.counters
        self.tls: ServerTls | None = house.server_tls(listener)
        self.terms = Terms(
            hostname=house.settings.gateway.hostname,
            tls=listener.tls,
            authenticate=authenticate,
            max_line=limits.line,
            max_literal=limits.literal,
            max_total=limits.before_login,
            bad_commands=limits.bad_commands,
            login_attempts=limits.login_attempts,
            message_size=limits.message_size,
            recipients=limits.recipients,
            capabilities=listener.capabilities,
            learned=partial(_common, house.pools, listener.protocol),
        )
        self.trusted = listener.trusted
        self.trusting = replace(self.terms, trusted=True) if listener.trusted else None


def _common(pools: Mapping[str, IPool], protocol: str) -> frozenset[str]:
    """What all pools announce that serve a protocol, as far as it is known of one of them."""
    serving = (pool for pool in pools.values() if getattr(pool.options, protocol, None) is not None)
    known = [told for pool in serving if (told := pool.capabilities(protocol)) is not None]
    return frozenset.intersection(*known) if known else frozenset()


def _in_words(reason: Failure) -> str:
    """Why a connection ended. Clients that leave without TLS's farewell are too many to call it trouble."""
    return "closed" if isinstance(reason.value, ConnectionDone | ConnectionLost) else reason.getErrorMessage()


@implementer(ISession, IHandshakeListener, IHalfCloseableProtocol, IPushProducer)
class Session(Protocol):
    """A client's connection. See the module's docstring."""

    log = Logger()
    transport: Any
    avatar: type[Interface] = IDestination
    ttl = 7
    _bringer: Peer | None = None

    def __init__(self, front: Front) -> None:
        self._front = front
        self.protocol = front.protocol
        self.session_id = new_session_id()
        self.peer = Peer("", 0)
        self.secure = False
        self.login: Login | None = None
        self.username = ""
        self._dialogue: Any = None
        self._stage: Any = None
        self._deadline: Wait | None = None
        self._linger: IDelayedCall | None = None
        self._pending: Deferred[None] | None = None
        self._logout: Callable[[], None] | None = None
        self._events: list[Event] = []
        self._reacting = False
        self._attempts = 0
        self._counted = False
        self._unread = False
        self._ending = ""

    # --- the connection ----------------------------------------------------------------------------------------------

    def may_ask(self, portal: Portal) -> bool:
        """Whether this session could still turn to that portal, now or later; a relay could not."""
        return self._dialogue is not None and self._front.portal is portal

    def connectionMade(self) -> None:
        front, transport = self._front, self.transport
        self._accepted = front.reactor.seconds()
        self.peer = peer_of(transport)
        front.sessions.add(self)
        self._count("connections")
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        implicit = front.terms.tls == "implicit"
        terms = front.trusting if front.trusting and within(self.peer.host, front.trusted) else front.terms
        self._dialogue = front.server(terms, implicit)
        self._deadline = front.deadlines.begin(lambda: self._expire("too slow to log in"))
        transport.registerProducer(self, True)
        self._counted = front.turnstile.admit(self.peer.host)
        if not self._counted:
            self._turn_away()
        elif not implicit:
            self.carry(self._dialogue.greet())

    def _turn_away(self) -> None:
        """Too many connections: say so where that costs no handshake, and be gone."""
        self._ending = "too many connections from this address"
        if self._front.terms.tls == "implicit" and not self.secure:
            self.transport.abortConnection()
        else:
            self._farewell("Too many connections")

    def handshakeCompleted(self) -> None:
        self.secure = True
        greeting = self._front.terms.tls == "implicit"
        if self._bringer is not None:  # what was told in clear does not count (RFC 3207 §4.2)
            self._become(self._bringer)
        self.carry(self._dialogue.greet() if greeting else self._dialogue.secured())

    def dataReceived(self, data: bytes) -> None:
        if self._stage is not None:
            self._stage.dataReceived(data)
        elif self._dialogue is not None and not self._ending:
            self.carry(self._dialogue.feed(data))

    def readConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._stage):
            self._stage.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._stage):
            self._stage.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._front.sessions.discard(self)
        facts = self.facts()
        self._count("bytes.in", facts["in"])
        self._count("bytes.out", facts["out"])
        self._stop_deadline()
        if self._pending is not None:
            self._pending.cancel()
        if self._stage is not None:
            self._stage.connectionLost(reason)
        self._leave()
        if self._counted:
            self._front.turnstile.leave(self.peer.host)
        self._tell(self._ending or getattr(self._stage, "summary", lambda: "")() or _in_words(reason))
        self._dialogue = self._stage = self.login = None

    def _tell(self, ending: str) -> None:
        """Log the end. The line is made here: the logger takes as long for each field as all of this does."""
        user, tls = self.username or "-", "yes" if self.secure else "no"
        seconds = self._front.reactor.seconds() - self._accepted
        self.log.info(
            "{line}",
            session=self.session_id,
            protocol=self.protocol,
            client=self.peer.host,
            user=user,
            tls=tls,
            seconds=seconds,
            ending=ending,
            line=f"{self.session_id} {self.protocol} {self.peer.host} closed: "
            f"user={user} tls={tls} seconds={seconds:.1f} {ending}",
        )

    # --- a client that does not read its replies is not read either ---------------------------------------------------

    def pauseProducing(self) -> None:
        self._unread = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._unread = False
        if self._pending is None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self._unread = False

    # --- events of the dialogue --------------------------------------------------------------------------------------

    def carry(self, events: list[Event]) -> None:
        """Carry out a dialogue's events in order; events that these bring about come after them."""
        self._events.extend(events)
        if self._reacting:
            return
        self._reacting = True
        try:
            while self._events and not self._ending:
                self._react(self._events.pop(0))
        finally:
            self._reacting = False

    def _react(self, event: Event) -> None:
        match event:
            case Send(data):
                self.transport.write(data)
            case StartTLS(data):
                self.transport.write(data)
                self.transport.startTLS(self._front.tls)
            case Close(data, reason):
                self._ending = reason or "closed by us"
                if data:
                    self.transport.write(data)
                self._lose()
            case Login():
                self._begin(event)
            case Forwarded():
                self.bring(event)
            case _:
                self.other(event)

    def other(self, event: Event) -> None:
        """An event that only a kind of session with more to do than logging in knows."""
        raise NotImplementedError(f"{type(event).__name__} from a login dialogue")

    def bring(self, told: Forwarded) -> None:
        """Who is in front has told of the client behind it: limits, logs and backends see that one from now on."""
        if told.ttl is not None:
            self.ttl = min(self.ttl, told.ttl - 1)  # nobody can make it more
        if told.peer is None:
            return
        own, bringer = self.session_id.rpartition(".")[2], self._bringer or self.peer
        self._bringer = bringer
        if told.session_id:  # ours stays in it, as a webmail may call many connections the same
            self.session_id = f"{told.session_id}.{own}"
        self.log.info(
            "{session} {protocol} {bringer} brings {client}, as {own}",
            session=self.session_id,
            protocol=self.protocol,
            bringer=bringer.host,
            client=told.peer.host,
            own=own,
        )
        self._become(complete(told.peer, bringer))

    def _become(self, peer: Peer) -> None:
        """Be another client's connection."""
        self._front.turnstile.leave(self.peer.host)
        self.peer = peer
        self._counted = self._front.turnstile.admit(peer.host)
        if not self._counted:
            self._turn_away()

    # --- endings -----------------------------------------------------------------------------------------------------

    def _expire(self, reason: str) -> None:
        """A deadline passed."""
        self._deadline = None
        if self._pending is not None:
            self._pending.cancel()
        if self._ending or (self._front.terms.tls == "implicit" and not self.secure):
            self._ending = self._ending or reason
            self.transport.abortConnection()
        else:
            self._ending = reason
            self._farewell("Timeout")

    def _farewell(self, text: str) -> None:
        self.transport.write(self._dialogue.expire(text))
        self._lose()

    def _lose(self) -> None:
        """Close once our last words are read, or L{LINGER} seconds from now; a login that is under way is over."""
        if self._pending is not None:
            self._pending.cancel()
        self._stop_deadline()
        if self._pending is not None:
            self._pending.cancel()  # or the login could still succeed, on a connection that is closing
        self.transport.unregisterProducer()
        self.transport.resumeProducing()  # or TLS would not see that the client closes too
        self.transport.loseConnection()
        if self in self._front.sessions:
            self._linger = self._front.reactor.callLater(LINGER, self.transport.abortConnection)

    def kick(self) -> None:
        """An administrator ends this session; what was written still goes out."""
        if not self._ending and self._dialogue is not None and (self.secure or self._front.terms.tls != "implicit"):
            self._ending = "kicked"
            self._farewell("Disconnected by the administrator")
        elif not self._ending:
            self._ending = "kicked"
            self._lose()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._front.deadlines.end(self._deadline)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self._deadline = self._linger = None

    # --- what backends may be told ------------------------------------------------------------------------------------

    def client_tls(self) -> tuple[str, str, str]:
        return tls_of(self.transport) if self.secure else NO_TLS

    # --- what administrators see -------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """This session as C{mailgw who} shows it: C{age} in seconds, C{in} and C{out} in octets from and to the client
        since its login.
        """
        traffic = getattr(self._stage, "traffic", None)
        backend, received, sent = traffic() if traffic else ("local" if self._stage else "-", 0, 0)
        return {
            "id": self.session_id,
            "user": self.username or "-",
            "protocol": self.protocol,
            "client": self.peer.host,
            "tls": self.secure,
            "backend": backend,
            "age": round(self._front.reactor.seconds() - self._accepted, 1),
            "in": received,
            "out": sent,
        }

    def _count(self, what: str, number: int = 1) -> None:
        self._front.counters[f"{self.protocol}.{what}"] += number

    # --- stop --------------------------------------------------------------------------------------------------------

    def shut(self, *, even_logged_in: bool) -> None:
        """The gateway stops: close at once what is not logged in, and the rest when its time is over."""
        if not self.username and not self._ending:
            self._ending = "gateway stops"
            if self._front.terms.tls == "implicit" and not self.secure:
                self.transport.abortConnection()
            else:
                self._farewell("Server is shutting down")
        elif even_logged_in:
            self._ending = self._ending or "gateway stops"
            self.transport.abortConnection()

    # --- the login ---------------------------------------------------------------------------------------------------

    def origin(self) -> Origin:
        """What may be known of this connection now."""
        version, cipher, sni = self.client_tls()
        about = self.session_id, self.protocol, self.peer, self.secure, max(1, self._attempts)
        return Origin(*about, (version, cipher), sni, self._front.endpoint)

    def _begin(self, login: Login) -> None:
        self._attempts += 1
        origin = self.origin()
        login = Login(login.username, login.password, login.mechanism, login.authzid, origin)
        self.login = login
        self.transport.pauseProducing()
        pending = self._pending = Deferred.fromCoroutine(self._supervise(login))
        if pending.called:
            self._pending = None

    async def _supervise(self, login: Login) -> None:
        """Run the login, and turn whatever goes wrong into a refusal: the one place where that is decided."""
        try:
            if (refused := self._front.turnstile.may_login(self.peer.host)) is not None:
                raise LoginRefused(refused.kind, refused.reason)
            await self._login(login)
            return
        except LoginRefused as error:
            refusal = error.refusal
        except (BackendFailed, DirectoryDown) as error:
            refusal = Refusal(RefusalKind.UNAVAILABLE, str(error))
        except CancelledError:
            self._leave()
            return
        except Exception:
            self.log.failure("{session} login of {user!r} broke", session=self.session_id, user=login.username)
            refusal = Refusal(RefusalKind.UNAVAILABLE, "internal error")
            if self._dialogue is None:  # handed over already: there is nobody left who could say so
                self.transport.abortConnection()
                return
        await self._refuse(login, refusal)

    async def _login(self, login: Login) -> None:
        """The path of one login: portal, identity, route, destination, hand over."""
        destination = await self._enter(login)
        arrival = await destination.open(self)
        self.username = destination.username
        self._admitted()
        reply, rest = self._dialogue.admit(arrival.text)
        self._dialogue = self.login = None  # thousands of relays must not keep secrets and parsers alive
        self.transport.write(reply)
        self.transport.unregisterProducer()
        self.transport.resumeProducing()  # before the relay registers producers, never after
        self._hand_over(arrival.protocol, rest)

    async def _enter(self, login: ICredentials) -> Any:
        """Ask the portal; remember how to log out."""
        _, avatar, self._logout = await self._front.portal.login(login, self, self.avatar)
        return avatar

    def _admitted(self) -> None:
        self._pending = None
        self._stop_deadline()
        self._front.turnstile.success(self.peer.host)
        self._count("logins")

    def _hand_over(self, stage: IProtocol, rest: bytes) -> None:
        self._stage = stage
        stage.makeConnection(self.transport)
        if rest and self._stage is not None:
            stage.dataReceived(rest)

    async def _refuse(self, login: Login, refusal: Refusal) -> None:
        self._leave()
        self._count(f"refused.{refusal.kind.value}")
        self.log.info(
            "{session} {protocol} {client} login refused: user={user!r} kind={kind} reason={reason!r}",
            session=self.session_id,
            protocol=self.protocol,
            client=self.peer.host,
            user=login.username,
            kind=refusal.kind.value,
            reason=refusal.reason,
        )
        if refusal.kind is RefusalKind.CREDENTIALS:
            delay = self._front.turnstile.failure(self.peer.host, login)
            try:
                await deferLater(self._front.reactor, delay)
            except CancelledError:
                return
        self._pending = self.login = None
        if self._dialogue is None or self._ending:
            return
        if not self._unread:
            self.transport.resumeProducing()
        self.carry(self._dialogue.refuse(refusal))

    def _leave(self) -> None:
        """Give back what the login took."""
        logout, self._logout = self._logout, None
        if logout is not None:
            logout()
