"""Rules on the ledger's metrics: known to `rules check`, judged by the sensor's path, and over on a day without a change."""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path

import sqlalchemy as sa
from restating import FIRST, LATER, TENANT, World, play

from analytics_dagster.lake.state_tables import outbox
from analytics_dagster.orchestration.alerting import judge, rule_problems
from analytics_dagster.orchestration.build import build_ledger_figures

RULES = """
alert_rules:
  - {name: Restated, query: 'restated_figures{cause=~".*late_rows.*"}', condition: gt, threshold: 0, severity: low}
  - {name: Restated much, query: largest_restatement, condition: gt, threshold: 0.4, severity: critical}
  - {name: Restated by policy, query: 'restated_figures{cause="policy"}', condition: gt, threshold: 0, severity: low}
"""


def test_a_rule_on_restatements_fires_when_one_is_noted_and_ends_on_a_day_without(home: Path) -> None:
    world = World(home)
    (home / "rules.yaml").write_text(RULES)
    assert list(rule_problems(world.installation)) == []
    world.arrive(play("a"), play("b"))
    world.materialize()
    assert judge(world.installation).transitions == []
    world.clock.advance(LATER)
    world.arrive(play("late"), name="late")
    world.materialize()
    judged = judge(world.installation)
    assert judged.errors == []
    assert told(world) == [("Restated", "firing", 2), ("Restated much", "firing", 0.5)]
    assert judge(world.installation).transitions == []
    noted = world.clock.now().date()
    world.clock.advance(dt.timedelta(days=2))
    log, quiet = logging.getLogger("test"), noted + dt.timedelta(days=1)
    assert build_ledger_figures(world.installation, [TENANT], FIRST, quiet, "run", log).rows > 0
    days = world.installation.publications.of(tenant=TENANT, asset="aggregates/restatements")
    assert [(p.day, p.rows > 0) for p in days] == [(noted, True), (quiet, False)]
    assert {(rule, t.after.value) for _, rule, t in judge(world.installation).transitions} == {
        ("Restated", "inactive"),
        ("Restated much", "inactive"),
    }
    world.close()


def told(world: World) -> list[tuple[str, str, float]]:
    """Rule, status and value of each message, by rule."""
    with world.installation.database.read() as connection:
        messages = [json.loads(text) for text in connection.execute(sa.select(outbox.c.payload)).scalars()]
    return sorted((m["alertname"], m["status"], m["value"]) for m in messages)
