"""HealthChecks: speaks to every member of every pool from time to time, and tells the pool what came of it.

One process of all workers does so. What a check says is its dialogue's business (L{mailgw.wire.health}), what follows
from it the pool's; nobody's session is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgw.edge.access import mechanism_of
from mailgw.edge.dialer import BackendConnection, Dialer
from mailgw.errors import BackendFailed
from mailgw.interfaces import IBoard, IChecked
from mailgw.model import Access, Backend
from mailgw.model import Failure as Kind
from mailgw.wire.health import Check, check_of

FIRST = 1.0
"""Seconds within which every service is checked once after the start."""
SOON = 1.0
"""Seconds between two checks while the last one was a surprise, and between two that were asked for."""
JITTER = 0.1
"""So much of the interval more or less: gateways that start together do not check together for long."""
FAREWELL = 2.0
"""Seconds that a backend may take to hang up."""


class HealthChecks(Service):
    """All checks of one set of pools, while it runs."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        pools: Iterable[IChecked],
        dialer: Dialer,
        board: IBoard,
        is_first: Callable[[], bool],
        hostname: str,
        random: Random,
    ) -> None:
        """
        @param board: where pools ask for a check (kind C{suspect}).
        @param is_first: whether this process is the one that checks; asked each time.
        @param hostname: what we call ourselves.
        """
        self._board, self._is_first = board, is_first
        self._rounds = {
            pool.key(backend, protocol): _Rounds(reactor, pool, backend, protocol, dialer, is_first, hostname, random)
            for pool in pools
            if pool.options.health
            for backend, protocol in pool.services()
        }
        self._unwatch: Callable[[], None] = _nothing

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._unwatch = self._board.watch("suspect", self._asked)
        for kind in ("health", "suspect") if self._is_first() else ():
            for gone in self._board.words(kind).keys() - self._rounds.keys():
                self._board.post(kind, gone, None).addErrback(_told)
        for rounds in self._rounds.values():
            rounds.begin()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        unwatch, self._unwatch = self._unwatch, _nothing
        unwatch()
        for rounds in self._rounds.values():
            rounds.end()

    def _asked(self, name: str, when: str | None) -> None:
        """Somebody could not log in there."""
        rounds = self._rounds.get(name)
        if rounds is not None and when is not None:
            rounds.hurry()


class _Rounds:
    """The checks of one service, one after the other."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        pool: IChecked,
        backend: Backend,
        protocol: str,
        dialer: Dialer,
        is_first: Callable[[], bool],
        hostname: str,
        random: Random,
    ) -> None:
        self._reactor, self._pool, self._backend, self._protocol = reactor, pool, backend, protocol
        self._dialer, self._is_first, self._hostname, self._random = dialer, is_first, hostname, random
        options = pool.options
        self._interval, self._timeout = options.health, options.health_timeout
        account = Access(options.probe_user, options.probe_password.get_secret_value(), "", mechanism_of(options))
        self._access = account if options.probe_user and backend.speak != "lmtp" else None
        self._timer: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._ended = 0.0
        self._over = False

    def begin(self) -> None:
        """The first check comes soon, and not together with all others."""
        self._schedule(self._random.uniform(0, min(FIRST, self._interval)))

    def end(self) -> None:
        """Check no more; what runs is given up."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None:
            self._running.cancel()

    def hurry(self) -> None:
        """Check now, or as soon as is decent."""
        if self._timer is not None:
            now: float = self._reactor.seconds()
            wait = max(0.0, self._ended + min(SOON, self._interval) - now)
            if self._timer.getTime() > now + wait:
                self._timer.reset(wait)

    def _schedule(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds, self._due)

    def _due(self) -> None:
        self._timer = None
        if not self._is_first():
            self._schedule(self._interval)
            return
        running = self._running = Deferred.fromCoroutine(self._check())
        running.addErrback(self._broken)
        if running.called:
            self._running = None

    def _broken(self, failure: Failure) -> None:
        """What should not happen must not end the checks."""
        self._running = None
        if not self._over:
            self.log.failure("the check of {backend} broke", failure, backend=str(self._backend))
            self._schedule(self._interval)

    async def _check(self) -> None:
        check = check_of(
            self._protocol,
            self._access,
            self._backend.tls == "starttls",
            self._hostname,
            self._backend.speak == "lmtp",
        )
        try:
            fault = await self._speak(check)
        finally:
            self._running, self._ended = None, self._reactor.seconds()
        settled = self._pool.checked(self._backend, self._protocol, fault, check.capabilities)
        wait = self._interval if settled else min(SOON, self._interval)
        self._schedule(wait * self._random.uniform(1 - JITTER, 1 + JITTER))

    async def _speak(self, check: Check) -> str:
        """Carry a check out.

        @return: what is wrong, C{""} for nothing.
        """
        login = Deferred.fromCoroutine(self._dialer.login(self._backend, check))
        if self._timeout:
            login.addTimeout(self._timeout, self._reactor)
        try:
            connection, _ = await login
        except BackendFailed as error:
            if error.kind is not Kind.REJECTED:
                return error.reason
            # this says something of the account; a server that cannot tell says so, too
            self.log.error("{reason}; see probe_user of the pool", reason=error.reason)
            return ""
        except DeferredTimeout:
            return f"{self._backend}: checked for {self._timeout:g} s in vain"
        except CancelledError:
            if self._over:
                raise
            return f"{self._backend}: given up"
        _Farewell(connection, check.farewell, self._reactor)
        return ""


class _Farewell(Protocol):
    """Parts politely: some servers log who does not. It does not wait for ever, nor does anybody for it."""

    def __init__(self, connection: BackendConnection, words: bytes, clock: IReactorTime) -> None:
        self._linger: IDelayedCall = clock.callLater(FAREWELL, connection.close)
        connection.take_over(self)
        connection.transport.write(words)

    def dataReceived(self, data: bytes) -> None:
        """Goodbye."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._linger.active():
            self._linger.cancel()


def _told(_: Failure) -> None:
    """What is left on the board of servers that are gone does no harm."""


def _nothing() -> None:
    """Nobody is to be told."""
