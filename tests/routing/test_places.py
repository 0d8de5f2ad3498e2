"""Tests of L{mailgw.routing.places}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import BackendFailed
from mailgw.model import Failure
from mailgw.ops.tally import LocalTally
from mailgw.routing.places import LOOK, Places
from mailgw.settings import Pool


class PlacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.tally = LocalTally(self.clock.seconds)

    def places(self, **options: Any) -> Places:
        """Of one process; another one has another, with the same tally."""
        return Places("main", Pool(**options), ("imap", "pop3"), self.tally, self.clock)

    def reserve(self, places: Places, member: str = "be1", username: str = "") -> Deferred[None]:
        """Ask for a place."""
        return Deferred.fromCoroutine(places.reserve(member, username))

    def test_no_caps(self) -> None:
        """Without caps nobody waits, and nothing is counted but sessions."""
        places = self.places()
        for _ in range(1000):
            self.successResultOf(self.reserve(places))
        places.opened("be1", "imap")
        places.opened("be1", "pop3")
        self.assertEqual((places.sessions("be1"), places.sessions("be1", "imap"), len(self.tally)), (2, 1, 2))
        self.assertEqual(places.of_user("be1", "anna"), 0)

    def test_logins(self) -> None:
        """A login more than allowed waits until one is over; they come in their order; other members are free."""
        places = self.places(max_logins=2)
        for _ in range(2):
            self.successResultOf(self.reserve(places))
        third, fourth = self.reserve(places), self.reserve(places)
        self.assertNoResult(third)
        self.successResultOf(self.reserve(places, "be2"))
        places.release("be1")
        self.successResultOf(third)
        self.assertNoResult(fourth)
        places.release("be1")
        self.successResultOf(fourth)
        self.clock.advance(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_queue_is_short(self) -> None:
        """Who waits for too long is told so, and has taken nothing."""
        places = self.places(max_logins=1, queue="2s")
        self.successResultOf(self.reserve(places))
        second = self.reserve(places)
        self.clock.pump([LOOK] * 19)
        self.assertNoResult(second)
        self.clock.advance(LOOK * 2)
        error = self.failureResultOf(second, BackendFailed).value
        assert isinstance(error, BackendFailed)
        self.assertIs(error.kind, Failure.FULL)
        places.release("be1")
        self.assertEqual(len(self.tally), 0)
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_given_up(self) -> None:
        """A client that goes away waits no more, and is no login."""
        places = self.places(max_logins=1)
        self.successResultOf(self.reserve(places))
        second, third = self.reserve(places), self.reserve(places)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        places.release("be1")
        self.successResultOf(third)

    def test_connections(self) -> None:
        """Sessions count with the logins in flight; a session that ends makes a place."""
        places = self.places(max_connections=2)
        for _ in range(2):
            self.successResultOf(self.reserve(places))
            places.opened("be1", "imap")
            places.release("be1")
        third = self.reserve(places)
        self.assertNoResult(third)
        places.closed("be1", "imap")
        self.successResultOf(third)
        self.assertNoResult(fourth := self.reserve(places))
        places.release("be1")  # it failed there
        self.successResultOf(fourth)

    def test_other_process(self) -> None:
        """The caps are those of all workers together; a place that another one gives back is found soon."""
        here, there = self.places(max_logins=1), self.places(max_logins=1)
        self.successResultOf(self.reserve(there))
        waiting = self.reserve(here)
        there.release("be1")
        self.assertNoResult(waiting)
        self.clock.advance(LOOK)
        self.successResultOf(waiting)

    def test_whose(self) -> None:
        """In a shared pool whose balance moves users it is known where a user is, from the login on to the end."""
        for options, expected in (({"shared": True, "balance": "least"}, 1), ({"balance": "least"}, 0), ({}, 0)):
            places = self.places(**options)
            self.successResultOf(self.reserve(places, username="anna"))
            self.assertEqual(places.of_user("be1", "anna"), expected)
            places.opened("be1", "imap", "anna")
            places.release("be1", "anna")
            self.assertEqual([places.of_user(*who) for who in (("be1", "anna"), ("be2", "anna"))], [expected, 0])
            places.closed("be1", "imap", "anna")
            self.assertEqual((places.of_user("be1", "anna"), len(self.tally)), (0, 0))
