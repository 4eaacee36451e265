"""`analytics simulate`: a simulated service with labelled incidents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from analytics_dagster.cli.context import installation, interactive
from analytics_dagster.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from analytics_dagster.sources.simulation import SimulationReport


def simulate(
    ctx: typer.Context,
    tenants: Annotated[int, typer.Option(help="How many: aurora, borealis, cascade, tenant-4, ...")] = 3,
    users: Annotated[
        int, typer.Option(help="Listeners of each tenant on its first day; each plays about 9 tracks a day.")
    ] = 1_000,
    days: Annotated[int, typer.Option(help="How many days, up to and with --until.")] = 90,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal rows.")] = 42,
    until: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Last day (UTC). Default: yesterday.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
) -> None:
    """Simulate a music service: plays, money, requests, machines, and incidents with their labels. Adds only what is missing."""
    from analytics_dagster.clock import SystemClock, yesterday
    from analytics_dagster.sources.simulation import SimulationPlan
    from analytics_dagster.sources.simulation import simulate as simulate_into

    last = _day(until) if until else yesterday(SystemClock())
    plan = SimulationPlan(tenants=tenants, users=users, days=days, seed=seed, until=last)
    plan.check()  # before a home is made
    opened = installation(ctx, create=True)
    with _progress(interactive()) as progress:
        report = simulate_into(opened, plan, progress)
    truth = opened.settings.analytics_home / "simulated"
    typer.echo(json.dumps(_as_json(report, truth)) if as_json else _as_text(report, truth))


def _day(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UserError(f"--until {value!r} is not a day; write it as 2026-01-31") from None


def _as_text(report: SimulationReport, truth: Path) -> str:
    lines = []
    for one in report.tenants:
        if not one.days:
            lines.append(f"{one.tenant}: nothing to add")
            continue
        days = "1 day" if one.days == 1 else f"{one.days} days"
        incidents = "1 incident" if one.incidents == 1 else f"{one.incidents} incidents"
        counts = ", ".join(f"{count:,} {name}" for name, count in one.rows.items())
        lines.append(f"{one.tenant}: {days}, {one.first} to {one.last}, {incidents}: {counts}")
    if report.plays:
        lines.append(f"{report.plays:,} plays in {report.seconds:.1f} s, {report.plays_per_second:,.0f} a second")
    lines.append(f"incidents are labelled in {truth}/<tenant>/incidents.csv")
    return "\n".join(lines)


def _as_json(report: SimulationReport, truth: Path) -> dict[str, object]:
    return {
        "tenants": [
            {
                "tenant": one.tenant,
                "first": one.first.isoformat() if one.first else None,
                "last": one.last.isoformat() if one.last else None,
                "days": one.days,
                "incidents": one.incidents,
                "rows": one.rows,
                "ground_truth": str(truth / one.tenant / "incidents.csv"),
            }
            for one in report.tenants
        ],
        "plays": report.plays,
        "seconds": round(report.seconds, 3),
        "plays_per_second": round(report.plays_per_second),
    }


@contextmanager
def _progress(draw: bool) -> Iterator[Callable[[str, float], None] | None]:
    """A function to call with what was stored and the share that is done; None when nobody looks."""
    if not draw:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("simulate  {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("listeners and music", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
