"""URIs of HTTP servers: whom to connect to, how requests to them begin, and whose certificates are trusted.

It connects to nobody. A certificate is good for the name or the address in the URI only; there is no way around that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS

from mailgw.errors import SettingsError
from mailgw.wire.http import request_line

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """One URI: whom to connect to, and how each request to it begins.

    @ivar uri: without user, password and query, for the log.
    """

    uri: str
    host: str
    port: int
    secure: bool
    opening: bytes


def address_of(uri: str) -> Address:
    """Take a URI apart.

    @raise ValueError: it is not C{http://HOST[:PORT]/PATH} or C{https://…}; the message does not quote a query.
    """
    parts = urlsplit(uri)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError(f"{shown!r} is not http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")
    port = parts.port or _PORTS[parts.scheme]  # .port raises ValueError for what is no port
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = name if port == _PORTS[parts.scheme] else f"{name}:{port}"
    return Address(shown, parts.hostname, port, parts.scheme == "https", request_line(target, host))


def trust_of(path: str | None, minimum: str) -> Callable[[str], Any]:
    """What makes the client side of TLS for a host, from a PEM file of authorities or, without one, the system's.

    @param minimum: the oldest version of TLS, C{"1.2"} or C{"1.3"}.
    @raise SettingsError: the file cannot be used; the message says why.
    """
    trust = None
    if path is not None:
        try:
            with open(path, "rb") as file:
                blocks = file.read().split(begin := b"-----BEGIN CERTIFICATE-----")[1:]
            trust = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(begin + block) for block in blocks])
        except OSError as error:
            raise SettingsError([f"ca: {path}: {error.strerror or error}"]) from None
        except (SSL.Error, ValueError):
            blocks = []
        if not blocks:
            raise SettingsError([f"ca: {path}: no usable PEM certificate"])
    oldest = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[minimum]

    def creator(host: str) -> Any:
        return ssl.optionsForClientTLS(host, trust, extraCertificateOptions={"insecurelyLowerMinimumTo": oldest})

    return creator


def endpoint_for(reactor: Any, address: Address, tls: Callable[[str], Any], timeout: float) -> Any:
    """Where an address is connected to; a name by all its addresses, those of both families."""
    if isIPAddress(address.host):
        endpoint: Any = TCP4ClientEndpoint(reactor, address.host, address.port, timeout)
    elif isIPv6Address(address.host):
        endpoint = TCP6ClientEndpoint(reactor, address.host, address.port, timeout)
    else:
        endpoint = HostnameEndpoint(reactor, address.host, address.port, timeout)
    return wrapClientTLS(tls(address.host), endpoint) if address.secure else endpoint
