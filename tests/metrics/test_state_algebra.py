"""Merging measures: by time, over dimensions and in any order, it gives what one pass over all rows would."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.lake.compute import connect, identifier
from analytics_dagster.metrics.compile import merge_by
from analytics_dagster.metrics.declarations import Family, Grain
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.states import GAMMA, RELATIVE_ERROR, ZERO_BUCKET, percentile_figures

if TYPE_CHECKING:
    import duckdb

# Every kind of measure over one table whose columns take any value. Sets are in test_sets.py.
KINDS = """
semantic_models:
  - name: kinds
    description: Every kind of measure.
    model: raw/metrics
    owner: tests
    dimensions:
      - {name: name, description: A dimension.}
      - {name: type, description: Another.}
    measures:
      - {name: k_count, agg: count, expr: labels, description: Rows with labels.}
      - {name: k_true, agg: sum_boolean, expr: value > 0, description: Positive values.}
      - {name: k_sum, agg: sum, expr: length(labels), description: A sum of integers.}
      - {name: k_fractions, agg: sum, expr: value, description: A sum of fractions.}
      - {name: k_mean, agg: average, expr: value, description: A mean.}
      - {name: k_min, agg: min, expr: value, description: A minimum.}
      - {name: k_max, agg: max, expr: length(labels), description: A maximum.}
      - {name: k_last, agg: last, expr: value, description: The newest.}
      - {name: k_spread, agg: percentile, expr: value, description: A distribution.}
      - {name: k_rise, agg: increase, expr: value, description: A counter.}
"""
Row = tuple[dt.datetime, str | None, str | None, float | None, str | None]

FIRST = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
values = st.one_of(
    st.none(),
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.integers(-1000, 1000).map(float),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e20, -3e25, 0.1, 0.0, 99999999999999999999.0]),
)
rows = st.lists(
    st.tuples(
        st.integers(0, 3 * 24 * 3600 - 1).map(lambda s: FIRST + dt.timedelta(seconds=s)),
        st.sampled_from([None, "", "a", "b"]),
        st.sampled_from([None, "x", "y"]),
        values,
        st.sampled_from([None, "", "l1", "l22", "l333", "ü"]),
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "kinds.yaml").write_text(KINDS, encoding="utf-8")
    return load_catalogue(folder).family("kinds")


@pytest.fixture(scope="module")
def engine() -> Any:
    with connect(threads=1) as connection:
        yield connection


def _source(engine: duckdb.DuckDBPyConnection, given_rows: Sequence[Row]) -> None:
    columns = list(zip(*given_rows, strict=True)) if given_rows else [[]] * 5
    kinds = (pa.timestamp("us", tz="UTC"), pa.string(), pa.string(), pa.float64(), pa.string())
    names = ("ts", "name", "type", "value", "labels")
    engine.register("source", pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)}))


def _answer(engine: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found = engine.sql(query).to_arrow_table().to_pylist()
    return sorted(found, key=repr)


def _built(engine: duckdb.DuckDBPyConnection, family: Family, given_rows: Sequence[Row]) -> list[dict[str, Any]]:
    """State by hour, left as the table `finer`."""
    _source(engine, given_rows)
    engine.execute(f"CREATE OR REPLACE TEMP TABLE finer AS {family.queries.build}")
    return _answer(engine, "SELECT * FROM finer")


def _measured(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and abs(Decimal(value)) < Decimal(10) ** 20


def _by_hand(given_rows: Sequence[Row], key: Callable[[Row], tuple[Any, ...]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What the figures are, in plain Python."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in given_rows:
        groups[key(row)].append(row)
    return {group: _state(members) for group, members in groups.items()}


def _state(members: Sequence[Row]) -> dict[str, Any]:
    measured = [(ts, v) for ts, _, _, v, _ in members if v is not None and _measured(v)]
    exact = [_exact(v) for _, v in measured]
    labels = [label for *_, label in members if label is not None]
    buckets: dict[int, int] = defaultdict(int)
    for _, v in measured:
        buckets[ZERO_BUCKET if v <= 0 else math.ceil(math.log(v) / math.log(GAMMA))] += 1
    first, last = min(measured, default=(None, None)), max(measured, default=(None, None))
    return {
        "k_count": len(labels),
        "k_true": sum(1 for *_, v, _ in members if v is not None and (v > 0 or math.isnan(v))),
        "k_sum": sum(map(len, labels)) if labels else None,
        "k_fractions": float(sum(exact)) if exact else None,
        "k_mean_sum": float(sum(exact)) if exact else None,
        "k_mean_count": len(exact),
        "k_min": min((v for _, v in measured), default=None),
        "k_max": max(map(len, labels), default=None),
        "k_last_at": last[0],
        "k_last": last[1],
        "k_spread": sorted(buckets.items()) or None,
        "k_rise_first_at": first[0] if first != last else None,
        "k_rise_first": first[1] if first != last else None,
        "k_rise_last_at": last[0],
        "k_rise_last": last[1],
        "k_rise": float(_rise(members)) if exact else None,
    }


def _exact(value: float) -> Decimal:
    """As DuckDB casts a double to a decimal: scaled as a double, then rounded."""
    return Decimal(value * 1e9).quantize(Decimal(1), rounding="ROUND_HALF_UP").scaleb(-9)


def _rise(members: Sequence[Row]) -> Decimal:
    """How much counters rose: over the sorted samples of each series, what is below the sample before began again at 0."""
    series: dict[tuple[Any, ...], list[tuple[dt.datetime, Decimal]]] = defaultdict(list)
    for ts, name, type_, value, _ in members:
        if value is not None and _measured(value):
            series[name, type_].append((ts, _exact(value)))
    pairs = [pair for samples in series.values() for pair in itertools.pairwise(sorted(samples))]
    return sum(((b - a if b >= a else b) for (_, a), (_, b) in pairs), Decimal())


def _comparable(state: dict[str, Any]) -> dict[str, Any]:
    """A state row as `_state` gives it, without its keys."""
    made = {name: value for name, value in state.items() if name.startswith("k_")}
    made["k_spread"] = [(b["bucket"], b["count"]) for b in made["k_spread"]] if made["k_spread"] else None
    for name in ("k_fractions", "k_mean_sum", "k_rise"):
        made[name] = None if made[name] is None else float(made[name])
    return made


@settings(max_examples=50)
@given(given_rows=rows)
def test_hours_merged_to_days_are_what_a_pass_over_the_day_gives(
    engine: duckdb.DuckDBPyConnection, kinds: Family, given_rows: list[Row]
) -> None:
    _built(engine, kinds, given_rows)
    days = _answer(engine, kinds.queries.merges[Grain.DAY])
    by_hand = _by_hand(given_rows, lambda r: (r[0].replace(hour=0, minute=0, second=0), r[1], r[2]))
    assert {(d["ts"], d["name"], d["type"]): _comparable(d) for d in days} == by_hand


@settings(max_examples=50)
@given(given_rows=rows)
def test_cells_merged_over_dimensions_are_what_no_split_gives(
    engine: duckdb.DuckDBPyConnection, kinds: Family, given_rows: list[Row]
) -> None:
    _built(engine, kinds, given_rows)
    for kept, of in ((["type"], lambda r: (r[2],)), ([], lambda r: ())):
        merged = _answer(engine, merge_by(kinds, [identifier(k) for k in kept], Grain.MONTH, "finer"))
        by_hand = _by_hand(given_rows, lambda r, of=of: (r[0].replace(day=1, hour=0, minute=0, second=0), *of(r)))
        assert {(m["ts"], *(m[k] for k in kept)): _comparable(m) for m in merged} == by_hand


@settings(max_examples=50)
@given(given_rows=rows)
def test_merging_in_several_steps_is_merging_once(
    engine: duckdb.DuckDBPyConnection, kinds: Family, given_rows: list[Row]
) -> None:
    _built(engine, kinds, given_rows)
    at_once = _answer(engine, merge_by(kinds, ['"type"'], Grain.DAY, "finer"))
    engine.execute(f"CREATE OR REPLACE TEMP TABLE days AS {kinds.queries.merges[Grain.DAY]}")
    assert _answer(engine, merge_by(kinds, ['"type"'], Grain.DAY, "days")) == at_once


@settings(max_examples=50)
@given(given_rows=rows, data=st.data())
def test_the_order_of_rows_does_not_matter(
    engine: duckdb.DuckDBPyConnection, kinds: Family, given_rows: list[Row], data: st.DataObject
) -> None:
    straight = _built(engine, kinds, given_rows)
    assert repr(_built(engine, kinds, data.draw(st.permutations(given_rows)))) == repr(straight)


positive = st.floats(1e-6, 1e9, allow_nan=False)


@settings(max_examples=50)
@given(found=st.lists(positive, min_size=1, max_size=60), percentile=st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_within_its_relative_error_of_the_nearest_rank(
    engine: duckdb.DuckDBPyConnection, kinds: Family, found: list[float], percentile: float
) -> None:
    _built(engine, kinds, [(FIRST, None, "x", v, None) for v in found])
    (answer,) = _answer(engine, percentile_figures(kinds.measure("k_spread"), percentile, "type", "finer", "figure"))
    exact = sorted(found)[math.ceil(percentile * len(found)) - 1]
    assert abs(answer["figure"] - exact) <= exact * RELATIVE_ERROR * (1 + 1e-9)


def test_values_of_zero_or_less_share_a_bucket_that_is_read_as_zero(engine: duckdb.DuckDBPyConnection, kinds: Family) -> None:
    _built(engine, kinds, [(FIRST, None, None, v, None) for v in (-5.0, 0.0, 0.0, 7.0)])
    (answer,) = _answer(engine, percentile_figures(kinds.measure("k_spread"), 0.5, "type", "finer", "figure"))
    assert answer["figure"] == 0
