"""The rule that reads where a user goes from an attribute of the directory's entry, such as mailHost.

Does not look anything up: the directory brought the attributes with the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from zope.interface import implementer

from mailgw.errors import LoginRefused
from mailgw.interfaces import IHouse, IPool, IRoutingRule
from mailgw.model import Identity, Origin, RefusalKind, Route
from mailgw.routing.target import PoolName, backend_user, known_pool, route_to
from mailgw.settings import Table


@implementer(IRoutingRule)
class AttributeRule:
    """C{kind = "attribute"}: the value is a pool, or a backend in or outside the rule's pool."""

    class Options(Table):
        """C{[[route]]} of kind "attribute"."""

        name: str
        """The attribute, such as mailHost. Its value: a pool, a member's name, a member's host, or else host[:port]."""
        pool: PoolName | None = None
        """Whose ports, TLS and login apply to a value that names no pool; left out, every value must name one."""
        username: str = ""
        """The attribute that says who to log in as on the backend; users without it do so by their canonical name."""

        @property
        def attributes_needed(self) -> tuple[str, ...]:
            """What the directory has to fetch beside C{name}."""
            return (self.username,) if self.username else ()

    def __init__(self, attribute: str, pool: str | None, pools: Mapping[str, IPool], username: str = "") -> None:
        self.name = f"attribute {attribute}"
        self._attribute = attribute
        self._username = username
        self._pool = pool
        self._pools = pools

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule.

        @raise SettingsError: there is no such pool.
        """
        pool = None if options.pool is None else known_pool(name, options.pool, house.pools)
        return cls(options.name, pool, house.pools, options.username)

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        value = self._value(identity, self._attribute)
        if value is None:
            return None
        username = self._value(identity, self._username) if self._username else None
        return route_to(value, self._pool, self._pools, backend_user(username) if username is not None else None)

    def _value(self, identity: Identity, attribute: str) -> str | None:
        """The only value of an attribute, C{None} where there is none.

        Its name is compared as LDAP does, without regard to case (RFC 4512 §2.5).

        @raise LoginRefused: there are several, or it is empty.
        """
        wanted = attribute.lower()
        values = [value for name, some in identity.attributes.items() if name.lower() == wanted for value in some]
        if not values:
            return None
        if len(values) > 1:
            # LDAP keeps values in no order: the first one may be another one tomorrow.
            words = f"attribute {attribute} has {len(values)} values, a route needs one"
            raise LoginRefused(RefusalKind.UNAVAILABLE, words)
        if not values[0].strip():
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"attribute {attribute} is empty")
        return values[0].strip()
