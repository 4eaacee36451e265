"""`analytics materialize`: run the graph without the UI."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from analytics_dagster.cli.context import installation, interactive
from analytics_dagster.errors import IntegrityError, UserError

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation


def parse_day(value: str) -> dt.date:
    """A day as 2026-01-31. Raises UserError naming what was given."""
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise UserError(f"{value!r} is not a day; write it as 2026-01-31") from None


def materialize(
    ctx: typer.Context,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be given several times.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="First day (UTC), for example 2026-01-31.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last day (UTC), included.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Assets: a path (raw/plays), a pattern (raw/*) or Dagster's selection syntax; may be repeated."),
    ] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 when a check fails.")] = False,
) -> int:
    """Materialize the days that have new rows, or the days and assets that are named.

    First takes what clients sent from the ingest log. Exits with 0 when all selected assets materialized, whatever the checks
    say.
    """
    from analytics_dagster.cli.progress import materialize_progress
    from analytics_dagster.definitions import defs
    from analytics_dagster.orchestration.running import Request, execute, plan

    opened = installation(ctx)
    damaged = _consume(opened)
    request = Request(
        tuple(tenant or ()), parse_day(from_) if from_ else None, parse_day(to) if to else None, tuple(select or ())
    )
    planned = plan(opened, request, defs)
    typer.echo(planned.said, err=True)
    failed_checks = 0
    for run in planned.runs:
        with materialize_progress(run, interactive()) as on_asset:
            result = execute(opened, run, defs, on_asset)
        for line in result.lines:
            typer.echo(line)
        if result.error:
            raise UserError(f"{run.when} did not materialize: {result.error}")
        failed_checks += len(result.failed_checks)
        for check in result.failed_checks:
            typer.echo(f"check failed: {check}")
    if damaged is not None:
        raise damaged
    return 1 if strict and failed_checks else 0


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _consume(opened: Installation) -> IntegrityError | None:
    """Take what clients sent to landing, and say how much. What of the log is damaged does not keep the rest waiting."""
    from analytics_dagster.ingest.consume import consume_all

    try:
        consumed = consume_all(opened)
    except IntegrityError as error:
        typer.echo("the ingest log is damaged; materializing what could be read of it", err=True)
        return error
    if consumed.tenants:
        taken = f"{_counted(consumed.points, 'point')} and {_counted(consumed.plays, 'play')}"
        tenants = _counted(len(consumed.tenants), "tenant")
        typer.echo(f"took {taken} of {tenants} from the ingest log", err=True)
    return None
