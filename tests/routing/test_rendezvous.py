"""Tests of L{mailgw.routing.rendezvous}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import SettingsError
from mailgw.model import Route
from mailgw.routing.rendezvous import HashRule, PoolRule, ranked
from tests.routing.contract import FakeHouse, RoutingTestCase, RuleContract

USERS = [f"user{number}@example.org" for number in range(4000)]
names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True)


def homes(nodes: list[tuple[str, int]]) -> dict[str, str]:
    """Where each of the users lives."""
    return {user: ranked(user, nodes)[0] for user in USERS}


def even(count: int) -> list[tuple[str, int]]:
    """That many nodes of equal weight."""
    return [(f"be{number}", 1) for number in range(count)]


class RankedTests(SynchronousTestCase):
    def test_one_more_node(self) -> None:
        """Of ten nodes made eleven, the new one takes about an eleventh, and nobody moves between the old ones."""
        before, after = homes(even(10)), homes(even(11))
        moved = [user for user in USERS if before[user] != after[user]]
        self.assertEqual({after[user] for user in moved}, {"be10"})
        self.assertApproximates(len(moved) / len(USERS), 1 / 11, 0.02)

    def test_one_node_less(self) -> None:
        """Only the users of a node that goes move, and they spread over all that stay."""
        before, after = homes(even(10)), homes(even(9))
        moved = [user for user in USERS if before[user] != after[user]]
        self.assertEqual({before[user] for user in moved}, {"be9"})
        self.assertEqual({after[user] for user in moved}, {name for name, _ in even(9)})

    def test_weights(self) -> None:
        """A node of weight three has three times as many users as one of weight one."""
        found = list(homes([("small", 1), ("large", 3)]).values())
        self.assertApproximates(found.count("large") / len(found), 0.75, 0.03)

    def test_known_order(self) -> None:
        """The ranking is part of the contract: another version that ranks otherwise would move everybody."""
        nodes = [("be1.internal", 1), ("be2.internal", 2), ("be3.internal", 1)]
        self.assertEqual(ranked("alice@example.org", nodes), ["be2.internal", "be3.internal", "be1.internal"])
        self.assertEqual(ranked("bob@example.org", nodes), ["be1.internal", "be3.internal", "be2.internal"])

    def test_names_and_users_are_kept_apart(self) -> None:
        """The border between a member's name and a user's name counts: these two rankings are independent."""
        first = [ranked(f"c{number}", [("ab", 1), ("xy", 1)])[0] == "ab" for number in range(200)]
        second = [ranked(f"bc{number}", [("a", 1), ("x", 1)])[0] == "a" for number in range(200)]
        self.assertNotEqual(first, second)

    @given(st.text(), names, st.randoms(use_true_random=False))
    def test_order_of_the_settings(self, key: str, nodes: list[str], random: object) -> None:
        """The order in which nodes are written down does not matter, and each is ranked once."""
        shuffled = list(nodes)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        first = ranked(key, [(name, 1) for name in nodes])
        self.assertEqual(first, ranked(key, [(name, 1) for name in shuffled]))
        self.assertEqual(sorted(first), sorted(nodes))

    @given(st.text(), names)
    def test_the_rest_keep_their_order(self, key: str, nodes: list[str]) -> None:
        """Without its first node a user's ranking is the old one without it."""
        before = ranked(key, [(name, 1) for name in nodes])
        self.assertEqual(before[1:], ranked(key, [(name, 1) for name in nodes if name != before[0]]))


class HashRuleTests(RuleContract, RoutingTestCase):
    def make(self, pool: str = "main") -> HashRule:
        """The rule for a pool."""
        return HashRule.from_options("hash-1", HashRule.Options(pool=pool), FakeHouse())

    def test_route(self) -> None:
        """Everybody goes to the pool, to be hashed whatever its balance is."""
        self.assertEqual(self.answer(self.make()), Route("main", hashed=True))

    def test_unknown_pool(self) -> None:
        """A pool that does not exist stops the start."""
        self.assertRaises(SettingsError, self.make, "other")


class PoolRuleTests(RuleContract, RoutingTestCase):
    def make(self) -> PoolRule:
        """The rule for a pool."""
        return PoolRule.from_options("pool-1", PoolRule.Options(pool="main"), FakeHouse())

    def test_route(self) -> None:
        """Everybody goes to the pool, which chooses by its own balance."""
        self.assertEqual(self.answer(self.make()), Route("main"))
        self.assertEqual(self.make().name, "pool main")
