"""What a step of each layer does, for many tenants and a range of days. No Dagster here: assets call these and report.

The order within each: write the table (one commit), hash what it now holds, check it, and only then say in `publications`
that it is published. A process killed in between leaves the tenant-day stale, and the next run does it again.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from analytics_dagster.ingest.raw import build_catalogue, build_raw_days, first_arrival, newest_note
from analytics_dagster.installation import Installation
from analytics_dagster.lake.compute import ComputeEngine
from analytics_dagster.lake.content import EMPTY_HASH, DayContent, days_between
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.publications import Publication, Status
from analytics_dagster.lake.schemas import CATALOGUE_DAY, EVENT_TABLES, RESTATEMENTS, Layer, TableSchema, landing
from analytics_dagster.metrics.declarations import Family
from analytics_dagster.metrics.restatement_causes import Basis
from analytics_dagster.orchestration.restating import Restating, measure_ledger
from analytics_dagster.orchestration.tables import own_families
from analytics_dagster.orchestration.tenant_steps import EveryTenantFailedError, for_each_tenant, publications_of
from analytics_dagster.quality.results import CheckOutcome, Dimension, Severity


@dataclass(frozen=True)
class Built:
    """What a step made. `failed` maps a tenant to why it could not be computed."""

    asset: str
    tenants: tuple[str, ...]
    publications: tuple[Publication, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    restated: Mapping[dt.date, int] = field(default_factory=dict)
    """How many published figures of each closed day changed."""

    @property
    def rows(self) -> int:
        return sum(p.content.rows for p in self.publications)


@dataclass(frozen=True)
class RawBuilt(Built):
    outcomes: tuple[CheckOutcome, ...] = ()


def with_landing(installation: Installation, table: TableSchema, tenants: Sequence[str]) -> list[str]:
    """Those of `tenants` for whom anything of this table ever arrived."""
    return [t for t in tenants if installation.lake.tenant(t).table(landing(table)).exists()]


def build_raw(
    installation: Installation,
    table: TableSchema,
    tenants: Sequence[str],
    first: dt.date,
    last: dt.date,
    run_id: str,
    log: logging.Logger,
) -> RawBuilt:
    """Rebuild `raw/<table>` for these days from landing, check it, and publish each tenant-day with its verdict."""

    def rebuild(lake: TenantLake) -> list[Publication]:
        noted = build_raw_days(lake, table, first, last, installation.database)
        since = first_arrival(installation.database, lake.tenant, table.name)
        return publications_of(lake, table, table.path, first, last, since=since, input_id=noted)

    results = for_each_tenant(installation, with_landing(installation, table, tenants), rebuild, log)
    outcomes = _judge(installation, table, sorted(results.made), first, last)
    judged = [_with_verdict(p, outcomes) for made in results.made.values() for p in made]
    _keep_outcomes(installation, table, outcomes, first, last)
    installation.publications.record(judged, run_id)
    return RawBuilt(
        table.path, tuple(sorted(results.made)), tuple(judged), results.failed, results.seconds, outcomes=tuple(outcomes)
    )


def build_catalogue_tables(
    installation: Installation, table: TableSchema, tenants: Sequence[str], run_id: str, log: logging.Logger
) -> Built:
    """Rebuild a catalogue table, for those tenants who had arrivals since it was last published."""

    def rebuild(lake: TenantLake) -> list[Publication]:
        noted = newest_note(installation.database, lake.tenant, table.name)
        build_catalogue(lake, table)
        rows = lake.table(table).read(columns=[table.key]).num_rows
        content = DayContent(CATALOGUE_DAY, rows, f"arrivals-{noted}")
        return [Publication(lake.tenant, table.path, content, input_id=noted)]

    results = for_each_tenant(installation, with_landing(installation, table, tenants), rebuild, log)
    made = [p for publications in results.made.values() for p in publications]
    installation.publications.record(made, run_id)
    return Built(table.path, tuple(sorted(results.made)), tuple(made), results.failed, results.seconds)


def build_aggregates(
    installation: Installation,
    family: Family,
    source: TableSchema,
    tenants: Sequence[str],
    first: dt.date,
    last: dt.date,
    run_id: str,
    log: logging.Logger,
) -> Built:
    """Compute a family's metric series for these days. A tenant's days whose input is gated, or was never computed, keep what
    they had: a figure of an empty day would be a lie.
    """
    from analytics_dagster.metrics.aggregate import aggregate_days

    stream_ms = installation.settings.analytics_stream_seconds * 1000
    session_gap_ms = installation.settings.analytics_session_gap_minutes * 60_000
    engine = ComputeEngine(installation.settings.analytics_engine)
    day_table = family.table("day")

    def compute(lake: TenantLake) -> tuple[list[Publication], Counter[dt.date]]:
        since = max(first, first_arrival(installation.database, lake.tenant, source.name) or first)
        raw = installation.publications.of(tenant=lake.tenant, asset=source.path, first=since, last=last)
        inputs = {p.day: p for p in raw if p.status is Status.PUBLISHED}
        bases = {day: Basis(family.version, stream_ms, p.input_id, p.rows, session_gap_ms) for day, p in inputs.items()}
        skip = frozenset(days_between(since, last)) - inputs.keys()
        work = partial(
            aggregate_days,
            lake,
            family,
            first,
            last,
            stream_ms=stream_ms,
            session_gap_ms=session_gap_ms,
            skip=skip,
            engine=engine,
        )
        noted = Restating(installation, family, lake, run_id).around(work, bases)
        made = publications_of(lake, day_table, family.asset, first, last, since=since, skip=skip)
        return [replace(p, input_id=inputs[p.content.day].sequence, basis=bases[p.content.day].text()) for p in made], noted

    results = for_each_tenant(installation, with_landing(installation, source, tenants), compute, log)
    made = [p for publications, _ in results.made.values() for p in publications]
    restated = sum((noted for _, noted in results.made.values()), Counter[dt.date]())
    installation.publications.record(made, run_id)
    return Built(family.asset, tuple(sorted(results.made)), tuple(made), results.failed, results.seconds, restated)


def with_own_families(
    built: Built,
    installation: Installation,
    source: TableSchema,
    tenants: Sequence[str],
    first: dt.date,
    last: dt.date,
    run_id: str,
    log: logging.Logger,
) -> Built:
    """Compute what tenants declared for themselves over the same rows, beside a family that is `built`. One that cannot be
    computed is told with the tenant's name; it stops neither the tenant's others nor other tenants.
    """
    failed = dict(built.failed)
    for tenant, families in own_families(installation, tenants).items():
        reasons = [failed[tenant]] if tenant in failed else []
        for family in families:
            if family.source == source.name:
                try:
                    build_aggregates(installation, family, source, [tenant], first, last, run_id, log)
                except EveryTenantFailedError as error:  # of one tenant: nothing that the others have in common
                    reasons.append(f"own {family.name}: {error.failed[tenant]}")
        if reasons:
            failed[tenant] = "; ".join(reasons)
    return replace(built, failed=failed)


def build_ledger_figures(
    installation: Installation, tenants: Sequence[str], first: dt.date, last: dt.date, run_id: str, log: logging.Logger
) -> Built:
    """Compute and publish the metrics over the ledger of restatements, for tenants that have one: also for the days on which
    nothing was noted, so that an alert about them ends.
    """

    def compute(lake: TenantLake) -> list[Publication]:
        return measure_ledger(installation, lake, first, last, run_id)

    having = [t for t in tenants if installation.lake.tenant(t).table(RESTATEMENTS).exists()]
    results = for_each_tenant(installation, having, compute, log)
    made = [p for publications in results.made.values() for p in publications]
    asset = f"{Layer.AGGREGATES}/{RESTATEMENTS.name}"
    return Built(asset, tuple(sorted(results.made)), tuple(made), results.failed, results.seconds)


def outcomes_table(table: TableSchema) -> TableSchema:
    """`quality/<table>`: the verdicts on one raw table, a row for each day and check."""
    from analytics_dagster.quality.scorecard import SCORECARD

    return replace(SCORECARD, layer=Layer.QUALITY, name=table.name, description=f"Verdicts of the checks of {table.path}.")


def _judge(
    installation: Installation, table: TableSchema, tenants: Sequence[str], first: dt.date, last: dt.date
) -> list[CheckOutcome]:
    from analytics_dagster.quality.validate import validate

    if not tenants:
        return []
    known = installation.publications.of(asset=table.path, first=first - dt.timedelta(days=28), last=last)
    rows = {(p.tenant, p.day): p.rows for p in known if p.content_hash != EMPTY_HASH}

    def history(tenant: str, day: dt.date) -> list[int]:
        """Rows of the same weekday in the four weeks before, as far as they are published."""
        before = (day - dt.timedelta(weeks=n) for n in range(1, 5))
        return [rows[tenant, d] for d in before if (tenant, d) in rows]

    lakes = [installation.lake.tenant(t) for t in tenants]
    return validate(table, lakes, first, last, history=history, now=installation.clock.now())


def _with_verdict(publication: Publication, outcomes: Sequence[CheckOutcome]) -> Publication:
    mine = [o for o in outcomes if (o.tenant, o.day) == (publication.tenant, publication.content.day) and not o.passed]
    closed = any(o.severity is Severity.CRITICAL for o in mine)
    return replace(
        publication, status=Status.GATED if closed else Status.PUBLISHED, failed_checks=tuple(sorted(o.check for o in mine))
    )


def _keep_outcomes(
    installation: Installation, table: TableSchema, outcomes: Sequence[CheckOutcome], first: dt.date, last: dt.date
) -> None:
    from analytics_dagster.quality.scorecard import scorecard_rows

    target = outcomes_table(table)
    for tenant in sorted({o.tenant for o in outcomes}):
        rows: pa.Table = scorecard_rows([o for o in outcomes if o.tenant == tenant])
        installation.lake.tenant(tenant).table(target).overwrite_days(rows, first, last)


def build_scorecard(
    installation: Installation, tenants: Sequence[str], first: dt.date, last: dt.date, run_id: str, log: logging.Logger
) -> Built:
    """Put the verdicts on all raw tables of a day together, with the day's score over all of them."""
    from analytics_dagster.quality.scorecard import SCORECARD, scorecard_rows

    def collect(lake: TenantLake) -> list[Publication]:
        tables = [lake.table(outcomes_table(t)) for t in EVENT_TABLES]
        rows = [row for table in tables if table.exists() for row in table.read(first, last).to_pylist()]
        lake.table(SCORECARD).overwrite_days(scorecard_rows([_outcome(lake.tenant, row) for row in rows]), first, last)
        days = {row["ts"].date() for row in rows}
        made = publications_of(lake, SCORECARD, SCORECARD.path, first, last)
        return [p for p in made if p.content.day in days]

    judged = [t for t in tenants if any(installation.lake.tenant(t).table(outcomes_table(s)).exists() for s in EVENT_TABLES)]
    results = for_each_tenant(installation, judged, collect, log)
    made = [p for publications in results.made.values() for p in publications]
    installation.publications.record(made, run_id)
    return Built(SCORECARD.path, tuple(sorted(results.made)), tuple(made), results.failed, results.seconds)


def _outcome(tenant: str, row: Mapping[str, Any]) -> CheckOutcome:
    """A stored verdict as the object it was made from; what only people read (description, remedy) is in the suite."""
    return CheckOutcome(
        tenant=tenant,
        day=row["ts"].date(),
        asset=row["asset"],
        check=row["check_name"],
        severity=Severity(row["severity"]),
        passed=row["passed"],
        observed=row["observed"],
        expected=row["expected"],
        description="",
        dimension=Dimension(row["dimension"]),
        score=row["check_score"],
        finding=row["finding"],
        remedy="",
    )
