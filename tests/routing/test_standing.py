"""Tests of L{mailgw.routing.standing}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.routing.standing import (
    DOWN_AFTER,
    LEAST_SHARE,
    REMEMBERED,
    SUSPECT_AT_MOST,
    SUSPECT_FOR,
    WINDOW,
    Course,
    Health,
    State,
    TroubleTable,
)

ABLE = frozenset({"IDLE", "AUTH=PLAIN"})


class HealthTests(SynchronousTestCase):
    def test_word(self) -> None:
        """A health goes over the board and comes back the same."""
        for health in (
            Health(True, 12.5),
            Health(False, 1e9, 'be1 (10.0.0.1:143): "no"', 17.0, ABLE),
            Health(True, 1.0, capabilities=frozenset()),
        ):
            self.assertEqual(Health.from_word(health.to_word()), health)

    def test_share(self) -> None:
        """After a recovery a member's share grows from a little to all of it; before and later it has all of it."""
        self.assertEqual(Health(True, 0.0).share(1.0, 30.0), 1.0)
        health = Health(True, 100.0, recovered=100.0)
        self.assertEqual([health.share(now, 30.0) for now in (100.0, 115.0, 130.0, 1e9)], [LEAST_SHARE, 0.5, 1.0, 1.0])
        self.assertEqual(health.share(100.0, 0.0), 1.0)


class CourseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.course = Course(2, 3)
        self.now = 0.0

    def take(self, *faults: str) -> list[bool]:
        """Checks a second apart; whether each changed something."""
        changes = []
        for fault in faults:
            self.now += 1.0
            changes.append(self.course.take(fault, None if fault else ABLE, self.now))
        return changes

    def test_first(self) -> None:
        """The first good check makes a member up; the first bad one only a suspicion."""
        self.assertEqual(self.take("refused"), [False])
        self.assertFalse(self.course.settled)
        self.assertEqual(self.take(""), [True])
        self.assertEqual(self.course.health, Health(True, 2.0, capabilities=ABLE))
        self.assertTrue(self.course.settled)

    def test_fall_and_rise(self) -> None:
        """So many bad checks in a row make it down, so many good ones up again; what lies between does not count."""
        self.assertEqual(self.take("", "a", "b", "", "c", "d", "e"), [True, *[False] * 5, True])
        self.assertEqual(self.course.health, Health(False, 7.0, "e", capabilities=ABLE))
        self.assertEqual(self.take("", "f", "", ""), [False, False, False, True])
        self.assertEqual(self.course.health, Health(True, 11.0, recovered=11.0, capabilities=ABLE))
        self.assertEqual(self.take("g", "h", "i"), [False, False, True])
        self.assertEqual(self.course.health, Health(False, 14.0, "i", 11.0, ABLE))

    def test_never_up(self) -> None:
        """A member that was never seen up is down after as many bad checks as any other."""
        self.assertEqual(self.take("a", "b", "c"), [False, False, True])
        self.assertEqual(self.course.health, Health(False, 3.0, "c"))

    def test_capabilities(self) -> None:
        """A server that announces something else is told of, and was no less up."""
        self.take("")
        self.assertTrue(self.course.take("", frozenset({"SORT"}), 9.0))
        self.assertEqual(self.course.health, Health(True, 1.0, capabilities=frozenset({"SORT"})))

    @given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
    def test_law(self, checks: list[bool], rise: int, fall: int) -> None:
        """It changes sides only at the end of a run of that length, and always then."""
        course, up, run = Course(rise, fall), True, 0
        for number, good in enumerate(checks):
            run = 0 if good is up else run + 1
            if run == (rise if good else fall):
                up, run = good, 0
            course.take("" if good else "bad", ABLE, float(number))
            self.assertEqual(course.health is None or course.health.up, up)
            self.assertEqual(course.settled, run == 0)


class TroubleTableTests(SynchronousTestCase):
    def test_pitfall_11_one_moment_counts_once(self) -> None:
        """However many sessions meet one failure at once, the member is suspect and not down."""
        table = TroubleTable()
        for _ in range(1000):
            table.failed("be1", "imap", 0.0)
        self.assertEqual(table.state("be1", "imap", 0.0), State.SUSPECT)
        self.assertEqual(table.state("be1", "imap", SUSPECT_FOR), State.UP)

    def test_failing_on(self) -> None:
        """A member that fails whenever it is tried again is suspect for longer, then down, but never for ever."""
        table, now, times, states = TroubleTable(), 0.0, [], []
        for _ in range(6):
            table.failed("be1", "imap", now)
            states.append(table.state("be1", "imap", now))
            begin = now
            while table.state("be1", "imap", now) is not State.UP:
                now += 0.5
            times.append(now - begin)
        self.assertEqual(times, [5.0, 10.0, 20.0, 30.0, 30.0, SUSPECT_AT_MOST])
        self.assertEqual(states, [State.SUSPECT] * (DOWN_AFTER - 1) + [State.DOWN] * 4)

    def test_success_forgets(self) -> None:
        """A member that answers is as good as new."""
        table = TroubleTable()
        for now in (0.0, 10.0, 30.0):
            table.failed("be1", "imap", now)
        table.succeeded("be1", "imap")
        self.assertEqual(table.state("be1", "imap", 30.0), State.UP)
        table.failed("be1", "imap", 31.0)
        self.assertEqual(table.state("be1", "imap", 31.0), State.SUSPECT)

    def fail(self, table: TroubleTable, user: str, client: str, now: float = 0.0) -> State:  # type: ignore[override]
        """Have a login fail behind the connection."""
        table.failed("be1", "imap", now, (user, client))
        return table.state("be1", "imap", now)

    def test_pitfall_11_one_witness_is_none(self) -> None:
        """One banned client with many accounts, or one odd user from everywhere, makes no member suspect."""
        for users, clients in ((1, 50), (50, 1), (1, 1)):
            table = TroubleTable()
            for number in range(50):
                state = self.fail(table, f"user{number % users}", f"client{number % clients}")
                self.assertIs(state, State.UP)

    def test_two_witnesses(self) -> None:
        """Two users at two addresses who fail within a while make it suspect; not with a success in between."""
        table = TroubleTable()
        self.assertIs(self.fail(table, "anna", "a"), State.UP)
        self.assertIs(self.fail(table, "ben", "b"), State.SUSPECT)
        table.succeeded("be1", "imap")
        self.assertIs(self.fail(table, "ben", "b"), State.UP)
        self.assertIs(self.fail(table, "anna", "a", WINDOW), State.UP)
        self.assertIs(self.fail(table, "ben", "b", WINDOW + 1.0), State.SUSPECT)

    def test_bounded(self) -> None:
        """However many fail, only some are remembered."""
        table = TroubleTable()
        for number in range(5000):
            self.fail(table, f"user{number}", "a")
        [trouble] = table._troubles.values()
        self.assertEqual(len(trouble.witnesses), REMEMBERED)
