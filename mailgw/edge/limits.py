"""The turnstile: what one address may cost us before anybody is logged in.

Pure counting with a clock: it neither waits nor closes connections, the session does. Counts of logged-in sessions are
the accountant's (L{mailgw.interfaces.IAccountant}).
"""

from __future__ import annotations

import ipaddress
import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b

from twisted.internet.interfaces import IReactorTime

from mailgw.model import Login, Refusal, RefusalKind
from mailgw.settings import Limits

LONGEST_DELAY = 15.0
"""Seconds; where C{limits.failure_delay} itself is longer, that."""
FORGET_AFTER = 300.0
"""Seconds without a failure after which an address's failures are forgotten."""
REMEMBERED_LOGINS = 8
"""Wrong logins an address that are known again."""
REMEMBERED_NETWORKS = 20_000
"""Bounds our memory, whoever attacks from wherever; the least recently seen is forgotten first."""


@dataclass(slots=True)
class _Bucket:
    """Logins that an address has left, and when that was so."""

    left: float
    at: float


@dataclass(slots=True)
class _Penalty:
    """An address's failures, and the fingerprints of its latest wrong logins."""

    failures: int = 0
    at: float = 0.0
    seen: list[bytes] = field(default_factory=list)


class Turnstile:
    """Caps and delays by address.

    IPv6 addresses count by the network that one customer has: /64 for connections and logins, /48 for failures. A peer
    without an address (a UNIX socket) is never capped.

    @ivar limits: may be replaced at any time.
    """

    def __init__(self, limits: Limits, clock: IReactorTime, remembered: int = REMEMBERED_NETWORKS) -> None:
        """Nobody is here.

        @param remembered: how many networks to keep rates for, and how many to keep failures for.
        """
        self.limits = limits
        self._clock = clock
        self._remembered = remembered
        self._secret = os.urandom(32)  # fingerprints are worth nothing outside this process
        self._connections: Counter[str] = Counter()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._penalties: OrderedDict[str, _Penalty] = OrderedDict()

    def admit(self, address: str) -> bool:
        """Count a new connection, or say no: then it is not counted, and must not L{leave}."""
        network = _network(address, 64)
        if network and self._connections[network] >= self.limits.connections_per_address:
            return False
        self._connections[network] += 1
        return True

    def leave(self, address: str) -> None:
        """An admitted connection is over."""
        network = _network(address, 64)
        self._connections[network] -= 1
        if self._connections[network] <= 0:
            del self._connections[network]

    def may_login(self, address: str) -> Refusal | None:
        """Count an attempt to log in, or say why it is one too many: C{limits.logins_per_address} at once, and then as
        many a minute, evenly.
        """
        network = _network(address, 64)
        if not network:
            return None
        now, most = self._clock.seconds(), float(self.limits.logins_per_address)
        bucket = self._buckets.setdefault(network, _Bucket(most, now))
        self._buckets.move_to_end(network)
        _trim(self._buckets, self._remembered)
        bucket.left = min(most, bucket.left + (now - bucket.at) * most / 60.0)
        bucket.at = now
        if bucket.left < 1.0:
            return Refusal(RefusalKind.LIMIT, f"more than {most:.0f} logins a minute from {network}")
        bucket.left -= 1.0
        return None

    def failure(self, address: str, login: Login) -> float:
        """Count a wrong password.

        A program that goes on with the same wrong password is no attacker: only the first time raises the delay.

        @return: how many seconds to wait before the client is told.
        """
        network = _network(address, 48)
        penalty = self._penalties.setdefault(network, _Penalty()) if network else _Penalty()
        if network:
            self._penalties.move_to_end(network)
            _trim(self._penalties, self._remembered)
        now = self._clock.seconds()
        if now - penalty.at > FORGET_AFTER:
            penalty.failures = 0
            penalty.seen.clear()
        penalty.at = now
        fingerprint = self._fingerprint(login)
        if fingerprint not in penalty.seen:
            penalty.failures += 1
            penalty.seen.append(fingerprint)
            del penalty.seen[:-REMEMBERED_LOGINS]
        return self._delay(penalty.failures)

    def success(self, address: str) -> None:
        """Count a right password: it makes good for one failure.

        Not for all of them, or whoever has one account of his own could guess at the others' without delay.
        """
        network = _network(address, 48)
        penalty = self._penalties.get(network)
        if penalty is None:
            return
        penalty.failures -= 1
        if penalty.failures <= 0:
            del self._penalties[network]

    def _delay(self, failures: int) -> float:
        first = self.limits.failure_delay
        return min(first * 2.0 ** min(failures - 1, 16), max(first, LONGEST_DELAY))

    def _fingerprint(self, login: Login) -> bytes:
        words = (login.username.encode("utf-8", "surrogateescape"), login.authzid.encode("utf-8", "surrogateescape"))
        text = b"".join(b"%d:%s" % (len(word), word) for word in (*words, login.password))
        return blake2b(text, digest_size=16, key=self._secret).digest()


def _network(address: str, prefix: int) -> str:
    """The network that an address counts as: itself for IPv4, the first C{prefix} bits for IPv6, "" for no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:  # an IPv4 client on a listener that speaks both
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, prefix), strict=False))


def _trim(known: OrderedDict[str, _Bucket] | OrderedDict[str, _Penalty], most: int) -> None:
    if len(known) > most:
        known.popitem(last=False)
