"""`analytics restatements`: which published figures of closed days changed, and why."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from analytics_dagster.cli.context import installation
from analytics_dagster.cli.query import parse_day_option, tenant_lake
from analytics_dagster.errors import UserError

_SHOWN = ("ts", "day", "metric", "dimensions", "old", "new", "difference", "cause", "run")


def restatements(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Option(help="Tenant whose ledger is read.")],
    from_: Annotated[str | None, typer.Option("--from", help="First day whose figures changed (UTC), as 2026-01-31.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last such day (UTC), included.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only this metric; a name or synonym.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many of the newest rows.")] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="All columns, for a program to read.")] = False,
) -> None:
    """Published figures of closed days that changed: what was, what is, and why; in the order in which it was noted."""
    from analytics_dagster.metrics.ledger import restatements as read
    from analytics_dagster.metrics.load import load_catalogue

    first, last = parse_day_option("--from", from_), parse_day_option("--to", to)
    if first and last and first > last:
        raise UserError(f"--from {first} is after --to {last}")
    opened = installation(ctx)
    lake = tenant_lake(opened, tenant)
    name = load_catalogue(opened.settings.analytics_metrics).metric(metric).name if metric else None
    rows = read(lake, first=first, last=last, metric=name, limit=limit).to_pylist()
    if as_json:
        typer.echo(json.dumps([_plain(row) for row in rows]))
        return
    if not rows:
        typer.echo("no published figure of a closed day changed", err=True)
        return
    typer.echo("\t".join(_SHOWN))
    for row in rows:
        typer.echo("\t".join("-" if (cell := _plain(row)[column]) is None else str(cell) for column in _SHOWN))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Times in ISO 8601, dimensions as an object in JSON's own text."""
    return {**row, "ts": f"{row['ts']:%Y-%m-%dT%H:%M:%SZ}", "day": row["day"].isoformat()}
