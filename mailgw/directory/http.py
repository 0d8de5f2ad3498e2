"""The http directory: an auth_http server, as nginx's mail proxy asks it, says who may log in and where to go.

It decides nothing itself, and never makes trouble with a server a wrong password. How the servers are talked to
stands in C{httpservers.py}, what they say in C{authhttp.py}.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretBytes
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.directory.authhttp import (
    StrangeAnswer,
    Verdict,
    login_question,
    nginx_name,
    place_question,
    read_answer,
    recipient_question,
)
from mailgw.directory.cache import CachedDirectory
from mailgw.directory.httpaddress import address_of, endpoint_for, trust_of
from mailgw.directory.httplink import Server
from mailgw.directory.httpservers import HttpServers
from mailgw.directory.names import refuse_malformed, well_formed
from mailgw.directory.servers import NoAnswer
from mailgw.errors import DirectoryDown, LoginRefused, SettingsError
from mailgw.interfaces import IDirectory, IHouse
from mailgw.model import Envelope, Identity, Login, RefusalKind
from mailgw.settings import Duration, FilePath, Secret, Strings, Table
from mailgw.wire.http import header_lines

QUEUE = 200
"""Questions that may wait for their turn."""
PATIENCE = 10
"""Times that a server may say WAIT to one question."""


def _uris(uris: tuple[str, ...]) -> tuple[str, ...]:
    for uri in uris:
        address_of(uri)
    if not uris:
        raise ValueError("at least one URI is needed")
    return uris


def _headers(headers: dict[str, SecretBytes]) -> dict[str, SecretBytes]:
    _lines(headers)
    return headers


def _lines(headers: dict[str, SecretBytes]) -> bytes:
    """@raise ValueError: one of them is no header, or no text."""
    try:
        return header_lines((name, value.get_secret_value().decode()) for name, value in headers.items())
    except UnicodeDecodeError:
        raise ValueError("the value of a header is not UTF-8") from None


class HttpOptions(Table):
    """C{[[directory]]} of kind "http"."""

    uri: Annotated[Strings, AfterValidator(_uris)]
    """The auth_http servers, in order of preference: http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH."""
    ca: FilePath | None = None
    """PEM file of a private CA for https; the system's CAs when left out."""
    header: Annotated[dict[str, Secret], AfterValidator(_headers)] = Field(default_factory=dict)
    """More headers for every request, such as {X-Auth-Key = "…"}; nginx's auth_http_header."""
    username: Literal["login", "auth-user"] = "login"
    """The canonical user name: what was typed, in lower case, or the answer's Auth-User where there is one."""
    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """For one question, however many servers are tried for it."""
    cache: Duration = 0.0
    """How long a good login is remembered; "0s": the servers are asked every time, as nginx does."""
    connections: Annotated[int, Field(ge=1, le=1000)] = 32
    """Questions that are under way at a time."""
    keep_alive: Duration = 10.0
    """How long an idle connection is kept; "0s": a connection for each question, as nginx does."""


@implementer(IDirectory)
class HttpDirectory:
    """A directory behind one or more auth_http servers that answer alike."""

    Options = HttpOptions
    log = Logger()

    def __init__(
        self, name: str, options: HttpOptions, domains: Iterable[str], clock: Any, servers: HttpServers
    ) -> None:
        """Make a directory.

        @param domains: the gateway's hostname and the domains it accepts mail for: names without a domain are theirs.
        """
        self.name = name
        self._options = options
        self._domains = tuple(dict.fromkeys(domain.lower() for domain in domains))
        self._clock = clock
        self._servers = servers
        self._more = _lines(options.header) + b"\r\n"

    @classmethod
    def from_options(cls, name: str, options: HttpOptions, house: IHouse) -> IDirectory:
        """Make a directory as the settings want it, under its cache if it has one.

        @raise SettingsError: the CA's file cannot be used.
        """
        directory = cls.bare(name, options, house)
        if not options.cache:
            return directory
        return CachedDirectory(directory, house.reactor, options.cache, vary=_protocol)

    @classmethod
    def bare(cls, name: str, options: HttpOptions, house: IHouse) -> HttpDirectory:
        """Make one without a cache.

        @raise SettingsError: as L{from_options}.
        """
        reactor, settings = house.reactor, house.settings
        try:
            tls = trust_of(options.ca, settings.tls.minimum if settings.tls is not None else "1.2")
        except SettingsError as error:
            raise SettingsError([f"directory {name}: {fault}" for fault in error.faults]) from None
        addresses = [address_of(uri) for uri in options.uri]
        asked = [
            Server(address, partial(endpoint_for, reactor, address, tls), reactor, options.keep_alive)
            for address in addresses
        ]
        servers = HttpServers(asked, reactor, options.timeout, options.connections, QUEUE, partial(cls._report, name))
        return cls(name, options, (settings.gateway.hostname, *settings.domains.accept), reactor, servers)

    async def authenticate(self, login: Login) -> Identity | None:
        refuse_malformed(login)
        verdict = await self._ask(login_question(login.username, login.password, login.origin))
        if verdict.status == "OK":
            return self._identity(login.username, verdict)
        if verdict.wait:
            await deferLater(self._clock, verdict.wait)
        kind = RefusalKind.UNAVAILABLE if verdict.temporary else RefusalKind.CREDENTIALS
        raise LoginRefused(kind, f"{self.name}: {verdict.status}")

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        if not well_formed(address):
            return None
        return self._found(address, await self._ask(recipient_question(address, envelope)))

    def question(self, user: str) -> str:
        """The servers that are asked."""
        return " ".join(self._options.uri)

    async def locate(self, username: str, protocol: str) -> Identity | None:
        """Ask where a user goes whom somebody else has let in; C{None}: the server refuses.

        @param protocol: as L{mailgw.interfaces.IRoutingRule.route} has it.
        @raise DirectoryDown: nobody can tell now.
        """
        return self._found(username, await self._ask(place_question(username, protocol)))

    def start(self) -> None:
        """Nothing to do: connections are made when they are needed."""

    async def stop(self) -> None:
        self._servers.close()

    def _found(self, name: str, verdict: Verdict) -> Identity | None:
        if verdict.temporary:
            raise DirectoryDown(f"{self.name}: {verdict.status}")
        return self._identity(name, verdict) if verdict.status == "OK" else None

    async def _ask(self, question: bytes) -> Verdict:
        """Ask until the answer is a yes or a no.

        @raise DirectoryDown: there is none.
        """
        question += self._more
        for _ in range(PATIENCE):
            try:
                verdict = read_answer(await self._servers.ask(question))
            except NoAnswer as error:
                raise DirectoryDown(f"{self.name}: {error}") from None
            except StrangeAnswer as error:
                self.log.error("{directory}: {reason}", directory=self.name, reason=str(error))
                raise DirectoryDown(f"{self.name}: {error}") from None
            if verdict.status != "WAIT":
                return verdict
            await deferLater(self._clock, max(verdict.wait, 1))
        raise DirectoryDown(f"{self.name}: WAIT for too long")

    def _identity(self, name: str, verdict: Verdict) -> Identity:
        typed = name.lower()
        canonical = verdict.username if verdict.username and self._options.username == "auth-user" else typed
        pairs = (("auth-server", verdict.server), ("auth-port", verdict.port), ("auth-user", verdict.username or name))
        attributes = {key: (value,) for key, value in pairs if value}
        return Identity(
            canonical,
            self.name,
            addresses=self._addresses(canonical.lower(), typed),
            attributes=attributes,
            password=verdict.password,
        )

    def _addresses(self, *names: str) -> tuple[str, ...]:
        """What a user receives at and may send as: the name, or the name at each of our domains."""
        found: dict[str, None] = {}
        for name in names:
            found.update(dict.fromkeys((name,) if "@" in name else (f"{name}@{domain}" for domain in self._domains)))
        return tuple(found)

    @classmethod
    def _report(cls, directory: str, server: str, reason: str) -> None:
        if reason:
            cls.log.error("{directory}: {server} failed: {reason}", directory=directory, server=server, reason=reason)
        else:
            cls.log.info("{directory}: {server} is back", directory=directory, server=server)


def _protocol(login: Login) -> str:
    """The answer has the port of one protocol."""
    return nginx_name(login.origin.protocol) if login.origin is not None else ""
