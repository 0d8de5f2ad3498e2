"""Tests of what L{mailgw.routing.pool} makes of health, administration and live sessions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import BackendFailed
from mailgw.model import Backend, Failure, Route
from mailgw.ops.board import Board
from mailgw.ops.tally import LocalTally
from mailgw.routing.pool import ADMIN, ASK, SUSPECT, Pool
from mailgw.routing.rendezvous import ranked
from mailgw.routing.standing import State
from tests.routing.contract import pool

ANY = Route("main")
USERS = [f"user{number}@example.org" for number in range(300)]
MEMBERS = [("be1", 1), ("be2", 1), ("be3", 1)]


class PoolCase(SynchronousTestCase):
    """Pools that share a clock, a tally and a board, as those of several workers do."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.tally = LocalTally(self.clock.seconds)
        self.board = Board()

    def pool(self, **options: Any) -> Pool:
        return pool(clock=self.clock, tally=self.tally, board=self.board, **options)

    def backend(self, main: Pool, name: str, protocol: str = "imap") -> Backend:
        """A member's service."""
        return next(one for one, spoken in main.services() if (one.name, spoken) == (name, protocol))

    def check(self, main: Pool, name: str, fault: str, times: int = 3, able: frozenset[str] = frozenset()) -> bool:
        """So many checks with the same outcome; whether there is no hurry after the last one."""
        backend = self.backend(main, name)
        return [main.checked(backend, "imap", fault, None if fault else able) for _ in range(times)][-1]

    def first(self, main: Pool, username: str, route: Route = ANY, protocol: str = "imap") -> str:
        """Who is tried first."""
        return main.candidates(username, protocol, route)[0].name

    def refused(self, main: Pool, username: str, route: Route = ANY) -> BackendFailed:
        """Why there is nobody to be tried."""
        with self.assertRaises(BackendFailed) as caught:
            main.candidates(username, "imap", route)
        return caught.exception


class HealthTests(PoolCase):
    def test_shared(self) -> None:
        """In a shared pool the users of a member that is down go to the others, everybody else stays, and they come
        home with its recovery.
        """
        main = self.pool(shared=True)
        home = {user: self.first(main, user) for user in USERS}
        self.assertTrue(self.check(main, "be1", "be1 is silent"))
        moved = {user: self.first(main, user) for user in USERS}
        self.assertNotIn("be1", moved.values())
        self.assertEqual({user for user in USERS if moved[user] != home[user]}, {u for u in USERS if home[u] == "be1"})
        self.assertEqual(self.first(main, "alice", Route("main", "be1"), "pop3"), "be1")  # its POP3 is well
        self.check(main, "be1", "", times=2)
        self.assertEqual({user: self.first(main, user) for user in USERS}, home)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.data())
    def test_who_moves(self, weights: list[int], data: st.DataObject) -> None:
        """Whoever of a shared pool is down: exactly its own users move, and all of them come home."""
        self.setUp()
        members = [{"host": f"be{number}", "weight": weight} for number, weight in enumerate(weights)]
        main = self.pool(shared=True, members=members)
        down = data.draw(st.sets(st.sampled_from(range(len(members))), max_size=len(members) - 1))
        home = {user: self.first(main, user) for user in USERS[:60]}
        for number in down:
            self.check(main, f"be{number}", "no")
        for user, name in home.items():
            now = self.first(main, user)
            self.assertEqual(now != name, int(name[2:]) in down)
            self.assertNotIn(int(now[2:]), down)
        for number in down:
            self.check(main, f"be{number}", "", times=2)
        self.assertEqual({user: self.first(main, user) for user in home}, home)

    def test_not_shared(self) -> None:
        """In a pool that is not shared its users get temporary trouble at once: nobody else has their mail."""
        main = self.pool()
        for name in ("be1", "be2"):
            self.check(main, name, f"{name} is silent")
        for user in USERS:
            home = ranked(user, MEMBERS)[0]
            if home == "be3":
                self.assertEqual(self.first(main, user), "be3")
            else:
                self.assertEqual(self.refused(main, user).reason, f"down: {home} is silent")
        self.assertIs(self.refused(main, "alice", Route("main", "be2")).kind, Failure.CONNECT)

    def test_fall(self) -> None:
        """Before the last of its bad checks a member is as good as any other, and the next check is in a hurry."""
        main = self.pool(health_fall=3)
        self.assertFalse(self.check(main, "be1", "no", times=2))
        self.assertIs(main.state("be1", "imap"), State.UP)
        self.assertTrue(self.check(main, "be1", "no", times=1))
        self.assertIs(main.state("be1", "imap"), State.DOWN)
        self.assertFalse(self.check(main, "be1", "", times=1))

    def test_workers(self) -> None:
        """What one process finds out all others know, one that comes later too; a member with another port is new."""
        first, second = self.pool(), self.pool()
        self.check(first, "be1", "no")
        self.assertIs(second.state("be1", "imap"), State.DOWN)
        self.assertIs(self.pool().state("be1", "imap"), State.DOWN)
        elsewhere = self.pool(members=[{"host": "be1", "imap": 1143}, "be2"])
        self.assertIs(elsewhere.state("be1", "imap"), State.UP)
        second.stop()
        self.check(first, "be1", "", times=2)
        self.assertIs(second.state("be1", "imap"), State.DOWN)

    def test_no_checks(self) -> None:
        """A pool without checks takes no notice of what others found out."""
        self.check(self.pool(), "be1", "no")
        main = self.pool(health=0.0)
        self.assertIs(main.state("be1", "imap"), State.UP)
        main.failed(self.backend(main, "be1"), "imap")
        self.assertEqual(self.board.words(SUSPECT), {})

    def test_all_down(self) -> None:
        """When every member of a shared pool is down, they are tried all the same: checks may be wrong."""
        main = self.pool(shared=True)
        for name, _ in MEMBERS:
            self.check(main, name, "no")
        self.assertEqual([one.name for one in main.candidates("alice", "imap", ANY)], ranked("alice", MEMBERS))

    def test_failed_login(self) -> None:
        """A login that fails there asks for a check at once, and again only after a while."""
        main = self.pool()
        asked: list[str] = []
        self.board.watch(SUSPECT, lambda name, value: asked.append(name))
        backend = self.backend(main, "be1")
        for kind in (Failure.TEMPFAIL, Failure.CONNECT, Failure.TIMEOUT):
            main.failed(backend, "imap", kind, "anna", "198.51.100.7")
        self.assertEqual(asked, ["main/be1 imap be1:143"])
        self.clock.advance(ASK)
        main.failed(backend, "imap", Failure.CONNECT, "anna", "198.51.100.7")
        main.failed(Backend("main", "be1", "be1", 9999), "imap")  # a user's own port
        main.failed(self.backend(main, "be2"), "imap", Failure.FULL, "anna", "198.51.100.7")
        self.assertEqual(len(asked), 2)
        self.assertIs(main.state("be2", "imap"), State.UP)

    def test_pitfall_11_banned_client(self) -> None:
        """A client whom a backend dislikes, with however many accounts, takes nobody's home away."""
        main = self.pool(shared=True)
        home = self.first(main, "alice")
        for user in USERS:
            main.failed(self.backend(main, home), "imap", Failure.TEMPFAIL, user, "198.51.100.7")
        self.assertEqual(self.first(main, "alice"), home)
        main.failed(self.backend(main, home), "imap", Failure.TEMPFAIL, "alice", "203.0.113.9")
        self.assertNotEqual(self.first(main, "alice"), home)

    def test_capabilities(self) -> None:
        """What all members announce that are known; nothing is known before the first check."""
        main = self.pool()
        self.assertIsNone(main.capabilities("imap"))
        self.check(main, "be1", "", able=frozenset({"IDLE", "SORT", "X"}))
        self.assertEqual(main.capabilities("imap"), frozenset({"IDLE", "SORT", "X"}))
        self.check(main, "be2", "", able=frozenset({"IDLE", "SORT", "Y"}))
        self.check(main, "be2", "no")
        self.assertEqual(main.capabilities("imap"), frozenset({"IDLE", "SORT"}))
        self.assertIsNone(main.capabilities("pop3"))


class AdministrationTests(PoolCase):
    def test_out_of_service(self) -> None:
        """Whom an administrator took out gets no login: others serve in a shared pool, in others users wait."""
        for word in ("drain", "down"):
            self.board.put(ADMIN, "main/be1", word)
            shared, single = self.pool(shared=True), self.pool()
            for user in USERS:
                names = [one.name for one in shared.candidates(user, "imap", Route("main", "be1"))]
                self.assertEqual(sorted(names), ["be2", "be3"])
            self.assertIs(self.refused(single, "alice", Route("main", "be1")).kind, Failure.TEMPFAIL)
            self.assertIn(word, self.refused(single, "alice", Route("main", "be1")).reason)
            self.assertEqual(self.first(single, "alice", Route("main", "be2")), "be2")

    def test_all_drained(self) -> None:
        """With nobody in service even a shared pool has nobody to try; users come home when they are back."""
        main = self.pool(shared=True)
        for name, _ in MEMBERS:
            self.board.put(ADMIN, f"main/{name}", "drain")
        self.assertIs(self.refused(main, "alice").kind, Failure.TEMPFAIL)
        for word in (None, "up"):
            self.board.put(ADMIN, f"main/{ranked('alice', MEMBERS)[0]}", word)
            self.assertEqual(self.first(main, "alice"), ranked("alice", MEMBERS)[0])

    def test_not_even_with_a_session(self) -> None:
        """Not even a user with a live session lands on a member that is drained."""
        main = self.pool(shared=True, balance="least")
        backend = main.candidates("alice", "imap", ANY)[0]
        main.opened(backend, "imap", "alice")
        self.board.put(ADMIN, f"main/{backend.name}", "drain")
        self.assertNotEqual(self.first(main, "alice"), backend.name)


class RowTests(PoolCase):
    def test_rows(self) -> None:
        """Every service of every member, with what is known of it."""
        main = self.pool(members=["be1", {"host": "10.0.0.7", "name": "be2", "weight": 3}], pop3=None)
        self.check(main, "be1", "be1 is silent")
        self.board.put(ADMIN, "main/be2", "drain")
        main.opened(self.backend(main, "be2"), "imap")
        common = {"pool": "main", "port": 143, "protocol": "imap"}
        down = {"health": "down", "reason": "be1 is silent", "since": 1000.0, "admin": "up", "sessions": 0, "weight": 1}
        new = {"health": "unchecked", "reason": "", "since": None, "admin": "drain", "sessions": 1, "weight": 3}
        self.assertEqual(
            main.rows(),
            [{**common, "name": "be1", "host": "be1", **down}, {**common, "name": "be2", "host": "10.0.0.7", **new}],
        )
        self.check(main, "be2", "")
        self.assertEqual(main.rows()[1]["health"], "up")
        main.failed(self.backend(main, "be2"), "imap")
        self.assertEqual(main.rows()[1]["health"], "suspect")


class StickinessTests(PoolCase):
    def stay(self, main: Pool, user: str) -> Backend:
        """Log in where the pool says, and stay."""
        backend = main.candidates(user, "imap", ANY)[0]
        self.successResultOf(Deferred.fromCoroutine(main.reserve(backend, user)))
        main.opened(backend, "imap", user)
        main.release(backend, user)
        return backend

    def test_one_backend_a_user(self) -> None:
        """While a user has a session in a shared pool, all of his logins go there, through any worker."""
        for balance in ("least", "random"):
            here, there = (self.pool(shared=True, balance=balance) for _ in range(2))
            home = self.stay(here, "alice")
            for number in range(60):
                self.stay((here, there)[number % 2], f"user{number}")
                self.assertEqual(self.first(there, "alice", protocol="pop3"), home.name)
            here.closed(home, "imap", "alice")

    def test_login_in_flight(self) -> None:
        """A second login that comes before the first one is done follows it."""
        main = self.pool(shared=True, balance="random")
        backend = main.candidates("alice", "imap", ANY)[0]
        self.successResultOf(Deferred.fromCoroutine(main.reserve(backend, "alice")))
        self.assertEqual({self.first(main, "alice") for _ in range(50)}, {backend.name})
        main.release(backend, "alice")
        self.assertEqual({self.first(main, "alice") for _ in range(50)}, {"be1", "be2", "be3"})

    def test_not_where_it_is_down(self) -> None:
        """A live session does not hold a user on a member that is down for others."""
        main = self.pool(shared=True, balance="least")
        home = self.stay(main, "alice")
        self.check(main, home.name, "no")
        self.assertNotEqual(self.first(main, "alice"), home.name)

    def test_hash_has_no_memory(self) -> None:
        """With the hash users come home at once, live sessions elsewhere or not."""
        main = self.pool(shared=True)
        home = self.first(main, "alice")
        self.check(main, home, "no")
        self.assertNotEqual(self.stay(main, "alice").name, home)
        self.check(main, home, "", times=2)
        self.assertEqual(self.first(main, "alice"), home)


class SlowStartTests(PoolCase):
    def test_grows(self) -> None:
        """A member that is back gets a growing share of the users, with least and with random."""
        for balance in ("least", "random"):
            main = self.pool(shared=True, balance=balance, slow_start="30s", health_fall=1, health_rise=1)
            for _, fault in (("down", "no"), ("back", "")):
                self.check(main, "be1", fault, times=1)
            shares = []
            for seconds in (0.0, 15.0, 20.0):
                self.clock.advance(seconds)
                chosen: Counter[str] = Counter()
                for number in range(300):
                    backend = main.candidates(f"{seconds} {number}", "imap", ANY)[0]
                    main.opened(backend, "imap", f"{seconds} {number}")
                    chosen[backend.name] += 1
                for user in range(300):
                    for name in chosen:
                        if main._places.of_user(name, f"{seconds} {user}"):
                            main.closed(self.backend(main, name), "imap", f"{seconds} {user}")
                shares.append(chosen["be1"] / 300)
            self.assertLess(shares[0], 0.08)
            self.assertApproximates(shares[1], 0.2, 0.07)
            self.assertApproximates(shares[2], 1 / 3, 0.09)
