"""What C{[names]} and the keys of routes must say about each other, and about the listeners they speak of.

Like L{mailgw.config.rules} it looks at the tables as TOML gave them. That a key knows its placeholders is told by
L{mailgw.names}; here is what is well written and still of no effect.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mailgw.config.faults import Fault, suggest

Tables = Mapping[str, Any]
_STEPS = ("directory", "lookup", "backend")
_LABEL = "[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*", re.IGNORECASE | re.ASCII)


def faults_of_names(tables: Tables) -> Iterator[Fault]:
    """Every fault of C{[names]} and of C{keys} in C{[[route]]}."""
    names = tables.get("names", {})
    if not isinstance(names, dict):
        return
    yield from _domains(names)
    yield from _doors(names, tables)
    yield from _keys(names, tables)


def _steps(names: Tables, key: str) -> set[str]:
    found = names.get(key, [])
    texts = found if isinstance(found, list) else [found]
    return set(_STEPS) if "all" in texts else {one for one in texts if isinstance(one, str)}


def _strings(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _entries(names: Tables) -> dict[str, Any]:
    found = names.get("domains", {})
    return found if isinstance(found, dict) else {}


def _domains(names: Tables) -> Iterator[Fault]:
    delimiters = _strings(names.get("domain_delimiter", "@"))
    default, entries = names.get("default_domain", ""), _entries(names)
    for path, domain in ((("default_domain",), default), *((("domains", door), one) for door, one in entries.items())):
        if not isinstance(domain, str) or (domain == "" and path == ("default_domain",)):
            continue
        if not _HOST.fullmatch(domain) or domain.startswith("*"):
            yield ("names", *path), 'must be a domain, such as "example.com"'
        elif any(one and one in domain for one in delimiters):
            yield ("names", *path), "holds the domain_delimiter: the name would fall apart in it"
    if _steps(names, "add_domain") and default == "" and not entries:
        yield ("names", "add_domain"), "there is none to add: write default_domain, or [names.domains]"
    for key in ("default_domain", "domains"):
        if names.get(key) and not _steps(names, "add_domain"):
            yield ("names", key), 'is of no use without add_domain, such as add_domain = "directory"'


def _doors(names: Tables, tables: Tables) -> Iterator[Fault]:
    """Keys of C{[names.domains]} by which nobody can come in."""
    listeners = tables.get("listener", [])
    found = [one for one in listeners if isinstance(one, dict)] if isinstance(listeners, list) else []
    endpoints = [one["endpoint"] for one in found if isinstance(one.get("endpoint"), str)]
    for door in _entries(names):
        path = ("names", "domains", door)
        if _is_address(door) or door in endpoints:
            continue
        if ":" in door:
            yield path, "is neither an address nor the endpoint of a listener" + suggest(door, endpoints)
        elif not _HOST.fullmatch(door):
            yield path, 'must be a host name, an address or the endpoint of a listener, such as "tcp:143"'
        elif "tls" not in tables:
            yield path, "is a TLS server name, and there is no [tls]: no client can ask for it"


def _keys(names: Tables, tables: Tables) -> Iterator[Fault]:
    bare = "lookup" in _steps(names, "strip_domain") - _steps(names, "add_domain")
    routes = tables.get("route", [])
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        keys = _strings(route.get("keys")) if isinstance(route, dict) else []
        for number, key in enumerate(keys):
            path = ("route", index, "keys")
            if "{domain}" in key and bare:
                yield path, "finds nobody: strip_domain takes the domain away before the lookup"
            elif "{sni}" in key and "tls" not in tables:
                yield path, "finds nobody: without [tls] no client asks for a server name"
            elif key in keys[:number]:
                yield path, "stands there before"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
