"""`analytics materialize`: which days, tenants and assets it takes, what it says, and its exit status."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli.command import analytics
from small_home import BROKEN_DAY, FIRST, LAST, Copied, opened

from analytics_dagster.ingest.log.open import open_log
from analytics_dagster.ingest.points import Points, SeriesTable
from analytics_dagster.installation import open_installation
from analytics_dagster.lake.schemas import SUBSCRIPTIONS, landing
from analytics_dagster.settings import Settings

QUICK = ("--select", "raw/subscriptions")


@pytest.fixture
def landed(copied: Copied, landed_home: Path) -> Path:
    return copied(landed_home)


def published(home: Path) -> set[tuple[str, str, dt.date]]:
    with opened(home) as found:
        return set(found.published())


def test_without_days_it_takes_those_with_new_rows(landed: Path) -> None:
    done = analytics("--home", landed, "materialize", *QUICK)
    assert (done.status, done.err) == (0, f"new rows in {FIRST} to {LAST}\n")
    assert done.out == f"materialized 1 assets, {FIRST} to {LAST}, aurora, borealis\n"
    assert {day for _, _, day in published(landed)} >= {FIRST, LAST}


def test_tenants_days_and_assets_can_be_named(landed: Path) -> None:
    day = FIRST + dt.timedelta(days=1)
    done = analytics("materialize", "--tenant", "aurora", "--from", FIRST, "--to", day, *QUICK, "--home", landed)
    assert done.status == 0
    assert published(landed) == {("aurora", "raw/subscriptions", FIRST), ("aurora", "raw/subscriptions", day)}


def test_assets_are_selected_by_pattern_and_by_dagsters_own_syntax(landed: Path) -> None:
    assert analytics("materialize", "--home", landed, "--select", "*/subscriptions", "--from", LAST, "--to", LAST).status == 0
    assert {asset for _, asset, _ in published(landed)} == {"raw/subscriptions", "aggregates/subscriptions"}
    assert analytics("materialize", "--home", landed, "--select", "group:catalogue").status == 0
    assert {asset for _, asset, _ in published(landed)} >= {"raw/users", "raw/tracks", "raw/artists", "raw/playlists"}


def test_failed_checks_are_named_and_only_strict_makes_them_findings(landed: Path) -> None:
    day = ("--from", BROKEN_DAY, "--to", BROKEN_DAY, "--select", "raw/plays", "--home", landed)
    lenient = analytics("materialize", *day)
    assert lenient.status == 0
    assert "check failed: raw/plays listener_is_known: aurora: " in lenient.out
    strict = analytics("materialize", *day, "--strict")
    assert (strict.status, strict.out) == (1, lenient.out)
    assert analytics("materialize", *QUICK, "--home", landed, "--strict", "--from", LAST, "--to", LAST).status in (0, 1)


def test_a_healthy_run_is_no_finding_even_when_strict(landed: Path) -> None:
    done = analytics("materialize", "--home", landed, "--select", "group:catalogue", "--strict")
    assert (done.status, "check failed" in done.out) == (0, False)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--tenant nobody", "no active tenant nobody; `analytics tenant list` shows those there are"),
        ("--select raw/nothing", "--select 'raw/nothing'"),
        ("--from yesterday", "'yesterday' is not a day; write it as 2026-01-31"),
        ("--from 2026-02-30", "'2026-02-30' is not a day"),
        ("--from 2026-03-05 --to 2026-03-01", "--from 2026-03-05 is after --to 2026-03-01; swap them"),
        ("--from 1999-01-01 --to 2026-03-01", "is not within the daily partitions"),
        ("--from 2026-03-01 --to 2999-01-01", "is not within the daily partitions"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(landed_home: Path, line: str, said: str) -> None:
    assert said in analytics("materialize", "--home", landed_home, *line.split()).error


def test_a_suspended_tenant_is_left_out(landed: Path) -> None:
    assert analytics("tenant", "suspend", "aurora", "--home", landed).status == 0
    assert "no active tenant aurora" in analytics("materialize", "--tenant", "aurora", "--home", landed).error
    assert analytics("materialize", "--home", landed, *QUICK).status == 0
    assert {tenant for tenant, _, _ in published(landed)} == {"borealis"}


def test_one_damaged_tenant_is_a_failed_check_and_all_of_them_an_error(landed: Path) -> None:
    with opened(landed) as home:
        for tenant, text in (("aurora", b"not parquet"), ("borealis", b"not parquet either")):
            table = home.installation.lake.tenant(tenant).table(landing(SUBSCRIPTIONS))
            for file in table.files():
                Path(file.removeprefix("file://")).write_bytes(text)
            if tenant == "aurora":
                done = analytics("materialize", "--home", landed, *QUICK, "--from", LAST, "--to", LAST)
                assert done.status == 0
                assert "check failed: raw/subscriptions every_tenant_was_computed: not computed: aurora" in done.out
    done = analytics("materialize", "--home", landed, *QUICK)
    assert done.status == 2
    assert "did not materialize: raw__subscriptions: no tenant could be computed: aurora: " in done.err


def test_an_empty_home_says_where_to_begin(installation: object, home: Path) -> None:
    done = analytics("materialize", "--home", home)
    assert (done.status, done.out) == (0, "")
    assert "nothing has arrived yet" in done.err


def test_a_catalogue_alone_is_materialized_too(home: Path, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id,country\nu1,US\nu2,DE\n")
    assert analytics("import", "users", tmp_path / "users.csv", "--tenant", "acme", "--home", home).status == 0
    done = analytics("materialize", "--home", home)
    assert (done.status, done.err) == (0, "new rows in the catalogue\n")
    assert done.out == "materialized 1 assets, the catalogue, acme\n"
    with opened(home) as found:
        [record] = found.published().values()
    assert (record.tenant, record.asset, record.rows) == ("acme", "raw/users", 2)
    assert "up to date" in analytics("materialize", "--home", home).err


def test_the_console_script_gives_the_same_status_and_lines(landed_home: Path, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("analytics")
    line = [str(script), "materialize", "--home", str(landed_home), "--tenant", "nobody"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "analytics: no active tenant nobody; `analytics tenant list` shows those there are\n"


def test_what_clients_sent_is_taken_from_the_log_first_whatever_is_selected(home: Path) -> None:
    record(home, "acme", 1, 2, 3)
    done = analytics("materialize", "--home", home, "--select", "raw/metrics")
    today = dt.datetime.now(dt.UTC).date()
    assert done.status == 0
    assert done.err.splitlines()[0] == "took 3 points and 0 plays of 1 tenant from the ingest log"
    assert published(home) == {("acme", "raw/metrics", today)}
    assert analytics("materialize", "--home", home).status == 0
    about = {"quality/scorecard", "aggregates/deliveries"}
    assert {asset for _, asset, _ in published(home)} == {"raw/metrics", "aggregates/points", *about}
    record(home, "acme", 4)
    again = analytics("materialize", "--home", home)
    assert (again.status, again.out) == (0, f"materialized 4 assets, {today} to {today}, acme\n")
    with opened(home) as found:
        assert found.published("raw/metrics")["acme", "raw/metrics", today].rows == 4


def record(home: Path, tenant: str, *values: float) -> None:
    """Points of now into the log of a home."""
    installation = open_installation(Settings.from_environment(home), create=True)
    installation.tenants.ensure(tenant)
    series, now = SeriesTable(), int(installation.clock.now().timestamp()) * 1_000_000
    numbers = np.full(len(values), series.number(tenant, "gauge", "signups", "{}"), np.int32)
    log = open_log(installation.settings, installation.clock, "local")
    log.append(Points(series, numbers, np.full(len(values), now), np.array(values, float))).result(timeout=30)
    log.close()
    installation.database.dispose()
