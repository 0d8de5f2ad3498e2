"""Rendezvous hashing: the same user finds the same member, and one member more or less moves only its own share.

Says which member a user belongs to, not whether that member is up: that is L{mailgw.routing.pool}'s question.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from math import log
from typing import Self

from zope.interface import implementer

from mailgw.interfaces import IHouse, IRoutingRule
from mailgw.model import Identity, Origin, Route
from mailgw.routing.target import PoolName, known_pool
from mailgw.settings import Table


def ranked(key: str, nodes: Iterable[tuple[str, int]]) -> list[str]:
    """The nodes' names, the one that the key belongs to first.

    Every process and every gateway ranks alike, whatever order the nodes come in: nothing but the names, the weights
    and the key counts.

    @param nodes: names, each once, with their weights, at least 1: twice the weight attracts twice the keys.
    """
    scores = {name: (_score(key, name, weight), name) for name, weight in nodes}
    return sorted(scores, key=scores.__getitem__, reverse=True)


def _score(key: str, name: str, weight: int) -> float:
    """Weight over an exponential variable: the largest belongs to a node with the probability of its weight's share."""
    # The name's length goes first, or ("ab", "c") and ("a", "bc") would be one pair.
    node = name.encode("utf-8", "surrogateescape")
    digest = blake2b(b"%d:%s%s" % (len(node), node, key.encode("utf-8", "surrogateescape")), digest_size=8).digest()
    # 52 bits and a half: a float holds them exactly, so the fraction is never 0 and never 1.
    fraction = ((int.from_bytes(digest, "big") >> 12) + 0.5) / (1 << 52)
    return -weight / log(fraction)


@implementer(IRoutingRule)
class HashRule:
    """C{kind = "hash"}: everybody goes to one pool, to the member that the canonical name hashes to."""

    kind = "hash"

    class Options(Table):
        """C{[[route]]} of kind "hash" or "pool"."""

        pool: PoolName
        """Whose members to choose from."""

    def __init__(self, pool: str) -> None:
        self.name = f"{self.kind} {pool}"
        self._route = Route(pool, hashed=self.kind == "hash")

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule.

        @raise SettingsError: there is no such pool.
        """
        return cls(known_pool(name, options.pool, house.pools))

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        return self._route


class PoolRule(HashRule):
    """C{kind = "pool"}: everybody goes to one pool, and its C{balance} chooses the member."""

    kind = "pool"
