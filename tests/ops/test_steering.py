"""Tests of L{mailgw.ops.steering} and L{mailgw.ops.place}: a gateway of two workers in one process, on a clock."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import SessionKey
from mailgw.ops.accounting import Accountant
from mailgw.ops.board import Copy, MasterBoard
from mailgw.ops.control import Command, ControlLink, Refused, Row
from mailgw.ops.guide import OVERRIDE, Guide
from mailgw.ops.holds import HOLD, Holds
from mailgw.ops.place import Place
from mailgw.ops.steering import BACKEND, GOODBYE, PATIENCE, TURN, Steering
from mailgw.ops.tally import LocalTally
from mailgw.settings import Limits
from tests.ops.linked import Pipe


class FakeSession:
    """A session that ends when it is kicked, or lingers until the test ends it."""

    def __init__(self, worker: FakeWorker, number: str, user: str, backend: str) -> None:
        self.worker, self.id, self.owner, self.backend = worker, number, user, backend
        self.there, self.lingers, self.kicked = True, False, 0

    def facts(self) -> Row:
        user = self.owner if self.there else "-"
        return {"id": self.id, "user": user, "protocol": "imap", "backend": self.backend, "age": 0.0}

    def kick(self) -> None:
        self.kicked += 1
        if not self.lingers:
            self.end()

    def end(self) -> None:
        """It is over."""
        self.worker.sessions.discard(self)
        self.worker.accountant.leave(SessionKey(self.id, "imap", "", self.owner))


class FakeGuide:
    """Knows anna and ben, be1 and be2."""

    def __init__(self) -> None:
        self.flushed: list[str | None] = []

    async def meaning(self, user: str, backend: str | None) -> Row:
        known = {"anna": "anna@x", "anna@x": "anna@x", "ben": "ben@x"}
        if backend == "nowhere":
            raise Refused("no such backend")
        return {"user": known.get(user), "target": backend and f"main/{backend}"}

    def flush(self, user: str | None) -> Row:
        self.flushed.append(user)
        return {"logins": 2, "routes": 1}

    async def explain(self, user: str, protocol: str) -> Row:
        return {"user": user, "protocol": protocol}

    def backends(self) -> list[Row]:
        names = ("be1", "be2")
        return [{"pool": "main", "name": name, "at": f"main/{name}", "protocol": "imap"} for name in names]


class FakeWorker:
    """One worker: its sessions, its board and its link to the master."""

    def __init__(self, clock: Clock, master: MasterBoard) -> None:
        self.sessions: set[FakeSession] = set()
        self.accountant = Accountant(Limits(), LocalTally(clock.seconds))
        self.guide = FakeGuide()
        place = Place(self.sessions, Counter(), self.accountant, lambda: cast(Guide, self.guide))
        self.board = Copy("token")
        self.holds = Holds(self.board, clock)
        self.link = ControlLink()
        self.pipe = Pipe(self.link, ControlLink({**place.commands, **self.board.commands}))
        self.link.commands = master.commands(self.link)
        self.board.follow(self.pipe.far)

    async def log_in(self, number: str, user: str = "anna@x", backend: str = "main/be1") -> FakeSession:
        """As the realm does it: wait for the end of a hold, be counted, and ask for the way in one go."""
        if (over := self.holds.over(user)) is not None:
            await over
        await self.accountant.enter(SessionKey(number, "imap", "", user))
        session = FakeSession(self, number, user, self.board.get(OVERRIDE, user) or backend)
        self.sessions.add(session)
        return session


class SteeringCase(SynchronousTestCase):
    def setUp(self) -> None:
        """A master and two workers."""
        self.clock = Clock()
        folder = Path(self.mktemp())
        folder.mkdir()
        self.board = MasterBoard(str(folder), "token")
        self.workers = [FakeWorker(self.clock, self.board) for _ in range(2)]
        self.steering = Steering(self.clock, self.places, self.board)
        self.carry()

    def places(self) -> list[ControlLink]:
        """The links to all workers that are there."""
        return [worker.link for worker in self.workers]

    def carry(self) -> None:
        """Bring everything that was said to its ear."""
        while sum(worker.pipe.carry() for worker in self.workers):
            pass

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / TURN)):
            self.clock.advance(TURN)
            self.carry()

    def session(self, worker: int, number: str, user: str = "anna@x", backend: str = "main/be1") -> FakeSession:
        """A session that is there."""
        logging_in = Deferred.fromCoroutine(self.workers[worker].log_in(number, user, backend))
        session: FakeSession = self.successResultOf(logging_in)
        return session

    def do(self, command: str, **arguments: Any) -> tuple[Deferred[None], list[Row]]:
        """Begin a command: when it is done, and its rows."""
        rows: list[Row] = []
        begun: Command = self.steering.commands[command]
        done = Deferred.fromCoroutine(cast(Any, begun(arguments, rows.append)))
        self.carry()
        return done, rows


class MoveTests(SteeringCase):
    def test_moved(self) -> None:
        """All sessions of the user end, on every worker, nobody else's; the row tells how many."""
        old = [self.session(0, "a"), self.session(1, "b"), self.session(1, "c")]
        ben = self.session(0, "d", "ben@x")
        done, rows = self.do("move", user="anna", backend="be2", hold=30)
        self.pass_time(TURN)
        self.successResultOf(done)
        self.assertEqual(rows, [{"user": "anna@x", "backend": "main/be2", "ended": 3}])
        self.assertEqual([one.kicked for one in (*old, ben)], [1, 1, 1, 0])
        self.assertEqual([worker.board.get(OVERRIDE, "anna@x") for worker in self.workers], ["main/be2"] * 2)
        self.assertEqual(self.session(0, "e").backend, "main/be2")
        self.assertEqual([worker.guide.flushed for worker in self.workers], [["anna@x"]] * 2)

    def test_new_logins_wait(self) -> None:
        """Until the last old session is gone new logins wait, and then they go to the new backend."""
        old = self.session(0, "a")
        old.lingers = True
        done, _ = self.do("move", user="anna", backend="be2", hold=30)
        new = [Deferred.fromCoroutine(worker.log_in("n")) for worker in self.workers]
        ben = self.session(1, "d", "ben@x")
        self.pass_time(2)
        for one in (*new, done):
            self.assertNoResult(one)
        self.assertEqual(ben.backend, "main/be1")
        old.end()
        self.pass_time(TURN)
        self.successResultOf(done)
        for one in new:
            self.assertEqual(self.successResultOf(one).backend, "main/be2")

    def test_in_flight(self) -> None:
        """A login that passed before the hold gets to the old backend and is ended there before the move is done."""
        late = self.session(1, "a")
        late.there = False
        done, rows = self.do("move", user="anna", backend="be2", hold=30)
        self.pass_time(1)
        self.assertEqual(late.kicked, 0)
        self.assertNoResult(done)
        late.there = True
        self.pass_time(2 * TURN)
        self.successResultOf(done)
        self.assertEqual((late.kicked, rows[0]["ended"]), (1, 1))

    def test_in_flight_to_a_dead_backend(self) -> None:
        """A login that gets nowhere is given up after a while."""
        late = self.session(1, "a")
        late.there = False
        done, _ = self.do("move", user="anna", backend="be2", hold=30)
        self.pass_time(PATIENCE - 2 * TURN)
        self.assertEqual(late.kicked, 0)
        self.pass_time(4 * TURN)
        self.successResultOf(done)
        self.assertEqual(late.kicked, 1)

    def test_hold_reaches_everybody_first(self) -> None:
        """Before the last worker knows of the hold nothing is overridden and nobody is ended."""
        old = self.session(0, "a")
        done: Deferred[None] = Deferred.fromCoroutine(
            cast(Any, self.steering.move({"user": "anna", "backend": "be2", "hold": 30}, lambda row: None))
        )
        fast, slow = self.workers
        slow.pipe.carry()  # who the user is
        slow.pipe.carry()
        for _ in range(5):
            fast.pipe.carry()
        self.assertEqual((fast.board.get(HOLD, "anna@x"), slow.board.get(HOLD, "anna@x")), ("30", None))
        self.assertEqual((old.kicked, self.board.get(OVERRIDE, "anna@x")), (0, None))
        self.carry()
        self.pass_time(TURN)
        self.successResultOf(done)

    def test_released(self) -> None:
        """When it is done, or has failed, nobody is held."""
        for backend in ("be2", "nowhere"):
            done, _ = self.do("move", user="anna", backend=backend, hold=30)
            self.pass_time(TURN)
            self.failureResultOf(done, Refused) if backend == "nowhere" else self.successResultOf(done)
            self.assertEqual([worker.board.get(HOLD, "anna@x") for worker in self.workers], [None, None])

    def test_worker_dies(self) -> None:
        """A worker that dies meanwhile takes its sessions with it, and the move goes on without it."""
        self.session(0, "a").lingers = True
        done, _ = self.do("move", user="anna", backend="be2", hold=30)
        self.pass_time(1)
        self.workers.pop(0).pipe.cut()
        self.pass_time(TURN)
        self.successResultOf(done)

    def test_never_gone(self) -> None:
        """A session that cannot be ended is told of, and does not hold the user for ever."""
        self.session(0, "a").lingers = True
        done, _ = self.do("move", user="anna", backend="be2", hold=1)
        self.pass_time(PATIENCE + GOODBYE + 1)
        self.assertIn("1 of the old sessions", str(self.failureResultOf(done, Refused).value))
        self.assertIsNone(self.board.get(HOLD, "anna@x"))

    def test_hanging_worker(self) -> None:
        """A worker that does not answer is told of: nobody knows whom it still lets in."""
        done: Deferred[None] = Deferred.fromCoroutine(
            cast(Any, self.steering.move({"user": "anna", "backend": "be2", "hold": 0}, lambda row: None))
        )
        self.workers.reverse()
        hanging = self.workers.pop()
        self.carry()
        for _ in range(int((PATIENCE + GOODBYE) / TURN) * 3):
            self.clock.advance(TURN)
            self.carry()
        self.assertIn("has not answered", str(self.failureResultOf(done, Refused).value))
        self.workers.append(hanging)
        self.carry()

    def test_asker_goes_away(self) -> None:
        """A move that was begun is ended, whoever waits for it."""
        old = self.session(0, "a")
        old.lingers = True
        done, rows = self.do("move", user="anna", backend="be2", hold=30)
        self.pass_time(1)
        done.cancel()
        self.failureResultOf(done)
        self.assertEqual(self.board.get(HOLD, "anna@x"), "30")
        old.end()
        self.pass_time(2 * TURN)
        self.assertIsNone(self.board.get(HOLD, "anna@x"))
        self.assertEqual((self.board.get(OVERRIDE, "anna@x"), rows), ("main/be2", []))

    def test_one_at_a_time(self) -> None:
        """Two moves of one user at the same time would release each other's hold."""
        old = self.session(0, "a")
        old.lingers = True
        first, _ = self.do("move", user="anna", backend="be2", hold=30)
        done, _ = self.do("move", user="anna@x", backend="be1", hold=30)
        self.assertIn("being moved", str(self.failureResultOf(done, Refused).value))
        old.end()
        self.pass_time(TURN)
        self.successResultOf(first)

    def test_clear(self) -> None:
        """Cleared, the rules decide again; there is nothing to clear twice."""
        self.do("move", user="anna", backend="be2", hold=30)
        self.pass_time(TURN)
        self.session(0, "a")
        done, rows = self.do("move", user="anna", backend=None, hold=30)
        self.pass_time(TURN)
        self.successResultOf(done)
        self.assertEqual(rows, [{"user": "anna@x", "backend": None, "ended": 1}])
        self.assertEqual(self.session(0, "b").backend, "main/be1")
        done, _ = self.do("move", user="anna", backend=None, hold=30)
        self.assertIn("was not moved", str(self.failureResultOf(done, Refused).value))

    def test_unknown(self) -> None:
        """Nobody who is not known is moved, but who has left can be cleared."""
        done, _ = self.do("move", user="carl@x", backend="be2", hold=30)
        self.assertIn("no directory knows 'carl@x'", str(self.failureResultOf(done, Refused).value))
        self.board.post(OVERRIDE, "carl@x", "main/be2")
        done, _ = self.do("move", user="carl@x", backend=None, hold=30)
        self.pass_time(TURN)
        self.successResultOf(done)
        self.assertIsNone(self.board.get(OVERRIDE, "carl@x"))

    def test_nobody_there(self) -> None:
        """While workers are being started nobody can say who a user is."""
        self.workers.clear()
        done, _ = self.do("move", user="anna", backend="be2", hold=30)
        self.failureResultOf(done, Refused)


class BackendTests(SteeringCase):
    def test_listed(self) -> None:
        """The rows of the newest worker."""
        done, rows = self.do("backend")
        self.successResultOf(done)
        self.assertEqual([row["at"] for row in rows], ["main/be1", "main/be2"])

    def test_drain(self) -> None:
        """Sessions stay; who may have got the old answer is there before the command is done."""
        stays, late = self.session(0, "a"), self.session(1, "b", "ben@x")
        late.there = False
        done, rows = self.do("backend", name="BE1", state="drain")
        self.assertEqual([worker.board.get(BACKEND, "main/be1") for worker in self.workers], ["drain"] * 2)
        self.pass_time(1)
        self.assertNoResult(done)
        late.there = True
        self.session(0, "c").there = False  # began after everybody knew: not waited for
        self.pass_time(TURN)
        self.successResultOf(done)
        self.assertEqual([row["at"] for row in rows], ["main/be1"])
        self.assertEqual((stays.kicked, late.kicked), (0, 0))

    def test_drain_with_a_slow_login(self) -> None:
        """A login that takes for ever is not waited for so long."""
        self.session(1, "b").there = False
        done, _ = self.do("backend", name="be1", state="drain")
        self.pass_time(PATIENCE + TURN)
        self.successResultOf(done)

    def test_down(self) -> None:
        """The sessions there are ended, those elsewhere are not."""
        here, there = self.session(0, "a"), self.session(1, "b", backend="main/be2")
        here.lingers = True
        done, _ = self.do("backend", name="main/be1", state="down")
        self.pass_time(1)
        self.assertNoResult(done)
        here.end()
        self.pass_time(TURN)
        self.successResultOf(done)
        self.assertEqual(there.kicked, 0)
        self.assertEqual(self.board.words(BACKEND), {"main/be1": "down"})

    def test_down_and_not_empty(self) -> None:
        """A session there that does not end is told of."""
        self.session(0, "a").lingers = True
        done, _ = self.do("backend", name="be1", state="down")
        self.pass_time(GOODBYE + 1)
        self.assertIn("1 of its sessions", str(self.failureResultOf(done, Refused).value))

    def test_up(self) -> None:
        """In service is what needs no word."""
        for state in ("down", "up"):
            done, _ = self.do("backend", name="be1", state=state)
            self.pass_time(TURN)
            self.successResultOf(done)
        self.assertEqual(self.board.words(BACKEND), {})

    def test_refused(self) -> None:
        """No such backend, no such state."""
        for name, state, words in (("be9", "up", "there are main/be1, main/be2"), ("be1", "off", "not one of")):
            done, _ = self.do("backend", name=name, state=state)
            self.assertIn(words, str(self.failureResultOf(done, Refused).value))
        self.assertEqual(self.board.words(BACKEND), {})


class AskingTests(SteeringCase):
    def test_flush(self) -> None:
        """Every worker forgets; the row tells how much that was."""
        done, rows = self.do("flush", user="anna")
        self.successResultOf(done)
        self.assertEqual(rows, [{"logins": 4, "routes": 2}])
        self.assertEqual([worker.guide.flushed for worker in self.workers], [["anna"]] * 2)

    def test_route(self) -> None:
        """The newest worker is asked."""
        done, rows = self.do("route", user="anna", protocol="pop3")
        self.successResultOf(done)
        self.assertEqual(rows, [{"user": "anna", "protocol": "pop3"}])
