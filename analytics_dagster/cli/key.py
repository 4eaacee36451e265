"""`analytics key create|list|revoke`: the API keys of an installation."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Annotated

import typer

from analytics_dagster.cli.context import installation
from analytics_dagster.errors import UserError
from analytics_dagster.tenancy.roles import Role

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.tenancy.keys import KeyRecord, Keys

app = typer.Typer(help="API keys: create, list and revoke them.", no_args_is_help=True)

EVERY_TENANT = "*"

TenantOption = Annotated[
    list[str] | None,
    typer.Option(help="Whose key it is. Several, or '*' for every registered tenant, make a collector's key (role ingest)."),
]
ExpiresOption = Annotated[str | None, typer.Option(help="After how long it stops working: 90d, 12h or 30m. Default: never.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For a program to read.")]


@app.command()
def create(
    ctx: typer.Context,
    role: Annotated[Role, typer.Option(help="What it may do.")],
    tenant: TenantOption = None,
    name: Annotated[str | None, typer.Option(help="What it is for, to tell keys apart.")] = None,
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, once: nobody can show it again."""
    opened = installation(ctx)
    expires_at = None if expires is None else _after(opened.clock.now(), expires)
    made = _keys(opened).create(role, _tenants(role, tenant or []), name=name or "", expires_at=expires_at)
    if as_json:
        typer.echo(json.dumps({"key": made.secret, **_document(made.record)}))
        return
    typer.echo(made.secret)
    typer.echo(f"key {made.record.key_id} of role {role}; keep it, it is not shown again", err=True)


@app.command("list")
def list_(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """All keys, with what they are for and when they were last used; never their text."""
    opened = installation(ctx)
    records, now = _keys(opened).list(), opened.clock.now()
    if as_json:
        typer.echo(json.dumps([_document(record) for record in records]))
        return
    for record in records:
        used = f"used {record.last_used_at:%Y-%m-%d %H:%M}" if record.last_used_at else "never used"
        cells = [record.key_id, record.role.value, _told_tenants(record), _state(record, now), used, record.name]
        typer.echo("\t".join(cells).rstrip())


@app.command()
def revoke(ctx: typer.Context, key_id: Annotated[str, typer.Argument(help="The key's id, as `key list` shows it.")]) -> None:
    """Revoke a key. It stops working within 5 seconds in every process, for good."""
    done = _keys(installation(ctx)).revoke(key_id)
    typer.echo(f"key {key_id} {'revoked' if done else 'was revoked before'}")


def _keys(opened: Installation) -> Keys:
    from analytics_dagster.tenancy.keys import Keys

    return Keys(opened.database, opened.clock)


def _tenants(role: Role, named: list[str]) -> list[str] | None:
    if EVERY_TENANT in named:
        if len(named) > 1:
            raise UserError("--tenant '*' is every registered tenant; leave the others out")
        return None
    return None if role is Role.PLATFORM_ADMIN and not named else named


def _after(now: dt.datetime, text: str) -> dt.datetime:
    from analytics_dagster.alerts.durations import parse_duration

    try:
        return now + parse_duration(text)
    except (ValueError, OverflowError):
        raise UserError(f"--expires {text!r} is not a duration that can be used; write 90d, 12h or 30m") from None


def _document(record: KeyRecord) -> dict[str, object]:
    times = {name: getattr(record, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {
        "id": record.key_id,
        "name": record.name,
        "role": record.role.value,
        "tenants": EVERY_TENANT if record.tenants is None else list(record.tenants),
        "created_by": record.created_by,
        **{name: None if at is None else at.isoformat() for name, at in times.items()},
    }


def _told_tenants(record: KeyRecord) -> str:
    return EVERY_TENANT if record.tenants is None else ",".join(record.tenants)


def _state(record: KeyRecord, now: dt.datetime) -> str:
    if record.revoked_at is not None:
        return f"revoked {record.revoked_at:%Y-%m-%d}"
    if record.expires_at is None:
        return "active"
    return f"{'expired' if record.expires_at <= now else 'expires'} {record.expires_at:%Y-%m-%d %H:%M}"
