"""Tests of L{mailgw.ops.live}: sessions that are played, at one place and at several."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.ops.control import Emit, Refused, Row
from mailgw.ops.live import PATIENCE, Here, Live, stands_for


class FakeSession:
    """A session with facts."""

    def __init__(self, name: str, user: str = "anna", backend: str = "main/be1", age: float = 1.0) -> None:
        self.row = {"id": name, "user": user, "protocol": "imap", "client": "192.0.2.1", "tls": True}
        self.row |= {"backend": backend, "age": age, "in": 10, "out": 100}
        self.kicked = 0

    def facts(self) -> Row:
        return dict(self.row)

    def kick(self) -> None:
        self.kicked += 1


class GonePlace:
    """A place that goes away as soon as it is asked."""

    def ask(self, command: str, arguments: Row, emit: Emit) -> Deferred[None]:
        return fail(Refused("the link was lost"))


class LeavingPlace(Here):
    """A place that tells of its sessions, and goes away before they can be ended."""

    def ask(self, command: str, arguments: Row, emit: Emit) -> Deferred[None]:
        if command == "end":
            return fail(Refused("the link was lost"))
        return super().ask(command, arguments, emit)


class HungPlace:
    """A place that never answers."""

    def ask(self, command: str, arguments: Row, emit: Emit) -> Deferred[None]:
        return Deferred()


class StandsForTests(SynchronousTestCase):
    """What USER, ID and @BACKEND mean."""

    def test_all(self) -> None:
        """Nothing is everybody; names in any case; a backend with its pool or without."""
        facts = FakeSession("abc", "Anna@x.org", "main/BE1").facts()
        for what in (None, "abc", "anna@X.ORG", "@be1", "@main/be1"):
            self.assertTrue(stands_for(what, facts), what)
        for what in ("", "anna", "be1", "@", "@main", "@anna@x.org", "ab"):
            self.assertFalse(stands_for(what, facts), what)


class LiveTests(SynchronousTestCase):
    """The commands."""

    def setUp(self) -> None:
        """Two places with three sessions."""
        self.clock = Clock()
        self.one, self.two, self.three = FakeSession("s1", age=5), FakeSession("s2", "ben", age=9), FakeSession("s3")
        self.places: list[Any] = [
            Here([self.one, self.two], Counter({"imap.logins": 4})),
            Here([self.three], Counter({"imap.logins": 3, "mx.refused": 1})),
        ]
        self.faults: Deferred[list[str]] = succeed([])
        self.live = Live(self.clock, lambda: self.places, lambda: self.faults, lambda: {"uptime": 7})
        self.rows: list[Row] = []

    def start(self, command: str, **arguments: Any) -> Deferred[None]:
        """Begin to carry out a command."""
        return Deferred.fromCoroutine(self.live.commands[command](arguments, self.rows.append))  # type: ignore[arg-type]

    def ids(self) -> list[str]:
        """Of the rows so far."""
        return [row["id"] for row in self.rows]

    def test_who(self) -> None:
        """All sessions, the oldest first, with the process that has them; or those of one user."""
        self.successResultOf(self.start("who"))
        self.assertEqual(self.ids(), ["s2", "s1", "s3"])
        self.assertEqual({row["pid"] for row in self.rows}, {os.getpid()})
        self.rows.clear()
        self.successResultOf(self.start("who", what="ANNA"))
        self.assertEqual(self.ids(), ["s1", "s3"])

    def test_stats(self) -> None:
        """Counts of all places are summed, with what is here and now."""
        self.successResultOf(self.start("stats"))
        counts = {"imap.bytes.in": 30, "imap.bytes.out": 300, "imap.logins": 7, "imap.sessions": 3}
        self.assertEqual(self.rows, [{**counts, "mx.refused": 1, "uptime": 7}])
        self.assertEqual(list(self.rows[0]), sorted(self.rows[0]))

    def test_kick(self) -> None:
        """All of a user are ended at once, at all places, and nobody else."""
        self.successResultOf(self.start("kick", what="anna"))
        self.assertEqual((self.one.kicked, self.two.kicked, self.three.kicked), (1, 0, 1))
        self.assertEqual(sorted(self.ids()), ["s1", "s3"])

    def test_kick_nobody(self) -> None:
        """That nobody was meant is said."""
        failure = self.failureResultOf(self.start("kick", what="carl"), Refused)
        self.assertEqual(failure.getErrorMessage(), "no live session is carl")

    def test_pace(self) -> None:
        """One after the other, so many a second, and done with the last."""
        done = self.start("kick", what="@be1", rate=2)
        self.assertEqual(len(self.rows), 1)
        self.clock.advance(0.49)
        self.assertEqual(len(self.rows), 1)
        self.clock.advance(0.01)
        self.assertEqual(len(self.rows), 2)
        self.assertNoResult(done)
        self.clock.advance(0.5)
        self.successResultOf(done)
        self.assertEqual(sorted(self.ids()), ["s1", "s2", "s3"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pace_given_up(self) -> None:
        """When whoever asked has gone, nobody more is kicked."""
        done = self.start("kick", what="@be1", rate=2)
        done.cancel()
        self.clock.advance(10)
        self.assertEqual(len(self.rows), 1)
        self.failureResultOf(done)

    def test_gone(self) -> None:
        """A place that goes away has no sessions and no counts."""
        self.places.insert(1, GonePlace())
        self.successResultOf(self.start("who"))
        self.assertEqual(self.ids(), ["s2", "s1", "s3"])
        self.successResultOf(self.start("stats"))

    def test_gone_meanwhile(self) -> None:
        """A place that goes away with sessions that were to be ended keeps nobody from ending the others."""
        for rate in (0, 100):
            lost = FakeSession("lost")
            last = FakeSession("last")
            self.places[:] = [LeavingPlace([lost], Counter()), Here([last], Counter())]
            self.rows.clear()
            done = self.start("kick", what="anna", rate=rate)
            self.clock.advance(0.01)
            self.successResultOf(done)
            self.assertEqual((lost.kicked, last.kicked, self.ids()), (0, 1, ["last"]))

    def test_hung(self) -> None:
        """A place that does not answer costs time, and the log says so."""
        self.places.insert(0, HungPlace())
        done = self.start("who")
        self.clock.advance(PATIENCE - 0.1)
        self.assertNoResult(done)
        self.clock.advance(0.1)
        self.successResultOf(done)
        self.assertEqual(self.ids(), ["s2", "s1", "s3"])

    def test_ended_meanwhile(self) -> None:
        """A session that has ended by itself between the two looks is not told."""
        sessions = [self.one, self.two]
        place = Here(sessions, Counter())
        self.successResultOf(place.ask("sessions", {}, lambda row: None))
        sessions.remove(self.one)
        self.successResultOf(place.ask("end", {"ids": ["s1", "s2"]}, self.rows.append))
        self.assertEqual((self.ids(), self.one.kicked), (["s2"], 0))

    def test_reload(self) -> None:
        """Done when it is in force; faults are one refusal of several lines."""
        self.successResultOf(self.start("reload"))
        self.faults = succeed(["not reloaded: a", "not reloaded: b"])
        failure = self.failureResultOf(self.start("reload"), Refused)
        self.assertEqual(failure.getErrorMessage(), "not reloaded: a\nnot reloaded: b")

    def test_reload_goes_on(self) -> None:
        """Whoever asked may go away: the reload is not stopped halfway."""
        stopped: list[object] = []
        self.faults = Deferred(stopped.append)
        done = self.start("reload")
        done.cancel()
        self.failureResultOf(done)
        self.assertEqual(stopped, [])
        self.faults.callback([])
