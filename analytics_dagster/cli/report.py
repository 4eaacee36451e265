"""`analytics report add|list|show|send|pause|resume|remove`: views that go out by e-mail or to Slack on a schedule."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from analytics_dagster.cli.context import installation
from analytics_dagster.cli.query import catalogue_of, tenant_lake
from analytics_dagster.errors import DeliveryError

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.reports.store import Reports

app = typer.Typer(
    help="Send a view on a schedule: add, list, show, send, pause, resume and remove reports.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(help="The report's name: lower-case letters, digits, - and _, at most 63.")]
TenantOption = Annotated[str, typer.Option(help="Tenant whose report it is.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For a program to read.")]


@app.command()
def add(
    ctx: typer.Context,
    name: NameArgument,
    tenant: TenantOption,
    view: Annotated[str, typer.Option(help="Address of the view: its page's, or `overview?period=7d`.")],
    schedule: Annotated[str, typer.Option(help="When: minute, hour, day of the month, month, weekday; `0 7 * * mon`.")],
    to: Annotated[list[str], typer.Option(help="An e-mail address, or slack:NAME; may be given several times.")],
    form: Annotated[str, typer.Option("--format", help="pdf, or png: figures and charts as one picture.")] = "pdf",
    time_zone: Annotated[str, typer.Option(help="IANA name of the zone whose wall clock the schedule means.")] = "UTC",
) -> None:
    """Make a report. What it shows is read anew each time: a period of 28 days ends on the newest day then."""
    from analytics_dagster.reports.report import read_wanted
    from analytics_dagster.reports.send import require_view, require_ways
    from analytics_dagster.reports.store import By

    opened = installation(ctx)
    tenant_lake(opened, tenant)
    wanted = read_wanted(name=name, view=view, form=form, schedule=schedule, time_zone=time_zone, recipients=to, tenant=tenant)
    require_ways(opened, tenant, wanted, os.environ)
    require_view(opened, catalogue_of(opened, tenant), tenant, wanted)
    made = _reports(opened).add(tenant, wanted, By())
    typer.echo(f"report {name} of {tenant}: first due {made.next_due_at:%Y-%m-%d %H:%M} UTC")


@app.command("list")
def list_(ctx: typer.Context, tenant: TenantOption, as_json: JsonOption = False) -> None:
    """A tenant's reports: what, when, to whom, and how the newest sending went."""
    from analytics_dagster.reports.documents import report_document

    opened = installation(ctx)
    tenant_lake(opened, tenant)
    reports = _reports(opened)
    newest = reports.newest(tenant)
    found = [report_document(report, newest.get(report.name, ())) for report in reports.all(tenant)]
    if as_json:
        typer.echo(json.dumps(found))
        return
    for one in found:
        due = "paused" if one["paused"] else f"next {one['next_due_at'][:16].replace('T', ' ')} UTC"
        when = f"{one['schedule']} {one['time_zone']}"
        typer.echo("\t".join([one["name"], one["view"], one["format"], when, ",".join(one["recipients"]), due, one["state"]]))


@app.command()
def show(
    ctx: typer.Context,
    name: NameArgument,
    tenant: TenantOption,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many of the newest sendings.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """One report, with its sendings."""
    from analytics_dagster.reports.documents import report_document, sending_document

    opened = installation(ctx)
    tenant_lake(opened, tenant)
    reports = _reports(opened)
    found = report_document(reports.get(tenant, name), reports.newest(tenant).get(name, ()))
    sendings = [sending_document(one) for one in reports.sendings(tenant, name, limit=limit)]
    if as_json:
        typer.echo(json.dumps({**found, "sendings": sendings}))
        return
    for field, value in found.items():
        typer.echo(f"{field}\t{', '.join(value) if isinstance(value, list) else '-' if value is None else value}")
    for one in sendings:
        cells = [
            one["due_at"][:16].replace("T", " "),
            one["recipient"],
            one["state"],
            one["days"] or "-",
            one["last_error"] or "",
        ]
        typer.echo("\t".join(cells).rstrip())


@app.command()
def send(ctx: typer.Context, name: NameArgument, tenant: TenantOption) -> None:
    """Send it now to all of its recipients, beside its schedule; also while it is paused."""
    from analytics_dagster.reports.send import send_due
    from analytics_dagster.reports.store import By

    opened = installation(ctx)
    tenant_lake(opened, tenant)
    reports = _reports(opened)
    due = reports.send_now(tenant, name, By())
    report = send_due(opened, only=(tenant, name))
    mine = [one for one in reports.sendings(tenant, name) if one.due_at == due]
    for one in mine:
        typer.echo(f"{one.recipient}\t{one.state}\t{one.last_error or one.days or ''}".rstrip())
    if any(one.state == "failed" or (one.state == "due" and one.last_error) for one in mine):
        raise DeliveryError("; ".join(report.problems) or "somebody else tried to send it, and could not; see above")


@app.command()
def pause(ctx: typer.Context, name: NameArgument, tenant: TenantOption) -> None:
    """Stop its schedule; what waits for another try is given up."""
    from analytics_dagster.reports.store import By

    _reports(installation(ctx)).pause(tenant, name, By())
    typer.echo(f"report {name} of {tenant} paused")


@app.command()
def resume(ctx: typer.Context, name: NameArgument, tenant: TenantOption) -> None:
    """Go on with the next due time; what fell into the pause is not made up for."""
    from analytics_dagster.reports.store import By

    report = _reports(installation(ctx)).resume(tenant, name, By())
    typer.echo(f"report {name} of {tenant}: next due {report.next_due_at:%Y-%m-%d %H:%M} UTC")


@app.command()
def remove(ctx: typer.Context, name: NameArgument, tenant: TenantOption) -> None:
    """Remove it and what is known of its sendings; the audit trail keeps that it was there."""
    from analytics_dagster.reports.store import By

    _reports(installation(ctx)).remove(tenant, name, By())
    typer.echo(f"report {name} of {tenant} removed")


def _reports(opened: Installation) -> Reports:
    from analytics_dagster.reports.store import Reports

    return Reports(opened.database, opened.clock)
