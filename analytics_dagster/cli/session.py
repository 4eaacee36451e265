"""`analytics signin` and `analytics session list|revoke`: people who sign in to pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from analytics_dagster.cli.context import installation

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.tenancy.sessions import SessionRecord, Sessions

app = typer.Typer(help="Sessions of people who signed in: list and revoke them.", no_args_is_help=True)


def signin(ctx: typer.Context) -> None:
    """Print a link that signs you in once, within ten minutes, as the home's platform-admin."""
    from analytics_dagster.server.launch import private_address
    from analytics_dagster.tenancy.admin_key import sign_in_path
    from analytics_dagster.tenancy.keys import Keys
    from analytics_dagster.tenancy.tickets import Tickets

    opened = installation(ctx)
    home = opened.settings.analytics_home
    address = private_address(home)
    path = sign_in_path(home, Keys(opened.database, opened.clock), Tickets(opened.database, opened.clock))
    typer.echo(f"{address}{path}")


@app.command("list")
def list_(ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False) -> None:
    """The sessions that are open: whose, since when, when last used, until when."""
    records = _sessions(installation(ctx)).list()
    if as_json:
        typer.echo(json.dumps([_document(record) for record in records]))
        return
    for r in records:
        times = f"since {r.created_at:%Y-%m-%d %H:%M}", f"used {r.last_used_at:%H:%M}", f"until {r.expires_at:%Y-%m-%d %H:%M}"
        typer.echo("\t".join((r.session_id, r.who, *times, r.name)).rstrip())


@app.command()
def revoke(
    ctx: typer.Context, session_id: Annotated[str, typer.Argument(help="The session's id, as `session list` shows it.")]
) -> None:
    """Sign somebody out: within 5 seconds in every process."""
    from analytics_dagster.tenancy.audit import COMMAND_LINE, Audit

    opened = installation(ctx)
    _sessions(opened).revoke(session_id)
    Audit(opened.database, opened.clock).record("session.revoke", COMMAND_LINE, target=session_id)
    typer.echo(f"session {session_id} revoked")


def _sessions(opened: Installation) -> Sessions:
    from analytics_dagster.tenancy.keys import Keys
    from analytics_dagster.tenancy.sessions import open_sessions

    return open_sessions(opened.settings, opened.database, opened.clock, Keys(opened.database, opened.clock))


def _document(record: SessionRecord) -> dict[str, str]:
    times = {name: getattr(record, name).isoformat() for name in ("created_at", "last_used_at", "expires_at")}
    return {"id": record.session_id, "who": record.who, "name": record.name, **times}
