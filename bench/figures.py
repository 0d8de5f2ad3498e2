"""Samples of several rounds, and what they say: paired ratios or differences, their median and their spread.

A ratio is that of two values of the same round, which saw the same machine. Nothing is measured or printed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

Sample = Mapping[str, Any]
"""What the load generator printed for one run."""
Comparison = Literal["ratio", "difference"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, the least and the greatest of them, and how many they are."""

    median: float
    least: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """@return: C{None} where there are no values."""
        return cls(median(values), min(values), max(values), len(values)) if values else None


@dataclass(slots=True)
class Series:
    """The runs of one contestant, by round.

    @ivar samples: C{None} for a round in which it failed or was not run.
    @ivar notes: what the reader of the table must know, each thing once.
    @ivar failed: something went wrong that is not the absence of a package.
    """

    samples: list[Sample | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def values(self, metric: str, scale: float = 1.0) -> list[float | None]:
        """@return: one number of each sample, times C{scale}."""
        return [
            None if sample is None or sample.get(metric) is None else sample[metric] * scale for sample in self.samples
        ]

    def spread(self, metric: str, scale: float = 1.0) -> Spread | None:
        """@return: over all rounds that have this number."""
        return Spread.of([value for value in self.values(metric, scale) if value is not None])


def compare(values: Sequence[float | None], reference: Sequence[float | None], how: Comparison) -> Spread | None:
    """Compare round by round.

    @return: C{None} where no round has both values.
    """
    pairs = [
        (value, beside)
        for value, beside in zip(values, reference, strict=False)
        if value is not None and beside is not None
    ]
    if how == "difference":
        return Spread.of([value - beside for value, beside in pairs])
    return Spread.of([value / beside for value, beside in pairs if beside])
