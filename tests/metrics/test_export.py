"""The catalogue as other tools read it: a small one word by word, the built-in one whole.

The built-in catalogue as exported was validated by dbt-semantic-interfaces and OSI's JSON schema (release/0.1.1), and
MetricFlow on dbt 1.10 gave the figures of `analytics query` for it; here the rules that an edit could break are by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from analytics_dagster.cli import main
from analytics_dagster.errors import UserError
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.export import ExportFormat, export_text
from analytics_dagster.metrics.export.dialects import ansi_sql, databricks_sql, duckdb_sql, rewritten
from analytics_dagster.metrics.formulas import MeasureFigure, Retention, figures, leaves
from analytics_dagster.metrics.load import load_catalogue

Declare = Callable[[str], Path]
PARAMETERS = {"stream_ms": 30_000, "session_gap_ms": 1_800_000}

SMALL = """\
semantic_models:
  - name: own
    description: Purchases.
    model: raw/subscriptions
    owner: growth
    entities:
      - {name: buyer, type: foreign, expr: listener_id, description: Who pays.}
    dimensions:
      - {name: currency, description: ISO 4217 code.}
    measures:
      - {name: own_paid, agg: sum, expr: amount_minor, description: Paid., non_additive_dimension: {name: currency}}
      - {name: own_rows, agg: count, expr: event_id, description: Rows.}
      - {name: own_buyers, agg: count_distinct, expr: listener_id, description: Buyers.}
      - {name: own_newest, agg: last, expr: amount_minor, description: Newest.}
      - {name: own_size, agg: percentile, expr: amount_minor / 100, description: Sizes.}
      - {name: own_long, agg: sum_boolean, expr: amount_minor >= $stream_ms, description: Large ones.}
metrics:
  - {name: own_paid, description: Whole units., type: derived, type_params: {expr: own_paid / 100}, unit: EUR, direction: neutral}
  - name: own_mean
    description: Mean.
    type: ratio
    type_params: {numerator: own_paid, denominator: own_rows}
    unit: EUR
    direction: down_is_bad
    synonyms: [own_average]
    kpi: true
  - name: own_p95
    description: p95.
    type: simple
    type_params: {measure: own_size, percentile: 0.95}
    unit: EUR
    direction: neutral
  - {name: own_last, description: Last., type: simple, type_params: {measure: own_newest}, unit: EUR, direction: neutral}
  - name: own_week
    description: Seven days.
    type: cumulative
    type_params: {measure: own_rows, cumulative_type_params: {window: 7 days}}
    unit: rows
    direction: neutral
  - name: own_growth
    description: Against the week before.
    type: derived
    type_params: {expr: own_week - old, metrics: [own_week, {name: own_week, offset_window: 1 week, alias: old}]}
    unit: rows
    direction: neutral
  - name: own_return
    description: Back within a week.
    type: conversion
    type_params:
      conversion_type_params:
        base_measure: {name: own_buyers}
        conversion_measure: {name: own_buyers}
        entity: buyer
        window: 1 week
        calculation: conversions
    unit: buyers
    direction: neutral
"""

MODEL_IN_METRICFLOW = """\
name: own
description: Purchases.
model: ref('subscriptions')
defaults: {agg_time_dimension: ts}
primary_entity: own
entities:
- {name: buyer, description: Who pays., type: foreign, expr: listener_id}
dimensions:
- {name: ts, description: Time of the event (UTC)., type: time, expr: ts, type_params: {time_granularity: hour}}
- {name: currency, description: ISO 4217 code., type: categorical, expr: currency}
measures:
- {name: own_paid, description: Paid., agg: sum, expr: amount_minor, config: {meta: {never_added_over: [currency]}}}
- {name: own_rows, description: Rows., agg: count, expr: event_id}
- {name: own_buyers, description: Buyers., agg: count_distinct, expr: listener_id}
- name: own_size_p95
  description: Sizes.
  agg: percentile
  expr: CAST(amount_minor AS DOUBLE) / 100
  agg_params: {percentile: 0.95, use_discrete_percentile: true}
- {name: own_long, description: Large ones., agg: sum_boolean, expr: amount_minor >= 30000}
config: {meta: {owner: growth, left_out: {own_newest: the newest value is no aggregation there}}}
"""

METRICS_IN_METRICFLOW = """\
- name: own_paid_measure
  label: Own paid measure
  description: Paid.
  type: simple
  type_params: {measure: own_paid}
  config: {meta: {helper: true, never_added_over: [currency]}}
- name: own_rows
  label: Own rows
  description: Rows.
  type: simple
  type_params: {measure: own_rows}
  config: {meta: {helper: true}}
- name: own_paid
  label: Own paid
  description: Whole units.
  type: derived
  type_params: {expr: CAST(own_paid AS DOUBLE) / 100, metrics: [{name: own_paid_measure, alias: own_paid}]}
  config: {meta: {unit: EUR, direction: neutral, owner: growth, kpi: false, never_added_over: [currency]}}
- name: own_mean
  label: Own mean
  description: Mean.
  type: ratio
  type_params: {numerator: {name: own_paid}, denominator: {name: own_rows}}
  config:
    meta: {unit: EUR, direction: down_is_bad, owner: growth, kpi: true, synonyms: [own_average], never_added_over: [currency]}
- name: own_p95
  label: Own p95
  description: p95.
  type: simple
  type_params: {measure: own_size_p95}
  config: {meta: {unit: EUR, direction: neutral, owner: growth, kpi: false}}
- name: own_week
  label: Own week
  description: Seven days.
  type: cumulative
  type_params: {measure: own_rows, cumulative_type_params: {window: 7 days, period_agg: last}}
  config: {meta: {unit: rows, direction: neutral, owner: growth, kpi: false}}
- name: own_growth
  label: Own growth
  description: Against the week before.
  type: derived
  type_params: {expr: own_week - old, metrics: [{name: own_week}, {name: own_week, alias: old, offset_window: 7 days}]}
  config: {meta: {unit: rows, direction: neutral, owner: growth, kpi: false}}
- name: own_return
  label: Own return
  description: Back within a week.
  type: conversion
  type_params:
    conversion_type_params:
      entity: buyer
      calculation: conversions
      base_measure: {name: own_buyers}
      conversion_measure: {name: own_buyers}
      window: 7 days
  config: {meta: {unit: buyers, direction: neutral, owner: growth, kpi: false}}
"""

OWN_EXPRESSIONS_IN_OSI = {
    "own_paid": "CAST(SUM(own.own_paid) AS DOUBLE PRECISION) / 100",
    "own_mean": "CAST(CAST(SUM(own.own_paid) AS DOUBLE PRECISION) / 100 AS DOUBLE PRECISION) / NULLIF(COUNT(own.own_rows), 0)",
    "own_p95": "PERCENTILE_DISC(0.95) WITHIN GROUP (ORDER BY own.own_size)",
}


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    def write(text: str) -> Path:
        (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def exported(catalogue: Catalogue, format_: ExportFormat) -> tuple[str, Any]:
    text = export_text(catalogue, format_, PARAMETERS)
    return text, yaml.safe_load(text)


def named(parts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The parts by name, which must be unique."""
    by_name = {part["name"]: part for part in parts}
    assert len(by_name) == len(parts)
    return by_name


def told(text: str, kind: str) -> set[str]:
    """Names in the comments about what is left out."""
    return set(re.findall(rf"^# - {kind} (\w+): ", text, re.MULTILINE))


def judged(catalogue: Catalogue) -> set[str]:
    """Metrics, which are measures too, that read verdicts of counting policies. The share of artificial plays is no measure."""
    return {m.name for m in catalogue.family("counting").metrics}


def of_steps(catalogue: Catalogue) -> set[str]:
    """Metrics that rest on more than one row, a rate and a standing among them."""
    return (
        judged(catalogue) | {m.name for m in catalogue.family("deliveries").metrics} | {"api_request_rate", "artist_growth_score"}
    )


class TestMetricFlow:
    def test_a_small_catalogue_is_exported_word_by_word(self, declare: Declare) -> None:
        text, document = exported(load_catalogue(declare(SMALL)), ExportFormat.METRICFLOW)
        assert named(document["semantic_models"])["own"] == yaml.safe_load(MODEL_IN_METRICFLOW)
        assert [m for m in document["metrics"] if m["name"].startswith("own_")] == yaml.safe_load(METRICS_IN_METRICFLOW)
        assert "# - measure own_newest: the newest value is no aggregation there\n" in text
        assert "# - metric own_last: it reads the measure own_newest, and the newest value is no aggregation there\n" in text

    def test_every_metric_and_measure_is_there_or_told_as_left_out(self, catalogue: Catalogue) -> None:
        text, document = exported(catalogue, ExportFormat.METRICFLOW)
        composed = {m.name for m in catalogue.metrics if m.composed}
        seen = {m.name for m in catalogue.metrics if any(leaf.seen for leaf in leaves(m.formula))}
        assert {"artist_save_rate", "artist_followers"} < composed
        assert "artist_super_listeners" in seen
        retention = {m.name for m in catalogue.metrics if any(isinstance(leaf, Retention) for leaf in figures(m.formula))}
        kept = retention | of_steps(catalogue) | composed | seen
        assert told(text, "metric") == kept
        counts = judged(catalogue) - {"artificial_share"} | {"arrived_rows", "ingest_lag", "newest_age_ms"}
        assert told(text, "measure") == {"points_last", "points_increase", "points_spread"} | counts
        declared = {m.name for m in catalogue.metrics} - kept
        assert {m["name"] for m in document["metrics"] if "helper" not in m["config"]["meta"]} == declared
        measures = {m["name"] for model in document["semantic_models"] for m in model["measures"]}
        plain = (
            {m.name for f in catalogue.families for m in f.measures}
            - told(text, "measure")
            - {"api_latency_ms", "session_spread"}
        )
        spread = {f"api_latency_ms_p{n}" for n in (50, 95, 99)} | {f"session_spread_p{n}" for n in (50, 95)}
        assert measures == plain | spread

    def test_every_name_resolves_and_is_one_that_metricflow_takes(self, catalogue: Catalogue) -> None:
        _, document = exported(catalogue, ExportFormat.METRICFLOW)
        measures = named([m for model in document["semantic_models"] for m in model["measures"]])
        metrics = named(document["metrics"])
        for model in named(document["semantic_models"]).values():
            elements = named([*model["entities"], *model["dimensions"], *model["measures"]])
            assert model["defaults"]["agg_time_dimension"] in elements
            assert re.fullmatch(r"ref\('(\w+)'\)", model["model"])
            assert "primary" in {e["type"] for e in model["entities"]}
        for name in (*measures, *metrics):
            assert re.fullmatch(r"[a-z]((?!__)[a-z0-9_])*[a-z0-9]", name)
        for metric in metrics.values():
            params = metric["type_params"]
            if metric["type"] in ("simple", "cumulative"):
                assert params["measure"] in measures
            if metric["type"] == "conversion":
                within = params["conversion_type_params"]
                both = [measures[within[key]["name"]] for key in ("base_measure", "conversion_measure")]
                # ConversionMetricRule of dbt-semantic-interfaces: counts, in one model that has the entity.
                assert {m["agg"] for m in both} == {"count_distinct"}
                (model,) = [m for m in document["semantic_models"] if both[0] in m["measures"]]
                assert both[1] in model["measures"]
                assert within["entity"] in {e["name"] for e in model["entities"]}
            referred = [params[key] for key in ("numerator", "denominator") if key in params] + params.get("metrics", [])
            assert all(part["name"] in metrics for part in referred)
            if metric["type"] == "derived":
                aliases = {part.get("alias", part["name"]) for part in referred}
                assert set(re.findall(r"\b[a-z][a-z0-9_]*\b", params["expr"])) == aliases

    def test_only_aggregations_that_metricflow_has_are_named(self, catalogue: Catalogue) -> None:
        _, document = exported(catalogue, ExportFormat.METRICFLOW)
        for measure in (m for model in document["semantic_models"] for m in model["measures"]):
            assert measure["agg"] in {"sum", "min", "max", "average", "count", "count_distinct", "sum_boolean", "percentile"}
            assert ("agg_params" in measure) == (measure["agg"] == "percentile")
            assert "non_additive_dimension" not in measure

    def test_a_name_that_metricflow_refuses_is_refused_with_its_place(self, declare: Declare) -> None:
        short = "metrics: [{name: m, description: x, type: simple, type_params: {measure: plays}, unit: x, direction: neutral}]"
        with pytest.raises(UserError, match=r"own\.yaml:1: MetricFlow does not take the name 'm'"):
            export_text(load_catalogue(declare(short)), ExportFormat.METRICFLOW, PARAMETERS)


class TestOsi:
    def test_a_small_catalogue_is_written_as_expressions_over_fields(self, declare: Declare) -> None:
        text, document = exported(load_catalogue(declare(SMALL)), ExportFormat.OSI)
        (model,) = document["semantic_model"]
        metrics = {name: m for name, m in named(model["metrics"]).items() if name.startswith("own_")}
        assert {name: expression(m, "ANSI_SQL") for name, m in metrics.items()} == OWN_EXPRESSIONS_IN_OSI
        assert told(text, "metric") >= {"own_last", "own_week"}
        assert metrics["own_mean"]["ai_context"] == {
            "instructions": "Never add up over own.currency: group by it, or filter it to one value.",
            "synonyms": ["own_average"],
        }
        own = named(model["datasets"])["own"]
        assert (own["source"], own["primary_key"]) == ("raw.subscriptions", ["event_id"])
        assert expression(named(own["fields"])["own_long"], "ANSI_SQL") == "amount_minor >= 30000"

    def test_a_foreign_key_of_one_family_is_joined_to_the_only_family_that_it_identifies(self, declare: Declare) -> None:
        foreign = SMALL.replace("{name: buyer, type: foreign, expr: listener_id", "{name: play, type: foreign, expr: event")
        foreign = foreign.split("  - name: own_return")[0]
        _, document = exported(load_catalogue(declare(foreign)), ExportFormat.OSI)
        assert document["semantic_model"][0]["relationships"] == [
            {
                "name": "own_to_listening_by_play",
                "from": "own",
                "to": "listening",
                "from_columns": ["event"],
                "to_columns": ["play_id"],
            }
        ]

    def test_every_metric_is_there_or_told_as_left_out(self, catalogue: Catalogue) -> None:
        text, document = exported(catalogue, ExportFormat.OSI)
        (model,) = document["semantic_model"]
        of_days = {
            m.name
            for m in catalogue.metrics
            if m.composed or any(not isinstance(f, MeasureFigure) or f.window for f in figures(m.formula))
        } | of_steps(catalogue)
        assert told(text, "metric") == of_days
        assert set(named(model["metrics"])) == {m.name for m in catalogue.metrics} - of_days
        (extension,) = model["custom_extensions"]
        assert set(json.loads(extension["data"])["left_out"]) == of_days | {
            "points_last",
            "points_increase",
            "ingest_lag",
            "newest_age_ms",
        } | {f"audience.{name}" for name in ("age_band", "gender", "country")}

    def test_it_has_the_shape_that_the_schema_asks_for(self, catalogue: Catalogue) -> None:
        _, document = exported(catalogue, ExportFormat.OSI)
        assert set(document) == {"version", "semantic_model"}
        assert document["version"] == "0.1.1"
        (model,) = document["semantic_model"]
        fields = {f"{d['name']}.{name}" for d in model["datasets"] for name in named(d["fields"])}
        for dataset in named(model["datasets"]).values():
            assert set(dataset) <= {"name", "source", "primary_key", "description", "fields", "custom_extensions"}
            for field in dataset["fields"]:
                assert set(field) <= {"name", "expression", "dimension", "description"}
        for metric in model["metrics"]:
            assert set(metric) <= {"name", "expression", "description", "ai_context", "custom_extensions"}
            assert set(re.findall(r"\b[a-z_]+\.[a-z0-9_]+\b", expression(metric, "ANSI_SQL"))) <= fields
        extensions = [e for part in (model, *model["datasets"], *model["metrics"]) for e in part["custom_extensions"]]
        assert all(set(e) == {"vendor_name", "data"} and e["vendor_name"] == "COMMON" for e in extensions)


def expression(part: dict[str, Any], dialect: str) -> str:
    ((said, sql),) = [(d["dialect"], d["expression"]) for d in part["expression"]["dialects"]]
    assert said == dialect
    return str(sql)


# --- SQL for other engines


def test_division_is_written_out_at_every_depth() -> None:
    tree = rewritten("a / b / 2", PARAMETERS)
    assert ansi_sql(tree) == "CAST(CAST(a AS DOUBLE PRECISION) / NULLIF(b, 0) AS DOUBLE PRECISION) / 2"
    assert databricks_sql(tree) == "CAST(CAST(a AS DOUBLE) / NULLIF(b, 0) AS DOUBLE) / 2"


def test_names_keep_their_quotes_only_where_they_need_them() -> None:
    assert duckdb_sql(rewritten('"ms_played" + "select" + "Odd Name"', PARAMETERS)) == 'ms_played + "select" + "Odd Name"'


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("CAST(status AS VARCHAR)", "CAST(status AS VARCHAR)"),
        ("coalesce(lower(country), '?')", "COALESCE(LOWER(country), '?')"),
        ("try_cast(value AS DOUBLE)", None),
        ("strftime(ts, '%a')", None),
        ("country ILIKE 'd%'", None),
    ],
)
def test_what_the_standard_does_not_have_is_not_called_standard(text: str, sql: str | None) -> None:
    assert ansi_sql(rewritten(text, PARAMETERS)) == sql


def metricflow_snippets(document: Any) -> Iterator[tuple[str, str]]:
    for model in document["semantic_models"]:
        source = re.findall(r"'(\w+)'", model["model"])[0]
        for part in (*model["entities"], *model["dimensions"], *model["measures"]):
            yield source, part["expr"]


def test_every_exported_snippet_is_one_that_duckdb_runs_over_its_source(catalogue: Catalogue) -> None:
    _, document = exported(catalogue, ExportFormat.METRICFLOW)
    with duckdb.connect() as connection:
        for family in catalogue.families:
            connection.register(family.name if family.sessions else family.source, family.rows.arrow.empty_table())
        for source, snippet in metricflow_snippets(document):
            connection.execute(f"SELECT {snippet} FROM {source}").fetchall()


# --- the verb


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    status: Any = 0
    try:
        main.run([*arguments])
    except SystemExit as left:
        status = left.code
    out, err = capfd.readouterr()
    return status, out, err


def test_the_verb_writes_own_declarations_too_with_the_threshold_of_the_settings(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANALYTICS_METRICS", str(declare(SMALL)))
    monkeypatch.setenv("ANALYTICS_STREAM_SECONDS", "45")
    home = ("--home", str(tmp_path / "home"))
    status, out, err = run(capfd, "metrics", "export", *home)
    assert (status, err) == (0, "")
    assert out == export_text(load_catalogue(tmp_path), ExportFormat.METRICFLOW, PARAMETERS | {"stream_ms": 45_000})
    assert "amount_minor >= 45000" in out
    target = tmp_path / "out.yaml"
    status, out, err = run(capfd, "metrics", "export", "--format", "osi", "-o", str(target), *home)
    assert (status, out, err) == (0, "", "")
    assert yaml.safe_load(target.read_text(encoding="utf-8"))["version"] == "0.1.1"
    assert not (tmp_path / "home").exists()


def test_a_file_that_cannot_be_written_is_one_line_and_status_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capfd, "metrics", "export", "-o", str(tmp_path / "missing" / "a.yaml"), "--home", str(tmp_path))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "cannot be written: No such file or directory" in err
