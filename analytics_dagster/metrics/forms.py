"""The shape of a declaration file, in MetricFlow's vocabulary, checked by pydantic before anything is resolved.

A file holds `semantic_models` (a source table with entities, dimensions and measures) and `metrics` (simple, cumulative, ratio,
derived, and ours: concentration, time_to_peak). Keys that MetricFlow does not have: a model's and metric's `owner`; a metric's
`unit`, `direction`, `synonyms`, `time`, `kpi`; the aggregations `last` and `increase`; and a `percentile` beside the measure, so
that several quantiles share one distribution.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from analytics_dagster.metrics.declarations import Aggregation, Direction, TimeAxis

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Text = Annotated[str, Field(min_length=1)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EntityForm(_Form):
    """What a row is about."""

    name: Name
    type: Literal["primary", "unique", "foreign", "natural"]
    expr: Text | None = None
    description: Text


class DimensionForm(_Form):
    """What figures are split and filtered by."""

    name: Name
    type: Literal["categorical"] = "categorical"
    expr: Text | None = None
    description: Text


class NonAdditiveForm(_Form):
    """The dimension over which a measure may not be added up."""

    name: Name


class MeasureForm(_Form):
    """What is aggregated; `expr` defaults to the name."""

    name: Name
    agg: Aggregation
    expr: Annotated[Text, Field(coerce_numbers_to_str=True)] | None = None
    description: Text
    non_additive_dimension: NonAdditiveForm | None = None


class DefaultsForm(_Form):
    """`time_granularity` is the finest grain that is kept. The time of every event table is `ts`, said for MetricFlow's sake."""

    agg_time_dimension: Literal["ts"] = "ts"
    time_granularity: Literal["minute", "hour", "day"] = "hour"


class SemanticModelForm(_Form):
    """A source table and what is measured over it."""

    name: Name
    description: Text
    model: Annotated[str, Field(pattern=r"^raw/[a-z0-9_]+$")]
    owner: Text
    defaults: DefaultsForm = DefaultsForm()
    entities: tuple[EntityForm, ...] = ()
    dimensions: tuple[DimensionForm, ...] = ()
    measures: Annotated[tuple[MeasureForm, ...], Field(min_length=1)]


class SimpleParams(_Form):
    """The figure of one measure."""

    measure: Name
    percentile: Annotated[float, Field(gt=0, lt=1)] | None = None


class WindowParams(_Form):
    """Days or weeks that end with the day which is told for."""

    window: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2} (day|week)s?$")]

    @property
    def days(self) -> int:
        """Its length."""
        number, unit = self.window.split()
        return int(number) * (7 if unit.startswith("week") else 1)


class SeenOnParams(_Form):
    """Of a distinct count: on how many different days of the window."""

    at_least: Annotated[int, Field(ge=1)] = 1
    at_most: Annotated[int, Field(ge=1)] | None = None


class CumulativeParams(_Form):
    """The figure of one measure over a rolling window; without one, over all days since the first."""

    measure: Name
    cumulative_type_params: WindowParams | None = None
    seen_on: SeenOnParams | None = None


class SpreadParams(_Form):
    """The measure whose spread over a dimension's values is told."""

    measure: Name
    dimension: Name


class PeakParams(_Form):
    """The measure whose strongest day is looked for."""

    measure: Name


class RatioParams(_Form):
    """One metric or measure divided by another."""

    numerator: Name
    denominator: Name


class DerivedParams(_Form):
    """Arithmetic over metrics and measures; `metrics` may list those that it names."""

    expr: Text
    metrics: tuple[Name, ...] | None = None


class _MetricForm(_Form):
    name: Name
    description: Text
    unit: Text
    direction: Direction
    owner: Text | None = None
    synonyms: tuple[Name, ...] = ()
    time: TimeAxis = TimeAxis.EVENT
    kpi: bool = False


class SimpleForm(_MetricForm):
    """A metric that is one measure."""

    type: Literal["simple"]
    type_params: SimpleParams


class CumulativeForm(_MetricForm):
    """A metric that is one measure over the days before and with each day."""

    type: Literal["cumulative"]
    type_params: CumulativeParams


class RatioForm(_MetricForm):
    """A metric that is a quotient."""

    type: Literal["ratio"]
    type_params: RatioParams


class DerivedForm(_MetricForm):
    """A metric that is a formula."""

    type: Literal["derived"]
    type_params: DerivedParams


class ConcentrationForm(_MetricForm):
    """A metric that tells how unevenly one measure is spread over a dimension."""

    type: Literal["concentration"]
    type_params: SpreadParams


class TimeToPeakForm(_MetricForm):
    """A metric that tells how many days one measure took to its strongest one."""

    type: Literal["time_to_peak"]
    type_params: PeakParams


MetricForm = Annotated[
    SimpleForm | CumulativeForm | RatioForm | DerivedForm | ConcentrationForm | TimeToPeakForm, Field(discriminator="type")
]


class FileForm(_Form):
    """A whole file."""

    semantic_models: tuple[SemanticModelForm, ...] = ()
    metrics: tuple[MetricForm, ...] = ()


KEYS = frozenset(
    key
    for form in (
        FileForm, SemanticModelForm, EntityForm, DimensionForm, MeasureForm, NonAdditiveForm, DefaultsForm,
        SimpleForm, SimpleParams, CumulativeParams, WindowParams, SeenOnParams, RatioParams, DerivedParams,
        ConcentrationForm, SpreadParams, TimeToPeakForm, PeakParams,
    )
    for key in form.model_fields
)  # fmt: skip
"""Every key that some part of a file may have, to name the nearest one for a misspelt key."""
