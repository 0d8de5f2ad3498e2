"""The table and the plot say what was measured, and what was not."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench import plot
from bench.figures import Series
from bench.measures import Contestant, Measure
from bench.rounds import Runs
from bench.table import digits, render, rows

MEASURE = Measure(
    "login",
    "login",
    "TLS login",
    "ms CPU",
    "cpu",
    (Contestant("nginx", "nginx"), Contestant("mailgw", "mailgw", goal=1.1), Contestant("dovecot", "dovecot")),
)


def series(*values: float | None) -> Series:
    """@return: with these values, and latencies that belong to them."""
    return Series([None if value is None else {"cpu": value, "p50_ms": value, "p99_ms": 2 * value} for value in values])


def runs() -> Runs:
    """@return: three rounds, in the second of which mailgw failed, and a Dovecot that did not start."""
    broken = Series([None, None, None], ["dovecot ended with status 89: " + "no | such setting " * 8], failed=True)
    return {"login": {"nginx": series(1.0, 2.0, 4.0), "mailgw": series(1.0, None, 4.4), "dovecot": broken}}


def cells(text: str) -> list[list[str]]:
    """@return: the rows of a Markdown table below its head, as lists of cells."""
    lines = [line for line in text.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


class TableTests(SynchronousTestCase):
    """Rows and their text."""

    def test_ratio_and_spread(self) -> None:
        """The first is 1, the others have a paired median with its range, beside the absolute value."""
        nginx, mailgw, _ = cells(render(rows([MEASURE], runs())))
        self.assertEqual(nginx[:5], ["TLS login", "nginx", "2 ms CPU", "1", ""])
        self.assertEqual(mailgw[:5], ["", "mailgw", "2.7 ms CPU", "1.05 [1.00-1.10]", "<= 1.1: reached"])
        self.assertEqual(nginx[5], "2 / 4")

    def test_missed_goal(self) -> None:
        """A median beyond the goal is missed; where more is better, one below it."""
        stricter = tuple(replace(c, goal=1.0 if c.goal else None) for c in MEASURE.contestants)
        strict = replace(MEASURE, contestants=stricter)
        self.assertEqual(cells(render(rows([strict], runs())))[1][4], "<= 1: missed")
        self.assertEqual(cells(render(rows([replace(strict, more_is_better=True)], runs())))[1][4], ">= 1: reached")

    def test_what_did_not_run(self) -> None:
        """It stands in the table without a number, and why stands below, without breaking the table."""
        text = render(rows([MEASURE], runs()))
        dovecot = cells(text)[2]
        self.assertEqual(len(dovecot), 8)
        self.assertEqual(dovecot[1:4] + dovecot[7:], ["dovecot", "-", "", "see 1)"])
        self.assertIn("\n1) dovecot ended with status 89: no / such setting", text)

    def test_aligned(self) -> None:
        """All lines of the table are equally long, so that it can be read as it is."""
        lines = [line for line in render(rows([MEASURE], runs())).split("\n") if line.startswith("|")]
        self.assertEqual(len({len(line) for line in lines}), 1)

    def test_shown_in_another_way(self) -> None:
        """A measure of another's runs compares them with its own first contestant, here by difference."""
        contestants = (Contestant("mailgw", "mailgw"), Contestant("nginx", "nginx", goal=0.0))
        other = replace(MEASURE, key="added", of="login", compare="difference", contestants=contestants)
        mailgw, nginx = cells(render(rows([other], runs())))
        self.assertEqual((mailgw[3], nginx[3]), ("0", "-0.200 [-0.400 +0.000]"))
        self.assertEqual(nginx[4], "<= 0: reached")

    def test_not_measured(self) -> None:
        """A measure whose runs there are not has no rows."""
        self.assertEqual(rows([replace(MEASURE, key="other")], runs()), [])

    def test_resumed(self) -> None:
        """How many handshakes were really resumed stands beside them."""
        resuming = replace(MEASURE, load={"resume": "true"}, contestants=MEASURE.contestants[:1])
        counted = {"login": {"nginx": Series([{"cpu": 1.0, "resumed": 5, "n": 6}, {"cpu": 1.0, "resumed": 6, "n": 6}])}}
        self.assertEqual(cells(render(rows([resuming], counted)))[0][7], "11 of 12 resumed")

    def test_digits(self) -> None:
        """Three digits that matter, never an exponent."""
        told = [digits(value) for value in (0.01234, 1.0, 99.94, 123.4, 19650.0)]
        self.assertEqual(told, ["0.0123", "1", "99.9", "123", "19650"])


class PlotTests(SynchronousTestCase):
    """The SVG."""

    def test_well_formed(self) -> None:
        """It is XML, whatever is in the names, and has a mark with its numbers for each ratio."""
        contestants = (*MEASURE.contestants[:1], replace(MEASURE.contestants[1], name="mailgw, <1> & 2"))
        odd = replace(MEASURE, title="a < b", contestants=contestants)
        of = {"login": {"nginx": series(1.0, 2.0), "mailgw, <1> & 2": series(2.0, 2.0)}}
        document = ElementTree.fromstring(plot.draw(rows([odd], of), "1 < 2"))
        titles = [element.text for element in document.iter("{http://www.w3.org/2000/svg}title")]
        self.assertEqual(titles, ["mailgw, <1> & 2: 1.50 [1.00-2.00]"])

    def test_only_ratios(self) -> None:
        """What was not measured and what is no ratio is not drawn."""
        absolute = replace(MEASURE, compare="difference")
        drawn = plot.draw(rows([absolute], runs()), "")
        self.assertNotIn("<title>", drawn)
        self.assertEqual(plot.draw(rows([MEASURE], runs()), "").count("<title>"), 1)

    def test_scale(self) -> None:
        """1 has the line of its own, twice and half lie equally far from it, and nothing lies outside."""
        self.assertAlmostEqual(plot.place(2) - plot.place(1), plot.place(1) - plot.place(0.5))
        self.assertEqual(plot.place(1e9), plot.LEFT + plot.WIDTH)
        self.assertEqual(plot.place(0.0), plot.LEFT)

    def test_light_and_dark(self) -> None:
        """Text has a colour for light pages and one for dark pages."""
        drawn = plot.draw(rows([MEASURE], runs()), "")
        self.assertEqual(len(re.findall(r"text \{[^}]*fill: #", drawn)), 2)
        self.assertIn("prefers-color-scheme: dark", drawn)
