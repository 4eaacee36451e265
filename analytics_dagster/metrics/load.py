"""From YAML files to a checked `Catalogue`: everything that can be wrong is found here, with file, line and remedy.

The built-in catalogue is the folder `catalogue/` beside this module; `ANALYTICS_METRICS` names a folder with more. Its folder
`policies`, and ours, declare counting policies, whose measures and metrics are added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pydantic import ValidationError

from analytics_dagster.errors import DeclarationError
from analytics_dagster.lake.schemas import MEASURED, TableSchema
from analytics_dagster.metrics import forms
from analytics_dagster.metrics.counting.load import FOLDER as POLICIES
from analytics_dagster.metrics.counting.load import load_counting
from analytics_dagster.metrics.counting.measures import metrics_of_policies, with_measures
from analytics_dagster.metrics.counting.policies import Counting
from analytics_dagster.metrics.counting.verdicts import counting_step
from analytics_dagster.metrics.declarations import (
    DAYS_ONLY,
    FROM_MINUTES,
    HOURS_AND_DAYS,
    Aggregation,
    Catalogue,
    Dimension,
    Entity,
    Family,
    Measure,
    Metric,
    Origin,
    SmallCells,
    SourceStep,
    always_whole,
    did_you_mean,
    within,
)
from analytics_dagster.metrics.demographics import LISTENERS, listener_step
from analytics_dagster.metrics.documents import Document, Location, describe, parse_document, read_document
from analytics_dagster.metrics.expressions import ExpressionError, Snippet, arithmetic, scalar
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
    SummaryKind,
    leaves,
    summaries,
)
from analytics_dagster.metrics.retention import PERIOD
from analytics_dagster.metrics.rolling import ROLLING, seen_on
from analytics_dagster.metrics.sessions import Sessions, session_table
from analytics_dagster.metrics.sizes import Size, size_of
from analytics_dagster.metrics.small_cells import faults_of_family, faults_of_metric
from analytics_dagster.metrics.states import accepts, state_columns
from analytics_dagster.metrics.weighted import WEIGHTED, weighted_step

BUILT_IN = Path(__file__).parent / "catalogue"
RESERVED = frozenset({"ts", "value", "metric", "series", "tenant_id", "alertname", "severity", PERIOD})
"""Names that a dimension may not have: columns of answers, what retention is split by, and labels that alerts set themselves."""

ADDITIVE = frozenset({Aggregation.COUNT, Aggregation.SUM, Aggregation.SUM_BOOLEAN})
"""What may be summed over days and dimensions."""
_GRAINS = {"minute": FROM_MINUTES, "hour": HOURS_AND_DAYS, "day": DAYS_ONLY}

T = TypeVar("T")


@dataclass(frozen=True)
class _Declared:
    """One file: its form and where each part of it stands."""

    document: Document
    form: forms.FileForm
    own: bool = False

    def origin(self, *location: str | int) -> Origin:
        return Origin(self.document.file, self.document.line(location))


def load_catalogue(extra: Path | None = None, own: Iterable[tuple[str, str]] = ()) -> Catalogue:
    """The built-in catalogue, and the declarations (*.yaml, *.yml) of the folder `extra` beside it; `own`: names and YAML of
    those that a tenant declared for itself (`own.py`).

    Raises DeclarationError naming file and line: a bad shape, an unknown column, metric or measure, a name taken twice.
    """
    files = [_read(path) for path in sorted(BUILT_IN.glob("*.yaml"))]
    if extra is not None:
        if not extra.is_dir():
            raise DeclarationError(f"ANALYTICS_METRICS={extra} is not a folder; name one with metric declarations (*.yaml)")
        files += [_read(path) for path in sorted(p for p in extra.iterdir() if p.suffix in (".yaml", ".yml"))]
    files += [replace(_declared(parse_document(text, f"{name}.yaml")), own=True) for name, text in own]
    counting = load_counting(None if extra is None else extra / POLICIES)
    files = [replace(f, form=with_measures(f.form, counting)) for f in files]
    files += [_Declared(document, form) for document, form in metrics_of_policies(counting)]
    return _Resolver(files, counting).catalogue()


def _read(path: Path) -> _Declared:
    return _declared(read_document(path))


def _declared(document: Document) -> _Declared:
    try:
        return _Declared(document, forms.FileForm.model_validate(document.data or {}))
    except ValidationError as error:
        raise DeclarationError(describe(document, error, forms.KEYS)) from None


class _Resolver:
    """Names to objects, over all files at once, so that a metric may come before what it is made of."""

    def __init__(self, files: list[_Declared], counting: Counting) -> None:
        self._files, self._counting = files, counting
        self._steps = {"counting": counting_step(counting), LISTENERS: listener_step(), WEIGHTED: weighted_step()}
        self._measures: dict[str, tuple[str, Measure]] = {}
        self._entities: dict[tuple[str, str], Entity] = {}
        self._forms: dict[str, tuple[_Declared, int, forms.MetricForm]] = {}
        self._formulas: dict[str, Formula] = {}
        self._sizes: dict[str, Size] = {}
        self._dimensions: dict[str, list[str]] = {}

    def catalogue(self) -> Catalogue:
        families = self._families()
        self._index_metrics()
        metrics = [self._metric(declared, index, form) for declared, index, form in self._forms.values()]
        for metric, fault in faults_of_metric(metrics, {f.name: f for f in families}):
            raise DeclarationError(f"{metric.origin}: metric {metric.name!r} {fault}")
        resolved = tuple(replace(f, metrics=tuple(m for m in metrics if m.family == f.name)) for f in families)
        return Catalogue(resolved, self._counting)

    def _families(self) -> list[Family]:
        taken: dict[str, Origin] = {}
        families = []
        for declared in self._files:
            for index, model in enumerate(declared.form.semantic_models):
                origin = declared.origin("semantic_models", index, "name")
                _claim(taken, model.name, origin, "semantic model")
                family = _family(declared, index, model, None if model.step is None else self._steps[model.step])
                for measure in family.measures:
                    if measure.name in self._measures:
                        raise _twice("measure", measure.name, measure.origin, self._measures[measure.name][1].origin)
                    self._measures[measure.name] = (family.name, measure)
                self._entities.update({(family.name, entity.name): entity for entity in family.entities})
                families.append(family)
                self._dimensions[family.name] = [d.name for d in family.dimensions]
        return families

    def _index_metrics(self) -> None:
        taken: dict[str, Origin] = {}
        for declared in self._files:
            for index, form in enumerate(declared.form.metrics):
                _claim(taken, form.name, declared.origin("metrics", index, "name"), "metric")
                self._forms[form.name] = (declared, index, form)
        for declared, index, form in self._forms.values():
            for n, synonym in enumerate(form.synonyms):
                _claim(taken, synonym, declared.origin("metrics", index, "synonyms", n), "metric or synonym")

    def _metric(self, declared: _Declared, index: int, form: forms.MetricForm) -> Metric:
        formula = self._formula(form.name, ())
        used = [self._measures[leaf.measure] for leaf in leaves(formula)]
        origin = declared.origin("metrics", index, "name")
        of = list(dict.fromkeys(family for family, _ in used))
        if form.kpi and (len(of) > 1 or any(summaries(formula))):
            raise DeclarationError(
                f"{origin}: metric {form.name!r} is put together from several answers, which a KPI cannot be; remove kpi"
            )
        apart = dict.fromkeys(m.apart_by for _, m in used if m.apart_by)
        owner = next(m.owner for d in self._files for m in d.form.semantic_models if m.name == of[0])
        return Metric(
            name=form.name,
            family=of[0],
            formula=formula,
            description=form.description.strip(),
            unit=form.unit,
            direction=form.direction,
            owner=form.owner or owner,
            synonyms=form.synonyms,
            time=form.time,
            kpi=form.kpi,
            integer=always_whole(formula, used[0][1]),
            apart_by=tuple(apart),
            origin=origin,
            others=tuple(of[1:]),
        )

    def _formula(self, name: str, path: tuple[str, ...]) -> Formula:
        """The formula of a metric; `path` are the metrics on the way to it, to find circles."""
        if name in self._formulas:
            return self._formulas[name]
        declared, index, form = self._forms[name]
        where = declared.origin("metrics", index, "type_params")
        if name in path:
            raise DeclarationError(f"{where}: metric {name!r} is made from itself: {' -> '.join((*path, name))}")
        match form:
            case forms.SimpleForm():
                made: Formula = self._simple(form, declared.origin("metrics", index, "type_params", "measure"))
            case forms.RateForm():
                made = self._rate(form, declared.origin("metrics", index, "type_params", "measure"))
            case forms.StandingForm():
                made = self._standing(form, (*path, name), where)
            case forms.CumulativeForm():
                made = self._cumulative(form, declared.origin("metrics", index, "type_params", "measure"))
            case forms.ConcentrationForm() | forms.TimeToPeakForm():
                made = self._summary(form, declared.origin("metrics", index, "type_params", "measure"))
            case forms.ConversionForm():
                made = self._conversion(form, declared.origin("metrics", index, "type_params", "conversion_type_params"))
            case forms.RetentionForm():
                made = self._retention(form, declared.origin("metrics", index, "type_params", "retention_type_params"))
            case forms.RatioForm():
                inner = (*path, name)
                numerator = self._figure(form.type_params.numerator, inner, where)
                made = Ratio(numerator, self._figure(form.type_params.denominator, inner, where))
            case forms.DerivedForm():
                made = self._derived(form, path, declared.origin("metrics", index, "type_params", "expr"))
        if fault := self._sizes.setdefault(name, size_of(form, self._sizes)).fault():
            raise DeclarationError(f"{where}: metric {name!r} {fault}")
        self._formulas[name] = made
        return made

    def _simple(self, form: forms.SimpleForm, where: Origin) -> MeasureFigure:
        params = form.type_params
        distribution = self._measure(params.measure, where).aggregation is Aggregation.PERCENTILE
        if distribution and params.percentile is None:
            raise DeclarationError(f"{where}: measure {params.measure!r} is a distribution; add percentile, for example 0.95")
        if not distribution and params.percentile is not None:
            raise DeclarationError(
                f"{where}: measure {params.measure!r} is no distribution; remove percentile, or give the measure agg: percentile"
            )
        return MeasureFigure(params.measure, params.percentile)

    def _rate(self, form: forms.RateForm, where: Origin) -> PerSecond:
        name = form.type_params.measure
        if (aggregation := self._measure(name, where).aggregation) not in ADDITIVE:
            raise DeclarationError(f"{where}: measure {name!r} is {aggregation}; rate takes {', '.join(sorted(ADDITIVE))}")
        return PerSecond(MeasureFigure(name))

    def _standing(self, form: forms.StandingForm, path: tuple[str, ...], where: Origin) -> Standing:
        params = form.type_params
        figure, alike = self._figure(params.metric, path, where), self._figure(params.alike, path, where)
        of = sorted({self._measures[leaf.measure][0] for part in (figure, alike) for leaf in leaves(part)})
        if len(of) > 1 or any(summaries(figure)) or any(summaries(alike)):
            raise DeclarationError(f"{where}: metric {form.name!r} is a standing, which reads one semantic model's own figures")
        if params.dimension not in self._dimensions[of[0]]:
            near = did_you_mean(params.dimension, self._dimensions[of[0]])
            raise DeclarationError(f"{where}: no dimension {params.dimension!r} in the semantic model {of[0]!r}{near}")
        return Standing(figure, alike, params.dimension)

    def _summary(self, form: forms.ConcentrationForm | forms.TimeToPeakForm | forms.CumulativeForm, where: Origin) -> Summary:
        name, kind, dimension = form.type_params.measure, SummaryKind.TOTAL, None
        measure, of = self._measure(name, where), self._measures[name][0]
        if isinstance(form, forms.ConcentrationForm):
            kind, dimension = SummaryKind.CONCENTRATION, form.type_params.dimension
            if dimension not in self._dimensions[of]:
                near = did_you_mean(dimension, self._dimensions[of])
                raise DeclarationError(f"{where}: no dimension {dimension!r} in the semantic model {of!r}{near}")
        elif isinstance(form, forms.TimeToPeakForm):
            kind = SummaryKind.TIME_TO_PEAK
        if measure.aggregation not in ADDITIVE:
            raise DeclarationError(
                f"{where}: measure {name!r} is {measure.aggregation}, whose figures do not add up; "
                f"{form.type} takes {', '.join(sorted(ADDITIVE))}"
            )
        return Summary(kind, MeasureFigure(name), dimension)

    def _cumulative(self, form: forms.CumulativeForm, where: Origin) -> Formula:
        params = form.type_params
        aggregation = self._measure(params.measure, where).aggregation
        if params.cumulative_type_params is None:
            if params.seen_on is not None:
                raise DeclarationError(
                    f"{where}: seen_on counts days of a window; add cumulative_type_params: {{window: 28 days}}"
                )
            return self._summary(form, where)
        if aggregation not in ROLLING:
            raise DeclarationError(
                f"{where}: measure {params.measure!r} is {aggregation}, which has no figure over a window; "
                f"these have: {', '.join(sorted(ROLLING))}"
            )
        window = forms.days_of(params.cumulative_type_params.window)
        return MeasureFigure(params.measure, window=window, seen=seen_on(params, aggregation, where))

    def _conversion(self, form: forms.ConversionForm, where: Origin) -> Conversion:
        params = form.type_params.conversion_type_params
        for name in (params.base_measure.name, params.conversion_measure.name):
            measure, family = self._distinct(name, where), self._measures[name][0]
            entity = self._entities.get((family, params.entity))
            if entity is None:
                known = [of for at, of in self._entities if at == family]
                near = did_you_mean(params.entity, known)
                raise DeclarationError(f"{where}: semantic model {family} has no entity {params.entity!r}{near}")
            if entity.expr not in measure.expr:
                raise DeclarationError(
                    f"{where}: measure {name!r} counts {measure.expr}, in which there is no {params.entity} ({entity.expr})"
                )
        of = sorted({self._measures[one.name][0] for one in (params.base_measure, params.conversion_measure)})
        if len(of) > 1:
            raise DeclarationError(
                f"{where}: metric {form.name!r} mixes the semantic models {' and '.join(of)}; a conversion reads one table"
            )
        rate, days = params.calculation == "conversion_rate", forms.days_of(params.window)
        return Conversion(params.base_measure.name, params.conversion_measure.name, params.entity, days, rate)

    def _retention(self, form: forms.RetentionForm, where: Origin) -> Retention:
        params, measure = form.type_params.retention_type_params, form.type_params.measure
        self._distinct(measure, where)
        if (params.period is None) != (params.calculation == "cohort_size"):
            remedy = "remove period" if params.period is not None else "add period, for example 7"
            raise DeclarationError(f"{where}: calculation {params.calculation} of a cohort: {remedy}")
        rate = params.calculation == "retention_rate"
        return Retention(measure, params.period, forms.days_of(params.window), forms.days_of(params.new_after), rate)

    def _distinct(self, name: str, where: Origin) -> Measure:
        measure = self._measure(name, where)
        if measure.aggregation is not Aggregation.COUNT_DISTINCT:
            raise DeclarationError(
                f"{where}: measure {name!r} is {measure.aggregation}, which keeps no ids; name one with agg: count_distinct"
            )
        return measure

    def _measure(self, name: str, where: Origin) -> Measure:
        if name not in self._measures:
            raise DeclarationError(f"{where}: no measure {name!r}{did_you_mean(name, self._measures)}")
        return self._measures[name][1]

    def _derived(self, form: forms.DerivedForm, path: tuple[str, ...], where: Origin) -> Derived:
        figures = [*self._forms, *(n for n, (_, m) in self._measures.items() if m.aggregation is not Aggregation.PERCENTILE)]
        listed = form.type_params.metrics or ()
        before = {one.alias: one for one in listed if isinstance(one, forms.InputForm)}
        names = _at(where, lambda: arithmetic(form.type_params.expr, [*figures, *before]))
        aliases = [one.alias if isinstance(one, forms.InputForm) else one for one in listed]
        if listed and set(aliases) != set(names):
            raise DeclarationError(f"{where}: expr names {', '.join(names)}, but metrics lists {', '.join(aliases)}")
        inner = (*path, form.name)
        made = [(n, self._before(before[n], inner, where) if n in before else self._figure(n, inner, where)) for n in names]
        return Derived(form.type_params.expr, tuple(made))

    def _before(self, form: forms.InputForm, path: tuple[str, ...], where: Origin) -> MeasureFigure:
        """A figure over a window, as it was some days ago."""
        figure = self._figure(form.name, path, where)
        if not isinstance(figure, MeasureFigure) or figure.window is None:
            raise DeclarationError(f"{where}: offset_window is for a cumulative metric, which {form.name!r} is not")
        return replace(figure, offset=forms.days_of(form.offset_window))

    def _figure(self, name: str, path: tuple[str, ...], where: Origin) -> Formula:
        """A metric, else a measure of that name. A metric's own name within its formula means the measure."""
        if name in self._forms and not (name == path[-1] and name in self._measures):
            made = self._formula(name, path)
            if isinstance(made, Standing):
                raise DeclarationError(f"{where}: metric {name!r} is a standing, which is no part of another; name what it reads")
            return made
        if name not in self._measures:
            known = [*self._forms, *self._measures]
            raise DeclarationError(f"{where}: no metric or measure {name!r}{did_you_mean(name, known)}")
        if self._measures[name][1].aggregation is Aggregation.PERCENTILE:
            raise DeclarationError(
                f"{where}: {name!r} is a distribution; declare a simple metric with a percentile and name that"
            )
        return MeasureFigure(name)


def _family(declared: _Declared, index: int, model: forms.SemanticModelForm, step: SourceStep | None) -> Family:
    at: tuple[str | int, ...] = ("semantic_models", index)
    source = {table.path: table for table in MEASURED.values()}.get(model.model)
    if source is None:
        known = [t.path for t in MEASURED.values()]
        where = declared.origin(*at, "model")
        near = did_you_mean(model.model, known)
        raise DeclarationError(f"{where}: no event table {model.model!r}{near}; one of {', '.join(known)}")
    if step is not None:
        if source is not step.source:
            of = f"step {model.step} is of {step.source.name}; give model: {step.source.path}"
            raise DeclarationError(f"{declared.origin(*at, 'step')}: {of}")
        source = replace(source, columns=(*source.columns, *step.columns))
    taken: dict[str, Origin] = {}
    entities = []
    for n, entity in enumerate(model.entities):
        snippet = _snippet(declared, (*at, "entities", n), entity.expr or entity.name, source)
        entities.append(Entity(entity.name, entity.type, snippet.sql, entity.description.strip()))
    sessions = _sessions(declared, at, model, entities, source)
    source = session_table(source) if sessions else source
    dimensions = []
    for n, dimension in enumerate(model.dimensions):
        where = declared.origin(*at, "dimensions", n, "name")
        if dimension.name in RESERVED:
            raise DeclarationError(
                f"{where}: a dimension may not be called {dimension.name!r}; that name is taken in answers and alerts"
            )
        _claim(taken, dimension.name, where, "dimension")
        snippet = _snippet(declared, (*at, "dimensions", n), dimension.expr or dimension.name, source)
        sql = snippet.sql if pa.types.is_string(snippet.type) else f"CAST({snippet.sql} AS VARCHAR)"
        dimensions.append(Dimension(dimension.name, sql, dimension.description.strip()))
    measures = []
    for n, form in enumerate(model.measures):
        measure = _measure(declared, (*at, "measures", n), form, source, [d.name for d in dimensions], step)
        for column in measure.columns:
            _claim(taken, column.name, measure.origin, "column")
        if measure.aggregation is Aggregation.COUNT_DISTINCT:
            _claim(taken, within(measure.name), measure.origin, "column")
        measures.append(measure)
    cells = None if model.small_cells is None else SmallCells(model.small_cells.people, model.small_cells.dimensions)
    family = Family(
        model.name, model.description.strip(), source.name, model.owner,
        tuple(entities), tuple(dimensions), tuple(measures), (), declared.origin(*at, "name"),
        _GRAINS[model.defaults.time_granularity], sessions, step, cells, declared.own,
    )  # fmt: skip
    for fault in faults_of_family(family):
        raise DeclarationError(f"{declared.origin(*at, 'small_cells' if cells else 'step')}: {fault}")
    return family


def _sessions(
    declared: _Declared, at: Location, model: forms.SemanticModelForm, entities: Iterable[Entity], source: TableSchema
) -> Sessions | None:
    if model.sessions is None:
        return None
    if model.step is not None:
        raise DeclarationError(f"{declared.origin(*at, 'sessions')}: a model has sessions or a step, not both; take one out")
    where = declared.origin(*at, "sessions", "entity")
    by_name = {entity.name: entity for entity in entities}
    entity = by_name.get(model.sessions.entity)
    if entity is None:
        near = did_you_mean(model.sessions.entity, by_name)
        raise DeclarationError(f"{where}: no entity {model.sessions.entity!r} in this semantic model{near}")
    if model.defaults.time_granularity == "minute":
        raise DeclarationError(f"{where}: sessions are kept by the hour; remove time_granularity: minute")
    place = (*at, "sessions", "lasts_ms")
    lasts = _at(declared.origin(*place), lambda: scalar(model.sessions.lasts_ms, source) if model.sessions else None)
    if lasts is None or not pa.types.is_integer(lasts.type):
        raise DeclarationError(f"{declared.origin(*place)}: {model.sessions.lasts_ms!r} is no whole number of milliseconds")
    return Sessions(entity.expr, lasts.sql, tuple(sorted({*scalar(entity.expr, source).columns, *lasts.columns})))


def _measure(
    declared: _Declared,
    at: Location,
    form: forms.MeasureForm,
    source: TableSchema,
    dimensions: Iterable[str],
    step: SourceStep | None,
) -> Measure:
    where = declared.origin(*at, "expr")
    snippet = _snippet(declared, at, form.expr or form.name, source)
    if not accepts(form.agg, snippet.type):
        given = form.expr or form.name
        remedy = "a condition" if form.agg is Aggregation.SUM_BOOLEAN else "a number, or use count, sum_boolean or count_distinct"
        raise DeclarationError(f"{where}: agg {form.agg} cannot take {given!r}, which is {snippet.type}; give {remedy}")
    apart = form.non_additive_dimension.name if form.non_additive_dimension else None
    if apart is not None and apart not in dimensions:
        place = declared.origin(*at, "non_additive_dimension")
        raise DeclarationError(f"{place}: no dimension {apart!r} in this semantic model{did_you_mean(apart, dimensions)}")
    description = form.description.strip()
    columns = state_columns(form.name, form.agg, snippet.type, description)
    # A step without columns of its own changes which rows there are.
    of_step = step is not None and (not step.columns or not {c.name for c in step.columns}.isdisjoint(snippet.columns))
    return Measure(form.name, form.agg, snippet.sql, description, columns, apart, declared.origin(*at, "name"), of_step)


def _snippet(declared: _Declared, at: Location, text: str, source: TableSchema) -> Snippet:
    return _at(declared.origin(*at, "expr"), lambda: scalar(text, source))


def _at(where: Origin, check: Callable[[], T]) -> T:
    try:
        return check()
    except ExpressionError as error:
        raise DeclarationError(f"{where}: {error}") from None


def _claim(taken: dict[str, Origin], name: str, origin: Origin, kind: str) -> None:
    if name in taken:
        raise _twice(kind, name, origin, taken[name])
    taken[name] = origin


def _twice(kind: str, name: str, here: Origin, there: Origin) -> DeclarationError:
    return DeclarationError(f"{here}: the {kind} {name!r} is also declared in {there}; give one of them another name")
