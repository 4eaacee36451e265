"""The catalogue in the Open Semantic Interchange core specification, version 0.1.1: `core-spec/spec.md` and `osi-schema.json` of
https://github.com/open-semantic-interchange/OSI, branch release/0.1.1 (since then Apache Ossie).

A family is a dataset whose fields are the rows' keys, dimensions and what measures take of a row; a metric is an aggregate
expression over fields. The dialect is ANSI_SQL; what the standard does not have is written in DATABRICKS, since the
specification lists no DuckDB and declarations keep to what Spark has too. A rolling window has no expression there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Entity, Family, Measure, Metric
from analytics_dagster.metrics.export import left_out
from analytics_dagster.metrics.export.dialects import ansi_sql, databricks_sql, quotient, rewritten
from analytics_dagster.metrics.export.left_out import LeftOut
from analytics_dagster.metrics.formulas import (
    Conversion,
    Derived,
    Formula,
    MeasureFigure,
    PerSecond,
    Ratio,
    Retention,
    Standing,
    Summary,
    figures,
    leaves,
)

if TYPE_CHECKING:
    from sqlglot import exp

VERSION = "0.1.1"
MODEL = "music_streaming"

_HEAD = (
    f"Open Semantic Interchange (OSI) {VERSION}. Written by `analytics metrics export --format osi`.",
    "Each source is the raw table of that name, of one tenant.",
)
_AGGREGATES = {
    Aggregation.COUNT: "COUNT({})",
    Aggregation.SUM: "SUM({})",
    Aggregation.SUM_BOOLEAN: "COUNT(CASE WHEN {} THEN 1 END)",
    Aggregation.AVERAGE: "AVG({})",
    Aggregation.MIN: "MIN({})",
    Aggregation.MAX: "MAX({})",
    Aggregation.COUNT_DISTINCT: "COUNT(DISTINCT {})",
}


def text(catalogue: Catalogue, parameters: Mapping[str, int]) -> str:
    """The catalogue as a YAML file."""
    return left_out.text(document(catalogue, parameters), _HEAD, _left_out(catalogue))


def document(catalogue: Catalogue, parameters: Mapping[str, int]) -> dict[str, Any]:
    """Plain data: one semantic model with a dataset for each family."""
    datasets = [_Dataset(family, parameters) for family in catalogue.families]
    model: dict[str, Any] = {
        "name": MODEL,
        "description": "Figures of a music-streaming service, by the tables that they are computed from.",
        "datasets": [d.document() for d in datasets],
    }
    if relationships := list(_relationships(catalogue)):
        model["relationships"] = relationships
    model["metrics"] = [metric for d in datasets for metric in d.metrics()]
    if missing := _left_out(catalogue):
        model["custom_extensions"] = _extension({"left_out": {part.name: part.reason for part in missing}})
    return {"version": VERSION, "semantic_model": [model]}


class _Dataset:
    """One family's export. A measure's field has another name where a key or dimension has its own."""

    def __init__(self, family: Family, parameters: Mapping[str, int]) -> None:
        self._family, self._parameters = family, parameters
        taken = {"ts", *(d.name for d in family.dimensions)}
        self._entities = {e.name: _claim(e.name, "_key", taken) for e in family.entities}
        measures = [m for m in family.measures if left_out.measure_without_counterpart(m) is None]
        self._measures = {m.name: _claim(m.name, "_measure", taken) for m in measures}

    def document(self) -> dict[str, Any]:
        source = MEASURED[self._family.source]
        return {
            "name": self._family.name,
            # A dataset of sessions is made from the raw table, and is none itself.
            "source": f"sessions.{self._family.name}" if self._family.sessions else source.path.replace("/", "."),
            "primary_key": [source.key],
            "description": self._family.description,
            "fields": list(self._fields()),
            "custom_extensions": _extension({"owner": self._family.owner}),
        }

    def metrics(self) -> Iterator[dict[str, Any]]:
        for metric in self._family.metrics:
            if _metric_left_out(metric, self._family) is None:
                yield self._metric(metric)

    def _fields(self) -> Iterator[dict[str, Any]]:
        yield self._field("ts", "ts", "Time of the event (UTC).", {"dimension": {"is_time": True}})
        for entity in self._family.entities:
            yield self._field(self._entities[entity.name], entity.expr, entity.description)
        for dimension in left_out.told_dimensions(self._family):
            yield self._field(dimension.name, dimension.expr, dimension.description, {"dimension": {"is_time": False}})
        for measure in self._family.measures:
            if measure.name in self._measures:
                what = f"Of one row, for metrics: {measure.description}"
                yield self._field(self._measures[measure.name], measure.expr, what)

    def _field(self, name: str, expr: str, description: str, role: Mapping[str, Any] | None = None) -> dict[str, Any]:
        expression = _expression(rewritten(expr, self._parameters))
        return {"name": name, "expression": expression, **(role or {}), "description": description}

    def _metric(self, metric: Metric) -> dict[str, Any]:
        context: dict[str, Any] = {}
        if metric.apart_by:
            names = " and ".join(f"{self._family.name}.{name}" for name in metric.apart_by)
            context["instructions"] = f"Never add up over {names}: group by it, or filter it to one value."
        if metric.synonyms:
            context["synonyms"] = list(metric.synonyms)
        made = {
            "name": metric.name,
            "expression": _expression(self._formula(metric.formula)),
            "description": metric.description,
        }
        if context:
            made["ai_context"] = context
        return made | {"custom_extensions": _extension(left_out.facts(metric))}

    def _formula(self, formula: Formula) -> exp.Expr:
        match formula:
            case MeasureFigure(measure, percentile):
                return self._aggregate(self._family.measure(measure), percentile)
            case Ratio(numerator, denominator):
                return quotient(self._formula(numerator), self._formula(denominator))
            case Derived(expr, inputs):
                from sqlglot import exp

                names = {name: self._formula(inner) for name, inner in inputs}
                plain = (exp.AggFunc, exp.WithinGroup)
                closed = {name: tree if isinstance(tree, plain) else exp.paren(tree) for name, tree in names.items()}
                return rewritten(expr, self._parameters, closed)
            case Conversion() | Retention() | PerSecond() | Summary() | Standing():
                raise ValueError(f"{formula} has no counterpart and is left out")

    def _aggregate(self, measure: Measure, percentile: float | None) -> exp.Expr:
        import sqlglot

        field = f"{self._family.name}.{self._measures[measure.name]}"
        if percentile is not None:
            # Ours is the nearest rank: a value that occurred, not one between two.
            sql = f"PERCENTILE_DISC({percentile!r}) WITHIN GROUP (ORDER BY {field})"
        else:
            sql = _AGGREGATES[measure.aggregation].format(field)
        return sqlglot.parse_one(sql, dialect="postgres")


def _expression(tree: exp.Expr) -> dict[str, Any]:
    standard = ansi_sql(tree)
    said = ("ANSI_SQL", standard) if standard is not None else ("DATABRICKS", databricks_sql(tree))
    return {"dialects": [dict(zip(("dialect", "expression"), said, strict=True))]}


def _extension(data: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"vendor_name": "COMMON", "data": json.dumps(data, ensure_ascii=False)}]


def _relationships(catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    """From a foreign key to the one dataset whose primary or unique key it is. Keys that are no plain column are not joined."""
    ends: dict[str, list[tuple[Family, Entity]]] = {}
    for family in catalogue.families:
        for entity in family.entities:
            if entity.type in ("primary", "unique"):
                ends.setdefault(entity.name, []).append((family, entity))
    for family in catalogue.families:
        for entity in family.entities:
            one = ends.get(entity.name, [])
            if entity.type != "foreign" or len(one) != 1:
                continue
            (to, key), columns = one[0], {c.name for c in MEASURED[family.source].columns}
            from_column, to_column = entity.expr.strip('"'), key.expr.strip('"')
            if from_column in columns and to_column in {c.name for c in MEASURED[to.source].columns}:
                yield {
                    "name": f"{family.name}_to_{to.name}_by_{entity.name}",
                    "from": family.name,
                    "to": to.name,
                    "from_columns": [from_column],
                    "to_columns": [to_column],
                }


def _left_out(catalogue: Catalogue) -> list[LeftOut]:
    measures = [left_out.measure_without_counterpart(m) for f in catalogue.families for m in f.measures]
    metrics = [_metric_left_out(m, catalogue.family_of(m)) for m in catalogue.metrics]
    dimensions = [part for f in catalogue.families for part in left_out.dimensions_left_out(f)]
    return [part for part in (*measures, *dimensions, *metrics) if part]


def _metric_left_out(metric: Metric, family: Family) -> LeftOut | None:
    if windows := [leaf.window for leaf in leaves(metric.formula) if leaf.window is not None]:
        return LeftOut("metric", metric.name, f"a figure over {max(windows)} days has no expression there")
    if any(isinstance(leaf, Conversion) for leaf in figures(metric.formula)):
        return LeftOut("metric", metric.name, "who went on from one event to another has no expression there")
    return left_out.metric_without_counterpart(metric, family)


def _claim(wanted: str, suffix: str, taken: set[str]) -> str:
    while wanted in taken:
        wanted += suffix
    taken.add(wanted)
    return wanted
