"""Windows that are counted ahead: what they say, whatever the order of arrival, and where sets are read in their place."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.lake import Lake
from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics import windows
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.planning import counted_ahead, plan_of
from analytics_dagster.metrics.query import DayReader, MetricQuery
from analytics_dagster.metrics.recorded import recorded_points

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures

OWN = """
semantic_models:
  - name: own
    description: Listeners by country.
    model: raw/plays
    owner: tests
    defaults: {time_granularity: day}
    dimensions: [{name: country, description: Country.}]
    measures: [{name: ids, agg: count_distinct, expr: listener_id, description: Listeners.}]
metrics:
  - {name: own_day, description: x, type: simple, type_params: {measure: ids}, unit: x, direction: neutral}
  - name: own_three
    description: Listeners of three days.
    type: cumulative
    type_params: {measure: ids, cumulative_type_params: {window: 3 days}}
    unit: x
    direction: neutral
  - name: own_five
    description: Listeners of five days.
    type: cumulative
    type_params: {measure: ids, cumulative_type_params: {window: 5 days}}
    unit: x
    direction: neutral
"""
FIRST = dt.date(2026, 1, 28)
Played = list[tuple[str | None, str | None]]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.yaml").write_text(OWN, encoding="utf-8")
    return load_catalogue(folder)


def _world(root: Path, catalogue: Catalogue) -> Figures:
    from tests.metrics.conftest import Figures

    return Figures(Lake(str(root / "lake"), root / "locks").tenant("acme"), catalogue)


def _day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


def _arrive(figures: Figures, day: int, played: Played) -> None:
    """A day's plays, (listener, country), in place of what it had, aggregated."""
    from tests.metrics.conftest import raw_table

    rows = [{"ts": f"{_day(day)} 10:00", "listener_id": who, "country": where} for who, where in played]
    figures.tenant.table(PLAYS).overwrite_days(raw_table("plays", rows), _day(day), _day(day))
    aggregate_days(figures.tenant, figures.catalogue.family("own"), _day(day), _day(day), stream_ms=30_000)


def _counts(figures: Figures) -> list[tuple[Any, ...]]:
    counts = figures.catalogue.family("own").counts
    assert counts is not None
    return sorted((tuple(row.values()) for row in figures.tenant.table(counts).read().to_pylist()), key=repr)


def _by_hand(days: dict[int, Played], window: int) -> tuple[dict[str, int], dict[tuple[str, str | None], int]]:
    """The window's ids in all and by country, of days that have any."""
    held = [day for day, played in days.items() if played]
    every, split = {}, {}
    for day in range(min(held, default=0), max(held, default=-1) + 1):
        inside = {one for at, played in days.items() if day - window < at <= day for one in played if one[0] is not None}
        ts = f"{_day(day)} 00:00"
        if inside:
            every[ts] = len({who for who, _ in inside})
        for country in {where for _, where in inside}:
            split[ts, country] = len({who for who, where in inside if where == country})
    return every, split


ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 3, 4, 5, 7, 11, 12, 30]),
        st.lists(st.tuples(st.sampled_from(["ann", "bob", "cem", None]), st.sampled_from(["DE", "US", None])), max_size=4),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=ARRIVALS)
def test_any_order_of_arrival_counts_what_counting_all_days_anew_counts(
    arrivals: list[tuple[int, Played]], tmp_path_factory: pytest.TempPathFactory, own: Catalogue
) -> None:
    late, anew = (_world(tmp_path_factory.mktemp("lake"), own) for _ in range(2))
    for day, played in arrivals:
        _arrive(late, day, played)
    days = dict(arrivals)
    anew.tenant.table(PLAYS).overwrite(late.tenant.table(PLAYS).read())
    aggregate_days(anew.tenant, own.family("own"), _day(0), _day(30), stream_ms=30_000)
    assert _counts(late) == _counts(anew)
    for name, window in (("own_three", 3), ("own_five", 5)):
        every, split = _by_hand(days, window)
        assert dict(late.ask(name)) == every
        assert {(ts, country): value for ts, country, value in late.ask(name, by=("country",))} == split


SEEN = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=8), min_size=1, max_size=12)


@given(seen=SEEN, told=st.integers(1, 12), numbered=st.booleans())
def test_who_is_inside_is_who_was_seen_on_a_day_of_the_window(
    seen: list[list[tuple[int, int]]], told: int, numbered: bool
) -> None:
    import numpy as np

    told, pairs = min(told, len(seen)), [pair for day in seen for pair in day]
    values, ids = (np.array([pair[n] for pair in pairs], np.int64) for n in (0, 1))
    # Either a place for every pair, or for those that occur.
    places = windows.Places.of(values, ids.astype(np.int32), 3, 6, most=0 if numbered else 100)
    starts = np.cumsum([0, *map(len, seen)])
    for window, counts in zip((1, 3, 7), windows.inside(places, starts, 3, (1, 3, 7), told), strict=True):
        for row, day in zip(counts.tolist(), range(len(seen) - told, len(seen)), strict=True):
            there = set(itertools.chain(*seen[max(0, day - window + 1) : day + 1]))
            by_value = defaultdict(int, {v: sum(1 for value, _ in there if value == v) for v in range(3)})
            assert row == [by_value[v] for v in range(3)]


def test_counting_a_few_ids_and_days_at_once_gives_the_same(tmp_path: Path, own: Catalogue) -> None:
    figures, family = _world(tmp_path, own), own.family("own")
    for day in (0, 1, 2, 9):
        _arrive(figures, day, [(f"l{n % (5 + day)}", "DE" if n % 3 else "US") for n in range(20)])
    wanted = [_day(n) for n in range(10)]
    with connect() as connection:
        made = [
            sorted(repr(row) for batch in windows.window_counts(connection, family, days, wanted, n) for row in batch.to_pylist())
            for n in (1_000, 7, 1)
            for days in [figures.tenant.table(family.table("day"))]
        ]
    assert len(made[0]) > 2 * len(wanted)
    assert made[1] == made[0]
    assert made[2] == made[0]


def _is_counted(figures: Figures, query: MetricQuery) -> bool:
    """Whether the answer comes from counts alone."""
    with recorded_points(figures.tenant, figures.catalogue, None, query.metric, None) as (points, connection):
        plan = plan_of(figures.tenant, figures.catalogue, figures.catalogue.metric(query.metric), query, points)
        return bool(counted_ahead(plan, figures.tenant, connection).counted)


def test_a_question_over_a_window_is_answered_from_counts(tmp_path: Path, own: Catalogue) -> None:
    figures = _world(tmp_path, own)
    for day, played in enumerate([[("ann", "DE")], [], [("ann", "US"), ("bob", "US")]]):
        _arrive(figures, day, played)
    for grain, by in itertools.product(("day", "week", "month", "total"), ((), ("country",))):
        assert _is_counted(figures, MetricQuery("own_three", grain=grain, by=by))
    assert _is_counted(figures, MetricQuery("own_three", _day(-9), _day(99)))
    assert figures.ask("own_three", grain="total", first=_day(0), last=_day(2)) == [(f"{_day(0)} 00:00", 2)]
    with DayReader(figures.tenant, own, _day(0), _day(2)) as reader:
        told = reader.query(own.metric("own_three"), by=("country",)).to_pylist()
    assert [(row["country"], row["value"]) for row in told] == [("DE", 1), ("DE", 1), ("DE", 1), ("US", 2)]


def test_a_dimension_of_too_many_values_is_read_from_the_sets(tmp_path: Path, own: Catalogue) -> None:
    figures = _world(tmp_path, own)
    many: Played = [("ann", f"c{n}") for n in range(windows.MOST_VALUES + 1)]
    for day, played in enumerate([[("ann", "DE")], many, [], [], [], [], [("bob", "DE")]]):
        _arrive(figures, day, played)
    asked = MetricQuery("own_five", by=("country",))
    assert not _is_counted(figures, asked)
    assert _is_counted(figures, MetricQuery("own_five"))
    assert _is_counted(figures, MetricQuery("own_five", _day(6), _day(6), by=("country",)))
    assert figures.ask("own_five", by=("country",), where=('country="DE"',))[-1] == (f"{_day(6)} 00:00", "DE", 1)
    assert len(figures.ask("own_five", by=("country",), first=_day(1), last=_day(1))) == len(many) + 1


def test_one_quiet_day_does_not_have_millions_of_values_counted(
    tmp_path: Path, own: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    many: Played = [("ann", f"c{n}") for n in range(40)]
    asked, told = MetricQuery("own_five", _day(4), _day(4), by=("country",)), []
    for most in (40 * 40, 40 * 10):  # of 40 values on 40 days, or on 10, which the windows exceed
        monkeypatch.setattr(windows, "_MOST_COUNTS", most)
        figures = _world(tmp_path / str(most), own)
        for day, played in enumerate([many, many, [], [], many]):
            _arrive(figures, day, played)
        told.append((_is_counted(figures, asked), figures.ask("own_five", first=_day(4), last=_day(4), by=("country",))))
    [(counted, ahead), (not_counted, from_sets)] = told
    assert (counted, not_counted) == (True, False)
    assert ahead == from_sets
    assert len(ahead) == 40


def test_days_of_before_windows_were_counted_are_counted_with_the_next_day(tmp_path: Path, own: Catalogue) -> None:
    figures, family = _world(tmp_path, own), own.family("own")
    for day in range(3):
        _arrive(figures, day, [("ann", "DE")])
    before = _counts(figures)
    assert family.counts is not None
    table = figures.tenant.table(family.counts)
    with connect() as connection:
        table.overwrite(connection.sql(f"SELECT * REPLACE (NULL AS days) FROM {table.sql()} WHERE days = 1").to_arrow_table())
    assert not _is_counted(figures, MetricQuery("own_three"))
    assert _is_counted(figures, MetricQuery("own_day"))
    _arrive(figures, 2, [("ann", "DE")])
    assert [row for row in _counts(figures) if row[5] != 1 and row[5] is not None] == [row for row in before if row[5] != 1]
