"""Whether a day's findings tell what happened: simulated incidents with labels, and quiet days, judged by `find` itself.

Run: python -m benchmarks.insights [--tuning] (also the part `insights` of `make bench-metrics`). What is printed is of HELD_OUT
seeds, which nothing was tuned on; `--tuning` prints the others. A finding tells an incident when its metric is one that the
incident touches and the element that it names first is one of the label; where the label has no place, or the metric no
dimension of the label's, it must name none. Findings about an artist within RELEASED days of a release of that artist are right
as well, and are counted for themselves. What the anomaly model says is left out, so every finding is the statistics' own.
"""

from __future__ import annotations

import datetime as dt
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from analytics_dagster.insights.findings import Finding, find
from analytics_dagster.insights.series import Series
from benchmarks.incidents import Case, Truth, World, simulated
from benchmarks.report import Line

TUNING, HELD_OUT = range(1, 31), range(1001, 1031)
TOP = 5
RELEASED = 14
IN_TIME = 3
"""An incident is found on the first day that one of so many findings tells it."""


@dataclass(frozen=True)
class Told:
    """How one incident was told. place: rank of the first day's first finding that tells it. delay: days until it was found."""

    kind: str
    strength: str
    place: int | None
    f1: float
    delay: int | None
    mix_told: int
    mix_as_cause: int


@dataclass(frozen=True)
class Quiet:
    """What was told of one day on which nothing happened, findings about releases apart."""

    findings: int
    releases: int
    series: int


def judged(world: World) -> tuple[list[Told], list[Quiet]]:
    """Every incident and every quiet day of a seed's service."""
    told: list[Told] = []
    quiet: list[Quiet] = []
    for case in world.cases():
        found = [(day, find(day, series), series) for day, series in case.days]
        others = [([one for one in these.findings if not _of_release(one, day, case)], series) for day, these, series in found]
        if case.truth is None:
            for (findings, _), (_, these, _) in zip(others, found, strict=True):
                quiet.append(Quiet(len(findings), len(these.findings) - len(findings), these.judged))
        else:
            told.append(how_told(case, case.truth, others))
    return told, quiet


def _of_release(finding: Finding, day: dt.date, case: Case) -> bool:
    dimension, element = finding.element or ("", "")
    days = case.releases.get(element, ()) if dimension == "artist_id" else ()
    return any(0 <= (day - released).days < RELEASED for released in days)


def how_told(case: Case, truth: Truth, days: Sequence[tuple[Sequence[Finding], Sequence[Series]]]) -> Told:
    """`days`: for each day of the incident its findings by rank, and the series behind them."""
    findings, series = days[0]
    split = {one.metric: frozenset(one.by) for one in series}
    place = next((rank for rank, one in enumerate(findings, start=1) if tells(one, truth, split)), None)
    delay = next((n for n, (these, _) in enumerate(days) if any(tells(one, truth, split) for one in these[:IN_TIME])), None)
    moved = [one for these, named in days for one in _of_ratios(these, named)] if not case.ratios_moved else []
    return Told(
        case.kind,
        case.strength,
        place,
        _f1(findings[place - 1], truth, split) if place else 0.0,
        delay,
        len(moved),
        sum(not _says_mix(one) for one in moved),
    )


def tells(finding: Finding, truth: Truth, split: Mapping[str, frozenset[str]]) -> bool:
    """Whether a finding is about the incident and names no wrong place first. `split`: the dimensions of each metric."""
    if finding.metric not in truth.metrics:
        return False
    named = _elements(finding)
    if named:
        return named[0] in truth.elements
    if finding.mix is not None and finding.mix.misleading:
        return finding.mix.dimension in {dimension for dimension, _ in truth.elements}
    return finding.metric in truth.everywhere or not _true(finding, truth, split)


def _elements(finding: Finding) -> list[tuple[str, str]]:
    return [finding.element] if finding.element else [(one.dimension, one.element) for one in finding.drivers]


def _true(finding: Finding, truth: Truth, split: Mapping[str, frozenset[str]]) -> set[tuple[str, str]]:
    """The label's elements that a finding of this metric could name."""
    return {element for element in truth.elements if element[0] in split[finding.metric]}


def _f1(finding: Finding, truth: Truth, split: Mapping[str, frozenset[str]]) -> float:
    """Of the named elements against those of the label that the metric could name."""
    named, true = set(_elements(finding)), _true(finding, truth, split)
    if not named and finding.metric in truth.everywhere:
        return 1.0
    return 2 * len(named & true) / (len(named) + len(true)) if named or true else 1.0


def _of_ratios(findings: Iterable[Finding], series: Sequence[Series]) -> list[Finding]:
    """Those of shares of plays, whose parts a shift of the mix leaves as they were."""
    units = {one.metric: one.unit for one in series}
    return [finding for finding in findings if units[finding.metric] == "ratio"]


def _says_mix(finding: Finding) -> bool:
    return finding.mix is not None and finding.mix.misleading


def _seed(seed: int) -> tuple[list[Told], list[Quiet]]:
    with tempfile.TemporaryDirectory(prefix="bench-insights-") as folder:
        return judged(simulated(seed, Path(folder)))


def insights(seeds: Iterable[int] = HELD_OUT) -> Iterator[Line]:
    """Recall, drivers and false findings over `seeds`."""
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        results = list(processes.map(_seed, seeds))
    yield from lines([told for incidents, _ in results for told in incidents], [day for _, days in results for day in days])


def lines(told: Sequence[Told], quiet: Sequence[Quiet]) -> Iterator[Line]:
    """What is printed: every kind, every strength, all of them, then quiet days and shifts of the mix."""
    groups: dict[str, Callable[[Told], bool]] = {
        **{kind: lambda one, kind=kind: one.kind == kind for kind in dict.fromkeys(one.kind for one in told)},
        **{strength: lambda one, s=strength: one.strength == s for strength in dict.fromkeys(one.strength for one in told)},
        "all": lambda one: True,
    }
    for name, among in groups.items():
        mine = [one for one in told if among(one)]
        yield Line(f"incidents, {name} ({len(mine)})", _figure(mine), "recall at 5 at least 0.9, the true driver first in 0.8")
    series = statistics.fmean(day.series for day in quiet)
    false = sum(day.findings for day in quiet) / len(quiet)
    figure = (
        f"{false:.2f} findings a day over {series:.0f} series, {false * 640 / series:.2f} over 640; "
        f"days with any: {sum(day.findings > 0 for day in quiet)}; "
        f"of releases {sum(day.releases for day in quiet) / len(quiet):.2f} a day"
    )
    yield Line(f"quiet days ({len(quiet)})", figure, "under 0.5 findings a day over 640 series")
    yield Line(
        "shifts of the mix",
        f"{sum(one.mix_as_cause for one in told)} of {sum(one.mix_told for one in told)} findings of ratios told otherwise",
        "never told as a cause",
    )


def _figure(told: Sequence[Told]) -> str:
    recall = [sum(one.place is not None and one.place <= k for one in told) / len(told) for k in (1, 3, TOP)]
    found = [one.delay for one in told if one.delay is not None]
    delay = f"delay {statistics.fmean(found):.2f} days" if found else "never found"
    return (
        f"recall at 1, 3, 5: {recall[0]:.2f} {recall[1]:.2f} {recall[2]:.2f}; "
        f"true driver first {recall[0]:.2f}; F1 {statistics.fmean(one.f1 for one in told):.2f}; {delay}"
    )


def main(arguments: list[str]) -> int:
    for line in insights(TUNING if "--tuning" in arguments else HELD_OUT):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
