"""Materializing from the command line: what to run, running it in this process, and what came of it."""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analytics_dagster.clock import yesterday
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.ingest.raw import first_arrival
from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import CATALOGUE_TABLES, EVENT_TABLES, FIRST_DAY
from analytics_dagster.orchestration.build import with_landing
from analytics_dagster.orchestration.planning import (
    ABOUT_RAW,
    MODEL_ASSETS,
    PlannedRun,
    plan_catalogue,
    plan_runs,
    split_models,
    without_models,
)
from analytics_dagster.orchestration.staleness import stale_catalogue, stale_tenant_days
from analytics_dagster.orchestration.tables import family_sources

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True)
class Request:
    """What the command line asked for; empty parts mean "whatever is needed"."""

    tenants: tuple[str, ...] = ()
    first: dt.date | None = None
    last: dt.date | None = None
    select: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    runs: tuple[PlannedRun, ...]
    said: str


@dataclass(frozen=True)
class RunReport:
    lines: tuple[str, ...]
    failed_checks: tuple[str, ...] = field(default_factory=tuple)
    error: str | None = None


def plan(installation: Installation, request: Request, definitions: dg.Definitions) -> Plan:
    """The runs for a request. Raises NotFoundError for an unknown tenant or asset, UserError for days that cannot be."""
    tenants = _tenants(installation, request.tenants)
    if request.first is None and request.last is None:
        runs = stale_plan(installation, request)
        said = f"new rows in {', '.join(run.when for run in runs)}"
        if not runs:
            newest = [n.day for n in installation.publications.newest_days("raw/") if n.tenant in tenants]
            if not newest:
                catalogue = any(with_landing(installation, table, tenants) for table in CATALOGUE_TABLES)
                arrived = "the catalogue is up to date, and nothing else" if catalogue else "nothing"
                return Plan((), f"{arrived} has arrived yet; use `analytics import` or `analytics simulate`")
            day = max(newest)
            again = _whole(installation, tenants, day, day)
            runs, said = (
                [again if day <= yesterday(installation.clock) else without_models(again)],
                f"everything is up to date; materializing the newest day, {day}, again",
            )
    else:
        first, last = _days(installation, request, tenants)
        runs, said = split_models(_whole(installation, tenants, first, last)), f"{first} to {last}"
    return Plan(tuple(_selected(_with_catalogue(installation, runs, tenants), request.select, definitions)), said)


def stale_plan(installation: Installation, request: Request) -> list[PlannedRun]:
    """The runs that bring every day, and the catalogue, with new rows up to date; none where there is none."""
    tenants = _tenants(installation, request.tenants)
    families = family_sources(installation.settings.analytics_metrics)
    runs = plan_runs(stale_tenant_days(installation, tenants), families, installation.clock.now().date())
    if not runs:
        return plan_catalogue(stale_catalogue(installation, tenants), yesterday(installation.clock))
    return _with_catalogue(installation, runs, tenants)


def execute(
    installation: Installation, run: PlannedRun, definitions: dg.Definitions, on_asset: Callable[[str, bool], None]
) -> RunReport:
    """Materialize in this process. `on_asset` is told when an asset begins and when it is done."""
    import dagster as dg

    from analytics_dagster.orchestration.abandoned import cancel_abandoned, process_tag
    from analytics_dagster.orchestration.instance import open_instance
    from analytics_dagster.orchestration.resources import scope_config
    from analytics_dagster.orchestration.sensors import plan_tags

    instance = open_instance(installation.settings)
    cancel_abandoned(instance)
    run_id = str(uuid.uuid4())
    instance.add_event_listener(run_id, lambda event: _tell(event, on_asset))
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        run_id=run_id,
        asset_selection=[dg.AssetKey(path.split("/")) for path in run.assets],
        tags={**plan_tags(run), **process_tag()},
        run_config={
            **scope_config(list(run.tenants)),
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        raise_on_error=False,
    )
    return _report(run, result)


def _tenants(installation: Installation, named: tuple[str, ...]) -> list[str]:
    active = installation.tenants.active()
    unknown = sorted(set(named) - set(active))
    if unknown:
        raise NotFoundError(f"no active tenant {', '.join(unknown)}; `analytics tenant list` shows those there are")
    return sorted(named) or list(active)


def _days(installation: Installation, request: Request, tenants: list[str]) -> tuple[dt.date, dt.date]:
    last_whole = yesterday(installation.clock)
    last = request.last or last_whole
    first = request.first
    if first is None:
        arrivals = [first_arrival(installation.database, t, table.name) for t in tenants for table in EVENT_TABLES]
        first = min((d for d in arrivals if d is not None), default=last)
    if first > last:
        raise UserError(f"--from {first} is after --to {last}; swap them")
    if first < FIRST_DAY or last > last_whole:
        raise UserError(
            f"{first} to {last} is not within the daily partitions, which go from {FIRST_DAY} to {last_whole} (yesterday, UTC)"
        )
    return first, last


def _whole(installation: Installation, tenants: list[str], first: dt.date, last: dt.date) -> PlannedRun:
    """All assets that these tenants have input for."""
    tables = [t.name for t in EVENT_TABLES if with_landing(installation, t, tenants)]
    families = [a for source, a in family_sources(installation.settings.analytics_metrics) if source in tables]
    assets = (*(f"raw/{t}" for t in tables), *families, *ABOUT_RAW, *MODEL_ASSETS)
    return PlannedRun(first, last, tuple(tenants), assets)


def _with_catalogue(installation: Installation, runs: list[PlannedRun], tenants: list[str]) -> list[PlannedRun]:
    """The first run also rebuilds the catalogue tables, which have no days."""
    catalogue = tuple(f"raw/{t.name}" for t in CATALOGUE_TABLES if with_landing(installation, t, tenants))
    if not runs or not catalogue or catalogue[0] in runs[0].assets:
        return runs
    return [_with_assets(runs[0], (*catalogue, *runs[0].assets)), *runs[1:]]


def _with_assets(run: PlannedRun, assets: tuple[str, ...]) -> PlannedRun:
    return PlannedRun(run.first, run.last, run.tenants, assets, run.newest)


def _selected(runs: list[PlannedRun], select: tuple[str, ...], definitions: dg.Definitions) -> list[PlannedRun]:
    if not select:
        return list(runs)
    wanted = {path for text in select for path in _matching(text, definitions)}
    kept = [_with_assets(run, tuple(a for a in run.assets if a in wanted)) for run in runs]
    missing = wanted - {a for run in runs for a in run.assets}
    if missing and kept and not any(run.assets for run in kept):
        kept = [_with_assets(runs[0], tuple(sorted(wanted)))]
    return [run for run in kept if run.assets]


def _matching(text: str, definitions: dg.Definitions) -> set[str]:
    """Paths of the materializable assets that `text` selects."""
    import dagster as dg
    from dagster import DagsterError

    graph = definitions.resolve_asset_graph()
    paths = {key.to_user_string() for key in graph.executable_asset_keys}
    found = {path for path in paths if fnmatch.fnmatchcase(path, text)}
    if found:
        return found
    try:
        keys = dg.AssetSelection.from_string(text).resolve(graph)
    except DagsterError as error:
        raise UserError(f"--select {text!r}: {str(error).splitlines()[0]}") from None
    selected = {key.to_user_string() for key in keys} & paths
    if not selected:
        raise NotFoundError(f"--select {text!r} matches no asset; there are {', '.join(sorted(paths))}")
    return selected


def _tell(event: dg.EventLogEntry, on_asset: Callable[[str, bool], None]) -> None:
    import dagster as dg

    if event.dagster_event is None or event.step_key is None:
        return
    if event.dagster_event.event_type is dg.DagsterEventType.STEP_START:
        on_asset(event.step_key.replace("__", "/"), False)
    elif event.dagster_event.event_type is dg.DagsterEventType.STEP_SUCCESS:
        on_asset(event.step_key.replace("__", "/"), True)


def _report(run: PlannedRun, result: dg.ExecuteInProcessResult) -> RunReport:
    failed = tuple(
        f"{check.asset_key.to_user_string()} {check.check_name}: {check.description or ''}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    )
    lines = (f"materialized {len(run.assets)} assets, {run.when}, {', '.join(run.tenants) or 'all tenants'}",)
    if result.success:
        return RunReport(lines, failed)
    errors = [e for e in result.all_events if e.is_step_failure]
    why = (
        "; ".join(f"{e.step_key}: {_root_cause(e)}" for e in errors)
        or "the run failed before its first step; see its log in the UI"
    )
    return RunReport((), failed, why)


def _root_cause(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None or not error.message.strip():
        return "unknown cause"
    # Dagster puts the class before the message, which of our own errors says nothing to a user.
    return re.sub(r"^analytics_dagster\.[\w.]+: ", "", error.message.strip().splitlines()[0])
