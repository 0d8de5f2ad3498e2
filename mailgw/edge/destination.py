"""ProxiedDestination: get a logged-in user to a backend, and return the relay to it.

Retry order is decided here and nowhere else: the next candidate is tried only where one could not be connected to,
and only a shared pool has a next one.
"""

from __future__ import annotations

from functools import partial

from twisted.logger import Logger
from zope.interface import implementer

from mailgw.edge.access import access_to, forward_of
from mailgw.edge.client import NO_TLS
from mailgw.edge.dialer import BackendConnection, Dialer
from mailgw.edge.relay import Relay, Sweeper
from mailgw.errors import BackendFailed, LoginRefused
from mailgw.interfaces import IClientDialogue, IDestination, IPool, ISession
from mailgw.model import Access, Arrival, Backend, Failure, Forward, Identity, RefusalKind, Route
from mailgw.wire.events import Ready
from mailgw.wire.protocol import LoginProtocol

PASSED_OVER = frozenset({Failure.CONNECT, Failure.FULL})
"""What nobody has heard of our user yet: the next candidate may."""


@implementer(IDestination)
class ProxiedDestination:
    """A backend of a pool."""

    log = Logger()

    def __init__(
        self, identity: Identity, pool: IPool, route: Route, protocol: LoginProtocol, dialer: Dialer, sweeper: Sweeper
    ) -> None:
        self.username = identity.username
        self._pool, self._route, self._protocol = pool, route, protocol
        self._dialer, self._sweeper = dialer, sweeper

    async def open(self, session: ISession) -> Arrival:
        self._dialer.refuse_own(session.peer)
        access = access_to(self._pool.options, self.username, session.login, self._route)
        if access is None:
            reason = f"pool {self._pool.name} has login = {self._pool.options.login}: no {self._protocol.name} there"
            raise BackendFailed(Failure.PROTOCOL, reason)
        tls = session.client_tls() if self._pool.options.proxy != "none" else NO_TLS
        forward = forward_of(session, self.username, tls=tls)
        try:
            connection, ready = await self._first_that_connects(session, access, forward)
        except BackendFailed as error:
            own = self._pool.options.login == "own" and self._route.password is None
            if error.kind is Failure.REJECTED and own:
                raise LoginRefused(RefusalKind.CREDENTIALS, error.reason) from None
            raise
        relay = Relay(
            connection,
            ready.rest,
            self._sweeper,
            self._dialer.limits.idle,
            # not ourselves: a session may last for days
            partial(self._pool.closed, connection.backend, self._protocol.name, self.username),
        )
        return Arrival(relay.client, ready.text)

    async def _first_that_connects(
        self, session: ISession, access: Access, forward: Forward
    ) -> tuple[BackendConnection, Ready]:
        name = self._protocol.name
        candidates = self._pool.candidates(self.username, name, self._route)
        for backend in candidates:
            dialogue = self._protocol.client(access, forward, backend.tls == "starttls")
            try:
                return await self._arrive(backend, dialogue)
            except BackendFailed as error:
                self._count(backend, error, session.peer.host)
                if error.kind not in PASSED_OVER or backend is candidates[-1]:
                    raise
                self.log.warn("{session} {reason}; trying the next", session=session.session_id, reason=error.reason)
        raise BackendFailed(Failure.CONNECT, f"pool {self._pool.name} has no member")

    async def _arrive(self, backend: Backend, dialogue: IClientDialogue) -> tuple[BackendConnection, Ready]:
        """Log in on one backend, once it has a place."""
        await self._pool.reserve(backend, self.username)
        try:
            arrived = await self._dialer.login(backend, dialogue)
            self._pool.succeeded(backend, self._protocol.name)
            self._pool.opened(backend, self._protocol.name, self.username)
            return arrived
        finally:
            self._pool.release(backend, self.username)

    def _count(self, backend: Backend, error: BackendFailed, client: str) -> None:
        if error.kind is Failure.REJECTED:
            self._pool.succeeded(backend, self._protocol.name)
        else:
            self._pool.failed(backend, self._protocol.name, error.kind, self.username, client)
