"""Asset checks: one for "every tenant was computed", and one for each expectation of a quality suite.

No check is blocking: `blocking` would stop every tenant, and only within one run. Closing a tenant-day's gate is the
business of `publications`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import TableSchema
from analytics_dagster.orchestration.build import Built, RawBuilt
from analytics_dagster.quality.results import CheckOutcome, Severity
from analytics_dagster.quality.suites import suite_of

if TYPE_CHECKING:
    import pyarrow as pa

BUILT_CHECK = "every_tenant_was_computed"

# Tenant-days whose failing rows are shown with a check; more would be a report, not a hint.
_SHOWN_DAYS = 3
_SHOWN_ROWS = 10
_SHOWN_OUTCOMES = 50

_SEVERITY = {Severity.CRITICAL: dg.AssetCheckSeverity.ERROR, Severity.WARNING: dg.AssetCheckSeverity.WARN}


def built_check_spec(asset: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        BUILT_CHECK,
        asset=dg.AssetKey(asset.split("/")),
        description="Fails, and names them, when some tenants could not be computed. The others' figures are unaffected.",
    )


def built_result(built: Built) -> dg.AssetCheckResult:
    reasons = [dg.TableRecord({"tenant": tenant, "reason": reason}) for tenant, reason in built.failed.items()]
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(built.asset.split("/")),
        check_name=BUILT_CHECK,
        passed=not built.failed,
        description=f"not computed: {', '.join(built.failed)}" if built.failed else f"{len(built.tenants)} tenants computed",
        metadata={"failed": dg.MetadataValue.table(reasons)} if reasons else {},
    )


def suite_check_specs(table: TableSchema) -> list[dg.AssetCheckSpec]:
    """One check for each expectation of the table's suite."""
    key = dg.AssetKey(table.path.split("/"))
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=key,
            description=f"{check.description} Expected: {check.expected}. {check.remedy}",
            metadata={"severity": check.severity.value, "dimension": check.dimension.value},
        )
        for check in suite_of(table).checks
    ]


def suite_results(installation: Installation, table: TableSchema, built: RawBuilt) -> Iterator[dg.AssetCheckResult]:
    """One result for each check, over all tenants and days of the run; a failed one shows tenants, days and rows."""
    for check in suite_of(table).checks:
        outcomes = [o for o in built.outcomes if o.check == check.name]
        failed = [o for o in outcomes if not o.passed]
        yield dg.AssetCheckResult(
            asset_key=dg.AssetKey(table.path.split("/")),
            check_name=check.name,
            passed=not failed,
            severity=_SEVERITY[check.severity],
            description=_summary(failed, len(outcomes)),
            metadata=_failure_metadata(installation, table, failed) if failed else {"tenant_days": len(outcomes)},
        )


def _summary(failed: Sequence[CheckOutcome], judged: int) -> str:
    if not failed:
        return f"{judged} tenant-days judged, all as expected"
    tenants = sorted({o.tenant for o in failed})
    return f"{', '.join(tenants)}: {failed[0].finding}" + (f" (+{len(failed) - 1} more)" if len(failed) > 1 else "")


def _failure_metadata(
    installation: Installation, table: TableSchema, failed: Sequence[CheckOutcome]
) -> dict[str, dg.MetadataValue | int]:
    from analytics_dagster.quality.validate import failing_rows

    newest = sorted(failed, key=lambda o: o.day, reverse=True)
    outcomes = [
        dg.TableRecord({"tenant": o.tenant, "day": o.day.isoformat(), "finding": o.finding, "expected": o.expected})
        for o in newest[:_SHOWN_OUTCOMES]
    ]
    metadata: dict[str, dg.MetadataValue | int] = {
        "failed_tenant_days": len(failed),
        "where": dg.MetadataValue.table(outcomes),
        "what_to_do": dg.MetadataValue.text(failed[0].remedy),
    }
    for outcome in newest[:_SHOWN_DAYS]:
        rows = failing_rows(installation.lake.tenant(outcome.tenant), table, outcome.check, outcome.day, _SHOWN_ROWS)
        if rows.num_rows:
            metadata[f"rows {outcome.tenant} {outcome.day}"] = dg.MetadataValue.table(_records(rows))
    return metadata


def _records(rows: pa.Table) -> list[dg.TableRecord]:
    return [
        dg.TableRecord(
            {name: value if isinstance(value, str | int | float | bool) else str(value) for name, value in row.items()}
        )
        for row in rows.to_pylist()
    ]
