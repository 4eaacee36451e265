"""`analytics up`: everything that runs, until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from analytics_dagster.cli.context import installation, interactive
from analytics_dagster.installation import Installation


def up(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.", min=1, max=65_535)] = 3000,
    demo: Annotated[bool, typer.Option("--demo", help="In a new home: simulate three tenants and 90 days first.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the UI in the browser when it is ready.")] = True,
) -> int:
    """Start Dagster's webserver and daemon, judge the alert rules and deliver messages, until Ctrl-C."""
    from analytics_dagster.orchestration.supervisor import Supervisor, require_free_port

    require_free_port(port)
    opened = installation(ctx, create=True)
    if demo and not opened.tenants.list():
        _prepare_demo(opened)
    return Supervisor(opened, port).run(open_browser=browser and interactive(), say=typer.echo)


def _prepare_demo(opened: Installation) -> None:
    """Simulate, then materialize with a progress bar, so that the UI opens on a full graph."""
    from analytics_dagster.cli.progress import materialize_progress
    from analytics_dagster.clock import yesterday
    from analytics_dagster.errors import UserError
    from analytics_dagster.orchestration.running import Request, execute, plan
    from analytics_dagster.sources.simulation import SimulationPlan, simulate

    typer.echo("simulating three tenants, 90 days up to yesterday ...")
    report = simulate(opened, SimulationPlan(tenants=3, users=1000, days=90, seed=42, until=yesterday(opened.clock)))
    typer.echo(f"{report.plays:,} plays of {len(report.tenants)} tenants")
    for run in plan(opened, Request()).runs:
        with materialize_progress(run, interactive()) as on_asset:
            result = execute(opened, run, on_asset)
        if result.error:
            raise UserError(f"the demo did not materialize: {result.error}")
        for line in result.lines:
            typer.echo(line)
