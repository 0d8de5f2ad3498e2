"""Tests of L{mailgw.routing.pool}."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.errors import BackendFailed
from mailgw.interfaces import IPool
from mailgw.model import Backend, Failure, Route
from mailgw.routing.rendezvous import ranked
from mailgw.routing.standing import SUSPECT_FOR, State
from tests.routing.contract import pool

USERS = [f"user{number}@example.org" for number in range(300)]
ANY = Route("main")


def names(backends: Any) -> list[str]:
    """The names of some backends."""
    return [backend.name for backend in backends]


class PoolTests(SynchronousTestCase):
    def only(self, backend: str, protocol: str = "imap", **options: Any) -> Backend:
        """The one candidate for a route that names a backend."""
        (found,) = pool(**options).candidates("alice", protocol, Route("main", backend))
        return found

    def failure(self, route: Route, protocol: str = "imap", **options: Any) -> BackendFailed:
        """The error for a route that leads nowhere."""
        with self.assertRaises(BackendFailed) as caught:
            pool(**options).candidates("alice", protocol, route)
        return caught.exception

    def test_provides_the_interface(self) -> None:
        """The pool is what destinations and deliveries ask for."""
        self.assertTrue(verifyObject(IPool, pool()))

    def test_service(self) -> None:
        """Port and TLS come from the protocol's table, from the member, or are the protocol's own."""
        options = {
            "members": ["be1", {"host": "10.0.0.7", "name": "be2", "imap": 10143}],
            "imap": {"port": 993, "tls": "implicit"},
            "smtp": {"port": 24, "tls": "none", "speak": "lmtp"},
        }
        self.assertEqual(self.only("be1", **options), Backend("main", "be1", "be1", 993, "implicit"))
        self.assertEqual(self.only("be2", **options), Backend("main", "be2", "10.0.0.7", 10143, "implicit"))
        self.assertEqual(self.only("be1", "smtp", **options), Backend("main", "be1", "be1", 24, "none", "lmtp"))
        self.assertEqual(self.only("be1", "pop3", **options), Backend("main", "be1", "be1", 110, "starttls"))
        self.assertEqual(self.only("be1", "smtp", smtp={}), Backend("main", "be1", "be1", 25, "starttls", "smtp"))

    def test_unknown_protocol(self) -> None:
        """A protocol that the pool has no table for is an error of ours, not a guess."""
        self.assertIs(self.failure(ANY, "gopher").kind, Failure.PROTOCOL)
        self.assertIs(self.failure(ANY, "smtp").kind, Failure.PROTOCOL)

    def test_no_members(self) -> None:
        """A pool without members serves only routes that name their host."""
        self.assertIs(self.failure(ANY, members=[]).kind, Failure.CONNECT)
        self.assertEqual(self.only("be9", members=[]), Backend("main", "be9", "be9", 143))

    def test_named_member(self) -> None:
        """A member is found by its name and by its host, in any case, and a port of its own wins."""
        members = [
            {"host": "be1.internal", "name": "First one"},
            {"host": "[2001:db8::1]", "name": "six", "imap": 1143},
        ]
        first = Backend("main", "First one", "be1.internal", 143)
        for text in ("First one", "first ONE", "be1.internal", "BE1.internal."):
            self.assertEqual(self.only(text, members=members), first)
        self.assertEqual(self.only("be1.internal:993", members=members).port, 993)
        self.assertEqual(self.only("be1.internal:993", members=members).name, "First one")
        for text in ("six", "six:1143", "2001:DB8::1", "[2001:db8:0::1]:1143"):
            self.assertEqual(self.only(text, members=members), Backend("main", "six", "2001:db8::1", 1143))

    def test_members_on_one_host(self) -> None:
        """Members that share a host are told apart by name or port; the host alone could be any of them."""
        members = [{"host": "127.0.0.1", "name": name, "imap": port} for name, port in (("a", 1143), ("b", 2143))]
        self.assertEqual(self.only("b", members=members).port, 2143)
        self.assertEqual(self.only("127.0.0.1:2143", members=members).name, "b")
        self.assertEqual(self.only("127.0.0.1:3143", members=members), Backend("main", "127.0.0.1", "127.0.0.1", 3143))
        self.assertIn("the host of a, b", self.failure(Route("main", "127.0.0.1"), members=members).reason)

    def test_outside_host(self) -> None:
        """Any other host is dialled with the pool's ports and TLS, unless it brings a port."""
        options = {"imap": {"port": 993, "tls": "implicit"}}
        self.assertEqual(self.only("elsewhere", **options), Backend("main", "elsewhere", "elsewhere", 993, "implicit"))
        self.assertEqual(self.only("[::1]:5", **options), Backend("main", "::1", "::1", 5, "implicit"))

    def test_no_host(self) -> None:
        """What is no host is refused before anybody tries to resolve it."""
        for text in ("", "be1/x", "0x7f000001", "a@b", "be1:0", "evil host", "be1\r\nQUIT"):
            self.assertIs(self.failure(Route("main", text)).kind, Failure.CONNECT)

    def test_one_candidate_unless_shared(self) -> None:
        """In a pool that is not shared each user has one member, the hash's, down or not: another has not his mail."""
        main = pool()
        for user in USERS:
            home = ranked(user, [("be1", 1), ("be2", 1), ("be3", 1)])[0]
            (backend,) = main.candidates(user, "imap", ANY)
            self.assertEqual(backend.name, home)
            main.failed(backend, "imap")
            self.assertEqual(names(main.candidates(user, "imap", ANY)), [home])

    def test_all_candidates_if_shared(self) -> None:
        """In a shared pool all members follow, in the order of the user's own hash."""
        expected = ranked("alice", [("be1", 1), ("be2", 1), ("be3", 1)])
        self.assertEqual(names(pool(shared=True).candidates("alice", "imap", ANY)), expected)

    def test_suspects_last(self) -> None:
        """In a shared pool a member that failed goes behind the others, until it answers or time passes."""
        clock = Clock()
        main = pool(clock=clock, shared=True)
        home, *others = main.candidates("alice", "imap", ANY)
        main.failed(home, "imap")
        self.assertEqual(list(main.candidates("alice", "imap", ANY)), [*others, home])
        self.assertEqual(names(main.candidates("alice", "pop3", ANY))[0], home.name)
        clock.advance(SUSPECT_FOR)
        self.assertEqual(main.candidates("alice", "imap", ANY)[0], home)
        main.failed(home, "imap")
        main.succeeded(home, "imap")
        self.assertEqual(main.candidates("alice", "imap", ANY)[0], home)

    def test_all_suspect(self) -> None:
        """When every member of a shared pool failed, all are still tried."""
        main = pool(shared=True)
        backends = main.candidates("alice", "imap", ANY)
        for backend in backends:
            main.failed(backend, "imap")
        self.assertEqual(main.candidates("alice", "imap", ANY), backends)

    def test_named_member_of_a_shared_pool(self) -> None:
        """A rule's member is tried first; while it is suspect the others go before it."""
        main = pool(shared=True)
        for name in ("be1", "be2", "be3"):
            self.assertEqual(names(main.candidates("alice", "imap", Route("main", name)))[0], name)
        main.failed(main.candidates("alice", "imap", Route("main", "be2"))[0], "imap")
        self.assertEqual(sorted(names(main.candidates("alice", "imap", Route("main", "be2")))[:2]), ["be1", "be3"])

    def test_outside_host_of_a_shared_pool(self) -> None:
        """A host outside has the mail alone: no member stands in for it, and its failures are not kept."""
        main = pool(shared=True)
        (backend,) = main.candidates("alice", "imap", Route("main", "elsewhere"))
        main.failed(backend, "imap")
        self.assertEqual(main.state("elsewhere", "imap"), State.UP)

    def test_least(self) -> None:
        """The member with the fewest sessions for its weight comes first."""
        members = ["be1", {"host": "be2", "weight": 2}, "be3"]
        main = pool(members=members, balance="least")
        chosen: Counter[str] = Counter()
        for user in USERS:
            (backend,) = main.candidates(user, "imap", ANY)
            main.opened(backend, "imap")
            chosen[backend.name] += 1
        self.assertEqual(chosen, {"be1": 75, "be2": 150, "be3": 75})
        for _ in range(10):
            main.closed(Backend("main", "be3", "be3", 143), "imap")
        self.assertEqual(names(main.candidates("alice", "imap", ANY)), ["be3"])

    def test_closed_too_often(self) -> None:
        """Counts neither go below nothing nor know hosts outside."""
        main = pool(balance="least")
        for name in ("be1", "elsewhere"):
            main.closed(Backend("main", name, name, 143), "imap")
        main.opened(Backend("main", "elsewhere", "elsewhere", 143), "imap")
        first = main.candidates("alice", "imap", ANY)[0]
        main.opened(first, "imap")
        self.assertNotEqual(main.candidates("alice", "imap", ANY)[0], first)

    def test_random(self) -> None:
        """Every member comes up, as often as its weight says."""
        main = pool(members=["be1", {"host": "be2", "weight": 3}], balance="random")
        chosen = Counter(main.candidates("alice", "imap", ANY)[0].name for _ in range(2000))
        self.assertApproximates(chosen["be2"] / 2000, 0.75, 0.05)

    def test_hashed_route(self) -> None:
        """A route by hash does not care for the pool's balance."""
        home = ranked("alice", [("be1", 1), ("be2", 1), ("be3", 1)])[0]
        for balance in ("least", "random"):
            main = pool(balance=balance)
            for _ in range(20):
                (backend,) = main.candidates("alice", "imap", Route("main", hashed=True))
                main.opened(backend, "imap")
                self.assertEqual(backend.name, home)
