"""What a metric's figure is made of: formulas over the figures of measures. `load.py` resolves them, `plan.py` writes SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class SeenOn:
    """On how many different days of a window an id must have been seen to be counted; `most` None: any more."""

    least: int
    most: int | None = None


@dataclass(frozen=True)
class MeasureFigure:
    """Formula leaf: the figure of one merged measure.

    `percentile` (between 0 and 1) is for a distribution, `newest` for the newest value of an `increase`. With a `window` it is
    the figure over so many days, of which the bucket's is the last, or `offset` days before it; `seen` counts only ids that came
    on so many of them.
    """

    measure: str
    percentile: float | None = None
    newest: bool = False
    window: int | None = None
    offset: int = 0
    seen: SeenOn | None = None


@dataclass(frozen=True)
class Conversion:
    """Formula leaf: of the ids that `base` counts on a day, those that `converted` counts within the `window` days that begin
    with it; with `rate` their share. `entity` is what the ids are of. `conversion.py` says how.
    """

    base: str
    converted: str
    entity: str
    window: int
    rate: bool


@dataclass(frozen=True)
class Retention:
    """Formula leaf: of the ids that `measure` counts for the first time in `new_after` days, those that it counts again in period
    `period` after that day; with `rate` their share. A period is `length` days. `period` None: all of them, the cohort's size.
    `retention.py` says how.
    """

    measure: str
    period: int | None
    length: int
    new_after: int
    rate: bool


@dataclass(frozen=True)
class PerSecond:
    """Formula: a figure divided by the seconds of its bucket."""

    figure: Formula


@dataclass(frozen=True)
class Ratio:
    """Formula: one figure divided by another; no value where the denominator is 0."""

    numerator: Formula
    denominator: Formula


@dataclass(frozen=True)
class Derived:
    """Formula: SQL arithmetic over other figures, each named in `inputs`."""

    expr: str
    inputs: tuple[tuple[str, Formula], ...]


class SummaryKind(StrEnum):
    """What is told of a measure's figures once they are there. `composed.py` says how."""

    CONCENTRATION = "concentration"
    """How unevenly it is spread over a dimension's values: the sum of their squared shares (Herfindahl), 1 / n to 1."""
    TOTAL = "total"
    """The sum since the tenant's first day."""
    TIME_TO_PEAK = "time_to_peak"
    """Days from the first one to the strongest one so far."""


@dataclass(frozen=True)
class Summary:
    """Formula leaf: something told of a measure's figures by `dimension` (concentration) or by day."""

    kind: SummaryKind
    figure: MeasureFigure
    dimension: str | None = None


@dataclass(frozen=True)
class Standing:
    """Formula: a figure of an element of `dimension` in standard deviations from those whose `alike` has as many digits.
    `standing.py` says how.
    """

    figure: Formula
    alike: Formula
    dimension: str


Ahead = Conversion | Retention
"""Formula leaves that look at the days after their own, and have no figure until those are there."""
Leaf = MeasureFigure | Ahead
Formula = Leaf | Summary | PerSecond | Ratio | Derived | Standing


def figures(formula: Formula) -> Iterator[Leaf]:
    """All figures that a formula is made of, in reading order, repeats included; of a summary, the one that it is told of."""
    match formula:
        case MeasureFigure() | Conversion() | Retention():
            yield formula
        case PerSecond(figure) | Summary(_, figure):
            yield from figures(figure)
        case Ratio(one, other) | Standing(one, other):
            yield from figures(one)
            yield from figures(other)
        case Derived(_, inputs):
            for _, inner in inputs:
                yield from figures(inner)


def leaves(formula: Formula) -> Iterator[MeasureFigure]:
    """All measures that a formula reads, in reading order, repeats included; of what looks ahead, those that it counts by."""
    for leaf in figures(formula):
        match leaf:
            case MeasureFigure():
                yield leaf
            case Conversion(base, converted):
                yield from (MeasureFigure(base), MeasureFigure(converted))
            case Retention(measure):
                yield MeasureFigure(measure)


def summaries(formula: Formula) -> Iterator[Summary]:
    """All summaries in a formula, in reading order, repeats included."""
    match formula:
        case Summary():
            yield formula
        case PerSecond(figure):
            yield from summaries(figure)
        case Ratio(one, other) | Standing(one, other):
            yield from summaries(one)
            yield from summaries(other)
        case Derived(_, inputs):
            for _, inner in inputs:
                yield from summaries(inner)
