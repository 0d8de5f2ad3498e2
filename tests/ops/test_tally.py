"""Tests of L{mailgw.ops.tally}."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.interfaces import ITally
from mailgw.ops.tally import LocalTally, SharedMemory, SharedTally

SECRET = b"of the tests"


class TallyContract:
    """What every tally does."""

    def make(self, clock: Clock) -> ITally:
        """A tally."""
        raise NotImplementedError

    def setUp(self: Any) -> None:
        """A tally and its clock."""
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.tally = self.make(self.clock)

    def test_interface(self: Any) -> None:
        """It is what the limits count on."""
        self.assertTrue(verifyObject(ITally, self.tally))

    def test_counts(self: Any) -> None:
        """Each name has its own count."""
        self.assertEqual([self.tally.add("a"), self.tally.add("a"), self.tally.add("b")], [1, 2, 1])
        self.tally.take("a")
        self.assertEqual([self.tally.total(name) for name in "abc"], [1, 1, 0])
        self.assertEqual(self.tally.add("a"), 2)

    def test_taken_once_too_often(self: Any) -> None:
        """A name that nobody counted stays at nothing."""
        self.tally.take("a")
        self.assertEqual(self.tally.total("a"), 0)
        self.assertEqual(self.tally.add("a"), 1)

    def test_expiry(self: Any) -> None:
        """What expires is gone at its time, which the last who counted has set."""
        end = self.clock.seconds() + 10
        self.assertEqual([self.tally.add("a", end), self.tally.add("a", end + 5)], [1, 2])
        self.clock.advance(12)
        self.assertEqual(self.tally.total("a"), 2)
        self.clock.advance(4)
        self.assertEqual(self.tally.total("a"), 0)
        self.assertEqual(self.tally.add("a", end + 60), 1)

    def test_expiring_taken(self: Any) -> None:
        """What expires can be taken off before."""
        end = self.clock.seconds() + 10
        self.tally.add("a", end)
        self.tally.add("a", end)
        self.tally.take("a", end)
        self.assertEqual(self.tally.total("a"), 1)

    def test_like_a_counter(self: Any) -> None:
        """Thousands of names that come and go are counted as a counter does."""
        dice, expected = random.Random(5), Counter[str]()
        for _ in range(20_000):
            name = f"name {dice.randrange(3000)}"
            if expected[name] and dice.random() < 0.5:
                expected[name] -= 1
                self.tally.take(name)
            else:
                expected[name] += 1
                self.assertEqual(self.tally.add(name), expected[name])
        for name, count in expected.items():
            self.assertEqual(self.tally.total(name), count)


class LocalTallyTests(TallyContract, SynchronousTestCase):
    def make(self, clock: Clock) -> ITally:
        """The tally of one process."""
        return LocalTally(clock.seconds, remembered=5)

    def test_bounded(self) -> None:
        """Of names that expire only so many are remembered; names of what is there are never forgotten."""
        self.tally.add("there")
        for number in range(50):
            self.tally.add(f"expires {number}", self.clock.seconds() + 60)
        self.assertEqual(len(self.tally), 6)
        self.assertEqual(self.tally.total("expires 49"), 1)
        self.tally.take("there")
        self.assertEqual(len(self.tally), 5)


class SharedTallyTests(TallyContract, SynchronousTestCase):
    def make(self, clock: Clock) -> ITally:
        """The tally of one worker of three, the others of which count nothing."""
        self.shared = SharedMemory(3)
        self.addCleanup(self.shared.close)
        self.siblings = [self.sibling() for _ in range(2)]
        return self.sibling()

    def sibling(self) -> SharedTally:
        """One more worker's."""
        region = self.shared.take_region()
        assert region is not None
        return SharedTally(self.shared, region, SECRET, self.clock.seconds)

    def test_summed(self) -> None:
        """Each worker sees what all of them have counted, and takes off its own only."""
        for number, tally in enumerate([self.tally, *self.siblings]):
            self.assertEqual(tally.add("a"), number + 1)
        self.siblings[0].take("a")
        self.assertEqual([tally.total("a") for tally in [self.tally, *self.siblings]], [2, 2, 2])

    def test_taken_by_a_sibling(self) -> None:
        """What expires may be taken off by another worker than the one that counted it."""
        end = self.clock.seconds() + 60
        self.tally.add("failure", end)
        self.tally.add("failure", end)
        self.siblings[0].take("failure", end)
        self.assertEqual(self.tally.total("failure"), 1)
        self.siblings[1].take("failure", end)
        self.siblings[1].take("failure", end)
        self.assertEqual(self.tally.total("failure"), 0)

    def test_gone_writer(self) -> None:
        """What a worker had counted that is gone counts no more, and another may take its region."""
        self.tally.add("a")
        self.siblings[0].add("a")
        self.assertIsNone(self.shared.take_region())
        self.shared.give_region(0)
        self.assertEqual(self.tally.total("a"), 1)
        self.assertEqual(self.shared.take_region(), 0)
        self.assertEqual(SharedTally(self.shared, 0, SECRET, self.clock.seconds).add("a"), 2)

    def test_another_process(self) -> None:
        """Another process that has the file counts on the same memory."""
        self.tally.add("a")
        child = os.fork()
        if not child:
            try:
                mapped = SharedMemory(3, self.shared.fileno)
                os._exit(SharedTally(mapped, 1, SECRET, self.clock.seconds).add("a"))
            finally:
                os._exit(99)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 2)
        self.assertEqual(self.tally.total("a"), 2)

    def crowd(self, count: int) -> list[str]:
        """So many names that share their places."""
        wanted, found = self.tally._place("name 0")[1], []
        number = 0
        while len(found) < count:
            if self.tally._place(f"name {number}")[1] == wanted:
                found.append(f"name {number}")
            number += 1
        return found

    def test_crowded(self) -> None:
        """Where more names meet than have room, the rest is right in this worker at least."""
        names = self.crowd(9)
        for name in names:
            self.tally.add(name)
            self.tally.add(name)
        self.assertEqual([self.tally.total(name) for name in names], [2] * 9)
        self.assertEqual([self.siblings[0].total(name) for name in names], [2] * 8 + [0])
        for name in names:
            self.tally.take(name)
            self.tally.take(name)
        self.assertEqual([self.tally.total(name) for name in names], [0] * 9)
        self.assertEqual(self.siblings[0].add(names[8]), 1)

    def test_crowded_by_what_expires(self) -> None:
        """What expires gives way: the soonest to what expires too, and any of it to what is there."""
        names, now = self.crowd(9), self.clock.seconds()
        for number, name in enumerate(names):
            self.tally.add(name, now + 60 + number)
        self.assertEqual([self.tally.total(name) for name in names], [0, *[1] * 8])
        self.tally.add(names[0])
        self.assertEqual([self.tally.total(name) for name in names], [1, 0, *[1] * 7])
