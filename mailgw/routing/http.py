"""The rule that goes where an auth_http server says: the one that has let the user in, or one of the rule's own.

It speaks no HTTP: the http directory does, and its answer comes with the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol, Self

from pydantic import Field, ValidationError, model_validator
from zope.interface import implementer

from mailgw import registry
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IHouse, ILookingRule, IPool
from mailgw.model import Identity, Origin, RefusalKind, Route
from mailgw.routing.recall import Recall, Recalling
from mailgw.routing.target import PoolName, known_pool
from mailgw.settings import Duration, FilePath, Secret, Strings


class Asked(Protocol):
    """As much of the http directory as a rule needs."""

    async def locate(self, username: str, protocol: str) -> Identity | None:
        """Where a user goes; C{None}: the server refuses.

        @raise mailgw.errors.DirectoryDown: nobody can tell now.
        """

    async def stop(self) -> None:
        """Close what is open."""


@implementer(ILookingRule)
class HttpRule:
    """C{kind = "http"}: Auth-Server and Auth-Port are the backend, Auth-User and Auth-Pass the login there."""

    class Options(Recalling):
        """C{[[route]]} of kind "http"."""

        pool: PoolName
        """Whose TLS and login apply, and whose ports where an answer has none."""
        uri: Strings = ()
        """auth_http servers to ask about users whom another directory has let in; none when left out."""
        ca: FilePath | None = None
        """As in [[directory]] of kind "http"; likewise below."""
        header: dict[str, Secret] = Field(default_factory=dict)
        timeout: Annotated[Duration, Field(gt=0)] = 5.0
        keep_alive: Duration = 10.0

        @model_validator(mode="after")
        def _servers_are_right(self) -> HttpRule.Options:
            if self.uri:
                try:
                    self.servers()
                except ValidationError as error:
                    raise ValueError(
                        "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
                    ) from None
            return self

        def servers(self) -> Any:
            """The options of the directory that asks the rule's own servers."""
            options = registry.load("directory", "http").Options
            header = {name: value.get_secret_value().decode() for name, value in self.header.items()}
            return options(uri=self.uri, ca=self.ca, header=header, timeout=self.timeout, keep_alive=self.keep_alive)

    def __init__(self, pool: str, asked: Asked | None, recall: Recall) -> None:
        """
        @param recall: for what the rule's own servers say; what came with an identity is new with every login.
        """
        self.name = "http"
        self._pool = pool
        self._asked = asked
        self._recall = recall

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule.

        @raise SettingsError: there is no such pool, or a file of the settings cannot be used.
        """
        pools: Mapping[str, IPool] = house.pools
        pool = known_pool(name, options.pool, pools)
        asked = registry.load("directory", "http").bare(name, options.servers(), house) if options.uri else None
        return cls(pool, asked, Recall(options, house.reactor))

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        if "auth-server" in identity.attributes:
            return self._read(identity)
        if self._asked is None:
            return None
        asked, name = self._asked, identity.username
        return await self._recall.ask((name, protocol), name, lambda: self._ask(asked, name, protocol))

    def flush(self, user: str | None = None) -> int:
        return self._recall.flush(user)

    async def stop(self) -> None:
        if self._asked is not None:
            await self._asked.stop()

    def _read(self, identity: Identity) -> Route | None:
        attributes = identity.attributes
        host, port, name = (attributes.get(f"auth-{part}", ("",))[0] for part in ("server", "port", "user"))
        if not host:
            return None
        return Route(self._pool, _backend(host, port), username=name or None, password=identity.password)

    async def _ask(self, asked: Asked, username: str, protocol: str) -> Route | None:
        """Ask the rule's own servers.

        @raise LoginRefused: nobody can tell now, or they refuse: another rule could show the user an empty mailbox.
        """
        try:
            found = await asked.locate(username, protocol)
        except DirectoryDown as error:
            raise LoginRefused(RefusalKind.UNAVAILABLE, str(error)) from None
        if found is None:
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"http: the server refuses {username!r}")
        return self._read(found)


def _backend(host: str, port: str) -> str:
    """The two as one text, which the pool looks through."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
