"""`analytics annotation add|list|remove`: what is said of a tenant's days on its charts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analytics_dagster.cli.context import installation
from analytics_dagster.cli.query import catalogue_of, tenant_lake

if TYPE_CHECKING:
    from analytics_dagster.dashboards.annotations import Annotation, Annotations
    from analytics_dagster.installation import Installation

app = typer.Typer(help="Annotations of a tenant's charts: add, list and remove them.", no_args_is_help=True)

TenantOption = Annotated[str, typer.Option(help="Whose charts.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For a program to read.")]


@app.command()
def add(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="What happened.")],
    tenant: TenantOption,
    from_: Annotated[str, typer.Option("--from", help="First day (UTC), or a time with a zone.")],
    to: Annotated[str | None, typer.Option("--to", help="Last day (UTC), included, or a time. Default: --from.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only on charts of this metric.")] = None,
    where: Annotated[str | None, typer.Option(help="Only of one value, as 'country=\"DE\"'.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Mark days on the charts of the dashboards."""
    from analytics_dagster.dashboards.annotations import written
    from analytics_dagster.tenancy.audit import COMMAND_LINE

    opened = installation(ctx)
    name = tenant_lake(opened, tenant).tenant
    said = written(catalogue_of(opened, name), text, from_, to, metric, where)
    made = _annotations(opened).add(name, said, COMMAND_LINE)
    typer.echo(json.dumps(_document(made)) if as_json else f"annotation {made.id} added")


@app.command("list")
def list_(ctx: typer.Context, tenant: TenantOption, as_json: JsonOption = False) -> None:
    """A tenant's annotations, by time."""
    opened = installation(ctx)
    notes = _annotations(opened).of(tenant_lake(opened, tenant).tenant)
    if as_json:
        typer.echo(json.dumps([_document(note) for note in notes]))
        return
    for note in notes:
        of = " ".join(part for part in (note.metric or "every metric", note.condition) if part)
        typer.echo("\t".join((str(note.id), f"{note.begins_at:%Y-%m-%d %H:%M}", f"{note.ends_at:%Y-%m-%d %H:%M}", of, note.text)))


@app.command()
def remove(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(help="Its id, as `annotation list` shows it.")],
    tenant: TenantOption,
) -> None:
    """Take an annotation off the charts."""
    from analytics_dagster.tenancy.audit import COMMAND_LINE

    opened = installation(ctx)
    _annotations(opened).remove(tenant_lake(opened, tenant).tenant, number, COMMAND_LINE)
    typer.echo(f"annotation {number} removed")


def _annotations(opened: Installation) -> Annotations:
    from analytics_dagster.dashboards.annotations import Annotations

    return Annotations(opened.database, opened.clock)


def _document(note: Annotation) -> dict[str, Any]:
    times = {name: getattr(note, name).isoformat() for name in ("begins_at", "ends_at", "created_at")}
    return {"id": note.id, "text": note.text, "metric": note.metric, "where": note.condition, "author": note.author, **times}
