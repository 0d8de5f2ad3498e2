"""The whole program in one process: the gateway, the watch over its certificates, and the socket where it can be asked.

With several workers L{mailgw.master} is in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import TimerService
from twisted.internet.defer import Deferred

from mailgw.gateway import Gateway, Lasting, drop_privileges
from mailgw.ops.board import KeptBoard
from mailgw.ops.control import ControlPort, Refused
from mailgw.ops.live import Live
from mailgw.ops.steering import Steering
from mailgw.settings import Settings

CERTIFICATE_POLL = 10.0
"""Seconds between two looks at the certificates' files."""


class Single(Gateway):
    """A gateway that needs nobody else."""

    def __init__(self, settings: Settings, reactor: Any, load: Callable[[], Settings]) -> None:
        """
        @param load: reads the settings again.
        @raise SettingsError: as L{Gateway}.
        """
        self._board = KeptBoard(settings.gateway.state)
        super().__init__(settings, reactor, Lasting(settings, reactor, board=self._board))
        self._load = load
        self._started = reactor.seconds()
        watcher = TimerService(CERTIFICATE_POLL, self.renew_certificates)
        watcher.clock = reactor
        watcher.setServiceParent(self)
        live = Live(reactor, lambda: [self.here], self.renew, self._counts)
        steering = Steering(reactor, lambda: [self.here], self._board)
        commands = {**live.commands, **steering.commands}
        ControlPort(reactor, settings.gateway.state, lambda _: commands).setServiceParent(self)

    def startService(self) -> None:
        """As L{Gateway.startService}, with what was on the board when the last gateway ended.

        @raise SystemExit: that cannot be read, or another gateway runs.
        """
        drop_privileges(self.house.settings)
        try:
            self._board.load()
            super().startService()
        except Refused as error:
            self.log.critical("{error}", error=error)
            raise SystemExit(f"mailgw: {error}") from None

    def renew(self) -> Deferred[list[str]]:
        """Put the settings file in force; fires with what went wrong, in words."""
        return self.reload(self._load)

    def _counts(self) -> dict[str, int]:
        return {"uptime": int(self.reactor.seconds() - self._started), "workers": 0}
