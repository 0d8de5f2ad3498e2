"""C{mailgw check}: everything that can be found out about the settings before the start.

What the values alone show is told by L{mailgw.config.file}; here are the files, the addresses and the risky choices.
C{--live} (L{mailgw.config.checklive}) also asks directories and backends.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from mailgw.config.checkfiles import Remark, certificate_remarks, file_remarks, user_remarks
from mailgw.config.endpoints import Address, address_of
from mailgw.config.file import Loaded
from mailgw.ops.control import control_path, path_fault
from mailgw.settings import Listener, Member, Plug, Pool, Settings

Resolve = Callable[[str], Sequence[str]]
"""A host's addresses. May raise C{OSError}."""
BACKEND_PROTOCOLS = ("imap", "pop3", "smtp", "managesieve")


def check(loaded: Loaded, now: datetime, resolve: Resolve | None = None) -> list[tuple[bool, str]]:
    """Look at everything that the settings name.

    @param resolve: looks host names up; the system's resolver when left out.
    @return: for each remark whether it is a fault (else a warning), and the finished line, in the file's order.
    """
    settings, source = loaded.settings, loaded.source
    resolver = resolve or addresses_of
    remarks = [
        *certificate_remarks(settings, now),
        *file_remarks(settings),
        *user_remarks(settings, loaded.secret_files),
        *_loops(settings, resolver),
        *_risks(settings),
        *_gaps(settings),
        *_state(settings),
    ]
    remarks.sort(key=lambda remark: source.line(remark.path))
    return [
        (remark.grave, source.tell(remark.path, remark.words if remark.grave else f"WARNING: {remark.words}"))
        for remark in remarks
    ]


def addresses_of(host: str) -> list[str]:
    """Ask the system's resolver.

    @raise OSError: it does not know.
    """
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def is_ours(address: str) -> bool:
    """Whether an address is one of this machine's: traffic to those comes from the very same address.

    Only asks for a route, nothing is sent. Binding would tell less: ip_nonlocal_bind lets any address be bound.
    """
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((address, 9))
            return _same(trial.getsockname()[0], address)
    except OSError:
        return False


def members(settings: Settings) -> Iterator[tuple[str, int, Member, str, int]]:
    """Every backend service: pool, the member's index, the member, protocol and port."""
    for name, pool in settings.pool.items():
        for index, member in enumerate(pool.members):
            for protocol in BACKEND_PROTOCOLS:
                if (terms := getattr(pool, protocol)) is not None:
                    yield name, index, member, protocol, getattr(member, protocol) or terms.port


def _loops(settings: Settings, resolve: Resolve) -> Iterator[Remark]:
    """Pools that lead back to one of our own listeners: a login there would come round until its hops are used up."""
    ours = [address_of(listener.endpoint) for listener in settings.listener]
    known: dict[str, Sequence[str]] = {}
    for pool, index, member, protocol, port in members(settings):
        path = ("pool", pool, "members", index)
        if member.host not in known:
            try:
                known[member.host] = resolve(member.host)
            except OSError as error:
                known[member.host] = ()
                yield Remark(path, f"{member.host} cannot be resolved: {error.strerror or error}", grave=False)
        for number, listener in enumerate(ours, 1):
            if any(_leads_to(listener, address, port) for address in known[member.host]):
                words = f"{member.host}:{port} ({protocol}) is our own listener {number} ({listener}): a loop"
                yield Remark(path, words)


def _leads_to(listener: Address, address: str, port: int) -> bool:
    if listener.kind != "tcp" or listener.port != port or port == 0:
        return False
    if listener.everywhere:
        return is_ours(address)
    return _same(listener.host, address)


def _same(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return one == other or (one == "localhost" and other in ("127.0.0.1", "::1"))


def _risks(settings: Settings) -> Iterator[Remark]:
    """What is allowed and should be chosen knowingly."""
    for index, listener in enumerate(settings.listener):
        yield from _open_listener(index, listener)
        yield from _trusting_listener(index, listener)
    for name, pool in settings.pool.items():
        yield from _trusting_pool(name, pool)
    for index, plug in enumerate(settings.route):
        yield from _trusting_rule(index, plug)
    for index, plug in enumerate(settings.directory):
        uris = getattr(plug.options, "uri", ())
        if getattr(plug.options, "starttls", True):
            continue
        for uri in uris if isinstance(uris, tuple) else ():
            if uri.lower().startswith("ldap://") and not _at_home(_host(uri)):
                words = f"{uri} without starttls: passwords cross the network in clear"
                yield Remark(("directory", index, "uri"), words, grave=False)
    for group, plugs in (("directory", settings.directory), ("route", settings.route)):
        for index, plug in enumerate(plugs):
            uris = getattr(plug.options, "uri", ()) if plug.kind == "http" else ()
            for uri in uris:
                if uri.lower().startswith("http://") and not _at_home(_host(uri)):
                    words = f"{uri.partition('?')[0]}: passwords cross the network in clear; use https"
                    yield Remark((group, index, "uri"), words, grave=False)


def _trusting_rule(index: int, plug: Plug) -> Iterator[Remark]:
    if plug.kind == "sql" and not getattr(plug.options, "verify", True):
        words = "verify = false: the database's certificate is NOT CHECKED; whoever sits between can route every user"
        yield Remark(("route", index, "verify"), words, grave=False)


def _open_listener(index: int, listener: Listener) -> Iterator[Remark]:
    if listener.protocol in ("mx", "lmtp") or listener.tls in ("starttls", "implicit"):
        return
    if not address_of(listener.endpoint).loopback:
        words = f'tls = "{listener.tls}": clients may send their passwords in clear'
        yield Remark(("listener", index, "tls"), words, grave=False)


def _trusting_listener(index: int, listener: Listener) -> Iterator[Remark]:
    for key in ("proxy_from", "trusted"):
        if any(network.prefixlen == 0 for network in getattr(listener, key)):
            words = f"{key} names every network: any client may say that it comes from another address"
            yield Remark(("listener", index, key), words, grave=False)


def _trusting_pool(name: str, pool: Pool) -> Iterator[Remark]:
    used = [terms for protocol in BACKEND_PROTOCOLS if (terms := getattr(pool, protocol)) is not None]
    if not pool.verify and not pool.pin and any(terms.tls != "none" for terms in used):
        words = (
            "verify = false: the certificates of these backends are NOT CHECKED, "
            "whoever sits between us and them can read every password"
        )
        yield Remark(("pool", name, "verify"), words, grave=False)
    if pool.balance != "hash" and not pool.shared and len(pool.members) > 1:
        words = (
            f'balance = "{pool.balance}" without shared = true: '
            "users would find another mailbox with every login, unless every rule names the member itself"
        )
        yield Remark(("pool", name, "balance"), words, grave=False)
    for protocol in BACKEND_PROTOCOLS:
        terms = getattr(pool, protocol)
        away = [member.host for member in pool.members if not _at_home(member.host)]
        if terms is not None and terms.tls == "none" and pool.login != "none" and away:
            words = f'tls = "none": passwords cross the network to {away[0]} in clear'
            yield Remark(("pool", name, protocol, "tls"), words, grave=False)


def _gaps(settings: Settings) -> Iterator[Remark]:
    """Listeners whose users could get nowhere."""
    if any(plug.kind == "local" or ":" in plug.kind for plug in settings.route):
        return
    served = {name for pool in settings.pool.values() for name in BACKEND_PROTOCOLS if getattr(pool, name)}
    for index, listener in enumerate(settings.listener):
        protocol = {"submission": "smtp", "mx": "smtp", "lmtp": "smtp"}.get(listener.protocol, listener.protocol)
        if protocol in BACKEND_PROTOCOLS and protocol not in served:
            words = f"no pool has a table for {protocol} (such as [pool.NAME.{protocol}]): nobody can be served here"
            yield Remark(("listener", index, "protocol"), words)


def _state(settings: Settings) -> Iterator[Remark]:
    """A folder in which the control socket has no room."""
    if fault := path_fault(control_path(settings.gateway.state)):
        yield Remark(("gateway", "state"), fault)


def _host(uri: str) -> str:
    host = uri.partition("://")[2].partition("/")[0]
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _at_home(host: str) -> bool:
    """Traffic to there does not leave the machine."""
    return host == "localhost" or host.startswith("127.") or host == "::1"
