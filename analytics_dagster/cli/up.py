"""`analytics up`: everything that runs, until Ctrl-C."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from analytics_dagster.cli.context import installation, interactive
from analytics_dagster.errors import UserError
from analytics_dagster.installation import Installation
from analytics_dagster.tenancy.tenants import DEFAULT_TENANTS


def up(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.", min=1, max=65_535)] = 3000,
    api_port: Annotated[int, typer.Option(help="Port of the HTTP API.", min=1, max=65_535)] = 8000,
    demo: Annotated[bool, typer.Option("--demo", help="In a new home: simulate three tenants and 90 days first.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the UI in the browser when it is ready.")] = True,
) -> int:
    """Start Dagster's webserver and daemon and the HTTP API, judge the alert rules and deliver messages, until Ctrl-C."""
    from analytics_dagster.orchestration.supervisor import Supervisor, require_free_port

    if port == api_port:
        raise UserError(f"--port and --api-port are both {port}; they are two servers")
    require_free_port(port)
    require_free_port(api_port, "--api-port")
    opened = installation(ctx, create=True)
    # The API registers its default tenants in every home; those are nobody's own.
    if demo and all(record.demo or record.tenant in DEFAULT_TENANTS for record in opened.tenants.records()):
        _prepare_demo(opened)
    return Supervisor(opened, port, api_port, shown=sys.stdout.isatty()).run(
        open_browser=browser and interactive(), say=typer.echo
    )


def _prepare_demo(opened: Installation) -> None:
    """Simulate and materialize what is missing, so that the UI opens on a full graph; nothing where nothing is."""
    from analytics_dagster.cli.progress import materialize_progress
    from analytics_dagster.clock import yesterday
    from analytics_dagster.definitions import defs
    from analytics_dagster.orchestration.running import Request, execute, stale_plan
    from analytics_dagster.sources.simulation import SimulationPlan, simulate

    report = simulate(opened, SimulationPlan(until=yesterday(opened.clock)))
    if report.plays:
        typer.echo(f"simulated {report.plays:,} plays of {len(report.tenants)} tenants")
    for run in stale_plan(opened, Request()):
        with materialize_progress(run, interactive()) as on_asset:
            result = execute(opened, run, defs, on_asset)
        if result.error:
            raise UserError(f"the demo did not materialize: {result.error}")
        for line in result.lines:
            typer.echo(line)
