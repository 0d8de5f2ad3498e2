"""The table: what was measured, the median ratio with its spread, the goal, and what must be known beside it.

It is plain text that is a Markdown table too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import Series, Spread, compare
from bench.measures import Contestant, Measure
from bench.rounds import Runs

HEAD = ("measure", "server", "value", "beside the first: median [min-max]", "goal", "p50 / p99 ms", "per s", "remarks")
SHORT = 60
"""Characters of a remark that stand in the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant of one measure, with all numbers.

    @ivar beside: ratio or difference to the first contestant; C{None} for the first itself and where there is none.
    @ivar met: whether the goal is reached; C{None} where there is none or nothing to compare.
    """

    measure: Measure
    contestant: Contestant
    series: Series
    value: Spread | None
    beside: Spread | None
    met: bool | None

    @property
    def is_first(self) -> bool:
        """Whether the others are compared with this one."""
        return self.measure.contestants[0] is self.contestant


def rows(measures: Sequence[Measure], runs: Runs) -> list[Row]:
    """@return: every row, in the order of the measures."""
    return [
        row(measure, contestant, runs[measure.of or measure.key])
        for measure in measures
        if (measure.of or measure.key) in runs
        for contestant in measure.contestants
        if contestant.name in runs[measure.of or measure.key]
    ]


def row(measure: Measure, contestant: Contestant, runs: dict[str, Series]) -> Row:
    """Compare one contestant with the first."""
    series = runs[contestant.name]
    first = measure.contestants[0]
    values = series.values(measure.metric, measure.scale)
    beside = None
    if first.name != contestant.name and first.name in runs:
        beside = compare(values, runs[first.name].values(measure.metric, measure.scale), measure.compare)
    met = None
    if beside is not None and contestant.goal is not None:
        met = beside.median >= contestant.goal if measure.more_is_better else beside.median <= contestant.goal
    return Row(measure, contestant, series, series.spread(measure.metric, measure.scale), beside, met)


def render(table: Sequence[Row]) -> str:
    """@return: the table as text, and below it what is too long to stand in it."""
    notes: list[str] = []
    lines, title = [list(HEAD)], ""
    for entry in table:
        lines.append(_cells(entry, entry.measure.title != title, notes))
        title = entry.measure.title
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(HEAD))]
    lines.insert(1, ["-" * width for width in widths])
    text = "".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |\n" for line in lines
    )
    return text + "".join(f"\n{number}) {note}\n" for number, note in enumerate(notes, 1))


def _cells(entry: Row, is_titled: bool, notes: list[str]) -> list[str]:
    measure, series = entry.measure, entry.series
    p50, p99, rate = (series.spread(name) for name in ("p50_ms", "p99_ms", "units_per_s"))
    is_timed = p50 is not None and p99 is not None and not measure.of
    return [
        measure.title if is_titled else "",
        entry.contestant.name,
        f"{digits(entry.value.median)} {measure.unit}" if entry.value else "-",
        _beside(entry),
        _goal(entry),
        f"{digits(p50.median)} / {digits(p99.median)}" if is_timed and p50 and p99 else "",
        digits(rate.median) if is_timed and rate and measure.metric != "units_per_s" else "",
        _remarks(entry, notes),
    ]


def _beside(entry: Row) -> str:
    is_ratio = entry.measure.compare == "ratio"
    if entry.is_first:
        return "1" if is_ratio else "0"
    if entry.beside is None:
        return ""
    form, dash = (".2f", "-") if is_ratio else ("+.3f", " ")
    median = format(entry.beside.median, form)
    if entry.beside.count == 1:
        return median
    return f"{median} [{format(entry.beside.least, form)}{dash}{format(entry.beside.greatest, form)}]"


def _goal(entry: Row) -> str:
    if entry.contestant.goal is None:
        return ""
    sign = ">=" if entry.measure.more_is_better else "<="
    verdict = {True: ": reached", False: ": missed", None: ""}[entry.met]
    return f"{sign} {entry.contestant.goal:g}{verdict}"


def _remarks(entry: Row, notes: list[str]) -> str:
    """What stands in the table; what is long is added to the notes."""
    remarks = []
    for note in entry.series.notes:
        text = note.replace("|", "/").replace("\n", " ")
        if len(text) > SHORT:
            if text not in notes:
                notes.append(text)
            text = f"see {notes.index(text) + 1})"
        remarks.append(text)
    samples = [sample for sample in entry.series.samples if sample]
    if "resume" in entry.measure.load and samples:
        remarks.append(f"{sum(sample['resumed'] for sample in samples)} of {sum(s['n'] for s in samples)} resumed")
    return "; ".join(remarks)


def digits(value: float) -> str:
    """Three digits, without exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
