"""The shape of a declaration file, in MetricFlow's vocabulary, checked by pydantic before anything is resolved.

A file holds `semantic_models` (a source table with entities, dimensions and measures) and `metrics` (simple, cumulative,
conversion, ratio, derived). What MetricFlow does not have: a model's `owner`, `sessions`, `step` and `small_cells`; a metric's
`owner`, `unit`, `direction`, `synonyms`, `time`, `kpi`; the types `retention`, `rate`, `standing`, `concentration` and
`time_to_peak`; the aggregations `last` and `increase`; `seen_on`; and a `percentile` beside the measure, so that several
quantiles share one distribution.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from analytics_dagster.metrics.declarations import Aggregation, Direction, TimeAxis
from analytics_dagster.words import one_line

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


class SessionsForm(_Form):
    """Sessions of an entity are measured, not rows. `lasts_ms` is how long a row lasts, in milliseconds."""

    entity: Name
    lasts_ms: Text


class SmallCellsForm(_Form):
    """Dimensions by which a figure is told only where it rests on enough of those whom the measure `people` counts."""

    people: Name
    dimensions: Annotated[tuple[Name, ...], Field(min_length=1)]


class SemanticModelForm(_Form):
    """A source table and what is measured over it. `step: counting` adds the verdicts of the counting policies to its columns,
    `step: listeners` age band and gender, and `step: weighted` measures each row of deliveries as many times as it stands for.
    """

    name: Name
    description: Text
    model: Annotated[str, Field(pattern=r"^(raw|landing|quality)/[a-z0-9_]+$")]
    owner: Text
    step: Literal["counting", "listeners", "weighted"] | None = None
    defaults: DefaultsForm = DefaultsForm()
    sessions: SessionsForm | None = None
    small_cells: SmallCellsForm | None = None
    entities: tuple[EntityForm, ...] = ()
    dimensions: tuple[DimensionForm, ...] = ()
    measures: Annotated[tuple[MeasureForm, ...], Field(min_length=1)]


class SimpleParams(_Form):
    """The figure of one measure."""

    measure: Name
    percentile: Annotated[float, Field(gt=0, lt=1)] | None = None


Span = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2} (day|week)s?$")]


def days_of(span: str) -> int:
    """The days of a `Span`."""
    number, unit = span.split()
    return int(number) * (7 if unit.startswith("week") else 1)


class WindowParams(_Form):
    """Days or weeks that end with the day which is told for."""

    window: Span


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


class NamedMeasure(_Form):
    """A measure, as MetricFlow's conversions name one."""

    name: Name


class WithinParams(_Form):
    """Two distinct counts of one entity: who is counted by the first, and what counts as converting within the window."""

    base_measure: NamedMeasure
    conversion_measure: NamedMeasure
    entity: Name
    window: Span
    calculation: Literal["conversion_rate", "conversions"] = "conversion_rate"


class ConversionParams(_Form):
    """As MetricFlow nests them."""

    conversion_type_params: WithinParams


class CohortParams(_Form):
    """Which period after the first day of a cohort; `window` is its length."""

    period: Annotated[int, Field(ge=1, le=366)] | None = None
    window: Span = "1 day"
    new_after: Span = "90 days"
    calculation: Literal["retention_rate", "retained", "cohort_size"] = "retention_rate"


class RetentionParams(_Form):
    """A distinct count whose ids come back."""

    measure: Name
    retention_type_params: CohortParams


class RatioParams(_Form):
    """One metric or measure divided by another."""

    numerator: Name
    denominator: Name


class InputForm(_Form):
    """A metric as it was so many days or weeks before, under a name for the formula."""

    name: Name
    offset_window: Span
    alias: Name


class DerivedParams(_Form):
    """Arithmetic over metrics and measures; `metrics` may list those that it names, and lists those of days before."""

    expr: Text
    metrics: tuple[Name | InputForm, ...] | None = None


class _MetricForm(_Form):
    name: Name
    description: Text
    unit: Annotated[Text, AfterValidator(one_line)]
    direction: Direction
    owner: Text | None = None
    synonyms: tuple[Name, ...] = ()
    time: TimeAxis = TimeAxis.EVENT
    kpi: bool = False


class SimpleForm(_MetricForm):
    """A metric that is one measure."""

    type: Literal["simple"]
    type_params: SimpleParams


class RateParams(_Form):
    """The measure that is told for each second of a bucket."""

    measure: Name


class RateForm(_MetricForm):
    """A metric that is one measure a second."""

    type: Literal["rate"]
    type_params: RateParams


class StandingParams(_Form):
    """A metric of one element of a dimension among those that are alike in another metric."""

    metric: Name
    alike: Name
    dimension: Name


class StandingForm(_MetricForm):
    """A metric that tells how an element stands among others."""

    type: Literal["standing"]
    type_params: StandingParams


class CumulativeForm(_MetricForm):
    """A metric that is one measure over the days before and with each day."""

    type: Literal["cumulative"]
    type_params: CumulativeParams


class ConversionForm(_MetricForm):
    """A metric that is who went on from one event to another."""

    type: Literal["conversion"]
    type_params: ConversionParams


class RetentionForm(_MetricForm):
    """A metric that is who came back."""

    type: Literal["retention"]
    type_params: RetentionParams


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
    SimpleForm
    | RateForm
    | StandingForm
    | CumulativeForm
    | ConversionForm
    | RetentionForm
    | RatioForm
    | DerivedForm
    | ConcentrationForm
    | TimeToPeakForm,
    Field(discriminator="type"),
]


class FileForm(_Form):
    """A whole file."""

    semantic_models: tuple[SemanticModelForm, ...] = ()
    metrics: tuple[MetricForm, ...] = ()


KEYS = frozenset(
    key
    for form in (
        FileForm, SemanticModelForm, SessionsForm, EntityForm, DimensionForm, MeasureForm, NonAdditiveForm, DefaultsForm,
        SimpleForm, SimpleParams, CumulativeParams, WindowParams, SeenOnParams, ConversionParams, WithinParams, NamedMeasure,
        RetentionParams, CohortParams, RatioParams, InputForm, DerivedParams,
        ConcentrationForm, SpreadParams, TimeToPeakForm, PeakParams, SmallCellsForm, RateParams, StandingParams,
    )
    for key in form.model_fields
)  # fmt: skip
"""Every key that some part of a file may have, to name the nearest one for a misspelt key."""
