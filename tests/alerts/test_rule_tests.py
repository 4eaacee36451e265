"""`analytics rules test`: promtool's documented examples and ours, what differs, and the exit status."""

from __future__ import annotations

import math
import shutil
import subprocess
import textwrap

import pytest
from typer.testing import CliRunner

from analytics_dagster.alerts.rule_test import run_rule_test
from analytics_dagster.alerts.series_notation import Mark, parse_series, parse_values
from analytics_dagster.cli.rules import app

CPU = """
alert_rules:
  - {name: CPU, query: cpu_usage_percent, condition: gt, threshold: 80, severity: high, for_duration: 5m, channels: [pagerduty]}
"""

# The documented example of prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules.
UP = """
alert_rules:
  - name: InstanceDown
    query: up
    condition: eq
    threshold: 0
    severity: critical
    for_duration: 5m
    labels: {team: page}
    annotations:
      summary: "Instance {{ $labels.instance }} down"
      description: "{{ $labels.instance }} of job {{ $labels.job }} has been down for more than 5 minutes."
"""


@pytest.fixture
def run(tmp_path):
    def run(rules: str, test: str):
        (tmp_path / "rules.yaml").write_text(textwrap.dedent(rules))
        path = tmp_path / "test.yaml"
        path.write_text("rule_files: [rules.yaml]\n" + textwrap.dedent(test))
        return run_rule_test(path)

    return run


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("-2+4x3", [-2, 2, 6, 10]),
        ("1-2x4", [1, -1, -3, -5, -7]),
        ("1x4", [1, 1, 1, 1, 1]),
        ("0x3", [0, 0, 0, 0]),
        ("1 _x3 stale", [1, Mark.MISSING, Mark.MISSING, Mark.MISSING, Mark.STALE]),
        ("_ 1.5 -1e3 .5", [Mark.MISSING, 1.5, -1000, 0.5]),
        ("Inf -Inf +Inf", [math.inf, -math.inf, math.inf]),
        ("", []),
    ],
)
def test_the_notation_of_series_is_promtools(text, values):
    assert parse_values(text) == values


def test_not_a_number_is_a_value():
    assert [math.isnan(value) for value in parse_values("NaN nan") if isinstance(value, float)] == [True, True]


@pytest.mark.parametrize("text", ["x3", "1+x3", "1x", "1x-3", "a", "1,2", "{{count:1}}", "1x99999999"])
def test_what_is_not_in_the_notation_is_named(text):
    with pytest.raises(ValueError, match=r"notation|histogram|more than"):
        parse_values(text)


def test_a_series_is_a_name_with_labels():
    assert parse_series('up{job="a", instance="b:80"}') == ("up", (("instance", "b:80"), ("job", "a")))
    assert parse_series('{__name__="up", job="a"}') == ("up", (("job", "a"),))
    with pytest.raises(ValueError, match="each label is written once"):
        parse_series('up{job!="a"}')


def test_promtools_documented_example_passes(run):
    result = run(
        UP,
        """
        evaluation_interval: 1m
        tests:
          - interval: 1m
            input_series:
              - series: 'up{job="prometheus", instance="localhost:9090"}'
                values: '0 0 0 0 0 0 0 0 0 0 0 0 0 0 0'
              - series: 'up{job="node_exporter", instance="localhost:9100"}'
                values: '1+0x6 0 0 0 0 0 0 0 0'
            alert_rule_test:
              - eval_time: 10m
                alertname: InstanceDown
                exp_alerts:
                  - exp_labels:
                      severity: critical
                      team: page
                      tenant_id: default
                      instance: localhost:9090
                      job: prometheus
                    exp_annotations:
                      summary: "Instance localhost:9090 down"
                      description: "localhost:9090 of job prometheus has been down for more than 5 minutes."
        """,
    )
    assert (result.status, result.failures) == (0, ())


def test_what_differs_is_printed_as_promtool_does(run):
    result = run(
        CPU,
        """
        tests:
          - input_series: [{series: 'cpu_usage_percent{host="a"}', values: '90x20'}]
            alert_rule_test: [{eval_time: 8m, alertname: CPU, exp_alerts: []}]
        """,
    )
    assert result.status == 1
    assert result.failures == (
        "    alertname: CPU, time: 8m, \n"
        "        exp:[], \n"
        "        got:[\n"
        "            0:\n"
        '              Labels:{alertname="CPU", host="a", severity="high", tenant_id="default"}\n'
        "              Annotations:{}\n"
        "            ]",
    )


def test_labels_are_compared_whole_and_annotations_only_where_given(run):
    test = """
        tests:
          - input_series: [{{series: 'up{{instance="x", job="y"}}', values: '0x10'}}]
            alert_rule_test: [{{eval_time: 5m, alertname: InstanceDown, exp_alerts: [{{exp_labels: {labels}{more}}}]}}]
        """
    whole = "{severity: critical, team: page, instance: x, job: y, tenant_id: default"
    assert run(UP, test.format(labels=whole + "}", more="")).status == 0
    assert run(UP, test.format(labels=whole + ", alertname: InstanceDown}", more="")).status == 0
    assert run(UP, test.format(labels=whole + ", alertname: Other}", more="")).status == 1
    assert run(UP, test.format(labels="{severity: critical, team: page, instance: x, job: y}", more="")).status == 1
    assert run(UP, test.format(labels=whole + "}", more=", exp_annotations: {summary: no}")).status == 1


def test_states_restarts_and_lost_evaluations(run):
    result = run(
        CPU,
        """
        evaluation_interval: 1m
        tests:
          - interval: 1m
            input_series: [{series: 'cpu_usage_percent{host="a"}', values: '50x4 90x20 50x10'}]
            restarts: [{at: 7m30s, down_for: 1m}]
            state_test:
              - {eval_time: 4m, alertname: CPU, exp_states: []}
              - {eval_time: 8m, alertname: CPU, exp_states: [{labels: {host: a}, state: pending, active_since: 5m}]}
              - {eval_time: 11m59s, alertname: CPU, exp_states: [{state: pending, active_since: 7m}]}
              - {eval_time: 12m, alertname: CPU, exp_states: [{state: firing, active_since: 7m}]}
          - interval: 1m
            input_series: [{series: 'cpu_usage_percent{host="a"}', values: '50x4 90x20 50x10'}]
            evaluations_lost: [{from: 6m, to: 12m}]
            state_test:
              - {eval_time: 11m, alertname: CPU, exp_states: [{state: pending, active_since: 5m}]}
              - {eval_time: 12m, alertname: CPU, exp_states: [{state: firing, active_since: 5m}]}
          - input_series: [{series: 'cpu_usage_percent{host="a"}', values: '90x300'}]
            restarts: [{at: 1m30s, down_for: 2h}]
            state_test:
              - {eval_time: 2h4m, alertname: CPU, exp_states: [{state: pending, active_since: 2h2m}]}
        """,
    )
    assert (result.status, result.failures) == (0, ())


def test_a_state_test_counts_instances_and_matches_subsets_of_labels(run):
    test = """
        tests:
          - input_series:
              - {{series: 'cpu_usage_percent{{host="a", zone="x"}}', values: '90x20'}}
              - {{series: 'cpu_usage_percent{{host="b", zone="x"}}', values: '90x20'}}
            state_test: [{{eval_time: 1m, alertname: CPU, exp_states: [{states}]}}]
        """
    assert run(CPU, test.format(states="{labels: {zone: x}, state: pending}, {labels: {host: a}, state: pending}")).status == 0
    assert run(CPU, test.format(states="{labels: {host: a}, state: pending}, {labels: {host: a}, state: pending}")).status == 1
    assert run(CPU, test.format(states="{labels: {zone: x}, state: pending}")).status == 1
    assert run(CPU, test.format(states="{state: pending}, {state: firing}")).status == 1


def test_a_value_is_visible_for_less_than_five_minutes_unless_stale_ends_it(run):
    rules = "alert_rules: [{name: Seen, query: m, condition: eq, threshold: 0, severity: low}]"
    result = run(
        rules,
        """
        evaluation_interval: 1s
        tests:
          - input_series: [{series: m, values: '0'}]
            alert_rule_test:
              - {eval_time: 4m59s, alertname: Seen, exp_alerts: [{exp_labels: {tenant_id: default, severity: low}}]}
              - {eval_time: 5m, alertname: Seen, exp_alerts: []}
          - interval: 60s
            input_series: [{series: m, values: '0 stale'}]
            alert_rule_test:
              - {eval_time: 59s, alertname: Seen, exp_alerts: [{exp_labels: {tenant_id: default, severity: low}}]}
              - {eval_time: 60s, alertname: Seen, exp_alerts: []}
        """,
    )
    assert (result.status, result.failures) == (0, ())


def test_a_later_rule_reads_the_alerts_of_an_earlier_one_in_the_same_tick(run):
    result = run(
        """
        alert_rules:
          - {name: Each, query: m, condition: gt, threshold: 10, severity: low, for_duration: 180s}
          - name: Both
            query: 'ALERTS{alertname="Each", alertstate="firing"}'
            aggregate: sum
            condition: ge
            threshold: 2
            severity: critical
        """,
        """
        evaluation_interval: 30s
        tests:
          - interval: 15s
            input_series:
              - {series: 'm{i="one"}', values: '1x7 11x64 9x20'}
              - {series: 'm{i="two"}', values: '1x31 11x32 9x20'}
            state_test:
              - {eval_time: 630s, alertname: Both, exp_states: []}
              - {eval_time: 660s, alertname: Both, exp_states: [{state: firing, active_since: 660s}]}
              - {eval_time: 989s, alertname: Both, exp_states: [{state: firing}]}
              - {eval_time: 990s, alertname: Both, exp_states: []}
        """,
    )
    assert (result.status, result.failures) == (0, ())


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("avg", 20), ("sum", 180), ("min", 0), ("max", 60), ("last", 60), ("count", 6), ("p50", 20)],
)
def test_aggregates_go_over_the_window_and_then_across_series(run, aggregate, expected):
    # Points of the last three minutes at 2m: 0 10 20, and 0 30 60. avg: 10 and 30; sum: 30 and 90, together 120.
    expected = {"sum": 120, "p50": 20}.get(aggregate, expected)
    result = run(
        f"""
        alert_rules:
          - {{name: X, query: m, aggregate: {aggregate}, window: 3m, condition: eq, threshold: {expected}, severity: low}}
        """,
        """
        tests:
          - input_series:
              - {series: 'm{i="one"}', values: '0+10x5'}
              - {series: 'm{i="two"}', values: '0+30x5'}
            alert_rule_test:
              - {eval_time: 2m, alertname: X, exp_alerts: [{exp_labels: {tenant_id: default, severity: low}}]}
        """,
    )
    assert (result.status, result.failures) == (0, ())


def test_by_makes_one_instance_a_combination_and_tenants_are_judged_alone(run):
    result = run(
        """
        alert_rules:
          - {name: X, query: m, aggregate: sum, by: [zone], condition: gt, threshold: 5, severity: low}
          - {name: Y, query: m, aggregate: sum, condition: gt, threshold: 5, severity: low, tenant_id: acme}
        """,
        """
        tests:
          - input_series:
              - {series: 'm{zone="a", host="1"}', values: '3x5'}
              - {series: 'm{zone="a", host="2"}', values: '3x5'}
              - {series: 'm{zone="b", host="3"}', values: '3x5'}
              - {series: 'm{zone="b", host="3", tenant_id="acme"}', values: '9x5'}
            alert_rule_test:
              - eval_time: 1m
                alertname: X
                exp_alerts:
                  - exp_labels: {zone: a, tenant_id: default, severity: low}
                  - exp_labels: {zone: b, tenant_id: acme, severity: low}
              - {eval_time: 1m, alertname: Y, exp_alerts: [{exp_labels: {tenant_id: acme, severity: low}}]}
        """,
    )
    assert (result.status, result.failures) == (0, ())


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("notification_test: [{from: 0s, to: 35m, channel: pagerduty, exp: []}]", "notification_test is not run"),
        ("materializations: [{at: 1m, metric: plays}]", "materializations is not run"),
        ("actions: [{at: 20m, acknowledge: CPU}]", "actions is not run"),
        ("promql_expr_test: [{expr: up, eval_time: 1m}]", "promql_expr_test is not run"),
        ("alert_rule_tests: []", 'unknown key "alert_rule_tests" in test 1; did you mean "alert_rule_test"?'),
        ("interval: 5", 'interval: "5" is not a duration'),
        ("state_test: [{alertname: X, exp_states: [{state: resolved}]}]", 'state "resolved" is not known'),
        ("input_series: [{series: m, values: '1 b'}]", '"b" is not in the notation'),
    ],
)
def test_what_cannot_be_run_is_never_passed_over(run, extra, said):
    result = run(CPU, f"tests:\n  - {extra}\n")
    assert result.status == 2
    assert said in result.could_not[0]


def test_empty_additions_and_settings_are_no_reason_to_stop(run):
    result = run(
        CPU, "tests:\n  - {materializations: [], actions: [], settings: {alert_cooldown_period: 0, repeat_interval: 4h}}\n"
    )
    assert (result.status, result.could_not) == (0, ())
    assert "settings has no effect" in result.remarks[0]


def test_a_refused_rule_fails_the_tests_that_name_it_and_no_other(run):
    rules = CPU + "  - {name: Bad, query: m, condition: gt, threshold: 1, severity: high, for_duration: 5mm}\n"
    good = run(rules, "tests:\n  - alert_rule_test: [{eval_time: 1m, alertname: CPU}]\n")
    assert good.status == 0
    assert any("5mm" in remark for remark in good.remarks)
    bad = run(rules, "tests:\n  - alert_rule_test: [{eval_time: 1m, alertname: Bad}]\n")
    assert bad.status == 1
    assert "the rule was refused" in bad.failures[0]


def test_an_evaluation_with_equal_series_changes_nothing_and_is_reported(run):
    result = run(
        "alert_rules: [{name: X, query: m, condition: gt, threshold: 5, severity: low, labels: {team: z}}]",
        """
        tests:
          - input_series: [{series: 'm{team="a"}', values: '9x5'}, {series: 'm{team="b"}', values: '9x5'}]
            alert_rule_test: [{eval_time: 1m, alertname: X}]
        """,
    )
    assert result.status == 0
    assert "two series have the labels" in result.remarks[0]


def test_the_command_gives_0_when_all_pass_1_when_any_differs_and_2_when_a_file_cannot_be_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "rules.yaml").write_text(CPU)
    for name, body in {
        "good.yaml": "rule_files: [rules.yaml]\ntests:\n  - alert_rule_test: [{eval_time: 1m, alertname: CPU}]\n",
        "sub/glob.yaml": "rule_files: ['../rul*.yaml']\ntests: []\n",
        "bad.yaml": "rule_files: [rules.yaml]\ntests:\n  - alert_rule_test: "
        "[{eval_time: 1m, alertname: CPU, exp_alerts: [{exp_labels: {}}]}]\n",
        "broken.yaml": "rule_files: [nowhere.yaml]\n",
    }.items():
        (tmp_path / name).write_text(body)
    status = {}
    for names in (["good.yaml", "sub/glob.yaml"], ["good.yaml", "bad.yaml"], ["bad.yaml", "broken.yaml"], ["none.yaml"]):
        result = CliRunner().invoke(app, ["test", *(str(tmp_path / name) for name in names)])
        status[names[-1]] = result.exit_code
    assert status == {"sub/glob.yaml": 0, "bad.yaml": 1, "broken.yaml": 2, "none.yaml": 2}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "values",
    ["0x9", "0 0 1 _ _ 0 0 0", "_x3 0x5", "0x3 stale 0 0 0", "1 0 _x3 0 0 0", "0 NaN 0 0 Inf 0", "1-1x3 0+0x2 -1", "2-0.5x8"],
)
@pytest.mark.parametrize("hold", ["0s", "1m", "2m"])
def test_promtool_agrees_on_when_an_alert_fires(tmp_path, values, hold):
    # The series end in a stale mark: promtool 2 takes a point of exactly five minutes as visible, 3 and we do not.
    test = f"tests:\n  - interval: 1m\n    input_series: [{{series: m, values: '{values} stale'}}]\n    alert_rule_test:\n"
    test += "".join(f"      - {{eval_time: {minute}m, alertname: X, exp_alerts: []}}\n" for minute in range(14))
    files = {
        "rules.yaml": f"alert_rules: [{{name: X, query: m, condition: lt, threshold: 1, severity: low, for_duration: {hold}}}]",
        "prometheus.yaml": f"groups: [{{name: g, rules: [{{alert: X, expr: m < 1, for: {hold}}}]}}]",
        "ours.yaml": f"rule_files: [rules.yaml]\n{test}",
        "theirs.yaml": f"rule_files: [prometheus.yaml]\n{test}",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = ["promtool", "test", "rules", "theirs.yaml"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr

    def times(lines):
        return {line.split("time: ")[1].split(",")[0] for line in lines if "time: " in line}

    assert times(run_rule_test(tmp_path / "ours.yaml").failures) == times(output.splitlines())
