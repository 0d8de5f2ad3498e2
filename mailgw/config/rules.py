"""What the tables of the settings must say about each other: listeners and certificates, routes and pools.

Looks at the tables as TOML gave them, so that a fault in one key hides none in the next; a value of a wrong type is
passed over here, because the models tell it. Opens no file, resolves no name, binds no port (L{mailgw.config.check}
does the first two).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mailgw import registry
from mailgw.config.endpoints import Address, address_of, collide
from mailgw.config.faults import Fault, suggest
from mailgw.config.lines import Path
from mailgw.config.naming import faults_of_names

Tables = Mapping[str, Any]
_PLACEHOLDER = re.compile(r"\{[^{}]*\}?|\}")
_LABEL = "[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.IGNORECASE | re.ASCII)
_CHOOSING = frozenset({"hash", "pool"})
"""Kinds of route that choose among the pool's members; the others may name a server themselves."""


def faults_between(tables: Tables) -> list[Fault]:
    """Every fault that no value shows alone."""
    places = (_tls, _listeners, _same_port, _domains, faults_of_names, _pools, _routes, _local)
    return [fault for rule in (_gateway, _there_is_something, *places) for fault in rule(tables)]


def _table(tables: Any, name: str) -> Tables:
    found = tables.get(name)
    return found if isinstance(found, dict) else {}


def _elements(tables: Tables, name: str) -> Iterator[tuple[int, Tables]]:
    found = tables.get(name)
    for index, one in enumerate(found if isinstance(found, list) else ()):
        if isinstance(one, dict):
            yield index, one


def _dicts(tables: Tables) -> Iterator[Tables]:
    return (one for one in tables.values() if isinstance(one, dict))


def _text(table: Tables, key: str, default: str = "") -> str:
    found = table.get(key, default)
    return found if isinstance(found, str) else ""


def _texts(table: Tables, key: str) -> list[Any]:
    found = table.get(key, [])
    return found if isinstance(found, list) else [found]


def _gateway(tables: Tables) -> Iterator[Fault]:
    gateway = _table(tables, "gateway")
    if (name := gateway.get("hostname")) is not None and isinstance(name, str) and not _HOST.fullmatch(name):
        yield ("gateway", "hostname"), 'must be a host name, such as "mail.example.com"'


def _there_is_something(tables: Tables) -> Iterator[Fault]:
    if not tables.get("listener"):
        yield ("listener",), "there is no [[listener]]: add one for each port, with protocol and endpoint"
    if not tables.get("directory"):
        yield ("directory",), 'there is no [[directory]]: nobody could log in; add one, such as kind = "passwd"'
    if not tables.get("route"):
        yield ("route",), 'there is no [[route]]: no user would have a place; add one, such as kind = "local"'


def _tls(tables: Tables) -> Iterator[Fault]:
    tls = _table(tables, "tls")
    yield from _identity(tls, ("tls",))
    for index, name in _elements(tls, "name"):
        path = ("tls", "name", index)
        yield from _identity(name, path)
        for pattern in _texts(name, "names"):
            if isinstance(pattern, str) and not _HOST.fullmatch(pattern.removeprefix("*.")):
                yield (*path, "names"), 'must be host names, such as "a.example.org" or "*.example.org"'


def _identity(table: Tables, path: Path) -> Iterator[Fault]:
    if "key" not in table or "certificate" not in table:
        return
    keys, certificates = len(_texts(table, "key")), len(_texts(table, "certificate"))
    if not certificates:
        yield (*path, "certificate"), "names no file"
    elif keys != certificates:
        words = f"{_count(keys, 'key')} for {_count(certificates, 'certificate')}"
        yield (*path, "key"), words + "; write one for each, in the same order"


def _listeners(tables: Tables) -> Iterator[Fault]:
    known, later = registry.TABLE["protocol"], registry.LATER["protocol"]
    for index, listener in _elements(tables, "listener"):
        path = ("listener", index)
        protocol = _text(listener, "protocol", next(iter(known)))
        if protocol in later:
            yield (*path, "protocol"), f"{protocol!r} is not built in this version"
        elif isinstance(listener.get("protocol"), str) and protocol not in known and ":" not in protocol:
            yield (*path, "protocol"), "no such protocol" + suggest(protocol, known)
        if protocol == "managesieve" and not any("managesieve" in pool for pool in _dicts(_table(tables, "pool"))):
            words = "no pool has it: add a [pool.NAME.managesieve] table; the local store keeps no scripts"
            yield (*path, "protocol"), words
        if isinstance(endpoint := listener.get("endpoint"), str):
            try:
                address_of(endpoint)
            except ValueError as error:
                yield (*path, "endpoint"), str(error)
        mode = _text(listener, "tls", "starttls")
        if mode in ("starttls", "optional", "implicit") and "tls" not in tables:
            words = f'tls = "{mode}" needs a [tls] table with certificate and key'
            yield (*path, "tls"), words + " (mailgw cert makes a self-signed pair)"


def _same_port(tables: Tables) -> Iterator[Fault]:
    seen: list[tuple[int, Address]] = []
    for index, listener in _elements(tables, "listener"):
        try:
            address = address_of(_text(listener, "endpoint"))
        except ValueError:
            continue
        if twin := next((other for other, taken in seen if collide(taken, address)), None):
            yield ("listener", index, "endpoint"), f"{address} is taken by listener {twin} already"
        seen.append((index + 1, address))


def _domains(tables: Tables) -> Iterator[Fault]:
    domains = _table(tables, "domains")
    for index, listener in _elements(tables, "listener"):
        if listener.get("protocol") == "mx" and not domains.get("accept"):
            words = 'mx needs to know whose mail to take: [domains] accept = ["example.com"]'
            yield ("listener", index, "protocol"), words
    for index, domain in enumerate(_texts(domains, "accept")):
        if isinstance(domain, str) and not _HOST.fullmatch(domain):
            yield ("domains", "accept", index), 'must be a domain, such as "example.com"; patterns are not taken here'


def _pools(tables: Tables) -> Iterator[Fault]:
    for name, pool in _table(tables, "pool").items():
        if isinstance(pool, dict):
            for inner, words in (*_pool_login(pool), *_pool_members(pool)):
                yield ("pool", name, *inner), words
            if not {"imap", "pop3", "smtp", "managesieve"} & set(pool):
                yield ("pool", name), f"serves no protocol; add [pool.{name}.imap], .pop3, .managesieve or .smtp"


def _pool_login(pool: Tables) -> Iterator[Fault]:
    login = _text(pool, "login")
    user, password = (pool.get(key, "") != "" for key in ("probe_user", "probe_password"))
    if user and not password:
        yield ("probe_password",), "is missing; probe_user needs it"
    if password and not user:
        yield ("probe_user",), "is missing; probe_password is of no use without it"
    for protocol in ("imap", "pop3", "managesieve") if login in ("none", "xclient") else ():
        if protocol in pool:
            yield (protocol,), f'is of no use: with login = "{login}" nobody is logged in there; it goes with smtp only'
    for key in ("master_user", "master_password"):
        if login in ("master", "authzid") and pool.get(key, "") == "":
            yield (key,), f'is missing; login = "{login}" needs it'
    if login == "authzid" and _text(pool, "mechanism") in ("login", "command"):
        yield ("mechanism",), 'must be "plain" or "best": only they can say whom to act as, as login = "authzid" wants'
    for key, other in (("certificate", "key"), ("key", "certificate")):
        if key in pool and other not in pool:
            yield (other,), f"is missing; {key} needs it"
    smtp = _table(pool, "smtp")
    user, password = (smtp.get(key, "") != "" for key in ("service_user", "service_password"))
    if user and not password:
        yield ("smtp", "service_password"), "is missing; service_user needs it"
    if password and not user:
        yield ("smtp", "service_user"), "is missing; service_password is of no use without it"


def _pool_members(pool: Tables) -> Iterator[Fault]:
    names: set[str] = set()
    members = pool.get("members", [])
    for index, member in enumerate(members if isinstance(members, list) else ()):
        table = {"host": member} if isinstance(member, str) else member
        if not isinstance(table, dict) or not isinstance(host := table.get("host"), str):
            continue
        if not _HOST.fullmatch(host) and not _is_address(host):
            yield ("members", index), "must be a host name or an address; a port goes into a key such as imap = 10143"
        name = _text(table, "name") or host
        if name.lower() in names:
            yield (
                ("members", index),
                f"another member is called {name!r}; give one of them a name of its own",
            )
        names.add(name.lower())


def _routes(tables: Tables) -> Iterator[Fault]:
    pools = _table(tables, "pool")
    for index, route in _elements(tables, "route"):
        name = route.get("pool")
        if not isinstance(name, str):
            continue
        path, pool = ("route", index, "pool"), pools.get(name)
        if name not in pools:
            yield path, f"there is no [pool.{name}]" + suggest(name, pools)
        elif isinstance(pool, dict) and not pool.get("members") and route.get("kind") in _CHOOSING:
            yield path, f'[pool.{name}] has no members; kind = "{route["kind"]}" chooses among them'


def _local(tables: Tables) -> Iterator[Fault]:
    path = _table(tables, "local").get("path")
    if not isinstance(path, str):
        return
    found = _PLACEHOLDER.findall(path)
    if strange := [one for one in found if one not in ("{domain}", "{local}")]:
        yield ("local", "path"), f"unknown {strange[0]!r}; only {{domain}} and {{local}} are filled in"
    elif "{local}" not in found:
        yield ("local", "path"), "must hold {local}: without it all users would share one mailbox"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
