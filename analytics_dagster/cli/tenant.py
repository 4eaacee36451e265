"""`analytics tenant add|list|suspend|remove`: the register of tenants."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from analytics_dagster.cli.context import installation
from analytics_dagster.tenancy.tenants import TenantStatus, validate_tenant_id

app = typer.Typer(help="Who: add, list, suspend and remove tenants.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id: lower-case letters, digits, - and _, at most 63.")]


@app.command()
def add(ctx: typer.Context, tenant: TenantArgument) -> None:
    """Register a tenant, or bring a suspended or removed one back."""
    tenants = installation(ctx, create=True).tenants
    created = tenants.ensure(validate_tenant_id(tenant))
    if not created:
        tenants.set_status(tenant, TenantStatus.ACTIVE)
    typer.echo(f"tenant {tenant} {'added' if created else 'is active'}")


@app.command("list")
def list_(ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False) -> None:
    """All tenants, with their state."""
    records = installation(ctx).tenants.records()
    if as_json:
        rows = [
            {"tenant": r.tenant, "status": r.status.value, "created_at": r.created_at.isoformat(), "demo": r.demo}
            for r in records
        ]
        typer.echo(json.dumps(rows))
        return
    for record in records:
        typer.echo(f"{record.tenant}\t{record.status}\t{record.created_at:%Y-%m-%d}{chr(9) + 'demo' if record.demo else ''}")


@app.command()
def suspend(ctx: typer.Context, tenant: TenantArgument) -> None:
    """Stop computing and alerting for a tenant; its data stays."""
    installation(ctx).tenants.set_status(tenant, TenantStatus.SUSPENDED)
    typer.echo(f"tenant {tenant} suspended")


@app.command()
def remove(ctx: typer.Context, tenant: TenantArgument) -> None:
    """Take a tenant out of every run. Its tables stay on disk until they are deleted by hand; `tenant add` brings it back."""
    found = installation(ctx)
    found.tenants.set_status(tenant, TenantStatus.REMOVED)
    typer.echo(f"tenant {tenant} removed; its tables stay in {found.settings.lake_root}/{tenant}")
