"""`analytics audit`: who changed keys, tenants and quotas, and who reached for what is not theirs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from analytics_dagster.cli.context import installation


def audit(
    ctx: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only what is about this tenant.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many of the newest rows.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
) -> None:
    """The audit trail, oldest first."""
    from analytics_dagster.tenancy.audit import Audit

    opened = installation(ctx)
    entries = Audit(opened.database, opened.clock).entries(tenant=tenant, limit=limit)
    if as_json:
        typer.echo(json.dumps([{**asdict(entry), "at": entry.at.isoformat()} for entry in entries]))
        return
    for entry in entries:
        times = f" ({entry.count} times)" if entry.count > 1 else ""
        cells = [f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.action, entry.outcome.value, f"by {entry.actor}", entry.tenant or "-"]
        typer.echo("\t".join([*cells, f"{entry.target}{times}", entry.detail]).rstrip())
