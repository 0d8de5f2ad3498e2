"""ProxiedDestination: get a logged-in user to a backend, and return the relay to it.

Retry order is decided here and nowhere else: the next candidate is tried only where one could not be connected to,
and only a shared pool has a next one.
"""

from __future__ import annotations

from functools import partial

from twisted.logger import Logger
from zope.interface import implementer

from mailgw.edge.access import access_to
from mailgw.edge.dialer import BackendConnection, Dialer
from mailgw.edge.relay import Relay, Sweeper
from mailgw.errors import BackendFailed, LoginRefused
from mailgw.interfaces import IDestination, IPool, ISession
from mailgw.model import Access, Arrival, Backend, Failure, Forward, Identity, RefusalKind, Route
from mailgw.wire.events import Ready
from mailgw.wire.protocol import LoginProtocol


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
        forward = Forward(session.session_id, session.peer, session.secure, login=self.username)
        try:
            connection, ready = await self._first_that_connects(session, access, forward)
        except BackendFailed as error:
            own = self._pool.options.login == "own" and self._route.password is None
            if error.kind is Failure.REJECTED and own:
                raise LoginRefused(RefusalKind.CREDENTIALS, error.reason) from None
            raise
        self._pool.opened(connection.backend)
        relay = Relay(
            connection,
            ready.rest,
            self._sweeper,
            self._dialer.limits.idle,
            partial(self._pool.closed, connection.backend),  # not ourselves: a session may last for days
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
                arrived = await self._dialer.login(backend, dialogue)
            except BackendFailed as error:
                self._count(backend, error)
                if error.kind is not Failure.CONNECT or backend is candidates[-1]:
                    raise
                self.log.warn("{session} {reason}; trying the next", session=session.session_id, reason=error.reason)
            else:
                self._pool.succeeded(backend, name)
                return arrived
        raise BackendFailed(Failure.CONNECT, f"pool {self._pool.name} has no member")

    def _count(self, backend: Backend, error: BackendFailed) -> None:
        if error.kind is Failure.REJECTED:
            self._pool.succeeded(backend, self._protocol.name)
        else:
            self._pool.failed(backend, self._protocol.name)
