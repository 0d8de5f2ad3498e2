"""A pool: which backends to try for a user, in which order.

Dials nothing and checks nobody: it hears from those who do, and agrees with the other processes on the board on who
is up (kind C{"health"}), and on whom an administrator took out of service (kind C{"backend"}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import log
from random import Random
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgw import settings
from mailgw.errors import BackendFailed
from mailgw.interfaces import IBoard, IChecked, IPool, ITally
from mailgw.model import Backend, Failure, Route
from mailgw.routing.members import Members
from mailgw.routing.places import Places
from mailgw.routing.rendezvous import ranked
from mailgw.routing.standing import Course, Health, State, TroubleTable

HEALTH, ADMIN, SUSPECT = "health", "backend", "suspect"
"""Kinds of words on the board: L{Health}; C{up}, C{drain} or C{down}; and when a check was last asked for."""
ASK = 1.0
"""Seconds between two requests for a check of the same service."""


@implementer(IPool, IChecked)
class Pool:
    """One C{[pool.NAME]}."""

    log = Logger()

    def __init__(
        self,
        name: str,
        options: settings.Pool,
        clock: IReactorTime,
        random: Random,
        tally: ITally,
        board: IBoard,
    ) -> None:
        """
        @param clock: seconds since the epoch.
        @param random: for C{balance = "random"}.
        @param tally: counts sessions, logins, and with whom a user has some.
        """
        self.name, self.options = name, options
        self._clock, self._random, self._board = clock, random, board
        self._members = Members(name, options)
        self._places = Places(name, options, self._members.protocols, tally, clock)
        self._troubles = TroubleTable()
        self._asked: dict[str, float] = {}
        checked = self.services() if options.health else []
        self._courses = {self.key(*service): Course(options.health_rise, options.health_fall) for service in checked}
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> None:
        """Learn from the board what is known already, and hear what comes."""
        for name, word in self._board.words(HEALTH).items():
            self._heard(name, word)
        self._unwatch = self._board.watch(HEALTH, self._heard)

    def stop(self) -> None:
        """Hear nothing more: another pool is in this one's place."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()

    # --- whom to try -------------------------------------------------------------------------------------------------

    def candidates(self, username: str, protocol: str, route: Route) -> Sequence[Backend]:
        members = self._members
        if protocol not in members.protocols:
            raise BackendFailed(Failure.PROTOCOL, f"pool {self.name} does not speak {protocol}")
        chosen = None if route.backend is None else members.resolve(route.backend, protocol)
        if chosen is not None and chosen.name not in members.by_name:
            return (chosen,)
        if chosen is not None and not self.options.shared:
            return (self._usable(chosen, protocol),)
        names = self._order(username, protocol, route.hashed)
        backends = [members.backends[name, protocol] for name in names]
        if chosen is not None:
            backends = [chosen, *(backend for backend in backends if backend.name != chosen.name)]
        if not backends:
            raise BackendFailed(Failure.CONNECT, f"pool {self.name} has no members")
        if not self.options.shared:
            # Down or not: another member would show this user an empty mailbox.
            return (self._usable(backends[0], protocol),)
        backends = [backend for backend in backends if self.admin(backend.name) == "up"]
        if not backends:
            raise BackendFailed(Failure.TEMPFAIL, f"no member of pool {self.name} is in service")
        return tuple(sorted(backends, key=lambda backend: self.state(backend.name, protocol)))

    def _usable(self, backend: Backend, protocol: str) -> Backend:
        """A member that nobody can stand in for.

        @raise BackendFailed: it is of no use to try it.
        """
        if (admin := self.admin(backend.name)) != "up":
            raise BackendFailed(Failure.TEMPFAIL, f"{backend}: out of service ({admin})")
        health = self._health(backend.name, protocol)
        if health is not None and not health.up:
            raise BackendFailed(Failure.CONNECT, f"down: {health.reason}")
        return backend

    def _order(self, username: str, protocol: str, hashed: bool) -> list[str]:
        """The members' names, the one that the balance prefers first."""
        members = self._members.by_name
        names = ranked(username, ((name, member.weight) for name, member in members.items()))
        if hashed or self.options.balance == "hash":
            return names
        weights = {name: members[name].weight * self._share(name, protocol) for name in names}
        if self.options.balance == "least":  # equals stay in the order of the hash
            names.sort(key=lambda name: (self._places.sessions(name) + 1) / weights[name])
        else:
            # Waiting times of independent arrivals, each at the rate of its weight: a weighted shuffle.
            waits = {name: -log(1.0 - self._random.random()) / weights[name] for name in names}
            names.sort(key=waits.__getitem__)
        if self.options.shared:  # where the user is already
            names.sort(key=lambda name: -self._places.of_user(name, username))
        return names

    def _share(self, member: str, protocol: str) -> float:
        health = self._health(member, protocol)
        return 1.0 if health is None else health.share(self._clock.seconds(), self.options.slow_start)

    # --- what is known of members ------------------------------------------------------------------------------------

    def key(self, backend: Backend, protocol: str) -> str:
        """What a member's service is called on the board: another host or port is another server."""
        return f"{backend.pool}/{backend.name} {protocol} {backend.host}:{backend.port}"

    def admin(self, member: str) -> str:
        """What an administrator made of a member: C{"up"}, C{"drain"} or C{"down"}."""
        return self._board.get(ADMIN, f"{self.name}/{member}") or "up"

    def _health(self, member: str, protocol: str) -> Health | None:
        backend = self._members.backends.get((member, protocol))
        course = self._courses.get(self.key(backend, protocol)) if backend is not None else None
        return course.health if course is not None else None

    def state(self, member: str, protocol: str) -> State:
        """What is known of a member by its name."""
        health = self._health(member, protocol)
        if health is not None and not health.up:
            return State.DOWN
        return self._troubles.state(member, protocol, self._clock.seconds())

    def capabilities(self, protocol: str) -> frozenset[str] | None:
        known = [health.capabilities for health in self._healths(protocol) if health.capabilities is not None]
        return frozenset.intersection(*known) if known else None

    def _healths(self, protocol: str) -> Iterator[Health]:
        for member in self._members.by_name:
            if (health := self._health(member, protocol)) is not None:
                yield health

    def rows(self) -> list[dict[str, Any]]:
        return [self._row(backend, protocol) for backend, protocol in self.services()]

    def _row(self, backend: Backend, protocol: str) -> dict[str, Any]:
        health, state = self._health(backend.name, protocol), self.state(backend.name, protocol)
        checked = "unchecked" if health is None else "up"
        return {
            "pool": self.name,
            "name": backend.name,
            "host": backend.host,
            "port": backend.port,
            "protocol": protocol,
            "health": checked if state is State.UP else state.name.lower(),
            "reason": "" if health is None else health.reason,
            "since": None if health is None else health.since,
            "admin": self.admin(backend.name),
            "sessions": self._places.sessions(backend.name, protocol),
            "weight": self._members.by_name[backend.name].weight,
        }

    # --- from those who log in ---------------------------------------------------------------------------------------

    def _own(self, backend: Backend, protocol: str) -> bool:
        """A member as the settings have it: what else a directory names has no end."""
        return self._members.backends.get((backend.name, protocol)) == backend

    def succeeded(self, backend: Backend, protocol: str) -> None:
        if self._own(backend, protocol):
            self._troubles.succeeded(backend.name, protocol)

    def failed(
        self, backend: Backend, protocol: str, kind: Failure = Failure.CONNECT, username: str = "", client: str = ""
    ) -> None:
        if not self._own(backend, protocol) or kind is Failure.FULL:
            return
        now = self._clock.seconds()
        # Who is not even connected cannot have been disliked; all else may be the user's or the client's own fault.
        witness = None if kind is Failure.CONNECT else (username, client)
        self._troubles.failed(backend.name, protocol, now, witness)
        if (key := self.key(backend, protocol)) in self._courses and now >= self._asked.get(key, 0.0) + ASK:
            self._asked[key] = now
            self._post(SUSPECT, key, str(now))

    async def reserve(self, backend: Backend, username: str = "") -> None:
        if backend.name in self._members.by_name:
            await self._places.reserve(backend.name, username)

    def release(self, backend: Backend, username: str = "") -> None:
        if backend.name in self._members.by_name:
            self._places.release(backend.name, username)

    def opened(self, backend: Backend, protocol: str, username: str = "") -> None:
        if backend.name in self._members.by_name:
            self._places.opened(backend.name, protocol, username)

    def closed(self, backend: Backend, protocol: str, username: str = "") -> None:
        if backend.name in self._members.by_name:
            self._places.closed(backend.name, protocol, username)

    # --- from those who check ----------------------------------------------------------------------------------------

    def services(self) -> list[tuple[Backend, str]]:
        return [(backend, protocol) for (_, protocol), backend in self._members.backends.items()]

    def checked(self, backend: Backend, protocol: str, fault: str, capabilities: frozenset[str] | None) -> bool:
        key = self.key(backend, protocol)
        course = self._courses[key]
        before = course.health
        if course.take(fault, capabilities, self._clock.seconds()):
            assert course.health is not None
            self._tell(backend, protocol, before, course.health)
            self._post(HEALTH, key, course.health.to_word())
        if not fault:
            self._troubles.succeeded(backend.name, protocol)
        return course.settled

    def _tell(self, backend: Backend, protocol: str, before: Health | None, health: Health) -> None:
        if not health.up:
            self.log.error(
                "{backend} is down for {protocol}: {reason}",
                backend=str(backend),
                protocol=protocol,
                reason=health.reason,
            )
        elif before is not None and not before.up:
            self.log.info("{backend} is up again for {protocol}", backend=str(backend), protocol=protocol)

    def _post(self, kind: str, name: str, value: str) -> None:
        self._board.post(kind, name, value).addErrback(
            lambda failure: self.log.failure("{kind} {name} is not told to the others", failure, kind=kind, name=name)
        )

    def _heard(self, name: str, value: str | None) -> None:
        """A word about health: from another process, or our own."""
        course = self._courses.get(name)
        if course is not None and value is not None:
            course.health = Health.from_word(value)
