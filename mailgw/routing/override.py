"""Overrides: an administrator's word on where a user goes comes before all rules.

The words are on the board; who puts them there, and ends the sessions elsewhere, is L{mailgw.ops.steering}. A name or
password that a rule would give for the backend does not count then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgw.errors import LoginRefused
from mailgw.interfaces import IBoard, IPool, IRoutingRule
from mailgw.model import Identity, Origin, RefusalKind, Route
from mailgw.routing.target import split_host

OVERRIDE = "override"
"""The kind of word on the board: by canonical name, C{POOL} or C{POOL/BACKEND}."""


@implementer(IRoutingRule)
class OverrideRule:
    """The rule before all rules."""

    name = "override"

    def __init__(self, board: IBoard, pools: Mapping[str, IPool], held: Callable[[str], Deferred[None] | None]) -> None:
        """
        @param held: as L{mailgw.ops.holds.Holds.over}; mail for a user who is being moved waits for the end of that.
        """
        self._board, self._pools, self._held = board, pools, held

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        # a login has waited before it was counted, and must not here: its end is what the hold waits for
        if protocol == "smtp" and (over := self._held(identity.username)) is not None:
            await over
        word = self._board.get(OVERRIDE, identity.username)
        if word is None:
            return None
        pool, _, backend = word.partition("/")
        if pool not in self._pools:
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"moved to {word}, and there is no pool {pool!r} any more")
        return Route(pool, backend or None)


def target_of(text: str, pools: Mapping[str, IPool]) -> str:
    """What C{mailgw move USER BACKEND} means, as it stands on the board.

    @param text: a pool, C{POOL/BACKEND}, the name of a member, or C{HOST[:PORT]} where there is but one pool.
    @raise ValueError: it is none of these, or could be several; the message is for the administrator.
    """
    if text in pools:
        return text
    pool, slash, backend = text.partition("/")
    if slash:
        if pool not in pools:
            raise ValueError(f"there is no pool {pool!r}; there are {_listed(sorted(pools))}")
        return f"{pool}/{_backend(backend, pools[pool])}"
    homes = [name for name in sorted(pools) if text.lower() in _members(pools[name])]
    if len(homes) > 1:
        raise ValueError(f"{text} is a member of {_listed(homes)}: write {homes[0]}/{text}")
    if not homes and (len(pools) != 1 or not {".", ":"} & set(text)):
        raise ValueError(f"{text} is no pool and no member of one; another backend is POOL/HOST[:PORT]")
    pool = homes[0] if homes else next(iter(pools))
    return f"{pool}/{_backend(text, pools[pool])}"


def _backend(text: str, pool: IPool) -> str:
    """A member's name as the settings write it, else a host.

    @raise ValueError: it is neither.
    """
    member = _members(pool).get(text.lower())
    if member is None:
        split_host(text)
    return member or text


def _members(pool: IPool) -> dict[str, str]:
    names = [member.name or member.host for member in pool.options.members]
    return {name.lower(): name for name in names}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
