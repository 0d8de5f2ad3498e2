"""Dialer: connections to backends, and the conversation on them until somebody takes them over.

It knows addresses, TLS and deadlines; which backend to dial is the destination's choice, what to say the dialogue's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import cycle
from types import MappingProxyType
from typing import Any, TypeVar

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.edge.streamport import StreamEndpoint, StreamReactor
from mailgw.edge.tls import PoolTls
from mailgw.edge.waits import Waits
from mailgw.errors import BackendFailed
from mailgw.interfaces import IClientDialogue
from mailgw.model import Backend, Peer
from mailgw.model import Failure as FailureKind
from mailgw.settings import Limits, Pool
from mailgw.wire.events import Close, Event, Ready, Refused, Send, StartTLS
from mailgw.wire.proxyheader import introduction

T = TypeVar("T")

ATTEMPT_DELAY = 0.05
"""Seconds between the attempts at a name's addresses: backends are near, and one family is often not served."""


@implementer(IHandshakeListener, IHalfCloseableProtocol)
class BackendConnection(Protocol):
    """A connection to a backend: carries a dialogue's bytes, gives every other event to C{react}.

    @ivar react: called with each event that is not about bytes.
    @ivar lost: called once with a L{BackendFailed}, unless somebody took the connection over or closed it.
    """

    transport: Any

    def __init__(
        self,
        backend: Backend,
        dialogue: IClientDialogue,
        tls: Any,
        ends: set[tuple[str, int]] | None = None,
        header: bytes = b"",
    ) -> None:
        """
        @param ends: has our own address and port while the connection is there.
        @param header: goes out before everything else.
        """
        self.backend = backend
        self._ends = ends if ends is not None else set()
        self._end = ("", 0)
        self._dialogue: Any = dialogue
        self._tls = tls
        self._header = header
        self._stage: Any = None
        self._held: Sequence[bytes] = ()
        self._speaking = backend.tls != "implicit"
        self.react: Callable[[Event], None] = self._ignore
        self.lost: Callable[[BackendFailed], None] = self._ignore

    def _ignore(self, _: object) -> None:
        """Nobody is interested (any more)."""

    def connectionMade(self) -> None:
        self.factory = None  # it has done its work, and would stay as long as the session
        here = self.transport.getHost()
        self._end = (getattr(here, "host", ""), getattr(here, "port", 0))
        self._ends.add(self._end)
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        if self._header:
            self.transport.write(self._header)
        if not self._speaking:
            self.transport.startTLS(self._tls)

    def handshakeCompleted(self) -> None:
        if self._speaking:
            self.carry(self._dialogue.secured())
        self._speaking = True

    def dataReceived(self, data: bytes) -> None:
        if self._stage is not None:
            self._stage.dataReceived(data)
        elif self._dialogue is not None:
            self.carry(self._dialogue.feed(data))
        else:
            self._held = (*self._held, data)

    def carry(self, events: list[Event]) -> None:
        """Carry out what the dialogue wants."""
        for event in events:
            match event:
                case Send(data):
                    self.transport.write(data)
                case StartTLS(data):
                    if data:
                        self.transport.write(data)
                    self.transport.startTLS(self._tls)
                case Close():
                    self.close()
                case _:
                    self.react(event)

    def rest(self) -> None:
        """The dialogue is over and successful: keep what comes until L{take_over}."""
        self._dialogue = None
        self.react = self.lost = self._ignore

    def take_over(self, stage: IProtocol) -> None:
        """From now on C{stage} gets what the backend sends, starting with what was kept."""
        self._stage = stage
        held, self._held = self._held, ()
        for data in held:
            self._stage.dataReceived(data)

    def close(self) -> None:
        """Hang up; nobody is told."""
        self.react = self.lost = self._ignore
        self._dialogue = None
        self.transport.abortConnection()

    def quit(self, words: bytes = b"") -> None:
        """Say goodbye and hang up, after what was written has gone out."""
        self.react = self.lost = self._ignore
        if words:
            self.transport.write(words)
        self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._stage):
            self._stage.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our half-close went out; the backend still speaks."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ends.discard(self._end)
        if self._stage is not None:
            self._stage.connectionLost(reason)
        lost, self.lost, self.react = self.lost, self._ignore, self._ignore
        self._dialogue = None
        if lost != self._ignore:
            lost(_failure_of(self.backend, reason))


def _failure_of(backend: Backend, reason: Failure) -> BackendFailed:
    """Why a connection ended, as far as Twisted tells."""
    if isinstance(reason.value, VerificationError | SSL.Error):
        return BackendFailed(FailureKind.TLS, f"{backend}: {_words(reason)}")
    return BackendFailed(FailureKind.PROTOCOL, f"{backend}: connection lost: {_words(reason)}")


def _words(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, VerificationError):
        return "its certificate is for another name"
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return "; ".join(entry[-1] for entry in error.args[0])
    return reason.getErrorMessage()


class _Quiet(Factory):
    """Builds one connection, and does not log that it does."""

    noisy = False


@lru_cache(1000)
def _version(host: str) -> int:
    """Of the Internet Protocol that C{host} is an address of; 0 for a name."""
    return 4 if isIPAddress(host) else 6 if isIPv6Address(host) else 0


def _at_leisure(deferred: Deferred[T]) -> Deferred[T]:
    """Wait for as long as it takes."""
    return deferred


class _Patience:
    """Waits for one thing after the other, for so long and no longer.

    @ivar over: it was too long, and what was waited for is cancelled.
    """

    def __init__(self, waits: Waits) -> None:
        self.over = False
        self._awaited: Deferred[Any] | None = None
        self._waits = waits
        self._wait = waits.begin(self._expire)

    def wait(self, deferred: Deferred[T]) -> Deferred[T]:
        """Say what is awaited now."""
        self._awaited = deferred
        return deferred

    def _expire(self) -> None:
        self.over = True
        if self._awaited is not None:
            self._awaited.cancel()

    def end(self) -> None:
        """There is nothing more to wait for."""
        self._waits.end(self._wait)


class Sources:
    """Addresses of ours, in turn within each family."""

    def __init__(self, addresses: Sequence[str]) -> None:
        families = {version: [one for one in addresses if _version(one) == version] for version in (4, 6)}
        self._turns = {version: cycle(found) for version, found in families.items() if found}
        self._first = _version(addresses[0])

    def next(self, version: int) -> str:
        """The next one to reach an address of that version from; 0: a name, for which the first one's family counts."""
        turn = self._turns.get(version or self._first)
        return next(turn) if turn is not None else ""


class Dialer:
    """Opens connections to backends."""

    def __init__(
        self, reactor: Any, tls: Mapping[str, PoolTls], limits: Limits, pools: Mapping[str, Pool] = MappingProxyType({})
    ) -> None:
        """
        @param tls: the client side of TLS for each pool, by its name.
        @param pools: the pools' settings, by the same names; a pool that is not there is dialled plainly.
        """
        self.reactor, self._tls, self.limits, self._pools = reactor, tls, limits, pools
        self._logins = Waits(reactor, limits.backend_login)
        self._ends: set[tuple[str, int]] = set()
        self._sources = {name: Sources(pool.source) for name, pool in pools.items() if pool.source}

    def refuse_own(self, peer: Peer) -> None:
        """See that a client is not ourselves: then its backend would be us, and each hop would dial the next one.

        @param peer: of the client that wants to go on to a backend.
        @raise BackendFailed: its connection is one of those that were opened here.
        """
        if (peer.host.removeprefix("::ffff:"), peer.port) in self._ends:
            raise BackendFailed(FailureKind.PROTOCOL, "a loop: the backend of this connection is the gateway itself")

    async def connect(
        self, backend: Backend, dialogue: IClientDialogue, wait: Callable[[Deferred[Any]], Deferred[Any]] = _at_leisure
    ) -> BackendConnection:
        """Open a connection; the dialogue's first events come as the backend speaks.

        Set C{react} and C{lost} before the next turn of the reactor.

        @param wait: is told what is awaited, and may cancel it.
        @raise BackendFailed: C{CONNECT} or C{TIMEOUT}.
        """
        try:
            tls = self._tls[backend.pool].creator(backend.host)
            connection = BackendConnection(backend, dialogue, tls, self._ends, self._header(backend, dialogue))
            factory = _Quiet.forProtocol(lambda: connection)
            if _version(backend.host) and isinstance(self.reactor, StreamReactor):
                where = backend.host, backend.port, self.limits.connect, self._source(backend)
                endpoint = StreamEndpoint(self.reactor.nest, *where)
                await wait(endpoint.connect(factory))
            else:
                await self._reach(self._endpoint(backend).connect(factory), wait)
        except ConnectTimeout:
            raise BackendFailed(FailureKind.CONNECT, f"{backend}: no answer within {self.limits.connect:g} s") from None
        except (ConnectError, DNSLookupError, OSError, ValueError) as error:  # ValueError: what is no name in the DNS
            raise BackendFailed(FailureKind.CONNECT, f"{backend}: {error}") from None
        return connection

    def _source(self, backend: Backend) -> str:
        """The address of ours to connect from, C{""} where the pool has none for that family."""
        sources = self._sources.get(backend.pool)
        return sources.next(_version(backend.host)) if sources is not None else ""

    def _header(self, backend: Backend, dialogue: Any) -> bytes:
        """The PROXY header for a pool that wants one; of a dialogue that has no client, a health check's, our own."""
        pool = self._pools.get(backend.pool)
        if pool is None or pool.proxy == "none":
            return b""
        return introduction(pool.proxy, getattr(dialogue, "forward", None))

    async def _reach(self, attempt: Deferred[Any], wait: Callable[[Deferred[Any]], Deferred[Any]]) -> None:
        """Twisted's endpoints answer a cancellation with errors of their own; who cancels gets C{CancelledError}."""
        answer: Deferred[object] = Deferred()
        attempt.addBoth(lambda result: None if answer.called else answer.callback(result))
        try:
            await wait(answer)
        except CancelledError:
            attempt.cancel()
            raise

    def _endpoint(self, backend: Backend) -> Any:
        timeout, source = self.limits.connect, self._source(backend)
        bind = (source, 0) if source else None
        match _version(backend.host):
            case 4:
                return TCP4ClientEndpoint(self.reactor, backend.host, backend.port, timeout, bind)
            case 6:
                return TCP6ClientEndpoint(self.reactor, backend.host, backend.port, timeout, bind)
        return HostnameEndpoint(self.reactor, backend.host, backend.port, timeout, bind, ATTEMPT_DELAY)

    async def login(self, backend: Backend, dialogue: IClientDialogue) -> tuple[BackendConnection, Ready]:
        """Connect and carry the dialogue until it is logged in.

        @return: a connection for somebody to take over, and what the backend said.
        @raise BackendFailed: any kind; C{REJECTED} means that the backend refused the credentials.
        """
        patience = _Patience(self._logins)
        try:
            connection = await self.connect(backend, dialogue, patience.wait)
            return connection, await patience.wait(_outcome(connection))
        except CancelledError:
            if not patience.over:
                raise
            raise BackendFailed(
                FailureKind.TIMEOUT, f"{backend}: not logged in within {self.limits.backend_login:g} s"
            ) from None
        finally:
            patience.end()


def _outcome(connection: BackendConnection) -> Deferred[Ready]:
    """What comes of a dialogue that logs in: fires with its L{Ready}, or fails with L{BackendFailed}."""
    outcome: Deferred[Ready] = Deferred(lambda _: connection.close())

    def react(event: Event) -> None:
        match event:
            case Ready():
                connection.rest()
                outcome.callback(event)
            case Refused(kind, text):
                connection.close()
                outcome.errback(BackendFailed(kind, f"{connection.backend}: {text}"))
            case _:
                raise NotImplementedError(f"{type(event).__name__} from a login dialogue")

    connection.react, connection.lost = react, outcome.errback
    return outcome
