"""The rule that reads where a user goes from an attribute of the directory's entry, such as mailHost.

Does not look anything up: the directory brought the attributes with the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from zope.interface import implementer

from mailgw.errors import LoginRefused
from mailgw.interfaces import IHouse, IPool, IRoutingRule
from mailgw.model import Identity, RefusalKind, Route
from mailgw.routing.target import PoolName, known_pool, route_to
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

    def __init__(self, attribute: str, pool: str | None, pools: Mapping[str, IPool]) -> None:
        self.name = f"attribute {attribute}"
        self._attribute = attribute
        self._pool = pool
        self._pools = pools

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule.

        @raise SettingsError: there is no such pool.
        """
        pool = None if options.pool is None else known_pool(name, options.pool, house.pools)
        return cls(options.name, pool, house.pools)

    async def route(self, identity: Identity, protocol: str) -> Route | None:
        values = self._values(identity.attributes)
        if not values:
            return None
        if len(values) > 1:
            # LDAP keeps values in no order: the first one may be another one tomorrow.
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name} has {len(values)} values, a route needs one")
        value = values[0].strip()
        if not value:
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name} is empty")
        return route_to(value, self._pool, self._pools)

    def _values(self, attributes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """The attribute's values; its name is compared as LDAP does, without regard to case (RFC 4512 §2.5)."""
        wanted = self._attribute.lower()
        return tuple(value for name, values in attributes.items() if name.lower() == wanted for value in values)
