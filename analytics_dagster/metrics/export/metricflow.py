"""The catalogue as MetricFlow reads it (dbt's semantic layer): `semantic_models` with measures, and `metrics`.

The words are mostly ours too. What differs: a percentile belongs to a measure, so a distribution is one measure for each
percentile in use; a ratio or formula names metrics only, so a measure that one names gets a metric of its own; and
`non_additive_dimension` is about time there, so a currency is told in `config.meta`. Structure:
https://docs.getdbt.com/docs/build/semantic-models and https://docs.getdbt.com/docs/build/metrics-overview (2025).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from analytics_dagster.errors import UserError
from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Entity, Family, Measure, Metric, Origin
from analytics_dagster.metrics.export import left_out
from analytics_dagster.metrics.export.dialects import duckdb_sql, rewritten
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
    leaves,
)
from analytics_dagster.metrics.lineage import columns_read
from analytics_dagster.metrics.sessions import session_rows

_HEAD = (
    "Semantic models and metrics for MetricFlow (dbt). Written by `analytics metrics export`; expressions are DuckDB's SQL.",
    "Each ref is a dbt model with the rows of the raw table of that name, of one tenant; for a semantic model of sessions it is",
    "the SQL in its config.meta.rows.",
)
# UniqueAndValidNameRule of dbt-semantic-interfaces.
_NAME = re.compile(r"[a-z]((?!__)[a-z0-9_])*[a-z0-9]")
_LENGTHS = frozenset(
    ("nanosecond", "microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year")
)
_RESERVED = frozenset(("metric_time", "mf_internal_uuid"))


def text(catalogue: Catalogue, parameters: Mapping[str, int]) -> str:
    """The catalogue as a YAML file for the `models/` of a dbt project."""
    exported = MetricFlow(catalogue, parameters)
    return left_out.text(exported.document(), _HEAD, exported.left_out())


class MetricFlow:
    """One catalogue's export. Names are given out when it is made: they depend on all families and metrics."""

    def __init__(self, catalogue: Catalogue, parameters: Mapping[str, int]) -> None:
        self._catalogue, self._parameters = catalogue, parameters
        self._by_name = {m.name: m for m in catalogue.metrics}
        self._exported = [m for m in catalogue.metrics if left_out.metric_without_counterpart(m, catalogue.family_of(m)) is None]
        self._measures = self._measure_names()
        self._own = self._metrics_of_measures()

    def document(self) -> dict[str, Any]:
        """Plain data: `semantic_models` and `metrics`. Raises UserError for a name that MetricFlow does not take."""
        metrics = [*(self._helper(f, name) for f, name in self._own.items()), *(self._metric(m) for m in self._exported)]
        return {"semantic_models": [self._model(f) for f in self._catalogue.families], "metrics": metrics}

    def left_out(self) -> list[LeftOut]:
        """What is not in the document."""
        parts = [part for f in self._catalogue.families for part in self._measures_left_out(f)]
        metrics = [left_out.metric_without_counterpart(m, self._catalogue.family_of(m)) for m in self._catalogue.metrics]
        dimensions = [part for f in self._catalogue.families for part in left_out.dimensions_left_out(f)]
        return parts + dimensions + [part for part in metrics if part]

    # --- names

    def _measure_names(self) -> dict[MeasureFigure, str]:
        """The name of each exported measure: one for each percentile of a distribution that a metric reads."""
        taken: set[str] = set()
        names = {}
        for family in self._catalogue.families:
            elements = {"ts", *(d.name for d in family.dimensions), *(e.name for e in family.entities)}
            for measure in family.measures:
                if left_out.measure_without_counterpart(measure):
                    continue
                for percentile in self._percentiles(family, measure):
                    wanted = measure.name if percentile is None else f"{measure.name}_p{percentile * 100:g}".replace(".", "_")
                    names[MeasureFigure(measure.name, percentile)] = _free(wanted, elements | taken)
                    taken.add(names[MeasureFigure(measure.name, percentile)])
        return names

    def _percentiles(self, family: Family, measure: Measure) -> list[float | None]:
        if measure.aggregation is not Aggregation.PERCENTILE:
            return [None]
        figures = (m.formula for m in family.metrics)
        used = {f.percentile for f in _figures(figures) if f.measure == measure.name and f.percentile is not None}
        return [*sorted(used)]

    def _metrics_of_measures(self) -> dict[MeasureFigure, str]:
        """The names of metrics that exist only since a ratio or formula names a measure."""
        names: dict[MeasureFigure, str] = {}
        for metric in self._exported:
            for wanted, formula in _inputs(metric.formula):
                if self._declared(formula, wanted) is None and isinstance(formula, MeasureFigure) and formula not in names:
                    names[formula] = _free(formula.measure, {*self._by_name, *names.values()})
        return names

    def _declared(self, formula: Formula, wanted: str | None) -> str | None:
        """The declared metric that is this formula, the one that is `wanted` before others."""
        if wanted in self._by_name and self._by_name[wanted].formula == formula:
            return wanted
        return next((m.name for m in self._exported if m.formula == formula), None)

    def _reference(self, formula: Formula, wanted: str | None = None) -> str:
        declared = self._declared(formula, wanted)
        if declared is not None:
            return declared
        if isinstance(formula, MeasureFigure):
            return self._own[formula]
        raise ValueError(f"{formula} is no metric: what a ratio or formula names is one, or a measure")

    # --- semantic models

    def _model(self, family: Family) -> dict[str, Any]:
        for name in (*(e.name for e in family.entities), *(d.name for d in family.dimensions)):
            _check(name, family.origin)
        model: dict[str, Any] = {
            "name": _check(family.name, family.origin),
            "description": family.description,
            "model": f"ref('{family.name if family.sessions else family.source}')",
            "defaults": {"agg_time_dimension": "ts"},
        }
        if all(e.type != "primary" for e in family.entities):
            # Dimensions are addressed by the primary entity; a model without one has to name it.
            model["primary_entity"] = _free(family.name, {e.name for e in family.entities}, "_row")
        time = {"name": "ts", "description": "Time of the event (UTC).", "type": "time", "expr": "ts"}
        dimensions = [
            {"name": d.name, "description": d.description, "type": "categorical", "expr": self._sql(d.expr)}
            for d in left_out.told_dimensions(family)
        ]
        model["entities"] = [self._entity(e) for e in family.entities]
        model["dimensions"] = [time | {"type_params": {"time_granularity": family.grains[0].value}}, *dimensions]
        model["measures"] = [m for measure in family.measures for m in self._measure(family, measure)]
        meta: dict[str, Any] = {"owner": family.owner}
        if family.sessions:
            meta["rows"] = self._session_rows(family)
        if missing := self._measures_left_out(family):
            meta["left_out"] = {part.name: part.reason for part in missing}
        return model | {"config": {"meta": meta}}

    def _session_rows(self, family: Family) -> str:
        """The SQL of the dbt model that a semantic model of sessions refers to."""
        columns = [c.strip('"') for c in (*(e.expr for e in family.entities), *(d.expr for d in family.dimensions))]
        columns += [name for measure in family.measures for name in columns_read(measure.expr, family)]
        assert family.sessions is not None
        sql = session_rows(family.sessions, MEASURED[family.source], columns, f"{{{{ ref('{family.source}') }}}}")
        for name, value in self._parameters.items():
            sql = sql.replace(f"${name}", str(value))
        return sql

    def _entity(self, entity: Entity) -> dict[str, Any]:
        return {"name": entity.name, "description": entity.description, "type": entity.type, "expr": self._sql(entity.expr)}

    def _measure(self, family: Family, measure: Measure) -> Iterator[dict[str, Any]]:
        if left_out.measure_without_counterpart(measure):
            return
        for percentile in self._percentiles(family, measure):
            made: dict[str, Any] = {
                "name": _check(self._measures[MeasureFigure(measure.name, percentile)], measure.origin),
                "description": measure.description,
                "agg": measure.aggregation.value,
                "expr": self._sql(measure.expr),
            }
            if percentile is not None:
                # Ours is the nearest rank: a value that occurred, not one between two.
                made["agg_params"] = {"percentile": percentile, "use_discrete_percentile": True}
            if measure.apart_by:
                made["config"] = {"meta": {"never_added_over": [measure.apart_by]}}
            yield made

    def _measures_left_out(self, family: Family) -> list[LeftOut]:
        parts = []
        for measure in family.measures:
            if told := left_out.measure_without_counterpart(measure):
                parts.append(told)
            elif not self._percentiles(family, measure):
                parts.append(LeftOut("measure", measure.name, "a distribution of which no metric says the percentile"))
        return parts

    def _sql(self, snippet: str) -> str:
        return duckdb_sql(rewritten(snippet, self._parameters))

    # --- metrics

    def _metric(self, metric: Metric) -> dict[str, Any]:
        kind, params = self._params(metric.formula)
        return {
            "name": _check(metric.name, metric.origin),
            "label": _label(metric.name),
            "description": metric.description,
            "type": kind,
            "type_params": params,
            "config": {"meta": left_out.facts(metric)},
        }

    def _helper(self, figure: MeasureFigure, name: str) -> dict[str, Any]:
        measure = next(m for f in self._catalogue.families for m in f.measures if m.name == figure.measure)
        meta = {"helper": True} | ({"never_added_over": [measure.apart_by]} if measure.apart_by else {})
        return {
            "name": _check(name, measure.origin),
            "label": _label(name),
            "description": measure.description,
            "type": "simple",
            "type_params": {"measure": self._measures[figure]},
            "config": {"meta": meta},
        }

    def _input(self, name: str, formula: Formula) -> dict[str, Any]:
        """What a formula names, as it is or as it was some days before."""
        offset = _offset(formula)
        metric = self._reference(replace(formula, offset=0) if isinstance(formula, MeasureFigure) else formula, name)
        alias = {"alias": name} if name != metric else {}
        return {"name": metric} | alias | ({"offset_window": f"{offset} days"} if offset else {})

    def _params(self, formula: Formula) -> tuple[str, dict[str, Any]]:
        match formula:
            case MeasureFigure(measure, percentile, _, window):
                simple: dict[str, Any] = {"measure": self._measures[MeasureFigure(measure, percentile)]}
                if window is None:
                    return "simple", simple
                # By week and month it is the figure of the last day here; MetricFlow takes the first unless told.
                rolling = {"window": f"{window} day{'s' if window > 1 else ''}", "period_agg": "last"}
                return "cumulative", simple | {"cumulative_type_params": rolling}
            case Ratio(numerator, denominator):
                over, under = self._reference(numerator), self._reference(denominator)
                return "ratio", {"numerator": {"name": over}, "denominator": {"name": under}}
            case Derived(expr, inputs):
                return "derived", {"expr": self._sql(expr), "metrics": [self._input(name, inner) for name, inner in inputs]}
            case Conversion(base, converted, entity, window, rate):
                within = {
                    "entity": entity,
                    "calculation": "conversion_rate" if rate else "conversions",
                    "base_measure": {"name": self._measures[MeasureFigure(base)]},
                    "conversion_measure": {"name": self._measures[MeasureFigure(converted)]},
                    "window": f"{window} day{'s' if window > 1 else ''}",
                }
                return "conversion", {"conversion_type_params": within}
            case Retention() | PerSecond() | Summary() | Standing():
                raise ValueError(f"{formula} has no counterpart and is left out")


def _offset(formula: Formula) -> int:
    """How many days before its day a formula is told for."""
    return formula.offset if isinstance(formula, MeasureFigure) else 0


def _inputs(formula: Formula) -> Iterator[tuple[str | None, Formula]]:
    """What a metric refers to, under the name that its formula has for it."""
    match formula:
        case Ratio(numerator, denominator):
            yield from ((None, numerator), (None, denominator))
        case Derived(_, inputs):
            yield from ((name, replace(f, offset=0) if isinstance(f, MeasureFigure) else f) for name, f in inputs)


def _figures(formulas: Iterator[Formula]) -> Iterator[MeasureFigure]:
    for formula in formulas:
        yield from leaves(formula)


def _free(wanted: str, taken: set[str], suffix: str = "_measure") -> str:
    while wanted in taken:
        wanted += suffix
    return wanted


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _check(name: str, origin: Origin) -> str:
    if _NAME.fullmatch(name) is None or name in _LENGTHS | _RESERVED:
        raise UserError(
            f"{origin}: MetricFlow does not take the name {name!r}: at least two of a-z, 0-9 and _, no _ at the end and no two "
            "in a row, and no length of time; give it another name to export it"
        )
    return name
