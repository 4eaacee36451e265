"""Rule files: what loads, what is refused with file, line, value and remedy, what is only remarked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.alerts.durations import format_duration, parse_duration
from analytics_dagster.alerts.queries import parse_query, snake_case
from analytics_dagster.alerts.rule_file import load_rules
from analytics_dagster.alerts.rules import Condition, Level, Severity
from analytics_dagster.alerts.templates import TemplateContext, parse_template
from analytics_dagster.errors import DeclarationError, UnreadableFileError

PROJECT = Path(__file__).parents[2]
GOOD = "name: Good, condition: gt, threshold: 1, severity: low"


@pytest.fixture
def load(tmp_path):
    def load(text: str, **options):
        path = tmp_path / "rules.yaml"
        path.write_text(text, encoding="utf-8")
        return load_rules([path], shown=lambda file: file.name, **options)

    return load


@pytest.mark.parametrize(
    ("text", "seconds"), [("5m", 300), ("300s", 300), ("1h30m", 5400), ("0", 0), ("", 0), ("1d", 86400), ("250ms", 0.25)]
)
def test_a_duration_reads_as_people_write_it(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["5", "-5m", "1.5h", "5mm", "5 m", "m", "1m1h", "５m", "999999999y"])
def test_anything_else_is_no_duration(text):
    with pytest.raises(ValueError, match=r"write 5m, 1h30m or 300s"):
        parse_duration(text)


@given(st.timedeltas(timedelta(0), timedelta(days=10_000)))
def test_a_duration_written_out_reads_back(value):
    whole = value // timedelta(milliseconds=1) * timedelta(milliseconds=1)
    assert parse_duration(format_duration(whole)) == whole


def test_the_products_first_example_loads_as_it_stands(load):
    rules = load(
        """
alert_rules:
  - name: "High Error Rate"
    condition: "gt"
    threshold: 0.05
    severity: "critical"
    for_duration: "5m"
    channels: ["slack", "pagerduty"]
  - name: "Low User Engagement"
    condition: "lt"
    threshold: 0.7
    severity: "medium"
    for_duration: "15m"
    channels: ["email"]
"""
    )
    assert rules.problems == ()
    first, second = rules.rules
    assert (str(first.query), first.condition, first.threshold) == ("high_error_rate", Condition.GT, 0.05)
    assert (first.severity, first.for_duration, first.channels) == (
        Severity.CRITICAL,
        timedelta(minutes=5),
        ("slack", "pagerduty"),
    )
    assert str(second.query) == "low_user_engagement"


def test_the_projects_own_rule_file_loads():
    assert [rule.name for rule in load_rules([PROJECT / "rules.yaml"]).rules] == ["High Error Rate", "Low User Engagement"]


def test_every_field_parses_and_what_is_not_acted_on_yet_is_a_notice(load):
    rules = load(
        """
alert_rules:
  - name: "Database Down"
    condition: eq
    threshold: 0
    severity: critical
  - name: "Ärger mit /play"
    query: 'api_error_ratio{endpoint="/play", country!~"X.*"}'
    condition: greater_than_or_equal
    threshold: 1e-2
    severity: high
    for_duration: 0
    keep_firing_for: "0s"
    channels: ["slack"]
    tenant_id: acme
    aggregate: avg
    window: 5m
    by: ["endpoint"]
    no_data: no_data
    missing_evals: 2
    labels: {team: "playback", tier: 1}
    annotations: {summary: "{{ labels.endpoint }} fails {{ value | percent }} of requests", runbook: "..."}
    depends_on: ["Database Down"]
    remediation: "rerun_partition"
  - {name: Odd, query: plays, condition: outside_forecast, severity: low}
""",
        channels=["slack"],
    )
    assert rules.errors == ()
    rule = rules.rules[1]
    assert rule.threshold == 0.01
    assert rule.by == ("endpoint",)
    assert rule.labels == (("team", "playback"), ("tier", "1"))
    assert rule.full_labels((("endpoint", "/play"), ("severity", "x")), "acme") == {
        "endpoint": "/play",
        "team": "playback",
        "tier": "1",
        "tenant_id": "acme",
        "severity": "high",
    }
    assert rule.annotate((("endpoint", "/play"),), "acme", 0.0734)["summary"] == "/play fails 7.34% of requests"
    notices = [(p.rule, p.message.split(" ")[0], p.level) for p in rules.problems]
    assert [(name, word) for name, word, _ in notices] == [
        ("Ärger mit /play", "no_data:"),
        ("Ärger mit /play", "depends_on"),
        ("Ärger mit /play", "remediation"),
        ("Odd", "condition"),
    ]
    assert {level for *_, level in notices} == {Level.NOTICE}


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("for_duration: 5mm", 'for_duration "5mm" is not a duration; write 5m, 1h30m or 300s'),
        ("for_duration: 5", 'for_duration "5" is not a duration'),
        ("for_duration: [5m]", "for_duration is a list, not a duration"),
        ("keep_firing_for: -5m", 'keep_firing_for "-5m" is not a duration'),
        ("window: 0s", 'window "0s" is no length of time'),
        ("aggregate: mean", 'aggregate "mean" is not known'),
        ("by: [country]", "by [country] needs aggregate"),
        ("tresholds: 5", 'unknown field "tresholds"; did you mean "threshold"?'),
        ("severity: critica", 'severity "critica" is not known; did you mean "critical"?'),
        ("severity: warning", 'severity "warning" is not a severity here; write medium'),
        ("condition: '>'", 'condition ">" is not a condition; write "gt"'),
        ("condition: greater", 'condition "greater" is not a condition; write "greater_'),
        ("threshold: 5%", "write a percentage as a fraction, 5% as 0.05"),
        ("threshold: '5'", 'threshold "5" is not a number'),
        ("threshold: true", 'threshold "true" is not a number'),
        ("threshold: .nan", "threshold .nan cannot be compared with"),
        ("threshold: ~", "threshold is missing"),
        ("tenant_id: ACME", 'tenant_id "ACME"'),
        ("labels: {severity: high}", 'labels "severity" is reserved'),
        ("labels: {__name__: high}", 'labels "__name__" is reserved'),
        ("labels: {a-b: high}", 'labels "a-b" is not a label name'),
        ("labels: {a: b, a: c}", 'labels "a" stands twice'),
        ("annotations: {summary: '{{ valeu }}'}", "annotations summary:"),
        ("annotations: {summary: '{{ value | percentage }}'}", 'did you mean "percent"?'),
        ("annotations: {summary: '{{ value'}", "opens {{ without closing it"),
        ("missing_evals: 0", 'missing_evals "0" is not a whole number'),
        ("no_data: panic", 'no_data "panic" is not known'),
        ("channels: {slack: 1}", "channels a mapping is not a list"),
        ("query: 'a{b=~\"(?=x)\"}'", "is not a regular expression of RE2"),
        ("query: 'a + b'", "a query is one metric"),
        ("query: 'a{b}'", "has no = != =~ or !~ after b"),
        ("query: 'a{b=\"c\"'", "lacks a comma or a closing brace"),
        ("condition: anomalous", "threshold 1 has no meaning with anomalous"),
    ],
)
def test_a_bad_rule_is_refused_with_its_line_and_the_good_ones_load(load, field, said):
    name = field.split(":")[0]
    base = {"name": "Bad", "condition": "gt", "threshold": "1", "severity": "low"}
    base.pop(name, None)
    lines = [f"{key}: {value}" for key, value in base.items()] + [field]
    text = (
        f"alert_rules:\n  - {{{GOOD}}}\n  - "
        + "\n    ".join(lines)
        + "\n  - {name: Also, condition: lt, threshold: 2, severity: info}\n"
    )
    rules = load(text)
    assert [rule.name for rule in rules.rules] == ["Good", "Also"]
    assert rules.refused == {"Bad"}
    message = str(rules.errors[0])
    line = {"is missing": 3, "no meaning": 4}.get(
        next((w for w in ("is missing", "no meaning") if w in said), ""), 2 + len(lines)
    )
    assert message.startswith(f'rule "Bad" (rules.yaml:{line}): ')
    assert said in message


@pytest.mark.parametrize("missing", ["name", "condition", "severity", "threshold"])
def test_a_rule_needs_name_condition_threshold_and_severity(load, missing):
    fields = dict(pair.split(": ") for pair in GOOD.split(", "))
    fields.pop(missing)
    rules = load("alert_rules:\n  - {" + ", ".join(f"{k}: {v}" for k, v in fields.items()) + "}\n")
    assert rules.rules == ()
    assert f"{missing} is missing" in str(rules.errors[0])


def test_a_name_is_unique_in_a_tenant_and_may_return_in_another(load):
    rule = "{{name: X, condition: gt, threshold: 1, severity: low{}}}"
    two = load(f"alert_rules:\n  - {rule.format(', tenant_id: a')}\n  - {rule.format(', tenant_id: b')}\n")
    assert len(two.rules) == 2
    both = load(f"alert_rules:\n  - {rule.format('')}\n  - {rule.format(', tenant_id: b')}\n")
    assert len(both.rules) == 1
    assert str(both.errors[0]) == 'rule "X" (rules.yaml:3): the name "X" is taken (rules.yaml:2); names are unique in a tenant'


def test_unknown_metrics_and_channels_are_warnings(load):
    rules = load(f"alert_rules:\n  - {{{GOOD}, channels: [slack, pagerduty]}}\n", known=lambda name: False, channels=["slack"])
    assert len(rules.rules) == 1
    assert [p.level for p in rules.problems] == [Level.WARNING, Level.WARNING]
    assert 'query "good" matches no metric' in str(rules.problems[0])
    assert 'channel "pagerduty" is not configured' in str(rules.problems[1])


def test_merge_keys_and_anchors_work(load):
    rules = load(f"alert_rules:\n  - &base {{{GOOD}}}\n  - {{<<: *base, name: Other, threshold: 3}}\n")
    assert [(rule.name, rule.threshold, rule.severity) for rule in rules.rules] == [("Good", 1, "low"), ("Other", 3, "low")]


def test_an_empty_list_of_channels_is_none_named_and_not_nobody(load):
    assert load(f"alert_rules:\n  - {{{GOOD}, channels: []}}\n").rules[0].channels is None


def test_a_mapping_merged_into_itself_and_a_zero_byte_are_refused(load):
    zero = GOOD.replace("Good", '"a\\0b"')
    rules = load(f"alert_rules:\n  - &me {{<<: *me, {GOOD}}}\n  - {{{zero}}}\n")
    assert rules.rules == ()
    assert "merges a mapping into itself" in str(rules.errors[0])
    assert "zero byte" in str(rules.errors[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alert_rules: [", "rules.yaml:1: is not YAML"),
        ("a: b: c", "is not YAML"),
        ("- a", "is not a mapping"),
        ("alert_rules: 5", "is not a list"),
        ("groups: []", "is a rule file of Prometheus"),
    ],
)
def test_a_file_that_is_no_rule_file_cannot_be_read(load, text, said):
    with pytest.raises(DeclarationError, match=r"rules\.yaml:1") as caught:
        load(text)
    assert said in str(caught.value)


def test_a_missing_file_and_a_binary_one_cannot_be_read(tmp_path):
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        load_rules([tmp_path / "none.yaml"])
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnreadableFileError, match="not UTF-8"):
        load_rules([tmp_path / "bin.yaml"])


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("High Error Rate", "high_error_rate"),
        ("HighErrorRate", "high_error_rate"),
        ("CPU", "cpu"),
        ("API p95 (slow)", "api_p95_slow"),
        ("Größe des Öls", "größe_des_öls"),
    ],
)
def test_the_default_query_is_the_name_in_snake_case(name, metric):
    assert snake_case(name) == metric


def test_matchers_match_as_in_prometheus():
    labels = {"endpoint": "/play", "country": "US"}
    for text, expected in {
        'm{endpoint="/play"}': True,
        'm{endpoint="/pla"}': False,
        'm{endpoint=~"/pl"}': False,  # the whole value has to match
        'm{endpoint=~"/pl.*"}': True,
        'm{endpoint!~"/s.*", country!="DE",}': True,
        'm{missing=""}': True,
        'm{missing!=""}': False,
        "m{country='US'}": True,
        "m{country=`US`}": True,
    }.items():
        assert parse_query(text).matches(labels) is expected, text
    assert str(parse_query('m{ a = "b\\"c" }')) == 'm{a="b\\"c"}'


def test_a_changed_text_keeps_a_rules_version_and_a_changed_meaning_does_not(load):
    plain = load(f"alert_rules:\n  - {{{GOOD}}}\n").rules[0].version
    assert load(f"alert_rules:\n  - {{{GOOD}, channels: [x], annotations: {{a: b}}}}\n").rules[0].version == plain
    assert load(f"alert_rules:\n  - {{{GOOD}, for_duration: 1m}}\n").rules[0].version != plain


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ value }}", "1234567"),
        ("{{ value | humanize }}", "1.235M"),
        ("{{ $value | round }} > {{threshold}}", "1234567 > 0.05"),
        ("{{ labels.host | upper }}{{ labels.none }}", "A"),
        ("{{ alertname }} {{ severity }} {{ tenant_id }} {{ condition }}", "Name high acme gt"),
        ("{ not } a {placeholder}", "{ not } a {placeholder}"),
        ("{{ threshold | percent }}", "5%"),
        ("{{ labels.seconds | duration }}", "1h30m"),
    ],
)
def test_a_template_fills_in_names_and_filters(template, expected):
    context = TemplateContext({"host": "a", "seconds": "5400"}, 1234567.0, 0.05, "Name", "high", "acme", "gt")
    assert parse_template(template).render(context) == expected


def test_a_missing_value_reads_as_no_data():
    context = TemplateContext({}, None, None, "", "", "", "")
    assert parse_template("{{ value | percent }}").render(context) == "no data"


@pytest.mark.parametrize(
    "text", ["{{ labels['x'] }}", "{{ value.real }}", "{{ 1 + 1 }}", "{{ open }}", "{{ __class__ }}", "{{}}"]
)
def test_a_template_runs_no_code(text):
    with pytest.raises(ValueError, match=r"names nothing"):
        parse_template(text)
