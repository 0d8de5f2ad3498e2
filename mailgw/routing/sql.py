"""The rule that asks a database where a user goes.

It speaks no SQL of its own: the query is the settings'. It never writes, and a database that cannot answer is
temporary trouble.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol, Self

from pydantic import AfterValidator, Field, SecretBytes
from zope.interface import implementer

from mailgw.errors import LoginRefused, SettingsError
from mailgw.interfaces import IHouse, ILookingRule, IPool
from mailgw.model import Identity, Origin, RefusalKind, Route
from mailgw.names import Names
from mailgw.routing.database import Database, Rows
from mailgw.routing.recall import Recall, Recalling
from mailgw.routing.sqlquery import Query, Style
from mailgw.routing.sqlsource import SQLITE, Trust, checked, file_of, source_of
from mailgw.routing.target import PoolName, backend_user, known_pool, route_to
from mailgw.settings import Duration, FilePath, Secret

QUEUE = 200
"""Questions that may wait for a connection."""
COLUMNS = ("backend", "pool", "username")


def _query(text: str) -> str:
    Query(text)
    return text


class Asked(Protocol):
    """As much of L{Database} as the rule needs."""

    async def ask(self, text: str, values: Mapping[str, str]) -> Rows:
        """@raise LoginRefused: there is no answer."""

    async def stop(self) -> None:
        """Hang up."""


@implementer(ILookingRule)
class SqlRule:
    """C{kind = "sql"}: a row of a database says where a user goes."""

    class Options(Recalling):
        """C{[[route]]} of kind "sql"."""

        database: Annotated[str, AfterValidator(checked), Field(json_schema_extra={"path_behind": SQLITE})]
        """sqlite:PATH, postgresql://USER@HOST[:PORT]/NAME or mysql://USER@HOST[:PORT]/NAME; ?socket= for a socket."""
        password: Secret = SecretBytes(b"")
        """Of the database's user."""
        query: Annotated[str, AfterValidator(_query)]
        """Its columns are backend, pool and username; {user}, {local}, {domain} and others become parameters."""
        pool: PoolName | None = None
        """Whose ports, TLS and login apply to a backend that names no pool; left out, every row must name one."""
        timeout: Annotated[Duration, Field(gt=0)] = 5.0
        """For one question, and for connecting."""
        connections: Annotated[int, Field(ge=1, le=100)] = 4
        """Questions that are under way at a time, in each worker."""
        ca: FilePath | None = None
        """PEM file of a private CA; the system's CAs when left out. Over a network there is always TLS."""
        verify: bool = True
        """Check the server's certificate and name."""

        @property
        def file(self) -> str | None:
            """The file of a SQLite database."""
            return file_of(self.database)

    def __init__(self, options: Options, style: Style, asked: Asked, house: IHouse) -> None:
        """
        @param style: of the parameters, as the database's driver has them.
        """
        self.name = "sql"
        self._query = Query(options.query)
        self._text = self._query.written(style)
        self._asked = asked
        self._pool = options.pool
        self._pools: Mapping[str, IPool] = house.pools
        self._names = Names(house.settings.names)
        self._recall = Recall(options, house.reactor)

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule; it connects with its first question.

        @raise SettingsError: there is no such pool, or the password or the CA's file cannot be used.
        """
        if options.pool is not None:
            known_pool(name, options.pool, house.pools)
        trust = Trust(options.ca, options.verify)
        try:
            source = source_of(options.database, options.password.get_secret_value(), options.timeout, trust)
        except UnicodeDecodeError:
            raise SettingsError([f"route {name}: password: is not UTF-8"]) from None
        except OSError as error:
            raise SettingsError([f"route {name}: ca: {options.ca}: {error.strerror or error}"]) from None
        database = Database(name, source, house.reactor, options.connections, QUEUE, options.timeout)
        return cls(options, source.style, database, house)

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        values = self._query.values(identity.username, origin, self._names)
        # All that the answer can depend on: protocols share it unless the query names the protocol.
        return await self._recall.ask(tuple(values.items()), identity.username, lambda: self._look_up(values))

    def flush(self, user: str | None = None) -> int:
        return self._recall.flush(user)

    async def stop(self) -> None:
        await self._asked.stop()

    async def _look_up(self, values: Mapping[str, str]) -> Route | None:
        found = await self._asked.ask(self._text, values)
        if not found.rows:
            return None
        if len(found.rows) > 1:
            # A database keeps rows in no order: the first one may be another one tomorrow.
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name}: several rows, a route needs one")
        return self._read(_row(found))

    def _read(self, row: Mapping[str, str]) -> Route:
        backend, pool = row.get("backend", ""), row.get("pool", "")
        username = backend_user(row["username"]) if "username" in row else None
        if pool:
            if pool not in self._pools:
                raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name}: there is no pool {pool!r}")
            return Route(pool, backend or None, username=username)
        if not backend:
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name}: the row names neither backend nor pool")
        return route_to(backend, self._pool, self._pools, username)


def _row(found: Rows) -> dict[str, str]:
    """The only row by column, without what is NULL.

    @raise LoginRefused: a column is none of ours, or holds something else than text.
    """
    columns = ("backend",) if len(found.columns) == 1 and found.columns[0] not in COLUMNS else found.columns
    if strange := [column for column in columns if column not in COLUMNS]:
        words = f"sql: column {strange[0]!r} is none of {', '.join(COLUMNS)}; name it with AS"
        raise LoginRefused(RefusalKind.UNAVAILABLE, words)
    row = {column: value for column, value in zip(columns, found.rows[0], strict=True) if value is not None}
    if strange := [column for column, value in row.items() if not isinstance(value, str)]:
        raise LoginRefused(RefusalKind.UNAVAILABLE, f"sql: column {strange[0]!r} holds no text")
    return {column: value.strip() for column, value in row.items()}
