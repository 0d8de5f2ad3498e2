"""The turnstile: what one address may cost us before anybody is logged in.

Pure counting: it neither waits nor closes connections, the session does. Counts of logged-in sessions are the
accountant's (L{mailgw.interfaces.IAccountant}). It counts on a tally, which may be that of all workers together.
"""

from __future__ import annotations

import ipaddress
import os
from functools import lru_cache
from hashlib import blake2b

from twisted.internet.interfaces import IReactorTime

from mailgw.interfaces import ITally
from mailgw.model import Login, Refusal, RefusalKind
from mailgw.settings import Limits

LONGEST_DELAY = 15.0
"""Seconds; where C{limits.failure_delay} itself is longer, that."""
FORGET_AFTER = 300.0
"""Seconds without a failure after which an address's failures are forgotten; wrong logins are known again so long."""
MINUTE = 60.0


class Turnstile:
    """Caps and delays by address.

    IPv6 addresses count by the network that one customer has: /64 for connections and logins, /48 for failures. A peer
    without an address (a UNIX socket) is never capped.

    @ivar limits: may be replaced at any time.
    """

    def __init__(self, limits: Limits, clock: IReactorTime, tally: ITally, secret: bytes = b"") -> None:
        """
        @param tally: what to count on.
        @param secret: for fingerprints of wrong passwords; the same in all workers. A new one where left out.
        """
        self.limits = limits
        self._clock, self._tally = clock, tally
        self._secret = secret or os.urandom(32)

    def admit(self, address: str) -> bool:
        """Count a new connection, or say no: then it is not counted, and must not L{leave}."""
        network = network_of(address, 64)
        if self._tally.add(f"connection {network}") <= self.limits.connections_per_address or not network:
            return True
        self.leave(address)
        return False

    def leave(self, address: str) -> None:
        """An admitted connection is over."""
        self._tally.take(f"connection {network_of(address, 64)}")

    def may_login(self, address: str) -> Refusal | None:
        """Count an attempt to log in, or say why it is one too many: more than C{limits.logins_per_address} within
        the last minute. Attempts of the minute before this one count for as much of it as the last minute has.
        """
        network = network_of(address, 64)
        if not network:
            return None
        minute, since = divmod(self._clock.seconds(), MINUTE)
        this, end = f"login {network} {minute:.0f}", (minute + 2) * MINUTE
        before = self._tally.total(f"login {network} {minute - 1:.0f}") * (1 - since / MINUTE)
        if before + self._tally.add(this, end) <= self.limits.logins_per_address:
            return None
        self._tally.take(this, end)
        return Refusal(RefusalKind.LIMIT, f"more than {self.limits.logins_per_address} logins a minute from {network}")

    def failure(self, address: str, login: Login) -> float:
        """Count a wrong password.

        A program that goes on with the same wrong password is no attacker: only the first time raises the delay.

        @return: how many seconds to wait before the client is told.
        """
        network = network_of(address, 48)
        if not network:
            return self._delay(1)
        end = self._clock.seconds() + FORGET_AFTER
        again = self._tally.add(f"wrong {network} {self._fingerprint(login)}", end) > 1
        failures = self._tally.add(f"failure {network}", end)
        if again and failures > 1:
            self._tally.take(f"failure {network}", end)
            failures -= 1
        return self._delay(failures)

    def success(self, address: str) -> None:
        """Count a right password: it makes good for one failure.

        Not for all of them, or whoever has one account of his own could guess at the others' without delay.
        """
        name = f"failure {network_of(address, 48)}"
        if self._tally.total(name):
            self._tally.take(name, self._clock.seconds() + FORGET_AFTER)

    def _delay(self, failures: int) -> float:
        first = self.limits.failure_delay
        return min(first * 2.0 ** min(failures - 1, 16), max(first, LONGEST_DELAY))

    def _fingerprint(self, login: Login) -> str:
        words = (login.username.encode("utf-8", "surrogateescape"), login.authzid.encode("utf-8", "surrogateescape"))
        text = b"".join(b"%d:%s" % (len(word), word) for word in (*words, login.password))
        return blake2b(text, digest_size=16, key=self._secret).hexdigest()


@lru_cache(maxsize=4096)
def network_of(address: str, prefix: int) -> str:
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
