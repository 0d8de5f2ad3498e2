"""What a Twisted server endpoint string will listen on, told without listening.

Knows the kinds that a listener may be: tcp, tcp6, unix, systemd, and whatever a plugin of the site adds. TLS and PROXY
are the listener's own settings, so the endpoint kinds that bring them are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.endpoints import _parse
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from mailgw.config.faults import suggest

_INSTEAD = {
    "ssl": 'write tcp: here, and tls = "implicit" in the listener',
    "tls": 'write tcp: here, and tls = "implicit" in the listener',
    "haproxy": "write tcp: here, and proxy_from in the listener",
    "stdio": "standard input is no port; write tcp:, unix: or systemd:",
}
WILDCARDS = frozenset({"", "0.0.0.0", "::"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint listens.

    @ivar kind: C{"tcp"}, C{"unix"}, C{"systemd"}, or a plugin's own.
    @ivar host: an address of ours, C{""} or C{"::"} for all; a path for unix; a name or index for systemd.
    @ivar port: 0 for everything but TCP, and for "any free port".
    """

    kind: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.kind != "tcp":
            return f"{self.kind}:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host or "*"
        return f"{host}:{self.port}"

    @property
    def everywhere(self) -> bool:
        """It listens on every address of the machine."""
        return self.kind == "tcp" and self.host in WILDCARDS

    @property
    def loopback(self) -> bool:
        """Nobody outside this machine can reach it."""
        return self.kind == "unix" or self.host.startswith("127.") or self.host in ("::1", "localhost")


def address_of(endpoint: str) -> Address:
    """Read an endpoint string.

    @raise ValueError: Twisted would not take it, or a listener must not have it; the message says what to write.
    """
    try:
        arguments, options = _parse(endpoint)
    except Exception as error:
        raise ValueError('not an endpoint; write "tcp:143" or "tcp:143:interface=127.0.0.1"') from error
    kind, rest = (arguments or [""])[0], arguments[1:]
    if kind in _INSTEAD:
        raise ValueError(f"an endpoint of kind {kind!r} cannot be used: {_INSTEAD[kind]}")
    if kind in ("tcp", "tcp6"):
        return _tcp(kind, rest, options)
    if kind == "unix":
        if not (path := rest[0] if rest else options.get("address")):
            raise ValueError('names no socket; write "unix:/run/mailgw/imap.sock"')
        return Address(kind, path)
    if kind == "systemd":
        return _systemd(rest, options)
    others = {plugin.prefix for plugin in getPlugins(IStreamServerEndpointStringParser)} - set(_INSTEAD)
    if kind not in others:
        raise ValueError(f"no endpoint of kind {kind!r}" + suggest(kind, {"tcp", "tcp6", "unix", "systemd"}))
    return Address(kind, ":".join(rest))


def collide(one: Address, other: Address) -> bool:
    """Whether the machine would refuse the second of two listeners."""
    if one.kind != other.kind or one.port != other.port:
        return False
    if one.kind != "tcp":
        return one.host == other.host
    return one.port != 0 and (one.host == other.host or _covers(one.host, other.host) or _covers(other.host, one.host))


def _covers(wide: str, narrow: str) -> bool:
    """Linux lets C{::} take IPv4 too, and C{""} all of IPv4."""
    return wide == "::" or (wide in WILDCARDS and ":" not in narrow)


def _tcp(kind: str, rest: list[str], options: dict[str, str]) -> Address:
    names = ("port", "interface", "backlog") if kind == "tcp" else ("port", "backlog", "interface")
    if "" in (*rest[1:], options.get("interface", "x")):
        raise ValueError("colons of an IPv6 address need backslashes, in single quotes: 'tcp:143:interface=\\:\\:1'")
    if len(rest) > len(names):
        raise ValueError(f'has too many parts; write "{kind}:143"')
    given = dict(zip(names, rest, strict=False)) | options
    if strange := sorted(set(given) - set(names)):
        raise ValueError(f"{kind} has no {strange[0]!r}" + suggest(strange[0], names))
    port = given.get("port", "")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f'{port!r} is no port; write "{kind}:143"' if port else f'names no port; write "{kind}:143"')
    if not given.get("backlog", "50").isdecimal():
        raise ValueError("backlog must be a whole number")
    host = given.get("interface", "" if kind == "tcp" else "::")
    return Address("tcp", host, int(port))


def _systemd(rest: list[str], options: dict[str, str]) -> Address:
    given = dict(zip(("domain", "index", "name"), rest, strict=False)) | options
    if "domain" not in given or ("index" in given) == ("name" in given):
        raise ValueError('write "systemd:domain=INET6:name=imap" (FileDescriptorName= of the socket unit)')
    return Address("systemd", given.get("name") or given["index"])
