"""The catalogue and its files: what loads, and how a wrong declaration is named with file and line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from analytics_dagster.errors import DeclarationError
from analytics_dagster.lake.lake import duckdb_type
from analytics_dagster.lake.schemas import Layer, PartitionBy
from analytics_dagster.metrics.declarations import Catalogue, Grain
from analytics_dagster.metrics.expressions import scalar
from analytics_dagster.metrics.formulas import leaves
from analytics_dagster.metrics.load import BUILT_IN, load_catalogue
from analytics_dagster.metrics.reference import reference

Declare = Callable[[str], Path]

MODEL = """\
semantic_models:
  - name: own
    description: Plays by album.
    model: raw/plays
    owner: me
    dimensions:
      - {name: album, description: Release.}
    measures:
      - {name: own_plays, agg: count, expr: play_id, description: Plays.}
      - {name: own_length, agg: percentile, expr: track_ms, description: Length.}
"""

METRIC = "metrics:\n  - name: m\n    description: x\n    unit: x\n    direction: neutral\n"


def test_the_aliases_of_the_first_rule_file_speak(catalogue: Catalogue) -> None:
    assert catalogue.metric("high_error_rate").name == "api_error_ratio"
    assert catalogue.metric("low_user_engagement").name == "engagement_rate"
    assert catalogue.find("nothing_like_it") is None


def test_every_part_of_the_catalogue_is_described_and_owned(catalogue: Catalogue) -> None:
    for family in catalogue.families:
        assert all((family.description, family.owner, family.dimensions, family.measures))
        assert all(part.description for part in (*family.dimensions, *family.measures, *family.metrics))
        assert all(catalogue.family_of(metric) is family for metric in family.metrics)


def test_every_measure_of_the_catalogue_is_read_by_a_metric(catalogue: Catalogue) -> None:
    """Recorded points are read by their implicit declarations."""
    read = {leaf.measure for metric in catalogue.metrics for leaf in leaves(metric.formula)}
    declared = {m.name for f in catalogue.families if f.name != "points" for m in f.measures}
    assert declared == read


def test_tables_follow_from_the_declaration(catalogue: Catalogue) -> None:
    family = catalogue.family("listening")
    for grain in ("hour", "day"):
        table = family.table(grain)
        assert (table.layer, table.name, table.time, table.key) == (Layer.AGGREGATES, f"listening_{grain}", "ts", "ts")
        assert table.partition_by is PartitionBy.MONTH
        assert all(column.description for column in table.columns)
    assert family.asset == "aggregates/listening"
    with pytest.raises(ValueError, match="merged from days"):
        family.table(Grain.WEEK)


def test_the_lake_can_hold_every_state(catalogue: Catalogue) -> None:
    for family in catalogue.families:
        for column in family.table("day").columns:
            assert duckdb_type(column.type)


def test_the_catalogue_is_compiled_once_for_each_family(catalogue: Catalogue) -> None:
    for family in catalogue.families:
        assert family.queries is family.queries


def test_every_expression_of_the_catalogue_can_be_written_for_spark(catalogue: Catalogue) -> None:
    for family in catalogue.families:
        for part in (*family.dimensions, *family.measures):
            assert "`" in scalar(part.expr, family.rows, "spark").sql


def test_the_reference_page_is_made_from_the_catalogue(catalogue: Catalogue) -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
    remedy = "run `python -m analytics_dagster.metrics.reference > docs/reference/metrics.md`"
    assert page.read_text(encoding="utf-8") == reference(catalogue), remedy


def test_the_example_of_the_how_to_page_loads(declare: Declare) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "declare-a-metric.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 2
    for n, block in enumerate(blocks):
        load_catalogue(declare(block, f"block{n}.yaml"))  # type: ignore[call-arg]


def test_importing_the_room_brings_nothing_heavy() -> None:
    code = (
        "import sys, analytics_dagster.metrics.load, analytics_dagster.metrics.query, analytics_dagster.metrics.aggregate, "
        "analytics_dagster.cli.query; "
        "heavy = {'duckdb', 'pandas', 'deltalake', 'ibis', 'sqlglot', 're2', 'dagster'}; print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_own_declarations_are_added_and_may_build_on_the_catalogue(declare: Declare) -> None:
    own = """
metrics:
  - name: own_median
    description: Median length.
    type: simple
    type_params: {measure: own_length, percentile: 0.5}
    unit: ms
    direction: neutral
  - name: plays_per_listener
    description: Plays by listener.
    type: derived
    type_params: {expr: plays / dau}
    unit: plays
    direction: neutral
    owner: someone
"""
    with pytest.raises(DeclarationError, match=r"own.yaml:22: no 'dau' in the catalogue"):
        load_catalogue(declare(MODEL + own))
    catalogue = load_catalogue(declare(MODEL + own.replace("dau", "daily_active_listeners")))
    assert catalogue.metric("own_median").owner == "me"
    assert catalogue.metric("plays_per_listener").owner == "someone"
    assert catalogue.family_of(catalogue.metric("plays_per_listener")).name == "listening"
    assert catalogue.family("own").table("day").arrow.field("own_length").type == pa.list_(
        pa.struct([pa.field("bucket", pa.int32()), pa.field("count", pa.int64())])
    )


def test_a_name_that_is_taken_is_refused_naming_both_places(declare: Declare) -> None:
    text = METRIC.replace("name: m", "name: streams") + "    type: simple\n    type_params: {measure: plays}\n"
    with pytest.raises(DeclarationError) as refused:
        load_catalogue(declare(text))
    streams = load_catalogue().metric("streams").origin
    assert re.search(r"own\.yaml:2: the metric 'streams' is also declared in ", str(refused.value))
    assert str(streams) in str(refused.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"ANALYTICS_METRICS=.*nowhere is not a folder"):
        load_catalogue(tmp_path / "nowhere")


SIMPLE, RATIO, DERIVED = (METRIC + f"    type: {kind}\n    type_params: " for kind in ("simple", "ratio", "derived"))
WRONG = {
    "syntax": ("metrics: [", r":1: not valid YAML"),
    "not a mapping": ("- a\n", r":1: "),
    "twice the same key": ("metrics: []\n\nmetrics: []\n", r":3: the key 'metrics' stands here and on line 1"),
    "unknown key": ("metrics:\n  - name: m\n    unt: x\n    type: simple\n", r":3: unknown key 'unt'; did you mean 'unit'"),
    "missing key": (METRIC + "    type: simple\n", r":2: 'type_params' is missing"),
    "unknown type": (METRIC + "    type: funnel\n    type_params: {}\n", r":2: .*'funnel'"),
    "bad name": (
        METRIC.replace("name: m", "name: My-Metric") + "    type: simple\n    type_params: {measure: plays}\n",
        r":2: name 'My-Metric' is not a name",
    ),
    "bad direction": (
        METRIC.replace("neutral", "sideways") + "    type: simple\n    type_params: {measure: plays}\n",
        r":5: direction 'sideways'",
    ),
    "unknown measure": (SIMPLE + "\n      measure: playz\n", r":8: no measure 'playz'; did you mean 'plays'"),
    "unknown in ratio": (RATIO + "{numerator: playz, denominator: plays}\n", r":7: no metric or measure 'playz'"),
    "kpi of two tables": (
        RATIO + "{numerator: api_errors, denominator: plays}\n    kpi: true\n",
        r":2: metric 'm' is put together from several answers, which a KPI cannot be",
    ),
    "concentration of a set": (
        METRIC + "    type: concentration\n    type_params: {measure: listeners, dimension: country}\n",
        r":7: measure 'listeners' is count_distinct, whose figures do not add up; concentration takes count, sum",
    ),
    "concentration over nothing": (
        METRIC + "    type: concentration\n    type_params: {measure: plays, dimension: county}\n",
        r":7: no dimension 'county' in the semantic model 'listening'; did you mean 'country'",
    ),
    "percentile missing": (SIMPLE + "{measure: api_latency_ms}\n", r":7: .*is a distribution; add percentile"),
    "percentile too much": (SIMPLE + "{measure: plays, percentile: 0.5}\n", r":7: .*is no distribution"),
    "percentile out of range": (SIMPLE + "{measure: api_latency_ms, percentile: 95}\n", r":7: percentile 95"),
    "distribution in ratio": (
        RATIO + "{numerator: api_latency_ms, denominator: api_requests}\n",
        r":7: .*is a distribution; declare",
    ),
    "itself": (DERIVED + "{expr: m + plays}\n", r":7: metric 'm' is made from itself: m -> m"),
    "bad formula": (DERIVED + "\n      expr: plays +\n", r":8: 'plays \+' is not an SQL expression"),
    "no name in formula": (DERIVED + "{expr: 1 + 1}\n", r":7: '1 \+ 1' names no metric"),
    "aggregate in formula": (DERIVED + "{expr: sum(plays)}\n", r":7: .*aggregates; say how"),
    "other metrics listed": (
        DERIVED + "{expr: plays / 2, metrics: [streams]}\n",
        r":7: expr names plays, but metrics lists streams",
    ),
    "unknown table": (MODEL.replace("raw/plays", "raw/playz"), r":4: no event table 'raw/playz'; did you mean 'raw/plays'"),
    "table without time": (MODEL.replace("raw/plays", "raw/tracks"), r":4: no event table 'raw/tracks'"),
    "unknown column": (MODEL.replace("expr: play_id", "expr: playid"), r":9: no 'playid' in raw/plays; did you mean 'play_id'"),
    "unknown dimension column": (
        MODEL.replace("name: album", "name: albun"),
        r":7: no 'albun' in raw/plays; did you mean 'album'",
    ),
    "reserved dimension": (
        MODEL.replace("{name: album", "{name: value, expr: album"),
        r":7: a dimension may not be called 'value'",
    ),
    "unknown function": (
        MODEL.replace("expr: play_id", "expr: frobnicate(play_id)"),
        r":9: .*calls frobnicate\(\), which is not a function",
    ),
    "reads a file": (MODEL.replace("expr: play_id", "expr: read_text('/etc/hostname')"), r":9: .*calls read_text\(\)"),
    "subquery": (MODEL.replace("expr: play_id", "expr: (select 1)"), r":9: .*is not a scalar SQL expression"),
    "two statements": (MODEL.replace("expr: play_id", "expr: play_id; drop table plays"), r":9: .*is not one SQL expression"),
    "unknown parameter": (
        MODEL.replace("expr: play_id", "expr: ms_played > $limit"),
        r":9: .*names the parameter 'limit'; known: \$stream_ms",
    ),
    "unstable": (MODEL.replace("expr: play_id", "expr: random()"), r":9: .*equal rows must give equal figures"),
    "sum of text": (
        MODEL.replace("agg: count,", "agg: sum,"),
        r":9: agg sum cannot take 'play_id', which is string; give a number",
    ),
    "sum of a condition": (
        MODEL.replace("agg: count, expr: play_id", "agg: sum, expr: skipped"),
        r":9: agg sum cannot take 'skipped', which is bool",
    ),
    "condition wanted": (
        MODEL.replace("agg: count, expr: play_id", "agg: sum_boolean, expr: ms_played"),
        r":9: .*give a condition",
    ),
    "unknown aggregation": (MODEL.replace("agg: count,", "agg: median,"), r":9: agg 'median'"),
    "measure twice": (MODEL.replace("own_plays", "plays"), r"the measure 'plays' is also declared in "),
    "column twice": (MODEL.replace("own_length", "album"), r":10: the column 'album' is also declared in .*own.yaml:7"),
    "apart by nothing": (
        MODEL.replace("description: Plays.}", "description: P, non_additive_dimension: {name: albun}}"),
        r":9: no dimension 'albun' in this semantic model; did you mean 'album'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_named_with_file_line_and_remedy(declare: Declare, name: str) -> None:
    text, message = WRONG[name]
    with pytest.raises(DeclarationError) as refused:
        load_catalogue(declare(text))
    assert re.search(message, str(refused.value)), str(refused.value)
    assert "own.yaml:" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_not_text_are_refused(declare: Declare) -> None:
    folder = declare(MODEL)
    (folder / "broken.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeclarationError, match=r"broken.yml:1: cannot be read as YAML"):
        load_catalogue(folder)


def test_an_empty_file_declares_nothing(declare: Declare) -> None:
    assert load_catalogue(declare("# nothing yet\n")).metrics == load_catalogue().metrics


def test_the_built_in_files_are_in_the_package() -> None:
    assert {path.name for path in BUILT_IN.glob("*.yaml")} >= {"listening.yaml", "api.yaml", "points.yaml"}


def test_a_semantic_model_may_keep_its_minutes(declare: Declare) -> None:
    kept = MODEL.replace("    owner: me\n", "    owner: me\n    defaults: {time_granularity: minute}\n")
    family = load_catalogue(declare(kept)).family("own")
    assert family.grains == (Grain.MINUTE, Grain.HOUR, Grain.DAY)
    assert family.table(Grain.MINUTE).partition_by is PartitionBy.DAY
    assert list(family.queries.merges) == [Grain.HOUR, Grain.DAY]
    with pytest.raises(ValueError, match="listening has no table of grain minute: hours and days are kept"):
        load_catalogue().family("listening").table(Grain.MINUTE)
