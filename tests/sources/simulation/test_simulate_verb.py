"""`analytics simulate` as a person and a program call it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer import Context, Typer
from typer.testing import CliRunner

from analytics_dagster.cli.context import Invocation
from analytics_dagster.cli.simulate import simulate
from analytics_dagster.errors import UserError

SMALL = ["simulate", "--tenants", "1", "--users", "20", "--days", "3"]


@pytest.fixture
def app(home: Path) -> Typer:
    made = Typer()

    @made.callback()
    def into_home(ctx: Context) -> None:
        ctx.obj = Invocation(home)

    made.command("simulate")(simulate)
    return made


def test_it_prints_counts_and_rate(app: Typer, home: Path) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--until", "2026-02-03"], catch_exceptions=False)
    first, rate, labels = result.stdout.splitlines()
    assert first.startswith("aurora: 3 days, 2026-02-01 to 2026-02-03, 0 incidents: ")
    assert " plays" in first
    assert rate.endswith(" a second")
    assert labels == f"incidents are labelled in {home}/simulated/<tenant>/incidents.csv"
    again = CliRunner().invoke(app, [*SMALL, "--until", "2026-02-03"], catch_exceptions=False)
    assert again.stdout.splitlines()[0] == "aurora: nothing to add"


def test_a_program_can_read_the_answer_and_the_default_is_yesterday(app: Typer) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--json"], catch_exceptions=False)
    answer = json.loads(result.stdout)
    [tenant] = answer["tenants"]
    assert tenant["tenant"] == "aurora"
    assert tenant["last"] == str(datetime.now(UTC).date() - timedelta(days=1))
    assert answer["plays"] == tenant["rows"]["plays"] > 100
    assert Path(tenant["ground_truth"]).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--until", "yesterday"], "--until 'yesterday' is not a day; write it as 2026-01-31"),
        (["--tenants", "0"], "tenants 0 is not allowed"),
        (["--users", "0"], "users 0 is not allowed"),
        (["--days", "0"], "days 0 is not allowed"),
        (["--seed", "-1"], "seed -1 is not allowed"),
    ],
)
def test_a_bad_argument_is_named_and_makes_no_home(app: Typer, home: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, ["simulate", *arguments], catch_exceptions=False)
    assert not home.exists()
