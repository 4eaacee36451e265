"""The ledger of restatements: what it says of late rows, corrections, erasures and policies, in any order, whoever is killed."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from restating import FIRST, LAST, LATER, TENANT, World, brief, play, replayed

from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.schemas import PLAYS, RESTATEMENTS, landing
from analytics_dagster.metrics.query import MetricQuery, run_query
from analytics_dagster.orchestration import restating
from analytics_dagster.orchestration.housekeeping import keep_house
from analytics_dagster.orchestration.instance import open_instance
from analytics_dagster.orchestration.tables import catalogue

SECOND = FIRST + dt.timedelta(days=1)


@pytest.fixture
def world(home: Path) -> Iterator[World]:
    made = World(home)
    yield made
    made.close()


@pytest.fixture
def published(world: World) -> World:
    """Two plays on the first day and one on the second, published, and closed since."""
    world.arrive(play("a"), play("b", country="US", ms=1_000), play("c", SECOND))
    world.materialize()
    world.clock.advance(LATER)
    return world


def test_a_late_row_restates_the_figures_of_its_own_day_and_says_so(published: World) -> None:
    published.arrive(play("late", listener="bob"), name="late")
    built = published.materialize()
    assert built.restated == {FIRST: 5}
    rows = published.ledger()
    assert brief(rows) == [
        ("small_listeners", {"country": "DE"}, 1, 2, "late_rows"),
        ("small_listeners", {}, 1, 2, "late_rows"),
        ("small_plays", {"country": "DE"}, 1, 2, "late_rows"),
        ("small_plays", {}, 2, 3, "late_rows"),
        ("small_share", {}, 1 / 2, 2 / 3, "late_rows"),
    ]
    total = next(row for row in rows if (row["metric"], row["dimensions"]) == ("small_plays", "{}"))
    assert {name: total[name] for name in ("ts", "day", "asset", "split_by", "difference", "share", "run")} == {
        "ts": published.clock.now(),
        "day": FIRST,
        "asset": "aggregates/small",
        "split_by": None,
        "difference": 1,
        "share": 0.5,
        "run": "run",
    }
    assert len({row["restatement_id"] for row in rows}) == len(rows)


def test_materializing_again_notes_nothing(published: World) -> None:
    for _ in range(2):
        assert published.materialize().restated == {}
    assert published.ledger() == []
    assert not published.lake.table(RESTATEMENTS).exists()


def test_rows_that_come_while_the_day_is_open_are_no_restatement(world: World) -> None:
    world.arrive(play("a", LAST), name="first")
    world.materialize()
    world.clock.advance(dt.timedelta(hours=1))
    # Nothing after it has come, and the source is not silent yet.
    world.arrive(play("b", LAST), name="second")
    assert world.materialize().restated == {}
    world.clock.advance(LATER)
    world.arrive(play("c", LAST), name="third")
    assert world.materialize().restated == {LAST: 2}


def test_rows_that_close_their_own_day_by_coming_with_newer_ones_are_no_restatement(world: World) -> None:
    world.arrive(play("a"), name="first")
    world.materialize()
    world.clock.advance(dt.timedelta(hours=1))
    newest = FIRST + dt.timedelta(days=20)
    world.arrive(play("b"), play("far", newest), name="second")
    assert world.materialize().restated == {}
    world.clock.advance(dt.timedelta(hours=1))
    world.arrive(play("c"), name="third")
    assert world.materialize().restated == {FIRST: 2}


def test_a_first_figure_of_a_day_is_no_restatement_but_one_of_an_empty_published_day_is(published: World) -> None:
    assert published.figures().keys() & {f for f in published.figures() if f.day == LAST} == set()
    published.arrive(play("late", LAST))
    published.materialize()
    assert {(row["day"], row["old"]) for row in published.ledger()} == {(LAST, None)}


def test_a_correction_says_so(published: World) -> None:
    published.arrive(play("a", ms=100))
    published.materialize()
    assert brief(published.ledger()) == [
        ("small_share", {"country": "DE"}, 1, 0, "correction"),
        ("small_share", {}, 0.5, 0, "correction"),
    ]


def test_late_rows_and_corrections_together_say_both(published: World) -> None:
    published.arrive(play("a", ms=100), play("late"))
    published.materialize()
    assert {row["cause"] for row in published.ledger()} == {"late_rows+correction"}


def test_rows_that_were_erased_say_so_and_a_value_that_is_gone_has_no_new_figure(published: World) -> None:
    arrived = published.lake.table(landing(PLAYS))
    rows = arrived.read()
    arrived.overwrite(rows.filter([name != "b" for name in rows.column("play_id").to_pylist()]))
    published.materialize()
    found = brief(published.ledger())
    assert ("small_plays", {}, 2, 1, "erasure") in found
    assert ("small_plays", {"country": "US"}, 1, None, "erasure") in found


def test_another_stream_threshold_is_a_policy(published: World) -> None:
    changed = World(published.home, analytics_stream_seconds=1)
    changed.clock.advance(LATER)
    changed.materialize()
    assert brief(changed.ledger()) == [
        ("small_share", {"country": "US"}, 0, 1, "policy"),
        ("small_share", {}, 0.5, 1, "policy"),
    ]
    changed.close()


def test_a_metric_or_dimension_that_is_declared_later_restates_nothing(published: World) -> None:
    from analytics_dagster.metrics.load import load_catalogue

    declared = published.home.parent / "declared"
    text = (declared / "small.yaml").read_text()
    new = "      - {name: small_ms, agg: sum, expr: ms_played, description: Time.}\nmetrics:\n" + (
        "  - {name: small_ms, description: x, type: simple, type_params: {measure: small_ms}, unit: ms, direction: neutral}\n"
    )
    text = text.replace("metrics:\n", new).replace("    measures:", "      - {name: tier, description: T.}\n    measures:", 1)
    text = text.replace("expr: ms_played >= $stream_ms", "expr: ms_played >= 500")
    (declared / "small.yaml").write_text(text)
    published.family = load_catalogue(declared).family("small")
    published.materialize()
    assert brief(published.ledger()) == [
        ("small_share", {"country": "US"}, 0, 1, "policy"),
        ("small_share", {}, 0.5, 1, "policy"),
    ]


def test_money_is_restated_by_currency_and_never_added_up(home: Path) -> None:
    from analytics_dagster.lake.schemas import SUBSCRIPTIONS
    from analytics_dagster.metrics.aggregate import aggregate_days
    from analytics_dagster.metrics.restatements import Figure, figures_of_days, restated, told_metrics

    world = World(home, small=False)
    family = catalogue(None).family("subscriptions")
    ts = dt.datetime.combine(FIRST, dt.time(9), dt.UTC)

    def paid(*money: tuple[str, int, str]) -> None:
        import pyarrow as pa

        rows = [
            {"event_id": f"{n}", "ts": ts, "listener_id": "ann", "event": "renewal", "amount_minor": amount, "currency": currency,
             "country": country, "format": "test"}
            for n, (currency, amount, country) in enumerate(money)
        ]  # fmt: skip
        world.lake.table(SUBSCRIPTIONS).overwrite_days(pa.Table.from_pylist(rows, schema=SUBSCRIPTIONS.arrow), FIRST, FIRST)
        aggregate_days(world.lake, family, FIRST, FIRST, stream_ms=30_000)

    paid(("EUR", 100, "DE"), ("USD", 300, "US"))
    days = world.lake.table(family.table("day"))
    before = world.lake.as_of(days.schema, days.version() or 0)
    paid(("EUR", 100, "DE"), ("USD", 200, "US"))
    changed = restated(before, world.lake, family, [FIRST])
    assert [(r.figure.metric, r.figure.split_by, r.figure.dimensions, r.old, r.new) for r in changed] == [
        (metric, split, dimensions, 300, 200)
        for metric in ("revenue", "revenue_per_payment")
        for split, dimensions in (
            ("", '{"currency": "USD"}'),
            ("channel", '{"channel": null, "currency": "USD"}'),
            ("country", '{"country": "US", "currency": "USD"}'),
        )
    ]
    assert "monthly_revenue" not in {metric.name for metric in told_metrics(family)}
    assert figures_of_days(world.lake, family, [FIRST])[Figure(FIRST, "revenue", "", '{"currency": "EUR"}')] == 100
    world.close()


def test_the_ledgers_own_metrics_are_published_at_once_on_the_day_it_was_noted(published: World) -> None:
    published.arrive(play("late"))
    published.materialize()
    noted = published.clock.now().date()
    [record] = published.installation.publications.of(tenant=TENANT, asset="aggregates/restatements")
    assert (record.day, record.rows > 0) == (noted, True)
    all_metrics = catalogue(published.installation.settings.analytics_metrics)
    told = {
        name: [(r["ts"].date(), r["value"]) for r in run_query(published.lake, all_metrics, MetricQuery(name)).to_pylist()]
        for name in ("restated_figures", "restated_days", "largest_restatement")
    }
    assert told == {
        "restated_figures": [(noted, len(published.ledger()))],
        "restated_days": [(noted, 1)],
        "largest_restatement": [(noted, 0.5)],
    }


# --- any order


DAYS = st.sampled_from([FIRST, SECOND, LAST])
PLAY = st.builds(
    play,
    st.sampled_from("abcdef"),
    DAYS,
    st.sampled_from(["DE", "US", None]),
    st.sampled_from(["ann", "bob"]),
    st.sampled_from([1_000, 60_000]),
)
ARRIVALS = st.lists(PLAY, min_size=1, max_size=4)
"""Of six identities on three days: late rows, duplicates and corrections come by themselves."""
STEPS = st.lists(st.one_of(ARRIVALS, st.tuples(DAYS, DAYS).map(sorted)), min_size=2, max_size=4)
"""Rows that arrive, or a range that is materialized."""


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database is made: that takes longer than a materialization."""
    made = tmp_path_factory.mktemp("empty") / "home"
    World(made).close()
    return made


@settings(max_examples=5)
@given(first=ARRIVALS, steps=STEPS)
def test_any_order_of_arrivals_and_runs_gives_what_one_full_recomputation_gives(empty_home: Path, first, steps) -> None:
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(shutil.copytree(empty_home, Path(folder, name))) for name in ("one", "two")]
        world, once = (World(home, declared=empty_home.parent / "declared") for home in homes)
        world.arrive(*first)
        once.arrive(*first)
        world.materialize()
        published, arrivals = world.figures(), [first]
        for step in steps:
            world.clock.advance(LATER)
            once.clock.advance(LATER)
            if isinstance(step[0], dt.date):
                world.materialize(*step)
            else:
                arrivals.append(step)
                world.arrive(*step, name=f"{len(arrivals)}")
                once.arrive(*step, name=f"{len(arrivals)}")
        world.materialize()
        once.materialize()
        assert world.contents() == once.contents()
        assert once.ledger() == []
        assert replayed(published, world.ledger()) == world.figures() == once.figures()
        world.close()
        once.close()


# --- killed in between


KILLED = """
import os, signal, sys
from pathlib import Path
from restating import LATER, World
from analytics_dagster.lake.lake import Table
from analytics_dagster.orchestration import build, restating

world = World(Path(sys.argv[1]))
world.clock.advance(LATER)
point = sys.argv[2]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if point == "before the tables":
    build.aggregate_days = die
    import analytics_dagster.metrics.aggregate as aggregate
    aggregate.aggregate_days = die
elif point == "before the ledger":
    restating._rows = die
elif point == "before its figures":
    restating.measure_ledger = die
elif point == "before it is published":
    build.publications_of = die
world.materialize()
"""


def killed(home: Path, point: str) -> None:
    """Materialize in a process that is killed at a point."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", KILLED, str(home), point], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "point",
    ["before the tables", "before the ledger", "before its figures", "before it is published"],
)
def test_whenever_a_run_is_killed_the_next_one_leaves_each_change_once(published: World, point: str) -> None:
    before = published.figures()
    published.arrive(play("late", listener="bob"))
    killed(published.home, point)
    published.clock.advance(dt.timedelta(minutes=1))
    published.arrive(play("later", country="US"), name="later")
    published.materialize()
    ledger = published.ledger()
    assert replayed(before, ledger) == published.figures() != before
    assert len({row["restatement_id"] for row in ledger}) == len(ledger)
    assert published.materialize().restated == {}
    assert published.ledger() == ledger
    asked = MetricQuery("restated_figures")
    [figure] = run_query(published.lake, catalogue(published.installation.settings.analytics_metrics), asked).to_pylist()
    assert figure["value"] == len(ledger)


def test_a_killed_run_is_made_up_for_by_a_run_of_other_days_too(published: World) -> None:
    before = published.figures()
    published.arrive(play("late", listener="bob"))
    killed(published.home, "before the ledger")
    assert published.ledger() == []
    assert published.materialize(LAST, LAST).restated == {FIRST: len(published.ledger())}
    assert replayed(before, published.ledger()) == published.figures()


def test_housekeeping_leaves_the_figures_of_before_while_they_are_needed(published: World) -> None:
    before = published.figures()
    published.arrive(play("late", listener="bob"))
    killed(published.home, "before the ledger")
    table = published.lake.table(published.family.table("day"))
    held = set(table.files())
    # As on the day after: what no version of the last day names would go.
    assert not restating.maintain_days(published.installation, published.lake, published.family, dt.timedelta(0))
    with open_instance(published.installation.settings) as instance:
        keep_house(published.installation, instance)
    assert set(table.files()) == held
    published.materialize()
    assert replayed(before, published.ledger()) == published.figures()
    assert restating.maintain_days(published.installation, published.lake, published.family, dt.timedelta(0))


def test_a_lake_as_of_a_version_can_only_be_read(published: World) -> None:
    from analytics_dagster.errors import IntegrityError

    table = published.lake.table(PLAYS)
    old: TenantLake = published.lake.as_of(PLAYS, table.version() or 0)
    published.arrive(play("late"))
    published.materialize()
    assert old.table(PLAYS).read().num_rows == table.read().num_rows - 1
    with pytest.raises(IntegrityError, match="can only be read"):
        old.table(PLAYS).append(table.read())
