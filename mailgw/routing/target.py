"""What the text that a rule came up with means: a pool, or a host with or without a port.

Resolves no names: a host is only told from what is none, so that no directory, map or user name can smuggle in more.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from mailgw.errors import LoginRefused, SettingsError
from mailgw.interfaces import IPool
from mailgw.model import RefusalKind, Route

PoolName = Annotated[str, Field(json_schema_extra={"pool": True})]
"""The name of a C{[pool.NAME]}; marked, so that a check of the settings can find it."""

# Underscores stand in many internal names; RFC 1123 §2.1 has no more than letters, digits and hyphens.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.ASCII | re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_USER = 256
"""Octets of a name to log in with on a backend."""
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SERVICES = {
    "imap": 143,
    "imap2": 143,
    "imaps": 993,
    "lmtp": 24,
    "pop-3": 110,
    "pop3": 110,
    "pop3s": 995,
    "sieve": 4190,
    "smtp": 25,
    "smtps": 465,
    "submission": 587,
    "submissions": 465,
}


def split_host(text: str) -> tuple[str, int | None]:
    """Take C{host}, C{host:port}, C{[IPv6]:port} or a bare IPv6 address apart.

    @return: the host, lower case and without brackets or final dot, and the port where one was given. A port may be
        one of a dozen service names, such as C{imap}.
    @raise ValueError: it is none of these; the message quotes it escaped.
    """
    if bracketed := _BRACKETED.fullmatch(text):
        return _address(bracketed[1], text, 6), _port(bracketed[2], text)
    if text.count(":") > 1:
        return _address(text, text, 6), None
    host, colon, port = text.partition(":")
    return _host(host, text), _port(port if colon else None, text)


def _address(host: str, text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r} is no host") from None
    if address.version != version or "%" in host:
        raise ValueError(f"{text!r} is no host")
    return str(address)


def _host(host: str, text: str) -> str:
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise ValueError(f"{text!r} is no host")
    host = host.rstrip(".").lower()
    # The resolver reads "127.1" and "0x7f000001" as addresses: a last label that begins like a number must be IPv4's.
    return _address(host, text, 4) if re.match(r"[0-9]+\Z|0x", host.rpartition(".")[2]) else host


def _port(port: str | None, text: str) -> int | None:
    if port is None:
        return None
    number = int(port) if _PORT.fullmatch(port) else _SERVICES.get(port.lower(), 0)
    if not 0 < number < 65536:
        raise ValueError(f"{text!r} has no port from 1 to 65535")
    return number


def known_pool(rule: str, pool: str, pools: Mapping[str, IPool]) -> str:
    """Make sure that a pool exists, and return its name.

    @param rule: whose options name the pool, such as C{hash-1}.
    @raise SettingsError: it does not exist.
    """
    if pool not in pools:
        raise SettingsError([f"route {rule}: pool: there is no pool {pool!r}"])
    return pool


def backend_user(name: str) -> str:
    """The same name, if one can log in by it on a backend.

    @raise LoginRefused: C{UNAVAILABLE}, where it cannot be one; other users' names lie behind control characters.
    """
    if not name or len(name.encode("utf-8", "replace")) > MAX_USER or _CONTROL.search(name):
        raise LoginRefused(RefusalKind.UNAVAILABLE, f"{name[:MAX_USER]!r} is no user of a backend")
    return name


def route_to(value: str, pool: str | None, pools: Mapping[str, IPool], username: str | None = None) -> Route:
    """The route that a looked-up value stands for: the pool of that name, else a backend of the rule's pool.

    @param pool: the rule's pool; its ports, TLS and login apply to a backend.
    @param username: to log in with there, where that is not the canonical name.
    @raise LoginRefused: C{UNAVAILABLE}, where the value names no pool and the rule has none.
    """
    if value in pools:
        return Route(value, username=username)
    if pool is None:
        raise LoginRefused(RefusalKind.UNAVAILABLE, f"{value!r} names no pool, and the rule has none of its own")
    return Route(pool, value, username=username)
