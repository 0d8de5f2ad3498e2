"""Networks of the settings: whether an address is in one of them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def within(host: str, networks: Iterable[Network]) -> bool:
    """Whether an address is in a network; IPv4 through an IPv6 socket is IPv4, a zone is no part of it.

    @param host: an address; anything else, a UNIX socket's peer, is nowhere.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)
