"""A pool: which backends to try for a user, in which order.

Dials nothing and asks nobody: it hears from those who dial which member answered, and remembers it for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from math import log
from random import Random

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgw import settings
from mailgw.errors import BackendFailed
from mailgw.interfaces import IPool
from mailgw.model import Backend, Failure, Route
from mailgw.routing.rendezvous import ranked
from mailgw.routing.target import split_host

PROTOCOLS = ("imap", "pop3", "smtp", "managesieve")

SUSPECT_FOR = 5.0
"""Seconds that a member stays suspect after a first failure; doubles while it goes on failing."""
SUSPECT_AT_MOST = 30.0
DOWN_AFTER = 3
"""This many failures, each after the last one's time was over, and a member counts as down."""


class State(IntEnum):
    """What is known of a member from those who tried it; the smaller, the sooner it is tried."""

    UP = 0
    SUSPECT = 1
    DOWN = 2


@dataclass(slots=True)
class _Trouble:
    failures: int
    until: float


class TroubleTable:
    """Who failed lately. Pure: the time is an argument, in seconds.

    A failure only reorders, it excludes nobody: one client whom a backend dislikes cannot take the backend away from
    the others. Failures of the same moment count once, however many sessions met them.
    """

    def __init__(self) -> None:
        self._troubles: dict[tuple[str, str], _Trouble] = {}

    def failed(self, member: str, protocol: str, now: float) -> None:
        """A member could not be reached, or did not answer."""
        trouble = self._troubles.setdefault((member, protocol), _Trouble(0, now))
        if now >= trouble.until:
            trouble.failures += 1
            trouble.until = now + min(SUSPECT_FOR * 2.0 ** (trouble.failures - 1), SUSPECT_AT_MOST)

    def succeeded(self, member: str, protocol: str) -> None:
        """A member answered: all is forgotten."""
        self._troubles.pop((member, protocol), None)

    def state(self, member: str, protocol: str, now: float) -> State:
        """Up once the time of the last failure is over: the next user tries it."""
        trouble = self._troubles.get((member, protocol))
        if trouble is None or now >= trouble.until:
            return State.UP
        return State.DOWN if trouble.failures >= DOWN_AFTER else State.SUSPECT


@implementer(IPool)
class Pool:
    """One C{[pool.NAME]}.

    @param clock: for how long a failure is remembered.
    @param random: for C{balance = "random"}.
    """

    def __init__(self, name: str, options: settings.Pool, clock: IReactorTime, random: Random) -> None:
        self.name = name
        self.options = options
        self._clock = clock
        self._random = random
        tables = {protocol: getattr(options, protocol) for protocol in PROTOCOLS}
        self._services = {protocol: table for protocol, table in tables.items() if table is not None}
        self._members = {member.name or member.host: member for member in options.members}
        self._folded = {name.lower(): name for name in self._members}
        self._hosts: dict[str, list[str]] = {}
        for member_name, member in self._members.items():
            self._hosts.setdefault(_host(member), []).append(member_name)
        self._troubles = TroubleTable()
        self._live = dict.fromkeys(self._members, 0)
        self._backends = {
            (name, protocol): self._made(name, protocol) for name in self._members for protocol in self._services
        }

    def candidates(self, username: str, protocol: str, route: Route) -> Sequence[Backend]:
        if protocol not in self._services:
            raise BackendFailed(Failure.PROTOCOL, f"pool {self.name} does not speak {protocol}")
        chosen = None if route.backend is None else self._resolve(route.backend, protocol)
        if chosen is not None and (chosen.name not in self._members or not self.options.shared):
            return (chosen,)
        backends = [self._backends[name, protocol] for name in self._order(username, route.hashed)]
        if chosen is not None:
            backends = [chosen, *(backend for backend in backends if backend.name != chosen.name)]
        if not backends:
            raise BackendFailed(Failure.CONNECT, f"pool {self.name} has no members")
        if not self.options.shared:
            # Down or not: another member would show this user an empty mailbox.
            return tuple(backends[:1])
        return tuple(sorted(backends, key=lambda backend: self.state(backend.name, protocol)))

    def state(self, member: str, protocol: str) -> State:
        """What is known of a member by its name."""
        return self._troubles.state(member, protocol, self._clock.seconds())

    def succeeded(self, backend: Backend, protocol: str) -> None:
        self._troubles.succeeded(backend.name, protocol)

    def failed(self, backend: Backend, protocol: str) -> None:
        # Only members: what a directory names outside the pool has no end.
        if backend.name in self._members:
            self._troubles.failed(backend.name, protocol, self._clock.seconds())

    def opened(self, backend: Backend) -> None:
        """A session begins on a backend; C{balance = "least"} counts them."""
        if backend.name in self._live:
            self._live[backend.name] += 1

    def closed(self, backend: Backend) -> None:
        """A session that L{opened} announced is over."""
        if self._live.get(backend.name):
            self._live[backend.name] -= 1

    def _order(self, username: str, hashed: bool) -> list[str]:
        """The members' names, the one that the balance prefers first."""
        names = ranked(username, ((name, member.weight) for name, member in self._members.items()))
        if hashed or self.options.balance == "hash":
            return names
        if self.options.balance == "least":  # equals stay in the order of the hash
            return sorted(names, key=lambda name: self._live[name] / self._members[name].weight)
        # Waiting times of independent arrivals, each at the rate of its weight: a weighted shuffle.
        waits = {name: -log(1.0 - self._random.random()) / self._members[name].weight for name in names}
        return sorted(names, key=waits.__getitem__)

    def _backend(self, name: str, protocol: str) -> Backend:
        return self._backends[name, protocol]

    def _made(self, name: str, protocol: str) -> Backend:
        member = self._members[name]
        return self._dialable(name, _host(member), getattr(member, protocol) or self._services[protocol].port, protocol)

    def _dialable(self, name: str, host: str, port: int, protocol: str) -> Backend:
        service = self._services[protocol]
        return Backend(self.name, name, host, port, service.tls, getattr(service, "speak", ""))

    def _resolve(self, text: str, protocol: str) -> Backend:
        """A member's name, a member's host, or else any host, each with a port or without.

        @raise BackendFailed: it is no host, or the host of several members.
        """
        if text.lower() in self._folded:  # first, because a name may be anything
            return self._backend(self._folded[text.lower()], protocol)
        try:
            host, port = split_host(text)
        except ValueError as error:
            raise BackendFailed(Failure.CONNECT, f"pool {self.name}: {error}") from None
        name = self._member_at(host, port, protocol)
        if name is None:
            return self._dialable(host, host, port or self._services[protocol].port, protocol)
        backend = self._backend(name, protocol)
        return backend if port is None else replace(backend, port=port)

    def _member_at(self, host: str, port: int | None, protocol: str) -> str | None:
        if host in self._folded:
            return self._folded[host]
        names = self._hosts.get(host, [])
        if len(names) > 1:  # members that differ in their ports only
            names = [name for name in names if port in (None, self._backend(name, protocol).port)]
        if len(names) > 1:
            raise BackendFailed(Failure.CONNECT, f"pool {self.name}: {host} is the host of {', '.join(names)}")
        return names[0] if names else None


def _host(member: settings.Member) -> str:
    """A member's host as L{split_host} writes it, or else as the settings do."""
    try:
        return split_host(member.host)[0]
    except ValueError:
        return member.host
