"""`analytics tenant add|list|suspend|remove|quota|usage`: the register of tenants, what they may use and what they used."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict
from typing import Annotated

import typer

from analytics_dagster.cli.context import installation
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.tenancy.tenants import TenantStatus, validate_tenant_id

app = typer.Typer(help="Who: add, list, suspend and remove tenants; their quotas and usage.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id: lower-case letters, digits, - and _, at most 63.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For a program to read.")]
DEFAULT = "default"
_LIMIT = f"0 for no limit, `{DEFAULT}` for the installation's."


@app.command()
def add(ctx: typer.Context, tenant: TenantArgument) -> None:
    """Register a tenant, or bring a suspended or removed one back."""
    tenants = installation(ctx, create=True).tenants
    created = tenants.ensure(validate_tenant_id(tenant))
    if not created:
        tenants.set_status(tenant, TenantStatus.ACTIVE)
    typer.echo(f"tenant {tenant} {'added' if created else 'is active'}")


@app.command("list")
def list_(ctx: typer.Context, as_json: JsonOption = False) -> None:
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
    """Stop taking, computing and alerting for a tenant; its data stays, its keys do not work."""
    installation(ctx).tenants.set_status(tenant, TenantStatus.SUSPENDED)
    typer.echo(f"tenant {tenant} suspended")


@app.command()
def remove(ctx: typer.Context, tenant: TenantArgument) -> None:
    """Take a tenant out. Its data is deleted after ANALYTICS_TENANT_GRACE_DAYS; until then `tenant add` brings it back."""
    found = installation(ctx)
    record = found.tenants.set_status(tenant, TenantStatus.REMOVED)
    gone_after = record.changed_at + dt.timedelta(days=found.settings.analytics_tenant_grace_days)
    typer.echo(
        f"tenant {tenant} removed; its data is deleted for good after {gone_after:%Y-%m-%d %H:%M} UTC, "
        f"until then `analytics tenant add {tenant}` brings it back"
    )


@app.command()
def quota(
    ctx: typer.Context,
    tenant: TenantArgument,
    points_per_second: Annotated[str | None, typer.Option(metavar="N", help=f"Points a second, on average; {_LIMIT}")] = None,
    active_series: Annotated[str | None, typer.Option(metavar="N", help=f"Series of the last hour or two; {_LIMIT}")] = None,
    stored_bytes: Annotated[str | None, typer.Option(metavar="N", help=f"Bytes of its tables; {_LIMIT}")] = None,
    rules: Annotated[str | None, typer.Option(metavar="N", help=f"Alert rules that are judged for it; {_LIMIT}")] = None,
    metrics: Annotated[str | None, typer.Option(metavar="N", help=f"Metrics that it may declare for itself; {_LIMIT}")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a tenant's quotas, after setting those that are given; servers follow within 5 seconds."""
    from analytics_dagster.tenancy.quotas import LIMITS, OwnLimits, Quotas

    opened = installation(ctx)
    _require(ctx, tenant)
    quotas = Quotas(opened.database, opened.settings, opened.clock)
    given = dict(zip(LIMITS, (points_per_second, active_series, stored_bytes, rules, metrics), strict=True))
    quotas.set(tenant, {name: _limit(name, text) for name, text in given.items() if text is not None})
    limits, own = asdict(quotas.limits(tenant)), asdict(quotas.own().get(tenant, OwnLimits()))
    if as_json:
        typer.echo(json.dumps({"tenant": tenant, **limits}))
        return
    for name, limit in limits.items():
        typer.echo(f"{name}\t{limit or 'no limit'}\t{'default' if own[name] is None else 'its own'}")


@app.command()
def usage(
    ctx: typer.Context,
    tenant: TenantArgument,
    from_: Annotated[str | None, typer.Option("--from", help="First day (UTC), as 2026-01-31. Default: the first.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last day (UTC), included. Default: the last.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a tenant sent and stored, by day of arrival; of a deleted tenant too."""
    from analytics_dagster.tenancy.usage import Usage

    opened = installation(ctx)
    days = Usage(opened.database, opened.clock).days(tenant, _day("--from", from_), _day("--to", to))
    if not days:
        _require(ctx, tenant)
    if as_json:
        typer.echo(json.dumps([{**asdict(day), "day": day.day.isoformat()} for day in days]))
        return
    for day in days:
        stored = "" if day.stored_bytes is None else f"\t{day.stored_bytes:,} bytes stored"
        typer.echo(f"{day.day}\t{day.points:,} points\t{day.plays:,} plays\t{day.requests:,} requests{stored}")


def _require(ctx: typer.Context, tenant: str) -> None:
    if tenant not in {record.tenant for record in installation(ctx).tenants.records()}:
        raise NotFoundError(f"no tenant {tenant!r}; `analytics tenant list` shows those there are")


def _limit(name: str, text: str) -> int | None:
    if text == DEFAULT:
        return None
    if not text.isdecimal():
        raise UserError(f"--{name.replace('_', '-')} {text!r} is not allowed; write a whole number, 0 for no limit, or {DEFAULT}")
    return int(text)


def _day(option: str, value: str | None) -> dt.date | None:
    try:
        return dt.date.fromisoformat(value) if value else None
    except ValueError:
        raise UserError(f"{option} {value!r} is not a day; write it as 2026-01-31") from None
