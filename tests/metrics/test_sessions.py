"""Sessions: against a plain walk through each listener's plays, and where they begin, end and are cut."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import DeclarationError
from analytics_dagster.lake.lake import Lake
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.export.metricflow import MetricFlow
from analytics_dagster.metrics.lineage import source_columns
from analytics_dagster.metrics.load import load_catalogue

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures

DAY = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
GAP = dt.timedelta(minutes=30)


def play(time: str, listener: str | None = "ann", seconds: int | None = 0, **more: Any) -> dict[str, Any]:
    """A play that begins at a time of the day, or of another one."""
    ts = time if len(time) > 5 else f"2026-01-31 {time}"
    return {"ts": ts, "listener_id": listener, "ms_played": None if seconds is None else seconds * 1000, **more}


def by_time(figures: Figures) -> list[dict[str, Any]]:
    return sorted(figures.rows("sessions", "hour"), key=lambda row: row["ts"])


def test_a_gap_of_thirty_minutes_is_within_a_session_and_a_longer_one_is_not(figures: Figures) -> None:
    figures.write("plays", [play("10:00"), play("10:30"), play("2026-01-31 11:00:01")])
    assert figures.value("sessions") == 2
    assert figures.value("plays_per_session") == 1.5
    assert figures.value("session_length") == (1800 + 0) / 2


def test_a_gap_begins_where_the_play_before_ends(figures: Figures) -> None:
    figures.write("plays", [play("10:00", seconds=3600), play("11:30", seconds=60), play("12:02")])
    assert figures.value("sessions") == 2
    assert figures.value("session_length") == (91 * 60 + 0) / 2


def test_a_long_play_holds_a_session_together_beside_short_ones(figures: Figures) -> None:
    figures.write("plays", [play("10:00", seconds=7200), play("10:05", seconds=60), play("12:20", seconds=600)])
    assert figures.value("sessions") == 1
    assert figures.value("session_length") == 150 * 60


def test_each_listener_has_sessions_of_their_own_and_nobody_has_none(figures: Figures) -> None:
    figures.write("plays", [play("10:00", "ann"), play("10:10", "bob"), play("12:00", "ann"), play("10:05", None)])
    assert figures.value("sessions") == 3
    assert figures.value("sessions_per_listener") == 3 / 2


def test_a_session_counts_in_the_hour_and_with_the_dimensions_in_which_it_begins(figures: Figures) -> None:
    figures.write(
        "plays", [play("10:50", device="phone", country="DE"), play("11:10", device="car"), play("11:20", country="US")]
    )
    assert figures.ask("sessions", grain="hour", by=("device", "country")) == [("2026-01-31 10:00", "phone", "DE", 1)]


def test_midnight_cuts_a_session_so_that_days_do_not_hang_together(figures: Figures) -> None:
    before, after = play("23:50", seconds=1200), play("2026-02-01 00:05", seconds=60)
    figures.write("plays", [before, after])
    assert figures.ask("sessions") == [("2026-01-31 00:00", 1), ("2026-02-01 00:00", 1)]
    # The play of the first day lasts into the next and is counted whole.
    assert figures.ask("session_length") == [("2026-01-31 00:00", 1200), ("2026-02-01 00:00", 60)]
    kept = by_time(figures)[-1]
    figures.write("plays", [before, play("23:10", "bob")])
    assert by_time(figures)[-1] == kept


def test_a_play_of_unknown_length_has_none(figures: Figures) -> None:
    figures.write("plays", [play("10:00", seconds=None), play("10:20", seconds=None), play("12:00", seconds=None)])
    assert figures.value("session_length") == 600
    assert figures.value("session_length_p50") == 0


def test_the_gap_is_a_setting(figures: Figures) -> None:
    figures.write("plays", [play("10:00"), play("10:05"), play("10:20")], session_gap_ms=10 * 60_000)
    assert figures.value("sessions") == 2


def test_a_session_is_made_from_the_columns_that_make_it(catalogue: Catalogue) -> None:
    of = {name: source_columns(catalogue.metric(name), catalogue) for name in ("sessions", "session_length")}
    assert of["sessions"] == ("raw/plays.listener_id", "raw/plays.ms_played", "raw/plays.play_id", "raw/plays.ts")
    assert of["session_length"] == of["sessions"]


def test_the_rows_that_dbt_is_given_are_the_sessions(catalogue: Catalogue, raw_table: Callable[..., Any]) -> None:
    exported = MetricFlow(catalogue, {"stream_ms": 30_000, "session_gap_ms": 600_000}).document()
    (model,) = [m for m in exported["semantic_models"] if m["name"] == "sessions"]
    assert model["model"] == "ref('sessions')"
    plays, _ = raw_table("plays", [play("10:00", seconds=60), play("10:11", seconds=60), play("11:00", "bob")])
    with duckdb.connect() as connection:
        connection.register("plays", plays)
        sessions = f"({model['config']['meta']['rows']})".replace("{{ ref('plays') }}", "plays")
        wanted = ", ".join(part["expr"] for part in (*model["entities"], *model["dimensions"], *model["measures"]))
        connection.execute(f"SELECT {wanted} FROM {sessions}")
        assert connection.execute(f"SELECT session_ms FROM {sessions} ORDER BY 1").fetchall() == [(0,), (12 * 60_000,)]


PLAYS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", None]),
        st.integers(0, 2 * 24 * 60 - 1),
        st.one_of(st.none(), st.integers(0, 100)),
        st.sampled_from(["phone", "car", None]),
    ),
    min_size=1,
    max_size=30,
)


def walked(rows: list[dict[str, Any]]) -> list[tuple[dt.datetime, str | None, int]]:
    """Begin, device and seconds of each session, by going through the plays of each listener and day."""
    sessions = []
    lists: dict[tuple[str, dt.date], list[tuple[dt.datetime, str, dict[str, Any]]]] = {}
    for row in rows:
        if row["listener_id"] is not None:
            ts = dt.datetime.fromisoformat(row["ts"]).replace(tzinfo=dt.UTC)
            lists.setdefault((row["listener_id"], ts.date()), []).append((ts, row["play_id"], row))
    for plays in lists.values():
        begin, device, end = None, None, None
        for ts, _, row in sorted(plays, key=lambda one: one[:2]):
            until = ts + dt.timedelta(milliseconds=row["ms_played"] or 0)
            if begin is not None and end is not None and ts <= end + GAP:
                end = max(end, until)
                continue
            if begin is not None and end is not None:
                sessions.append((begin, device, int((end - begin).total_seconds())))
            begin, device, end = ts, row["device"], until
        assert begin is not None
        assert end is not None
        sessions.append((begin, device, int((end - begin).total_seconds())))
    return sessions


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(played=PLAYS)
def test_sessions_are_what_walking_through_the_plays_gives(
    played: list[tuple[str | None, int, int | None, str | None]], tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue
) -> None:
    from tests.metrics.conftest import Figures

    root = tmp_path_factory.mktemp("lake")
    figures = Figures(Lake(str(root / "lake"), root / "locks").tenant("acme"), catalogue)
    rows = [
        play(f"{DAY + dt.timedelta(minutes=m):%Y-%m-%d %H:%M}", who, s and s * 60, device=device, play_id=f"p{n:02}")
        for n, (who, m, s, device) in enumerate(sorted(played, key=lambda one: one[1]))
    ]
    figures.write("plays", rows)
    counted: dict[tuple[str, str | None], int] = {}
    lengths: dict[tuple[str, str | None], int] = {}
    for begin, device, seconds in walked(rows):
        key = (f"{begin:%Y-%m-%d %H}:00", device)
        counted[key] = counted.get(key, 0) + 1
        lengths[key] = lengths.get(key, 0) + seconds
    told = {(ts, device): value for ts, device, value in figures.ask("sessions", grain="hour", by=("device",))}
    assert told == counted
    means = {(ts, device): value for ts, device, value in figures.ask("session_length", grain="hour", by=("device",))}
    assert means == pytest.approx({key: lengths[key] / counted[key] for key in counted})


def test_reading_in_portions_gives_the_same_sessions(figures: Figures) -> None:
    rows = [play(f"2026-01-{day:02} {hour:02}:{minute}") for day in (1, 2, 3) for hour in (9, 10, 23) for minute in (10, 45)]
    figures.write("plays", rows)
    whole = by_time(figures)
    first, last = dt.date(2026, 1, 1), dt.date(2026, 1, 3)
    aggregate_days(figures.tenant, figures.catalogue.family("sessions"), first, last, stream_ms=30_000, rows_at_once=2)
    assert by_time(figures) == whole


OWN = """
semantic_models:
  - name: own
    description: Own.
    model: raw/plays
    sessions: {entity: listener, lasts_ms: ms_played}
    owner: me
    entities: [{name: listener, type: foreign, expr: listener_id, description: Who.}]
    dimensions: [{name: country, description: Country.}]
    measures: [{name: own_longest, agg: max, expr: session_ms, description: Longest.}]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "entity: listener",
            "entity: listner",
            r"own.yaml:6: no entity 'listner' in this semantic model; did you mean 'listener'",
        ),
        ("ms_played", "country", r"own.yaml:6: 'country' is no whole number of milliseconds"),
        ("ms_played", "ms_playd", r"own.yaml:6: no 'ms_playd' in raw/plays; did you mean 'ms_played'"),
        ("    owner", "    defaults: {time_granularity: minute}\n    owner", r"own.yaml:6: sessions are kept by the hour"),
        ("session_ms", "session_millis", r"own.yaml:\d+: no 'session_millis' in raw/plays; did you mean 'session_ms'"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_with_its_place(
    declare: Callable[[str], Path], old: str, new: str, message: str
) -> None:
    with pytest.raises(DeclarationError, match=message):
        load_catalogue(declare(OWN.replace(old, new, 1)))


def test_a_session_model_of_ones_own_is_measured(declare: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.metrics.conftest import Figures

    metric = "{name: longest, description: L., type: simple, type_params: {measure: own_longest}, unit: ms, direction: neutral}"
    figures = Figures(
        Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme"), load_catalogue(declare(f"{OWN}metrics: [{metric}]\n"))
    )
    figures.write("plays", [play("10:00", seconds=60), play("10:15", seconds=30)])
    assert figures.value("longest") == 15 * 60_000 + 30_000
