"""The composition root: settings and a reactor become the tree of services that C{twistd} runs.

The only module that knows all rooms. It decides nothing about mail: it builds, starts, reloads, drains and stops.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from random import SystemRandom
from typing import Any

from twisted.application.service import MultiService
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from mailgw import registry
from mailgw.cred import AnonymousChecker, DirectoryChecker, GatewayRealm
from mailgw.delivery.routed import Desk, RoutedDelivery
from mailgw.directory.chain import Chain
from mailgw.edge.destination import ProxiedDestination
from mailgw.edge.dialer import Dialer
from mailgw.edge.health import HealthChecks
from mailgw.edge.limits import Turnstile
from mailgw.edge.listeners import Listen, ListeningService, LoginFrontend
from mailgw.edge.relay import Sweeper
from mailgw.edge.session import Session
from mailgw.edge.streamport import StreamReactor
from mailgw.edge.tls import Identities, PoolTls, ServerTls
from mailgw.errors import MailgwError, SettingsError
from mailgw.interfaces import IBoard, IDestination, IFrontend, IHouse, ISession, ITally
from mailgw.local.serve import LocalDestination, MaildirStore
from mailgw.model import Identity
from mailgw.names import Names
from mailgw.ops.accounting import Accountant
from mailgw.ops.board import Board
from mailgw.ops.guide import Guide
from mailgw.ops.holds import Holds
from mailgw.ops.place import Place
from mailgw.ops.tally import LocalTally
from mailgw.routing.override import OverrideRule, target_of
from mailgw.routing.pool import Pool
from mailgw.routing.router import Router
from mailgw.settings import Listener, Settings
from mailgw.wire.protocol import LoginProtocol

RETIREMENT_TURN = 0.5
"""Seconds between two looks whether the last session is over."""
RETIREMENT_POLL = 10.0
"""Seconds between two looks whether anybody still needs what a reload has replaced."""


class Lasting:
    """What outlives a reload: the counts, the live sessions and the timer that watches them, the board.

    @ivar is_first: as L{IHouse} has it.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        tally: ITally | None = None,
        secret: bytes = b"",
        board: IBoard | None = None,
    ) -> None:
        """
        @param tally: what to count on; that of this process alone where left out.
        @param secret: as L{Turnstile} has it.
        @param board: what to agree on with other processes; that of this one alone where left out.
        """
        self.board = board or Board()
        self.holds = Holds(self.board, reactor)
        self.is_first = True
        self.tally = tally = LocalTally(reactor.seconds) if tally is None else tally
        self.turnstile = Turnstile(settings.limits, reactor, tally, secret)
        self.accountant = Accountant(settings.limits, tally)
        self.sessions: set[Session] = set()
        self.counters: Counter[str] = Counter()
        self.sweeper = Sweeper(reactor)


@implementer(IHouse)
class House:
    """Everything that one set of settings builds."""

    def __init__(
        self, settings: Settings, reactor: Any, lasting: Lasting, identities: Identities | None = None
    ) -> None:
        """
        @param identities: the certificates of these settings, if they are loaded already.
        @raise SettingsError: a file that the settings name is not usable.
        """
        self.reactor, self.settings = reactor, settings
        self.turnstile, self.sessions, self.counters = lasting.turnstile, lasting.sessions, lasting.counters
        self.board, self._lasting = lasting.board, lasting
        self._sweeper = lasting.sweeper
        self.identities = identities or load_identities(settings)
        self.pools = {
            name: Pool(name, options, reactor, SystemRandom(), lasting.tally, lasting.board)
            for name, options in settings.pool.items()
        }
        self._dialer = Dialer(reactor, self._pool_tls(), settings.limits, settings.pool)
        self.health = HealthChecks(
            reactor,
            self.pools.values(),
            self._dialer,
            lasting.board,
            lambda: lasting.is_first,
            settings.gateway.hostname,
            SystemRandom(),
        )
        self._chain = Chain(self._plugs("directory"))
        names = Names(settings.names)
        override = OverrideRule(self.board, self.pools, lasting.holds.over)
        self._router = Router([override, *self._plugs("route")], names.backend)
        self._store = MaildirStore(settings.local.path, settings.gateway.hostname, reactor)
        self._login_protocols = self._protocols()
        realm = GatewayRealm(self._destination, self._delivery, lasting.accountant, lasting.holds.over)
        self.portal = Portal(realm, [DirectoryChecker(self._chain, names.directory), AnonymousChecker()])

    @property
    def guide(self) -> Guide:
        """Who tells administrators what these settings make of a user."""
        target, form = partial(target_of, pools=self.pools), Names(self.settings.names).directory
        typed = partial(form, origin=None)
        return Guide(self._chain.directories, self._router, self.pools, self.board, typed, target)

    @property
    def is_first(self) -> bool:
        return self._lasting.is_first

    def _pool_tls(self) -> Mapping[str, PoolTls]:
        minimum = self.settings.tls.minimum if self.settings.tls is not None else "1.2"
        return {name: PoolTls(options, minimum) for name, options in self.settings.pool.items()}

    def _plugs(self, group: str) -> list[Any]:
        """Build the directories or the rules, in the order of the settings."""
        plugs = getattr(self.settings, group)
        return [registry.load(group, plug.kind).from_options(plug.name, plug.options, self) for plug in plugs]

    def _protocols(self) -> dict[str, LoginProtocol]:
        loaded = {
            listener.protocol: registry.load("protocol", listener.protocol) for listener in self.settings.listener
        }
        return {name: protocol for name, protocol in loaded.items() if isinstance(protocol, LoginProtocol)}

    def frontend(self, protocol: str) -> IFrontend:
        """The kind of listener that C{protocol} names in the settings."""
        login_protocol = self._login_protocols.get(protocol)
        if login_protocol is not None:
            return LoginFrontend(login_protocol)
        frontend: IFrontend = registry.load("protocol", protocol)
        return frontend

    def server_tls(self, listener: Listener) -> ServerTls | None:
        if self.identities is None or listener.tls == "none":
            return None
        return ServerTls(self.identities, listener.protocol)

    async def _destination(self, identity: Identity, session: ISession) -> IDestination:
        """Where a reader goes: the avatar of IMAP, POP3 and ManageSieve."""
        protocol = self._login_protocols[session.protocol]
        login = session.login
        route = await self._router.route(identity, protocol.name, login.origin if login is not None else None)
        if route.local:
            limits = self.settings.limits
            return LocalDestination(identity, self._store, protocol.name, limits.idle, append_limit=limits.message_size)
        return ProxiedDestination(identity, self.pools[route.pool], route, protocol, self._dialer, self._sweeper)

    def _delivery(self, identity: Identity | None, session: ISession) -> RoutedDelivery:
        """Where mail goes: the avatar of SMTP."""
        desk = Desk(self.settings, self._chain, self._router, self.pools, self._dialer, self._store)
        return RoutedDelivery(identity, session, desk)

    def start(self) -> None:
        """Begin to answer questions."""
        for pool in self.pools.values():
            pool.start()
        self._chain.start()

    async def stop(self) -> None:
        """Release what directories and rules hold, and read no more on the board."""
        for pool in self.pools.values():
            pool.stop()
        await self._chain.stop()
        await self._router.stop()


def load_code(settings: Settings) -> None:
    """Import whatever these settings name."""
    for listener in settings.listener:
        registry.load("protocol", listener.protocol)
    for group in ("directory", "route"):
        for plug in getattr(settings, group):
            registry.load(group, plug.kind)


def load_identities(settings: Settings) -> Identities | None:
    """The certificates and keys of these settings.

    @raise SettingsError: one of the files is not usable.
    """
    return Identities(settings.tls) if settings.tls is not None else None


class Gateway(MultiService):
    """All of one process: the whole program, or one worker of it.

    @ivar drain: seconds that sessions may go on when it stops; the settings' where that is C{None}.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        lasting: Lasting | None = None,
        identities: Identities | None = None,
        listen: Listen | None = None,
    ) -> None:
        """
        @param identities: as L{House}.
        @param listen: as L{ListeningService}.
        @raise SettingsError: as L{House}.
        """
        super().__init__()
        self.drain: float | None = None
        self.setName("mailgw")
        if settings.gateway.transport == "stream":
            reactor = StreamReactor(reactor)
        self.reactor, self._open = reactor, listen
        self._lasting = lasting or Lasting(settings, reactor)
        self.house = House(settings, reactor, self._lasting, identities)
        self._listening: dict[str, ListeningService] = {}
        self._relistening = DeferredLock()
        for listener in settings.listener:
            self._listen(listener)
        self._lasting.sweeper.setServiceParent(self)
        self.house.health.setServiceParent(self)
        one = self._lasting
        self.here = Place(one.sessions, one.counters, one.accountant, lambda: self.house.guide)

    def _listen(self, listener: Listener) -> None:
        """Add a listener, and open its port if we run already.

        @raise MailgwError: the port cannot be bound; then there is no such listener.
        """
        service = ListeningService(self.reactor, listener, *self._answering(listener), self._open)
        try:
            service.setServiceParent(self)
        except MailgwError:
            service.disownServiceParent()
            raise
        self._listening[listener.endpoint] = service

    def _answering(self, listener: Listener) -> tuple[IProtocolFactory, ServerTls | None]:
        """What answers on a listener, and its TLS."""
        house = self.house
        return house.frontend(listener.protocol).make_factory(house, listener), house.server_tls(listener)

    def renew_certificates(self) -> None:
        """Use the certificates' files anew that have changed."""
        if self.house.identities is not None:
            self.house.identities.reload(only_changed=True)

    # --- start -------------------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Bind every port, or say which one cannot be bound.

        @raise SystemExit: with status 1.
        """
        try:
            os.makedirs(self.house.settings.gateway.state, mode=0o700, exist_ok=True)
            super().privilegedStartService()
        except (MailgwError, OSError) as error:
            self.log.critical("{error}", error=error)
            raise SystemExit(f"mailgw: {error}") from None

    def startService(self) -> None:
        """Become the user of the settings, and begin.

        @raise SystemExit: there is no such user.
        """
        drop_privileges(self.house.settings)
        self.house.start()
        super().startService()

    # --- reload ------------------------------------------------------------------------------------------------------

    def reload(self, load: Callable[[], Settings]) -> Deferred[list[str]]:
        """Put new settings and certificates in force; if they have faults, the old ones stay.

        Live sessions never notice; ports that stay are not closed for a moment.

        @param load: reads the settings.
        @return: what went wrong, in words, once the ports are as the settings want them.
        """
        if not self.running:
            return self._not_reloaded("the gateway stops")
        try:
            settings = load()
            if settings.gateway.workers != 0:
                return self._not_reloaded("gateway.workers: one process becomes several by a new start only")
            house = House(settings, self.reactor, self._lasting)
        except SettingsError as error:
            return self._not_reloaded(*error.faults)
        old, self.house = self.house, house
        house.start()
        old.health.disownServiceParent()
        house.health.setServiceParent(self)
        self._lasting.turnstile.limits = self._lasting.accountant.limits = house.settings.limits
        Deferred.fromCoroutine(self._retire(old))
        self.log.info("reloaded")
        return self._relistening.run(lambda: Deferred.fromCoroutine(self._relisten()))

    def _not_reloaded(self, *faults: str) -> Deferred[list[str]]:
        for fault in faults:
            self.log.error("not reloaded: {fault}", fault=fault)
        return succeed([f"not reloaded: {fault}" for fault in faults])

    async def _relisten(self) -> list[str]:
        """Renew the listeners that stay, close the ports that are gone, open the new ones.

        @return: what could not be opened.
        """
        faults: list[str] = []
        wanted = {listener.endpoint: listener for listener in self.house.settings.listener}
        for endpoint in self._listening.keys() & wanted.keys():
            self._listening[endpoint].renew(wanted[endpoint], *self._answering(wanted[endpoint]))
        for endpoint in self._listening.keys() - wanted.keys():
            self._listening[endpoint].turn_away()
            # a new endpoint may be the same port in other words, and a port is taken until it is closed
            await maybeDeferred(self._listening.pop(endpoint).disownServiceParent)
        for endpoint in wanted.keys() - self._listening.keys():
            try:
                self._listen(wanted[endpoint])
            except MailgwError as error:
                self.log.error("reloaded, but {error}", error=error)
                faults.append(f"reloaded, but {error}")
        return faults

    async def _retire(self, house: House) -> None:
        """Stop what a reload has replaced once nobody is left who could still ask it; SMTP sessions may be long."""
        while any(session.may_ask(house.portal) for session in self._lasting.sessions):
            await deferLater(self.reactor, RETIREMENT_POLL)
        await house.stop()

    # --- stop --------------------------------------------------------------------------------------------------------

    async def retire(self) -> None:
        """Accept nobody any more, and wait until all sessions have come to their own end."""
        services = tuple(self._listening.values())
        for service in services:
            await maybeDeferred(service.disownServiceParent)
        self._listening.clear()
        while self._lasting.sessions or any(service.waiting for service in services):
            await deferLater(self.reactor, RETIREMENT_TURN)

    def stopService(self) -> Deferred[None]:
        """Stop accepting, close what is not logged in, let the rest go on until C{gateway.drain} is over."""
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        stopped = super().stopService()
        for service in self._listening.values():
            service.turn_away()
        for session in list(self._lasting.sessions):
            session.shut(even_logged_in=False)
        drain = self.house.settings.gateway.drain if self.drain is None else self.drain
        end = self.reactor.seconds() + drain
        if self._lasting.sessions:
            self.log.info("{count} sessions may go on for {drain:g} s", count=len(self._lasting.sessions), drain=drain)
        while self._lasting.sessions and self.reactor.seconds() < end:
            await deferLater(self.reactor, 0.1)
        for session in list(self._lasting.sessions):
            session.shut(even_logged_in=True)
        await stopped
        await self.house.stop()


def drop_privileges(settings: Settings) -> None:
    """Become C{gateway.user}, if we are root and there is one.

    @raise SystemExit: there is no such user.
    """
    user = settings.gateway.user
    if user is None or os.geteuid() != 0:
        return
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise SystemExit(f"mailgw: gateway.user: this machine has no user {user!r}") from None
    os.chown(settings.gateway.state, entry.pw_uid, entry.pw_gid)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    Gateway.log.info("running as {user}", user=user)
