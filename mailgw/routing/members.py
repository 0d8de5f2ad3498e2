"""The members of a pool, and what a rule's words mean there: a member, or any other host.

Says nothing about who is up: that is L{mailgw.routing.pool}'s question.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailgw import settings
from mailgw.errors import BackendFailed
from mailgw.model import Backend, Failure
from mailgw.routing.target import split_host

PROTOCOLS = ("imap", "pop3", "smtp", "managesieve")


class Members:
    """The servers of one pool by their names.

    @ivar by_name: the settings of each, in their order.
    @ivar protocols: which the pool speaks.
    @ivar backends: each member's services, by name and protocol.
    """

    def __init__(self, pool: str, options: settings.Pool) -> None:
        self._pool = pool
        tables = {protocol: getattr(options, protocol) for protocol in PROTOCOLS}
        self._services: dict[str, Any] = {protocol: table for protocol, table in tables.items() if table is not None}
        self.protocols = tuple(self._services)
        self.by_name = {member.name or member.host: member for member in options.members}
        self._folded = {name.lower(): name for name in self.by_name}
        self._hosts: dict[str, list[str]] = {}
        for name, member in self.by_name.items():
            self._hosts.setdefault(_host(member), []).append(name)
        self.backends = {
            (name, protocol): self._made(name, protocol) for name in self.by_name for protocol in self._services
        }

    def _made(self, name: str, protocol: str) -> Backend:
        member = self.by_name[name]
        return self._dialable(name, _host(member), getattr(member, protocol) or self._services[protocol].port, protocol)

    def _dialable(self, name: str, host: str, port: int, protocol: str) -> Backend:
        service = self._services[protocol]
        return Backend(self._pool, name, host, port, service.tls, getattr(service, "speak", ""))

    def resolve(self, text: str, protocol: str) -> Backend:
        """A member's name, a member's host, or else any host, each with a port or without.

        @raise BackendFailed: it is no host, or the host of several members.
        """
        if text.lower() in self._folded:  # first, because a name may be anything
            return self.backends[self._folded[text.lower()], protocol]
        try:
            host, port = split_host(text)
        except ValueError as error:
            raise BackendFailed(Failure.CONNECT, f"pool {self._pool}: {error}") from None
        name = self._member_at(host, port, protocol)
        if name is None:
            return self._dialable(host, host, port or self._services[protocol].port, protocol)
        backend = self.backends[name, protocol]
        return backend if port is None else replace(backend, port=port)

    def _member_at(self, host: str, port: int | None, protocol: str) -> str | None:
        if host in self._folded:
            return self._folded[host]
        names = self._hosts.get(host, [])
        if len(names) > 1:  # members that differ in their ports only
            names = [name for name in names if port in (None, self.backends[name, protocol].port)]
        if len(names) > 1:
            raise BackendFailed(Failure.CONNECT, f"pool {self._pool}: {host} is the host of {', '.join(names)}")
        return names[0] if names else None


def _host(member: settings.Member) -> str:
    """A member's host as L{split_host} writes it, or else as the settings do."""
    try:
        return split_host(member.host)[0]
    except ValueError:
        return member.host
