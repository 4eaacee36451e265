"""The code location: the one bridge between `orchestration/` and `assets/`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

# In beta by name and unchanged since 1.5 and 1.8; every asset would print them once, and every selection by group or tag.
for _beta in (
    "Parameter `(backfill_policy|owners|include_sources)`",
    "Function `with_source_code_references`",
    "Class `(LocalFile)?CodeReference",
):
    warnings.filterwarnings("ignore", message=_beta, category=dg.BetaWarning)

from analytics_dagster.orchestration.jobs import JOBS  # noqa: E402  # after the filter above
from analytics_dagster.orchestration.resources import Platform, TenantScope  # noqa: E402
from analytics_dagster.orchestration.schedules import SCHEDULES  # noqa: E402
from analytics_dagster.orchestration.sensors import SENSORS  # noqa: E402
from assets import aggregates, forecasts, insights, landing, models, quality, raw  # noqa: E402

LAYERS = (landing, raw, aggregates, quality, models, forecasts, insights)


def build_definitions(
    *, resources: Mapping[str, Any] | None = None, assets: Sequence[dg.AssetsDefinition | dg.AssetSpec] | None = None
) -> dg.Definitions:
    """The whole location; a test gives its own `resources` (for example a `Platform` with its own home) or `assets`."""
    graph: Sequence[Any] = assets or [asset for layer in LAYERS for asset in layer.ASSETS]
    return dg.Definitions(
        assets=dg.with_source_code_references(graph),
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={"platform": Platform(), "scope": TenantScope(), **(resources or {})},
        # A step costs milliseconds here and seconds in a process of its own (20 trivial steps: 0.9 s against 32 s).
        executor=dg.in_process_executor,
    )


defs = build_definitions()
