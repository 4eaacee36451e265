"""Ranges and several tenants in one validation, what is not judged, formats, and quiet behaviour of Great Expectations."""

from __future__ import annotations

import math
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import IntegrityError, NotFoundError
from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.lake import Lake
from analytics_dagster.lake.schemas import EVENT_TABLES, METRICS, PLAYS
from analytics_dagster.quality.profile import ProfileRow, profile
from analytics_dagster.quality.results import Dimension, Expectation, Measure, Severity, Suite
from analytics_dagster.quality.suites import suite_of
from analytics_dagster.quality.validate import failing_rows, judge, validate

if TYPE_CHECKING:
    from conftest import Warehouse

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
MONDAY = date(2026, 3, 2)
DAYS = [MONDAY + timedelta(days=n) for n in range(14)]


@contextmanager
def counted_validations() -> Iterator[list[int]]:
    """Counts what Great Expectations itself validates: the number of rows of each batch, in order."""
    from great_expectations.datasource.fluent.interfaces import Batch

    seen: list[int] = []
    original = Batch.validate

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(self.data.dataframe))
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "validate", counting)
        yield seen


def test_a_range_of_days_of_several_tenants_is_one_validation(warehouse: Warehouse) -> None:
    for tenant in ("a", "b", "c"):
        warehouse.put(tenant, PLAYS, [row for day in DAYS for row in warehouse.good(PLAYS, day, 30)])
    warehouse.judge(PLAYS, MONDAY, MONDAY)  # imports Great Expectations

    with counted_validations() as seen:
        outcomes = warehouse.judge(PLAYS, DAYS[0], DAYS[-1], history=None)

    assert seen == [3 * 14]
    assert {(o.tenant, o.day) for o in outcomes} == {(t, day) for t in ("a", "b", "c") for day in DAYS}
    assert [o.tenant for o in outcomes] == sorted(o.tenant for o in outcomes)


def test_nothing_to_judge_is_no_validation_and_no_outcome(warehouse: Warehouse) -> None:
    warehouse.tenant("new")
    with counted_validations() as seen:
        assert warehouse.judge(PLAYS, MONDAY, DAYS[-1]) == []
        assert validate(PLAYS, [], MONDAY, DAYS[-1], history=None, now=NOW) == []
    assert seen == []


def test_a_tenant_without_data_in_a_table_is_not_judged_beside_one_that_has(warehouse: Warehouse) -> None:
    warehouse.put("old", PLAYS, warehouse.good(PLAYS, MONDAY))
    warehouse.tenant("new")
    assert {o.tenant for o in warehouse.judge(PLAYS, MONDAY, MONDAY)} == {"old"}


def test_an_empty_raw_table_is_not_judged(warehouse: Warehouse) -> None:
    warehouse.put("acme", PLAYS, [])
    assert warehouse.judge(PLAYS, MONDAY, DAYS[-1], history=None) == []


def test_a_day_without_rows_is_judged_by_volume_alone(warehouse: Warehouse) -> None:
    warehouse.put("acme", PLAYS, warehouse.good(PLAYS, MONDAY))
    outcomes = warehouse.judge(PLAYS, DAYS[1], DAYS[1])
    assert [(o.check, o.passed, o.severity, o.observed) for o in outcomes] == [("rows_arrived", False, Severity.WARNING, 0.0)]


def test_one_single_row_can_be_judged(warehouse: Warehouse) -> None:
    warehouse.put("acme", PLAYS, warehouse.good(PLAYS, MONDAY, 1))
    outcomes = warehouse.judge(PLAYS, MONDAY, MONDAY, history=None)
    assert outcomes
    assert all(o.passed for o in outcomes)


@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_what_a_source_does_not_say_is_not_a_failure(table: Any, warehouse: Warehouse) -> None:
    """A radio log has neither listener nor listening time; a bare CSV has neither either."""
    needed = {c.name for c in table.columns if c.required}
    for format in ("radio-log", "plays"):
        rows = warehouse.good(table, MONDAY, 300)
        bare = [{name: value if name in needed else None for name, value in row.items()} for row in rows]
        named = [row | {"format": format} for row in bare] if "format" in bare[0] else bare
        warehouse.put(format, table, named)
    failed = {o.check for o in warehouse.judge(table, MONDAY, MONDAY, history=None) if not o.passed}
    allowed = {
        "metrics": {"value_is_a_number"},
        "api_requests": {"status_is_possible"},
        "system_samples": {"processor_use_is_known"},
        "interactions": {"content_is_named"},  # a save of nothing says nothing
    }
    assert failed <= allowed.get(table.name, set())


def test_a_radio_log_among_app_plays_is_left_out_of_the_share(warehouse: Warehouse) -> None:
    rows = warehouse.good(PLAYS, MONDAY, 400)
    radio = [
        row | {"play_id": f"r{n}", "listener_id": None, "ms_played": None, "format": "radio-log"} for n, row in enumerate(rows)
    ]
    broken = [row | {"listener_id": None} if n < 40 else row for n, row in enumerate(rows)]
    warehouse.put("acme", PLAYS, broken + radio)

    [outcome] = [o for o in warehouse.judge(PLAYS, MONDAY, MONDAY, history=None) if o.check == "listener_is_known"]

    assert (outcome.passed, outcome.observed) == (False, 0.1)
    shown = failing_rows(warehouse.tenant("acme"), PLAYS, "listener_is_known", MONDAY, limit=1_000)
    assert sorted(shown["play_id"].to_pylist()) == sorted(row["play_id"] for row in broken[:40])


def test_a_csv_that_fills_a_column_sometimes_is_judged_and_one_that_never_does_is_not(warehouse: Warehouse) -> None:
    rows = [row | {"format": "plays"} for row in warehouse.good(PLAYS, MONDAY, 100)]
    warehouse.put("never", PLAYS, [row | {"ms_played": None} for row in rows])
    warehouse.put("sometimes", PLAYS, [row | {"ms_played": None} if n < 60 else row for n, row in enumerate(rows)])

    judged = {o.tenant: o for o in warehouse.judge(PLAYS, MONDAY, MONDAY, history=None) if o.check == "played_time_is_known"}

    assert judged.keys() == {"sometimes"}
    assert judged["sometimes"].observed == 0.6
    assert failing_rows(warehouse.tenant("never"), PLAYS, "played_time_is_known", MONDAY).num_rows == 0
    assert failing_rows(warehouse.tenant("sometimes"), PLAYS, "played_time_is_known", MONDAY, 100).num_rows == 60


def test_a_long_range_is_its_own_history_where_none_is_known(warehouse: Warehouse) -> None:
    weeks = [MONDAY + timedelta(weeks=n) for n in range(-6, 1)]
    for day in weeks[:-1]:
        warehouse.put("acme", PLAYS, warehouse.good(PLAYS, day, 200))
    warehouse.put("acme", PLAYS, warehouse.good(PLAYS, weeks[-1], 50))

    volume = [o for o in warehouse.judge(PLAYS, weeks[0], weeks[-1], history=None) if o.check == "rows_arrived"]

    judged = {o.day: (o.observed, o.passed) for o in volume if o.day in weeks}
    assert judged == dict.fromkeys(weeks[2:-1], (1.0, True)) | {weeks[-1]: (0.25, False)}


def test_known_history_goes_before_the_range_itself_and_too_little_is_none(warehouse: Warehouse) -> None:
    warehouse.put("acme", PLAYS, warehouse.good(PLAYS, MONDAY, 200))

    def observed(*counts: int) -> list[float | None]:
        outcomes = warehouse.judge(PLAYS, MONDAY, MONDAY, history=lambda tenant, day: counts)
        return [o.observed for o in outcomes if o.check == "rows_arrived"]

    assert observed(400, 100, 400, 400) == [0.5]
    assert observed(400) == []
    assert observed(50, 60, 70) == []  # the usual is too little to judge by


def test_a_day_that_is_not_over_is_judged_for_silence_only_in_its_past_hours(warehouse: Warehouse) -> None:
    today = NOW.date()
    rows = warehouse.good(PLAYS, today, 4_800)  # 2,400 of them by noon
    warehouse.put("fine", PLAYS, [row for row in rows if row["ts"] < NOW])
    warehouse.put("gap", PLAYS, [row for row in warehouse.good(PLAYS, today, 6_000) if row["ts"] < NOW and row["ts"].hour != 8])

    outcomes = warehouse.judge(PLAYS, today, today)

    assert {(o.tenant, o.observed) for o in outcomes if o.check == "every_hour_has_plays"} == {("fine", 0.0), ("gap", 1.0)}
    assert not [o for o in outcomes if o.check == "rows_arrived"]


def test_failing_rows_are_the_oldest_and_no_more_than_asked_for(warehouse: Warehouse) -> None:
    rows = [row | {"tier": "gold"} for row in warehouse.good(PLAYS, MONDAY, 90)]
    warehouse.put("acme", PLAYS, list(reversed(rows)))
    assert failing_rows(warehouse.tenant("acme"), PLAYS, "codes_are_known", MONDAY).equals(warehouse.arrow(PLAYS, rows[:20]))


def test_an_unknown_check_is_refused_with_the_names_that_are_known(warehouse: Warehouse) -> None:
    with pytest.raises(NotFoundError, match=r"raw/metrics has no check 'rows'; it has rows_arrived, .*value_is_a_number"):
        failing_rows(warehouse.tenant("acme"), METRICS, "rows", MONDAY)


def test_an_expectation_that_cannot_be_evaluated_is_an_error_and_no_verdict() -> None:
    upside_down = Expectation(
        "upside_down", "d.", Severity.WARNING, Dimension.VALIDITY, Measure.COUNT, "r.", minimum=2, maximum=1, bad="true"
    )
    rows = [ProfileRow("acme", MONDAY, 1, {"upside_down": 1.0})]
    with pytest.raises(IntegrityError, match=r"check 'upside_down' of raw/plays could not be evaluated: .*min_value"):
        judge(Suite(PLAYS, "", (upside_down,)), rows)


def test_validating_is_silent_and_reaches_for_no_network(
    warehouse: Warehouse, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    warehouse.put("acme", PLAYS, warehouse.good(PLAYS, MONDAY, 50))
    assert warehouse.judge(PLAYS, MONDAY, MONDAY)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    nulls=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    rows=st.integers(1, 60),
)
def test_measured_shares_are_those_of_the_rows(
    seed: int, nulls: list[float], rows: int, warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    warehouse = type(warehouse)(Lake(str(folder / "lake"), folder / "locks"))
    rng = random.Random(seed)
    expected: dict[date, dict[str, float]] = {}
    for day, share in zip(DAYS, nulls, strict=False):
        made = warehouse.good(PLAYS, day, rows)
        for row in made:
            row["format"] = rng.choice(("simulation", "plays", "radio-log", "lastfm"))
            for column in ("listener_id", "ms_played", "track_id"):
                row[column] = None if rng.random() < share else row[column]
        warehouse.put("acme", PLAYS, made)
        expected[day] = {
            "listener_is_known": share_of_null(made, "listener_id", {"simulation", "lastfm"}, {"plays"}),
            "played_time_is_known": share_of_null(made, "ms_played", {"simulation"}, {"plays"}),
            "track_is_known": share_of_null(made, "track_id", {"simulation"}, {"plays", "lastfm"}),
        }
    with connect(threads=1) as connection:
        found = profile(connection, suite_of(PLAYS), warehouse.tenant("acme"), DAYS[0], DAYS[2], history=None, now=NOW)
    for row in found:
        for check, share in expected.get(row.day, {}).items():
            assert row.facts.get(check, math.nan) == pytest.approx(share, nan_ok=True), (row.day, check)


def share_of_null(rows: list[dict[str, Any]], column: str, always: set[str], if_any: set[str]) -> float:
    judged = always | {f for f in if_any if any(row["format"] == f and row[column] is not None for row in rows)}
    asked = [row[column] is None for row in rows if row["format"] in judged]
    return sum(asked) / len(asked) if asked else math.nan


def test_a_process_without_a_main_file_is_not_ended_by_spark_connect(tmp_path: Path) -> None:
    # Where pyspark is installed; without it there is nothing that could end the process.
    code = "from analytics_dagster.quality.validate import _great_expectations as load; load(); print('went on')"
    command = [sys.executable, "-W", "ignore", "-c", f"exec({code!r})"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("went on\n"), done.stderr
