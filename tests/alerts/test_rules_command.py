"""`analytics rules`: what it prints, and how it ends."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from analytics_dagster.cli.rules import app

GOOD = "  - {name: High Error Rate, condition: gt, threshold: 0.05, severity: critical, channels: [slack]}\n"
BAD = "  - {name: Bad, condition: gt, threshold: 1, severity: low, for_duration: 5mm}\n"


@pytest.fixture
def run(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANALYTICS_HOME", str(home))
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def rule_file(tmp_path):
    def write(text: str, name: str = "rules.yaml"):
        path = tmp_path / name
        path.write_text("alert_rules:\n" + text)
        return path

    return write


def test_check_is_content_with_a_file_that_only_has_remarks(run, rule_file):
    result = run("check", rule_file(GOOD + "  - {name: Odd, query: plays, condition: anomalous, severity: low}\n"))
    assert result.exit_code == 0
    assert "2 rules loaded, 0 refused" in result.output
    assert "not acted on yet" in result.output


def test_check_finds_a_bad_rule_an_unknown_metric_and_a_channel_that_is_not_there(run, rule_file):
    result = run("check", rule_file(GOOD + BAD + "  - {name: No Such Metric, condition: lt, threshold: 1, severity: low}\n"))
    assert result.exit_code == 1
    assert 'rule "Bad" (' in result.output
    assert 'rules.yaml:3): for_duration "5mm" is not a duration; write 5m, 1h30m or 300s' in result.output
    assert 'query "no_such_metric" matches no metric' in result.output
    assert 'channel "slack" is not configured' in result.output
    assert "2 rules loaded, 1 refused" in result.output


def test_check_reads_several_files_and_gives_json(run, rule_file):
    result = run("check", "--json", rule_file(GOOD, "one.yaml"), rule_file(BAD, "two.yaml"))
    assert result.exit_code == 1
    one, two = json.loads(result.stdout)
    assert (one["ok"], two["ok"]) == (True, False)
    assert one["rules"][0]["expression"] == "high_error_rate > 0.05"
    assert two["problems"][0]["line"] == 2


def test_check_names_a_dimension_that_the_metric_lacks(run, rule_file):
    rules = (
        "  - {name: X, query: 'api_error_ratio{endpont=\"a\"}', condition: gt, threshold: 1, severity: low, channels: [log]}\n"
    )
    result = run("check", rule_file(rules))
    assert result.exit_code == 0
    assert 'metric "api_error_ratio" has no dimension "endpont"; did you mean "endpoint"?' in result.output


def test_list_shows_the_installed_rules(run, rule_file, home, tmp_path):
    rule_file(GOOD + BAD)
    result = run("list")
    assert result.exit_code == 0
    assert "High Error Rate" in result.stdout
    assert "Bad" not in result.stdout
    assert json.loads(run("list", "--json").stdout)["rules"][0]["severity"] == "critical"


def test_list_without_a_rule_file_says_where_one_would_be(run):
    result = run("list")
    assert result.exit_code != 0
    assert "no rule file at" in str(result.exception)
