"""Figures for the judge, read through the metric catalogue: a declared metric's total, or a recorded series.

A rule on a declared metric reads its total per tenant; matchers filter, and the dimensions that they or `by` name become
labels. Everything is merged from state, so that an average is never averaged. Of points recorded under a name of their
own each set of labels is a series. Figures are by day; one that looks at later days (retention, a conversion) is judged on the
day with which it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from analytics_dagster.alerts.event_time import SeriesBuckets
from analytics_dagster.alerts.queries import Matcher
from analytics_dagster.alerts.rules import Aggregate, Condition, Labels, Rule
from analytics_dagster.errors import RetryableError
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Grain, Metric
from analytics_dagster.metrics.formulas import MeasureFigure

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import Lake, TenantLake
    from analytics_dagster.metrics.query import MetricQuery

_ABOVE = (Condition.GT, Condition.GE)
_BELOW = (Condition.LT, Condition.LE)
_GROWING = (
    Aggregation.COUNT,
    Aggregation.SUM,
    Aggregation.SUM_BOOLEAN,
    Aggregation.MAX,
    Aggregation.COUNT_DISTINCT,
)


class EvaluationError(RetryableError):
    """The lake could not be read now."""


class CatalogueSource:
    """A `MetricSource` over the lake. Make one for each pass: it remembers what each tenant recorded."""

    def __init__(self, lake: Lake, catalogue: Catalogue, catalogue_of: Callable[[str], Catalogue] | None = None) -> None:
        """`catalogue_of`: what a tenant can ask for, where tenants declare metrics of their own."""
        self._lake, self._catalogue = lake, catalogue
        self._catalogue_of = catalogue_of or (lambda _: catalogue)
        self._tenants: dict[str, _TenantMetrics] = {}

    def knows(self, name: str, tenants: Iterable[str]) -> bool:
        """Whether a name is a declared metric, a synonym, or recorded by any of `tenants`."""
        if self._catalogue.find(name) is not None:
            return True
        mine = map(self._of, tenants)
        return any(one.catalogue.find(name) is not None or name in one.recorded for one in mine)

    def asset_of(self, tenant: str, rule: Rule) -> str | None:
        """See `judge.MetricSource`. A recorded series of the name comes before a declared metric."""
        if rule.query.metric in self._of(tenant).recorded:
            return self._of(tenant).points_asset
        known = self._of(tenant).catalogue
        metric = known.find(rule.query.metric)
        return None if metric is None else known.family_of(metric).asset

    def read(self, tenant: str, rule: Rule, first: date, last: date) -> list[SeriesBuckets]:
        """See `judge.MetricSource`."""
        mine = self._of(tenant)
        if not all(m.matches({"tenant_id": tenant}) for m in rule.query.matchers if m.label == "tenant_id"):
            return []
        matchers = [m for m in rule.query.matchers if m.label != "tenant_id"]
        if rule.query.metric in mine.recorded:
            return mine.read_recorded(rule, matchers, first, last)
        by = rule.by if rule.aggregate is not None else tuple(dict.fromkeys(m.label for m in matchers))
        return mine.read(rule, matchers, by, first, last, known_after=self._known_after(mine.catalogue, rule.query.metric))

    @staticmethod
    def _known_after(known: Catalogue, name: str) -> timedelta:
        """How long after its day a figure is known: what looks at later days is judged when the last of them is there."""
        from analytics_dagster.metrics.ahead import days_after

        metric = known.find(name)
        return timedelta(days=0 if metric is None else days_after(metric.formula))

    def settled_early(self, tenant: str, rule: Rule) -> bool:
        """See `judge.MetricSource`: gt and ge on what only grows, lt and le on what only falls."""
        mine = self._of(tenant)
        metric = mine.catalogue.find(rule.query.metric)
        if metric is None or rule.query.metric in mine.recorded:
            return False
        aggregation = self._only_measure(mine.catalogue, metric)
        if rule.condition in _ABOVE:
            return aggregation in _GROWING and rule.aggregate in (None, Aggregate.SUM, Aggregate.MAX)
        return rule.condition in _BELOW and aggregation is Aggregation.MIN and rule.aggregate in (None, Aggregate.MIN)

    @staticmethod
    def _only_measure(known: Catalogue, metric: Metric) -> Aggregation | None:
        if not isinstance(metric.formula, MeasureFigure):
            return None
        return known.family_of(metric).measure(metric.formula.measure).aggregation

    def _of(self, tenant: str) -> _TenantMetrics:
        if tenant not in self._tenants:
            self._tenants[tenant] = _TenantMetrics(self._lake.tenant(tenant), self._catalogue_of(tenant))
        return self._tenants[tenant]


class _TenantMetrics:
    """One tenant's metrics, and what it recorded under names of its own."""

    def __init__(self, tenant: TenantLake, catalogue: Catalogue) -> None:
        self._tenant = tenant
        self.catalogue = catalogue

    @cached_property
    def recorded(self) -> dict[str, str]:
        """Recorded names with their types."""
        import duckdb

        from analytics_dagster.metrics.recorded import recorded_names

        try:
            return recorded_names(self._tenant, self.catalogue)
        except (duckdb.Error, OSError) as error:
            raise EvaluationError(f"the recorded points of tenant {self._tenant.tenant} cannot be read: {error}") from error

    @property
    def points_asset(self) -> str:
        from analytics_dagster.metrics.recorded import FAMILY

        return self.catalogue.family(FAMILY).asset

    def read(
        self,
        rule: Rule,
        matchers: Iterable[Matcher],
        by: tuple[str, ...],
        first: date,
        last: date,
        aggregate: str | None = None,
        total: bool = False,
        known_after: timedelta = timedelta(0),
    ) -> list[SeriesBuckets]:
        """Day buckets of each combination of `by`: the figures that were known on each day and not on the one before."""
        from analytics_dagster.metrics.query import MetricQuery

        where = tuple(str(matcher) for matcher in matchers)
        days = first - known_after, last - known_after
        query = MetricQuery(rule.query.metric, *days, by=by, where=where, aggregate=aggregate)
        series: dict[Labels, dict[date, float]] = {}
        for row in self._run(query):
            if row["value"] is None:  # suppressed: it rests on too few people to be told, so no rule may judge by it
                continue
            labels = tuple((name, row[name]) for name in sorted(by) if row[name])
            series.setdefault(labels, {})[row["ts"].date() + known_after] = row["value"]
        return [SeriesBuckets(labels, values, total) for labels, values in sorted(series.items())]

    def read_recorded(self, rule: Rule, matchers: list[Matcher], first: date, last: date) -> list[SeriesBuckets]:
        """Day buckets of each set of labels, or of each combination of `by`."""
        known = self._labels(rule.query.metric)
        # A label that no series has is empty: such a matcher fits all series or none.
        if not all(m.matches({}) for m in matchers if m.label not in known):
            return []
        matchers = [m for m in matchers if m.label in known]
        if rule.aggregate is None:
            return self.read(rule, matchers, known, first, last)
        by = tuple(name for name in rule.by if name in known)
        total = rule.aggregate is Aggregate.COUNT
        return self.read(rule, matchers, by, first, last, rule.aggregate.value, total)

    def _labels(self, metric: str) -> tuple[str, ...]:
        import duckdb

        from analytics_dagster.lake.compute import connect
        from analytics_dagster.metrics.recorded import FAMILY

        relation = self._tenant.table(self.catalogue.family(FAMILY).table(Grain.DAY)).sql()
        query = f"SELECT DISTINCT unnest(json_keys(labels)) FROM {relation} WHERE name = ? AND labels <> '' ORDER BY 1"
        try:
            with connect() as connection:
                return tuple(row[0] for row in connection.execute(query, [metric]).fetchall())
        except (duckdb.Error, OSError) as error:
            raise EvaluationError(f"the labels of {metric} cannot be read: {error}") from error

    def _run(self, query: MetricQuery) -> list[dict[str, Any]]:
        import duckdb

        from analytics_dagster.metrics.query import run_query

        try:
            rows: list[dict[str, Any]] = run_query(self._tenant, self.catalogue, query).to_pylist()
        except (duckdb.Error, OSError) as error:
            raise EvaluationError(f"{query.metric} of tenant {self._tenant.tenant} cannot be read: {error}") from error
        return rows
