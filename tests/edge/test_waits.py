"""Deadlines in a queue."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.edge.waits import Waits


class WaitsTests(SynchronousTestCase):
    """L{Waits}, three seconds long."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.waits = Waits(self.clock, 3)
        self.late: list[str] = []

    def begin(self, name: str) -> object:
        """Begin to wait, and remember who was late."""
        return self.waits.begin(lambda: self.late.append(name))

    def test_late(self) -> None:
        """Each is late at its own time, once."""
        self.begin("first")
        self.clock.advance(1)
        self.begin("second")
        self.clock.advance(1.9)
        self.assertEqual(self.late, [])
        self.clock.advance(0.1)
        self.assertEqual(self.late, ["first"])
        self.clock.advance(1)
        self.assertEqual(self.late, ["first", "second"])
        self.clock.advance(9)
        self.assertEqual((self.late, self.clock.getDelayedCalls()), (["first", "second"], []))

    def test_ended(self) -> None:
        """Who ends in time hears nothing, wherever in the queue, and leaves nothing behind."""
        waits = [self.waits.begin(lambda name=name: self.late.append(name)) for name in "abc"]
        for index in (1, 0, 2):
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            self.waits.end(waits[index])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(3)
        self.assertEqual(self.late, [])

    def test_the_next_one(self) -> None:
        """The timer of one that ended does not shorten the next one's time."""
        first = self.waits.begin(lambda: self.late.append("first"))
        self.clock.advance(2)
        self.begin("second")
        self.waits.end(first)
        self.clock.advance(2.9)
        self.assertEqual(self.late, [])
        self.clock.advance(0.1)
        self.assertEqual(self.late, ["second"])

    def test_ended_twice(self) -> None:
        """An end after the time, or a second one, is no other's end."""
        first = self.waits.begin(lambda: self.late.append("first"))
        self.clock.advance(2)
        self.begin("second")
        self.clock.advance(1)
        self.waits.end(first)
        self.waits.end(first)
        self.clock.advance(2)
        self.assertEqual(self.late, ["first", "second"])

    def test_broken(self) -> None:
        """What one of them raises costs no other its deadline."""

        def broken() -> None:
            raise ZeroDivisionError

        self.waits.begin(broken)
        self.begin("second")
        self.assertRaises(ZeroDivisionError, self.clock.advance, 3)
        self.clock.advance(0)
        self.assertEqual(self.late, ["second"])

    def test_again(self) -> None:
        """Who is late may begin anew."""
        self.waits.begin(lambda: self.begin("again") and None)
        self.clock.advance(3)
        self.clock.advance(3)
        self.assertEqual(self.late, ["again"])
