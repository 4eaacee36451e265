"""`analytics import` and `analytics quarantine list`: bring files in, and look at what could not be taken."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from analytics_dagster.cli.context import installation, interactive
from analytics_dagster.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from analytics_dagster.sources.importer import ImportResult

COLUMNS = ("file", "line", "field", "reason", "original")
_CELL = 60

# Here and not taken from sources/formats, which would load pyarrow for every `--help`; a test holds the two together.
FORMAT_NAMES = (
    "spotify-history", "listenbrainz", "lastfm", "radio-log", "app-events", "plays", "metrics", "subscriptions",
    "ad_impressions", "api_requests", "system_samples", "interactions", "users", "tracks", "artists", "playlists",
)  # fmt: skip

quarantine_app = typer.Typer(help="Records that could not be taken.", no_args_is_help=True)


class ListFormat(StrEnum):
    """How `quarantine list` prints."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


FormatArgument = Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(FORMAT_NAMES)}.")]
PathsArgument = Annotated[
    list[Path], typer.Argument(metavar="PATH...", help="Files, folders or zip archives; .gz and .zst are undone.")
]
TenantColumn = Annotated[
    str | None,
    typer.Option(help="Column that splits the file into tenants. Rows where it is empty go to --tenant, else to `unassigned`."),
]
TimeZone = Annotated[str | None, typer.Option(help="Zone of times that name none, for example Europe/Brussels. Default: UTC.")]


def import_files(
    ctx: typer.Context,
    format: FormatArgument,
    paths: PathsArgument,
    tenant: Annotated[str | None, typer.Option(help="Whose data it is; created if new.")] = None,
    tenant_column: TenantColumn = None,
    time_zone: TimeZone = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Import files. Importing the same file again adds nothing; a bad record is set aside and stops nothing."""
    from analytics_dagster.sources.formats import format_named
    from analytics_dagster.sources.importer import ImportRequest, run_import

    request = ImportRequest(format_named(format), paths, tenant, tenant_column, _zone(time_zone))
    with _progress() as progress:
        result = run_import(request, installation(ctx, create=True), progress)
    for line in _remarks(result):
        typer.echo(line, err=True)
    counts = {"read": result.read, "kept": result.kept, "duplicate": result.duplicate, "quarantined": result.quarantined}
    if as_json:
        typer.echo(json.dumps(counts))
    else:
        typer.echo("  ".join(f"{name} {number:,}" for name, number in counts.items()))


@quarantine_app.command("list")
def list_quarantine(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Option(help="Whose quarantine.")],
    format: Annotated[ListFormat, typer.Option(help="How to print it.")] = ListFormat.TABLE,
) -> None:
    """List the records that could not be taken: file, line, field, reason and the original text."""
    opened = installation(ctx)
    if tenant not in {record.tenant for record in opened.tenants.records()}:
        raise NotFoundError(f"no tenant {tenant!r}; `analytics tenant list` shows those there are")
    table = opened.landing.quarantined(tenant)
    rows = [_shown(row) for row in table.select(list(COLUMNS)).to_pylist()]
    if format is ListFormat.CSV:
        typer.echo(_as_csv(rows), nl=False)
    elif format is ListFormat.JSON:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        _print_table(rows)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """The original bytes as text, with those that are no UTF-8 escaped so that nothing is lost."""
    return {**row, "original": row["original"].decode("utf-8", "backslashreplace")}


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        typer.echo("nothing is in quarantine")
        return
    table = Table(*COLUMNS)
    for row in rows:
        cells = ["" if row[name] is None else str(row[name]) for name in COLUMNS]
        table.add_row(*(Text(cell if len(cell) <= _CELL else cell[: _CELL - 1] + "…") for cell in cells))
    Console().print(table)


def _zone(name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UserError(f"--time-zone {name!r} is not a zone; write an IANA name such as Europe/Brussels or UTC") from error


def _remarks(result: ImportResult) -> Iterator[str]:
    if result.created:
        yield f"created tenant{'s' if len(result.created) > 1 else ''} {', '.join(result.created)}"
    yield from result.notes
    if result.quarantined:
        said = "1 record was" if result.quarantined == 1 else f"{result.quarantined:,} records were"
        yield f"{said} not taken; `analytics quarantine list --tenant ...` says why"


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None] | None]:
    """Shows what is being read on standard error, when that is a terminal."""
    if not interactive():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,} records"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("reading", total=None)
        yield lambda what, records: shown.update(task, description=what, completed=records)
