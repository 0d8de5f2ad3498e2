"""Samples become paired ratios with their median and spread."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.figures import Series, Spread, compare


class SpreadTests(SynchronousTestCase):
    """Median, least and greatest."""

    def test_odd_and_even(self) -> None:
        """The median is the middle one, or the mean of the two in the middle."""
        self.assertEqual(Spread.of([3.0, 1.0, 2.0]), Spread(2.0, 1.0, 3.0, 3))
        self.assertEqual(Spread.of([4.0, 1.0, 2.0, 3.0]), Spread(2.5, 1.0, 4.0, 4))

    def test_nothing(self) -> None:
        """Of nothing there is no spread, rather than one of zeroes."""
        self.assertIsNone(Spread.of([]))


class CompareTests(SynchronousTestCase):
    """What is compared belongs to the same round."""

    def test_paired(self) -> None:
        """The median of the ratios is not the ratio of the medians: a slow round is slow for both."""
        spread = compare([1.0, 20.0, 3.3], [1.0, 10.0, 3.0], "ratio")
        assert spread is not None
        self.assertAlmostEqual(spread.median, 1.1)
        self.assertEqual((spread.least, spread.greatest, spread.count), (1.0, 2.0, 3))

    def test_missing_rounds(self) -> None:
        """A round in which one of the two failed says nothing."""
        self.assertEqual(compare([2.0, None, 9.0], [1.0, 5.0, None], "ratio"), Spread(2.0, 2.0, 2.0, 1))
        self.assertIsNone(compare([None], [1.0], "ratio"))

    def test_round_that_ended_early(self) -> None:
        """Rounds that only one of them has reached are left out."""
        self.assertEqual(compare([4.0, 6.0], [2.0], "ratio"), Spread(2.0, 2.0, 2.0, 1))

    def test_reference_of_zero(self) -> None:
        """Nothing is so many times nothing."""
        self.assertIsNone(compare([1.0], [0.0], "ratio"))

    def test_difference(self) -> None:
        """Differences are paired as well, and may be negative or beside zero."""
        self.assertEqual(compare([1.5, 1.0], [1.0, 2.0], "difference"), Spread(-0.25, -1.0, 0.5, 2))
        self.assertEqual(compare([1.5], [0.0], "difference"), Spread(1.5, 1.5, 1.5, 1))


class SeriesTests(SynchronousTestCase):
    """The runs of one server."""

    def test_values(self) -> None:
        """One number of each sample, scaled; C{None} where there is no sample or no such number."""
        series = Series([{"cpu": 0.5}, None, {"other": 1}, {"cpu": 0.0}])
        self.assertEqual(series.values("cpu", 1000.0), [500.0, None, None, 0.0])
        self.assertEqual(series.spread("cpu", 1000.0), Spread(250.0, 0.0, 500.0, 2))

    def test_notes(self) -> None:
        """What is noted in every round is told once."""
        series = Series()
        series.note("slow")
        series.note("slow")
        self.assertEqual(series.notes, ["slow"])
