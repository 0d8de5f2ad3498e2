"""What this version of mailgw can do of what other proxies do; the importers ask here before they write a key.

Kinds are looked up in L{mailgw.registry}, keys in L{mailgw.settings}: what is built there is written from then on.
"""

from __future__ import annotations

from mailgw import registry, settings

NOT_YET: frozenset[str] = frozenset()
"""Keys that the format has and the settings still refuse; whoever builds one takes its line away."""

LATER = "no counterpart in this version"


def has_kind(group: str, kind: str) -> bool:
    """Whether there is such a protocol, directory or route."""
    return kind in registry.TABLE[group]


def has_key(table: str, key: str) -> bool:
    """Whether a table, such as C{"limits"}, takes a key."""
    models: dict[str, type[settings.Table]] = {
        "gateway": settings.Gateway,
        "limits": settings.Limits,
        "listener": settings.Listener,
        "pool": settings.Pool,
        "tls": settings.Tls,
    }
    return f"{table}.{key}" not in NOT_YET and key in models[table].model_fields
