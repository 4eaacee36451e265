"""Keeping house: small files and old versions of Delta tables, removed tenants' data, notes that say nothing any more, and the
retention that Dagster's event log does not have of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.installation import Installation
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.schemas import QUARANTINE, RAW_TABLES, TableSchema, landing
from analytics_dagster.tenancy.tenants import TenantStatus

if TYPE_CHECKING:
    import dagster as dg

# A reader opens a version and reads its files within minutes; a day is far beyond that and keeps the disk small.
KEEP_FILES = dt.timedelta(days=1)

# Runs without materializations of their own (notify, simulate_demo, maintenance): nobody reads a month-old one. Runs that
# computed assets stay, because deleting them would delete the assets' history; what landing was told each minute is none.
KEEP_RUNS = dt.timedelta(days=14)
PRUNED_JOBS = ("notify", "send_reports", "simulate_demo", "maintenance", "consume_log")
_MOST_RUNS = 5_000

# A round of the consumer takes seconds, and it takes a pause after each.
_CONSUMER_SECONDS = 120.0


@dataclass(frozen=True)
class HouseReport:
    tables: int
    runs: int
    purged: Sequence[str] = ()
    """Removed tenants whose data was deleted."""


def keep_house(installation: Installation, instance: dg.DagsterInstance) -> HouseReport:
    from analytics_dagster.ingest.raw import forget_covered_notes
    from analytics_dagster.reports.sendings import forget_old

    purged = _purge_tenants(installation)
    forget_covered_notes(installation.database)
    forget_old(installation.database, installation.clock.now())
    report = HouseReport(_maintain_tables(installation), _prune_runs(installation, instance), purged)
    _measure(installation)
    return report


def _purge_tenants(installation: Installation) -> Sequence[str]:
    """Delete what removed tenants left, while nobody lands rows of the log; tomorrow, where the log is never left alone."""
    from analytics_dagster.ingest.consume import alone
    from analytics_dagster.tenancy.purge import Purge

    settings = installation.settings
    grace = dt.timedelta(days=settings.analytics_tenant_grace_days)
    lake, database, clock = installation.lake, installation.database, installation.clock
    due = Purge(settings.analytics_home, lake, database, installation.tenants, clock, grace)
    with alone(installation, _CONSUMER_SECONDS) as undisturbed:
        return due.run() if undisturbed else ()


def _measure(installation: Installation) -> None:
    from analytics_dagster.tenancy.stored_bytes import measure_stored_bytes
    from analytics_dagster.tenancy.usage import Usage

    home, clock = installation.settings.analytics_home, installation.clock
    tenants = [record.tenant for record in installation.tenants.records() if record.status is not TenantStatus.PURGING]
    measure_stored_bytes(home, installation.lake, tenants, Usage(installation.database, clock), clock, min_age=0)


def _tables(installation: Installation) -> list[tuple[TenantLake, TableSchema]]:
    from analytics_dagster.orchestration.tables import derived_tables, family_tables, own_families

    # Of the quarantine too: each request of which rows were refused is a commit of it.
    schemas = [
        QUARANTINE,
        *RAW_TABLES,
        *(landing(t) for t in RAW_TABLES),
        *derived_tables(installation.settings.analytics_metrics),
    ]
    tenants = [record.tenant for record in installation.tenants.records()]
    own = own_families(installation, tenants)
    tables = {tenant: [table for family in own.get(tenant, ()) for table in family_tables(family)] for tenant in tenants}
    return [(installation.lake.tenant(tenant), s) for tenant in tenants for s in (*schemas, *tables[tenant])]


def _maintain_tables(installation: Installation) -> int:
    from analytics_dagster.orchestration.restating import maintain_days
    from analytics_dagster.orchestration.tables import catalogue, own_families

    families = {f.table("day").path: f for f in catalogue(installation.settings.analytics_metrics).families}
    own = {
        (tenant, family.table("day").path): family
        for tenant, declared in own_families(installation, [r.tenant for r in installation.tenants.records()]).items()
        for family in declared
    }
    maintained = 0
    for lake, schema in _tables(installation):
        if not lake.table(schema).exists():
            continue
        family = families.get(schema.path) or own.get((lake.tenant, schema.path))
        if family is not None:
            maintained += maintain_days(installation, lake, family, KEEP_FILES)
        else:
            lake.table(schema).maintain(KEEP_FILES)
            maintained += 1
    return maintained


def _prune_runs(installation: Installation, instance: dg.DagsterInstance) -> int:
    import dagster as dg

    before = installation.clock.now() - KEEP_RUNS
    pruned = 0
    for job in PRUNED_JOBS:
        finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
        filters = dg.RunsFilter(job_name=job, statuses=finished, created_before=before)
        for run_id in instance.get_run_ids(filters, limit=_MOST_RUNS):
            instance.delete_run(run_id)
            pruned += 1
    return pruned
