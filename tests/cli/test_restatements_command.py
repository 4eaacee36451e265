"""`analytics restatements` and `GET /analytics/restatements`: who asks sees what changed and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from restating import FIRST, LATER, TENANT, World, play
from server.running import serving

from analytics_dagster.cli.main import run
from analytics_dagster.tenancy.roles import Role


@pytest.fixture
def world(home: Path) -> Iterator[World]:
    """A late play on the first day, and a correction noted three days later."""
    made = World(home, small=False)
    made.arrive(play("a"), play("b", country=None))
    made.materialize()
    for name, row in (("late", play("late", listener="bob")), ("mended", play("a", ms=1_000))):
        made.clock.advance(LATER)
        made.arrive(row, name=name)
        made.materialize()
    yield made
    made.close()


def asked(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        run(["restatements", *options])
    said = capsys.readouterr()
    return (said.out, said.err) if ended.value.code == 0 else ("", f"{ended.value.code}: {said.err}")


def test_the_command_tells_what_changed_in_the_order_in_which_it_was_noted(world: World, capsys) -> None:
    here = ["--home", str(world.home), "--tenant", TENANT]
    out, _ = asked(capsys, *here, "--json")
    rows = json.loads(out)
    assert [row["ts"] for row in rows] == sorted(row["ts"] for row in rows)
    assert {row["cause"] for row in rows if row["ts"].startswith("2026-03-13")} == {"late_rows"}
    assert {row["cause"] for row in rows if row["ts"].startswith("2026-03-16")} == {"correction"}
    of_dau, _ = asked(capsys, *here, "--json", "--metric", "dau", "--from", "2026-02-01", "--to", "2026-02-01")
    told = [(row["dimensions"], row["old"], row["new"], row["difference"]) for row in json.loads(of_dau)]
    assert ("{}", 1, 2, 1) in told
    assert all(row["metric"] == "daily_active_listeners" for row in json.loads(of_dau))
    assert json.loads(asked(capsys, *here, "--json", "--limit", "1")[0]) == rows[-1:]
    table = asked(capsys, *here, "--metric", "dau")[0].splitlines()
    assert table[0].split("\t") == ["ts", "day", "metric", "dimensions", "old", "new", "difference", "cause", "run"]
    assert "2026-03-13T06:00:00Z\t2026-02-01\tdaily_active_listeners\t{}\t1.0\t2.0\t1.0\tlate_rows\trun" in table
    assert asked(capsys, *here, "--from", "2026-02-02")[1] == "no published figure of a closed day changed\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tenant", "acm"], "did you mean 'acme'"),
        (["--tenant", TENANT, "--metric", "plaies"], "did you mean 'plays'"),
        (["--tenant", TENANT, "--from", "soon"], "--from 'soon' is not a day"),
        (["--tenant", TENANT, "--from", "2026-02-02", "--to", "2026-02-01"], "--from 2026-02-02 is after --to 2026-02-01"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(world: World, capsys, options: list[str], said: str) -> None:
    _, error = asked(capsys, "--home", str(world.home), *options)
    assert error.startswith("2: ")
    assert said in error


def test_the_server_tells_the_same_to_a_key_that_may_read_figures(world: World, capsys) -> None:
    rows = json.loads(asked(capsys, "--home", str(world.home), "--tenant", TENANT, "--json")[0])
    with serving(world.home, ANALYTICS_SERVER_WORKERS="1") as running, running.client(running.key(Role.VIEWER, TENANT)) as client:
        answer: httpx.Response = client.get("/analytics/restatements", params={"from": str(FIRST), "metric": "dau"})
    assert answer.status_code == 200
    found = answer.json()
    assert [row["restatement_id"] for row in found] == [
        row["restatement_id"] for row in rows if row["metric"] == "daily_active_listeners"
    ]
    assert {"dimensions": {}, "old": 1, "new": 2, "cause": "late_rows"}.items() <= next(
        row for row in found if not row["dimensions"]
    ).items()
