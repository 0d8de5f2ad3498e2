"""Tests of L{mailgw.ops.holds}."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import LoginRefused
from mailgw.model import RefusalKind
from mailgw.ops.board import Board
from mailgw.ops.holds import HOLD, Holds


class HoldsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Anna is held, for ten seconds at most."""
        self.clock, self.board = Clock(), Board()
        self.holds = Holds(self.board, self.clock)
        self.board.post(HOLD, "anna", "10")

    def waiting(self) -> Deferred[None]:
        """A login of Anna's."""
        over = self.holds.over("anna")
        assert over is not None
        self.assertNoResult(over)
        return over

    def test_others(self) -> None:
        """Nobody else waits."""
        self.assertIsNone(self.holds.over("ben"))

    def test_released(self) -> None:
        """All go on in one go when the hold is over, and nothing is left of it."""
        waiting = [self.waiting() for _ in range(3)]
        self.board.post(HOLD, "ben", "10")
        self.board.post(HOLD, "ben", None)
        self.assertNoResult(waiting[0])
        self.board.post(HOLD, "anna", None)
        for one in waiting:
            self.successResultOf(one)
        self.assertIsNone(self.holds.over("anna"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_long(self) -> None:
        """Each login waits that long at most, and is told of temporary trouble; the hold goes on."""
        first = self.waiting()
        self.clock.advance(6)
        second = self.waiting()
        self.clock.advance(4)
        refusal = self.failureResultOf(first, LoginRefused).value.refusal
        self.assertIs(refusal.kind, RefusalKind.UNAVAILABLE)
        self.assertNoResult(second)
        self.board.post(HOLD, "anna", None)
        self.successResultOf(second)

    def test_client_gone(self) -> None:
        """A client that goes away leaves nothing behind."""
        gone, stays = self.waiting(), self.waiting()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.board.post(HOLD, "anna", None)
        self.successResultOf(stays)
