"""What C{mailgw probe} visits by itself: every listener of the settings.

Visits nothing: L{mailgw.ops.probe} does.
"""

from __future__ import annotations

import ipaddress

from mailgw.config.endpoints import address_of
from mailgw.ops.probe import Target
from mailgw.settings import Listener, Settings


def targets_of(settings: Settings) -> list[Target]:
    """Every listener that can be told from the settings; sockets handed over by systemd cannot."""
    return [_own(listener, settings.gateway.hostname) for listener in settings.listener]


def _own(listener: Listener, hostname: str) -> Target:
    address = address_of(listener.endpoint)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    if address.kind not in ("tcp", "unix"):
        return Target(listener.protocol, listener.endpoint, 0, listener.tls, hostname, expected=False)
    proxied = address.kind == "tcp" and any(_inside(host, network) for network in listener.proxy_from)
    return Target(listener.protocol, host, address.port, listener.tls, hostname, proxied)


def _inside(host: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Whether we would come from there: connections to an address of our own come from the same one."""
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
