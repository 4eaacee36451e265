"""`analytics doctor`: finds what is wrong, says how to mend it, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.command import analytics
from small_home import BROKEN_DAY, Copied


def findings(home: Path, status: int) -> dict[str, list[dict[str, str]]]:
    """What it found, by subject."""
    done = analytics("doctor", "--json", "--home", home)
    assert (done.status, done.err) == (status, "")
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(done.out):
        found.setdefault(finding["about"], []).append(finding)
    return found


def test_a_healthy_home_has_no_problem(materialized_home: Path) -> None:
    found = findings(materialized_home, 0)
    levels = {finding["level"] for about in found.values() for finding in about}
    assert levels == {"ok", "notice"}
    assert found["tenants"][0]["found"] == "2 active: aurora, borealis"
    assert found["database"][0]["level"] == "ok"


def test_a_closed_gate_is_named_with_its_checks_and_a_remedy(materialized_home: Path) -> None:
    [gate] = findings(materialized_home, 0)["gate"]
    assert gate["level"] == "notice"
    assert gate["found"].startswith(f"aurora {BROKEN_DAY} raw/plays is closed: ")
    assert "listener_is_known" in gate["found"]
    assert gate["remedy"]


def test_days_that_are_not_materialized_are_counted(landed_home: Path) -> None:
    stale = findings(landed_home, 0)["freshness"][0]
    assert stale["level"] == "notice"
    assert "table-days have rows that are not materialized" in stale["found"]
    assert stale["remedy"] == "analytics materialize"


def test_a_wrong_rule_is_a_problem_with_its_line(copied: Copied, landed_home: Path) -> None:
    home = copied(landed_home)
    rules = home.parent / "rules.yaml"
    rules.write_text("alert_rules:\n  - {name: Wrong, condition: above, threshold: 1, severity: low}\n")
    [wrong, *_] = [f for f in findings(home, 1)["rules"] if f["level"] == "problem"]
    assert "rules.yaml:2" in wrong["found"]
    rules.write_text("alert_rules: [\n")
    assert any("rules.yaml" in f["found"] for f in findings(home, 1)["rules"] if f["level"] == "problem")


def test_a_wrong_alerting_file_is_a_problem(copied: Copied, landed_home: Path) -> None:
    home = copied(landed_home)
    (home.parent / "rules.yaml").write_text("alert_rules: []\n")
    (home.parent / "alerting.yaml").write_text("channels: [\n")
    assert any("alerting.yaml" in f["found"] for f in findings(home, 1)["rules"] if f["level"] == "problem")


def test_another_dagster_home_is_a_problem(landed_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    [wrong] = findings(landed_home, 1)["dagster"]
    assert wrong["found"] == f"DAGSTER_HOME is {tmp_path}, not this installation's"
    assert "unset it" in wrong["remedy"]


def test_a_damaged_table_is_named_and_the_rest_is_still_looked_at(copied: Copied, landed_home: Path) -> None:
    home = copied(landed_home)
    done = analytics("quarantine", "list", "--tenant", "aurora", "--home", home)
    assert done.status == 0
    log = home / "lake" / "aurora" / "landing" / "quarantine" / "_delta_log"
    log.mkdir(parents=True)
    (log / "00000000000000000000.json").write_text("not json\n")
    found = findings(home, 1)
    assert any(f["level"] == "problem" and "aurora" in f["found"] for f in found["quarantine"])
    assert "dagster" in found


def test_people_get_a_line_for_each_finding_and_its_remedy(materialized_home: Path) -> None:
    done = analytics("doctor", "--home", materialized_home)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("ok       versions")
    assert any(line.strip().startswith("-> ") for line in lines)
