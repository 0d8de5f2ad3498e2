"""Tests of L{mailgw.edge.limits}."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.edge.limits import FORGET_AFTER, Turnstile
from mailgw.model import Login, RefusalKind
from mailgw.ops.tally import LocalTally
from mailgw.settings import Limits

V4 = "192.0.2.1"
V6 = "2001:db8:1:2::5"


def login(password: str = "wrong", username: str = "alice") -> Login:
    """A login with a password."""
    return Login(username, password.encode())


class TurnstileTests(SynchronousTestCase):
    def make(self, remembered: int = 10_000, **limits: Any) -> Turnstile:
        """A turnstile with these limits."""
        self.clock = Clock()
        self.tally = LocalTally(self.clock.seconds, remembered)
        return Turnstile(Limits(**limits), self.clock, self.tally)

    def failures(self, turnstile: Turnstile, count: int, address: str = V4) -> list[float]:
        """The delays after that many different wrong passwords."""
        first = int(self.clock.seconds() * 1000)
        return [turnstile.failure(address, login(f"{address}-{first + number}")) for number in range(count)]

    def test_connections(self) -> None:
        """An address has so many connections at once, and a place again when one leaves."""
        turnstile = self.make(connections_per_address=2)
        self.assertEqual([turnstile.admit(V4) for _ in range(3)], [True, True, False])
        self.assertTrue(turnstile.admit("192.0.2.2"))
        turnstile.leave(V4)
        self.assertEqual([turnstile.admit(V4) for _ in range(2)], [True, False])

    def test_connections_of_ipv6(self) -> None:
        """IPv6 addresses of one /64 count as one, those of the next do not."""
        turnstile = self.make(connections_per_address=1)
        self.assertTrue(turnstile.admit(V6))
        self.assertFalse(turnstile.admit("2001:db8:1:2:ffff::1"))
        self.assertTrue(turnstile.admit("2001:db8:1:3::5"))
        turnstile.leave("2001:db8:1:2::77")
        self.assertTrue(turnstile.admit(V6))

    def test_mapped_ipv4(self) -> None:
        """An IPv4 client is the same one on a listener that speaks both."""
        turnstile = self.make(connections_per_address=1)
        self.assertTrue(turnstile.admit(f"::ffff:{V4}"))
        self.assertFalse(turnstile.admit(V4))
        self.assertTrue(turnstile.admit("::ffff:192.0.2.2"))

    def test_scoped_address(self) -> None:
        """The zone of a link-local address changes nothing."""
        turnstile = self.make(connections_per_address=1)
        self.assertEqual([turnstile.admit(f"fe80::1{zone}") for zone in ("%eth0", "%eth1")], [True, False])

    def test_no_address(self) -> None:
        """A peer without an address has no limit of addresses, but waits after a wrong password."""
        turnstile = self.make(connections_per_address=1, logins_per_address=1)
        for number in range(5):
            self.assertTrue(turnstile.admit(""))
            self.assertIsNone(turnstile.may_login(""))
            self.assertEqual(turnstile.failure("", login(str(number))), 2.0)
        turnstile.success("")

    def test_connections_leave_nothing(self) -> None:
        """Addresses that left are forgotten."""
        turnstile = self.make()
        for number in range(200):
            turnstile.admit(f"10.0.0.{number}")
        for number in range(200):
            turnstile.leave(f"10.0.0.{number}")
        self.assertEqual(len(self.tally), 0)

    def test_login_rate(self) -> None:
        """An address has so many logins within a minute, whenever the minute begins."""
        turnstile = self.make(logins_per_address=6)
        self.clock.advance(50)
        self.assertEqual([turnstile.may_login(V4) for _ in range(6)], [None] * 6)
        refusal = turnstile.may_login(V4)
        assert refusal is not None
        self.assertIs(refusal.kind, RefusalKind.LIMIT)
        self.assertEqual(refusal.reason, "more than 6 logins a minute from 192.0.2.1")
        self.assertIsNone(turnstile.may_login("192.0.2.2"))
        self.clock.advance(19)  # 9 s of the next minute: five sixths of those of this one count
        self.assertIsNotNone(turnstile.may_login(V4))
        self.clock.advance(2)
        self.assertIsNone(turnstile.may_login(V4))
        self.assertIsNotNone(turnstile.may_login(V4))
        self.clock.advance(3600)
        self.assertEqual([turnstile.may_login(V4) is None for _ in range(7)], [True] * 6 + [False])

    def test_login_rate_of_ipv6(self) -> None:
        """The rate of IPv6 is that of the /64."""
        turnstile = self.make(logins_per_address=1)
        self.assertIsNone(turnstile.may_login(V6))
        self.assertIsNotNone(turnstile.may_login("2001:db8:1:2::6"))
        self.assertIsNone(turnstile.may_login("2001:db8:1:3::6"))

    def test_penalty(self) -> None:
        """The delay doubles up to 15 seconds for an address that goes on, and others do not feel it."""
        turnstile = self.make()
        self.assertEqual(self.failures(turnstile, 6), [2.0, 4.0, 8.0, 15.0, 15.0, 15.0])
        self.assertEqual(self.failures(turnstile, 1, "192.0.2.2"), [2.0])

    def test_penalty_of_ipv6(self) -> None:
        """Failures of IPv6 count by /48."""
        turnstile = self.make()
        delays = [self.failures(turnstile, 1, f"2001:db8:{network}::1")[0] for network in ("1:1", "1:2", "2:1")]
        self.assertEqual(delays, [2.0, 4.0, 2.0])

    def test_penalty_has_no_overflow(self) -> None:
        """Thousands of failures are no more than 15 seconds either."""
        turnstile = self.make()
        self.assertEqual(self.failures(turnstile, 3000)[-1], 15.0)

    def test_delay_of_the_settings(self) -> None:
        """A longer first delay stays as long as it is, and none is none."""
        self.assertEqual(self.failures(self.make(failure_delay="20s"), 3), [20.0] * 3)
        self.assertEqual(self.failures(self.make(failure_delay="0s"), 3), [0.0] * 3)

    def test_same_wrong_password(self) -> None:
        """The same user with the same wrong password, again and again, is a forgotten program and no attack."""
        turnstile = self.make()
        self.assertEqual([turnstile.failure(V4, login()) for _ in range(4)], [2.0] * 4)
        self.assertEqual(turnstile.failure(V4, login("other")), 4.0)
        self.assertEqual(turnstile.failure(V4, login()), 4.0)
        self.assertEqual(turnstile.failure(V4, login(username="bob")), 8.0)

    def test_fingerprints_do_not_blend(self) -> None:
        """The border between name and password counts."""
        turnstile = self.make()
        self.assertEqual(turnstile.failure(V4, login("bc", "a")), 2.0)
        self.assertEqual(turnstile.failure(V4, login("c", "ab")), 4.0)

    def test_penalty_is_forgotten(self) -> None:
        """Who stays quiet for a while begins anew."""
        turnstile = self.make()
        self.failures(turnstile, 3)
        self.clock.advance(FORGET_AFTER - 1)
        self.assertEqual(self.failures(turnstile, 1), [15.0])
        self.clock.advance(FORGET_AFTER + 1)
        self.assertEqual(self.failures(turnstile, 2), [2.0, 4.0])

    def test_success(self) -> None:
        """A right password makes good for one failure, so that an attacker's own account does not clear his record."""
        turnstile = self.make()
        self.failures(turnstile, 3)
        turnstile.success(V4)
        self.assertEqual(turnstile.failure(V4, login("one more")), 8.0)
        for _ in range(5):
            turnstile.success(V4)
        self.assertEqual(turnstile.failure(V4, login("one more")), 2.0)

    def test_memory_is_bounded(self) -> None:
        """Whatever comes, only so much is remembered, the latest of it."""
        turnstile = self.make(remembered=10, logins_per_address=1)
        for number in range(50):
            address = f"10.0.0.{number}"
            self.failures(turnstile, 20, address)
            turnstile.may_login(address)
        self.assertEqual(len(self.tally), 10)
        self.assertIsNotNone(turnstile.may_login("10.0.0.49"))
        self.assertIsNone(turnstile.may_login("10.0.0.0"))

    def test_no_password_is_kept(self) -> None:
        """What is remembered of a wrong password does not hold it, and differs from process to process."""
        kept = []
        for _ in range(2):
            self.make().failure(V4, login("secret"))
            kept.append(next(name for name in self.tally._expiring if name.startswith("wrong")))
        self.assertNotEqual(*kept)
        self.assertNotIn("secret", kept[0])

    def test_new_limits(self) -> None:
        """New limits hold at once."""
        turnstile = self.make(connections_per_address=1)
        turnstile.admit(V4)
        turnstile.limits = Limits(connections_per_address=2)
        self.assertTrue(turnstile.admit(V4))
