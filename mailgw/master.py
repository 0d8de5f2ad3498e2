"""The program in several processes: the master binds the ports, starts the workers, and tells them what to do.

It handles no mail and no client: that is L{mailgw.gateway} in the workers. What keeps them alive is
L{mailgw.ops.workers}, what they do first L{mailgw.zygote}. Without workers L{mailgw.single} is in its place.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from mailgw.edge.listeners import ListeningService
from mailgw.edge.tls import Identities
from mailgw.errors import MailgwError, SettingsError
from mailgw.gateway import House, Lasting, drop_privileges
from mailgw.ops.board import MasterBoard
from mailgw.ops.control import Command, ControlLink, ControlPort, Refused
from mailgw.ops.live import Live
from mailgw.ops.steering import Steering
from mailgw.ops.tally import SharedMemory
from mailgw.ops.workers import Blueprint, Fleet
from mailgw.settings import Listener, Settings
from mailgw.single import CERTIFICATE_POLL
from mailgw.worker import Boot

SPARE_REGIONS = 4
"""Generations that can count together: the new one, and old ones whose last sessions are not over."""


class _Workers(Factory):
    """Answers nobody: who does are the workers."""

    noisy = False


class Master(MultiService):
    """The master's services."""

    log = Logger()

    def __init__(
        self, settings: Settings, reactor: Any, load: Callable[[], Settings], *, logs_to_stdout: bool = False
    ) -> None:
        """
        @param load: reads the settings again.
        @param logs_to_stdout: so the workers can log there, too, without our help.
        @raise SettingsError: a file that the settings name is not usable.
        """
        super().__init__()
        self.setName("mailgw")
        self._reactor, self._load, self._logs_to_stdout = reactor, load, logs_to_stdout
        self._settings, self._identities = settings, self._tried(settings)
        self._secret, self._token = secrets.token_bytes(32), secrets.token_urlsafe(32)
        self._tally = SharedMemory(max(16, SPARE_REGIONS * workers_of(settings)))
        self._fleet = Fleet(reactor, self._tally, self._token)
        self._board = MasterBoard(settings.gateway.state, self._token)
        self._listening: dict[str, ListeningService] = {}
        self._started, self._renewing = reactor.seconds(), False
        self._state, self._outdated = settings.gateway.state, False
        for listener in settings.listener:
            self._listening[listener.endpoint] = self._service(listener)
            self._listening[listener.endpoint].setServiceParent(self)
        self._live = Live(reactor, self._fleet.links, self.renew, self._counts)
        self._steering = Steering(reactor, self._fleet.links, self._board)
        ControlPort(reactor, settings.gateway.state, self._commands).setServiceParent(self)
        watcher = TimerService(CERTIFICATE_POLL, self._watch_certificates)
        watcher.clock = reactor
        watcher.setServiceParent(self)

    def _tried(self, settings: Settings) -> Identities | None:
        """Build everything once, as each worker will, and keep the certificates.

        @raise SettingsError: that is not possible.
        """
        return House(settings, self._reactor, Lasting(settings, self._reactor)).identities

    def _commands(self, link: ControlLink) -> dict[str, Command]:
        asked = {**self._live.commands, **self._steering.commands}
        return {**asked, **self._fleet.commands(link), **self._board.commands(link)}

    def _counts(self) -> dict[str, int]:
        return {
            **self._fleet.past,
            "uptime": int(self._reactor.seconds() - self._started),
            "workers": len(self._fleet.links()),
            "generations": len(self._fleet.generations),
        }

    # --- ports -------------------------------------------------------------------------------------------------------

    def _service(self, listener: Listener) -> ListeningService:
        return ListeningService(self._reactor, listener, _Workers(), None, self._bind)

    def _bind(self, endpoint: str, factory: Any) -> Deferred[IListeningPort]:
        """Bind a port, and leave what comes there to the workers."""

        def bound(port: Any) -> Any:
            self._reactor.removeReader(port)
            return port

        return ListeningService.bind(self._reactor, endpoint, factory).addCallback(bound)

    # --- start -------------------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Bind every port, or say which one cannot be bound.

        @raise SystemExit: with status 1.
        """
        try:
            os.makedirs(self._settings.gateway.state, mode=0o700, exist_ok=True)
            super().privilegedStartService()
        except (MailgwError, OSError) as error:
            self.log.critical("{error}", error=error)
            raise SystemExit(f"mailgw: {error}") from None

    def startService(self) -> None:
        """Become the user of the settings, and start the workers.

        @raise SystemExit: there is no such user, or another gateway runs.
        """
        drop_privileges(self._settings)
        try:
            self._board.load()
            super().startService()
        except Refused as error:
            self.log.critical("{error}", error=error)
            raise SystemExit(f"mailgw: {error}") from None
        started = self._fleet.renew(self._blueprint)
        started.addCallbacks(lambda _: self.log.info("{count} workers", count=self._counts()["workers"]), self._failed)

    def _failed(self, failure: Any) -> None:
        self.log.critical("{reason}", reason=failure.getErrorMessage())
        self._fleet.try_again()

    def _blueprint(self, generation: int) -> Blueprint:
        """What the next generation is to be, as the settings are now."""
        ports = {
            endpoint: service.port.fileno() for endpoint, service in self._listening.items() if service.port is not None
        }
        # a machine without IPv6 has no port for [::1], and its workers must not expect one
        listeners = tuple(one for one in self._settings.listener if one.endpoint in ports)
        # we can be found where we were at our start only
        gateway = self._settings.gateway.model_copy(update={"state": self._state})
        settings = self._settings.model_copy(update={"listener": listeners, "gateway": gateway})
        boot = Boot(
            generation, settings, tuple(ports), self._tally.regions, self._secret, self._token, self._logs_to_stdout
        )
        return Blueprint(
            command=[sys.executable, "-P", "-m", "mailgw.zygote", f"generation={generation}"],
            boot=boot.pack(),
            sockets=list(ports.values()),
            workers=workers_of(settings),
            output=_descriptor(sys.__stdout__ if self._logs_to_stdout else sys.__stderr__),
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )

    # --- reload ------------------------------------------------------------------------------------------------------

    def reload(self, load: Callable[[], Settings]) -> Deferred[list[str]]:
        """Put new settings and certificates in force with new workers; if they have faults, the old ones stay.

        @param load: reads the settings.
        @return: what went wrong, in words, once the new workers answer.
        """
        return Deferred.fromCoroutine(self._reload(load))

    def renew(self) -> Deferred[list[str]]:
        """As L{reload}, from the settings file."""
        return self.reload(self._load)

    async def _reload(self, load: Callable[[], Settings]) -> list[str]:
        if not self.running or self._renewing:
            return self._not_reloaded("the gateway stops" if not self.running else "another reload is under way")
        self._renewing = True
        before = self._settings, self._identities
        opened: list[str] = []
        try:
            settings = load()
            if not settings.gateway.workers:
                return self._not_reloaded("gateway.workers: several processes become one by a new start only")
            self._settings, self._identities = settings, self._tried(settings)
            opened = self._open_new()
            await self._fleet.renew(self._blueprint)
        except (MailgwError, OSError) as error:
            self._settings, self._identities = before
            await self._close(opened)
            return self._not_reloaded(*(error.faults if isinstance(error, SettingsError) else [str(error)]))
        finally:
            self._renewing = False
        await self._close(self._listening.keys() - {one.endpoint for one in settings.listener})
        self.log.info("reloaded: {count} new workers", count=workers_of(settings))
        return []

    def _not_reloaded(self, *faults: str) -> list[str]:
        for fault in faults:
            self.log.error("not reloaded: {fault}", fault=fault)
        return [f"not reloaded: {fault}" for fault in faults]

    def _open_new(self) -> list[str]:
        """Bind the ports that the settings have now and had not before.

        @return: their endpoints.
        @raise MailgwError: one of them cannot be bound.
        """
        opened: list[str] = []
        for listener in self._settings.listener:
            if listener.endpoint not in self._listening:
                service = self._service(listener)
                try:
                    service.setServiceParent(self)
                except MailgwError:
                    service.disownServiceParent()
                    for endpoint in opened:
                        self._listening.pop(endpoint).disownServiceParent()
                    raise
                self._listening[listener.endpoint] = service
                opened.append(listener.endpoint)
        return opened

    async def _close(self, endpoints: Any) -> None:
        for endpoint in list(endpoints):
            await maybeDeferred(self._listening.pop(endpoint).disownServiceParent)

    def _watch_certificates(self) -> None:
        """Certificates that changed need new workers: they share the keys of their tickets by birth only.

        Those get the settings that are in force, whatever somebody writes into the file just now. Where they do not
        come up, they are tried again.
        """
        if self._identities is None or self._renewing:
            return
        self._outdated = self._identities.reload(only_changed=True) or self._outdated
        if self._outdated:
            self.log.info("certificates have changed")
            self.reload(lambda: self._settings).addCallback(self._certificates_told)

    def _certificates_told(self, faults: list[str]) -> None:
        self._outdated = bool(faults)

    # --- stop --------------------------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Stop accepting, and end the workers as they would end alone."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        Service.stopService(self)  # from now on there is nothing to reload
        control = [service for service in self if isinstance(service, ControlPort)]
        stopped = [maybeDeferred(service.stopService) for service in self if service not in control]
        await self._fleet.stop(self._settings.gateway.drain)
        for service in control:  # the workers' links end with them, not before
            stopped.append(maybeDeferred(service.stopService))
        for one in stopped:
            await one


def workers_of(settings: Settings) -> int:
    """How many workers C{gateway.workers} means."""
    workers = settings.gateway.workers
    return len(os.sched_getaffinity(0)) if workers == "auto" else workers


def _descriptor(stream: Any) -> int:
    """Of our standard output or error; a daemon may have none that is worth the name."""
    return stream.fileno() if stream is not None else 2
