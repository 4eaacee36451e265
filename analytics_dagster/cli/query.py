"""`analytics query` (`analytics metrics query` is the same) and `analytics metrics list|show|export`: figures, what they mean."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analytics_dagster.cli.context import installation, settings
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.metrics.declarations import Catalogue, Grain, Metric, did_you_mean
from analytics_dagster.metrics.export import ExportFormat

if TYPE_CHECKING:
    import pyarrow as pa

    from analytics_dagster.installation import Installation
    from analytics_dagster.lake.lake import TenantLake

metrics_app = typer.Typer(help="What: the catalogue of metrics.", no_args_is_help=True)


class Format(StrEnum):
    """How figures are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"


def query(
    ctx: typer.Context,
    metric: Annotated[str, typer.Argument(help="A metric's name or synonym, or a recorded name.")],
    tenant: Annotated[str, typer.Option(help="Tenant whose figures are asked for.")],
    from_: Annotated[str | None, typer.Option("--from", help="First day (UTC), as 2026-01-31. Default: the first.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last day (UTC), included. Default: the last.")] = None,
    grain: Annotated[
        Grain, typer.Option(help="Length of a bucket; weeks begin on Monday. minute: of recorded points.")
    ] = Grain.DAY,
    by: Annotated[list[str] | None, typer.Option(help="Split by this dimension or label; may be repeated.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help='Condition on a dimension: country="US", with = != =~ !~; may be repeated.')
    ] = None,
    aggregate: Annotated[
        str | None,
        typer.Option(
            help="Of recorded points: avg, sum, min, max, last, count, increase, rate, p50, p95, p99. Default: by type."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Of the first --by so many elements, the greatest over all days; the others are one, Other."),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="arrow is an IPC stream.")] = Format.TABLE,
) -> None:
    """Print a metric's figures: the columns ts (start of the bucket, UTC), one for each --by, with --top the rank, and value.

    A bucket without rows, or without a figure (a share of nothing), is left out. By age band, gender and the like there is a
    column suppressed: figures of too few listeners are not told. Recorded points are all in it, those that no
    run has aggregated yet too.
    """
    from analytics_dagster.metrics.fresh import Fresh
    from analytics_dagster.metrics.query import MetricQuery, answer_query

    first, last = (parse_day_option("--from", from_), parse_day_option("--to", to))
    if first and last and first > last:
        raise UserError(f"--from {first} is after --to {last}")
    opened = installation(ctx)
    lake = tenant_lake(opened, tenant)
    catalogue = catalogue_of(opened, lake.tenant)
    asked = MetricQuery(metric, first, last, grain, tuple(by or ()), tuple(where or ()), aggregate, top=top)
    answer = answer_query(lake, catalogue, asked, Fresh(opened))
    _print(answer.figures, format_, whole=answer.metric.integer)


metrics_app.command("query")(query)


def catalogue_of(opened: Installation, tenant: str) -> Catalogue:
    """What a tenant can ask for: the installation's metrics and its own."""
    from analytics_dagster.metrics.load import load_catalogue
    from analytics_dagster.metrics.own import OwnMetrics

    extra = opened.settings.analytics_metrics
    return OwnMetrics(opened.database, opened.clock, extra).catalogue(tenant, lambda: load_catalogue(extra))


@metrics_app.command("list")
def list_(
    ctx: typer.Context,
    tenant: Annotated[
        str | None, typer.Option(help="Also what this tenant declared for itself, and the names that it recorded points under.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
) -> None:
    """All declared metrics, with unit and meaning."""
    from analytics_dagster.metrics.load import load_catalogue

    catalogue = catalogue_of(installation(ctx), tenant) if tenant else load_catalogue(settings(ctx).analytics_metrics)
    metrics = [*catalogue.metrics, *(_recorded(ctx, tenant, catalogue) if tenant else ())]
    if as_json:
        typer.echo(json.dumps([_described(m, catalogue) for m in metrics], indent=2))
        return
    _table(("name", "unit", "family", "description"), ((m.name, m.unit, m.family, m.description) for m in metrics))


@metrics_app.command()
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A metric's name or synonym.")],
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
) -> None:
    """One metric: what it means, what it is computed from, and what it can be split by."""
    from analytics_dagster.metrics.load import load_catalogue

    catalogue = load_catalogue(settings(ctx).analytics_metrics)
    described = _described(catalogue.metric(name), catalogue)
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    for key, value in described.items():
        typer.echo(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


@metrics_app.command()
def export(
    ctx: typer.Context,
    format_: Annotated[ExportFormat, typer.Option("--format", help="Whose YAML.")] = ExportFormat.METRICFLOW,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there. Default: standard output.")
    ] = None,
) -> None:
    """The whole catalogue as YAML that other tools read. What the format cannot say is told in comments at its head."""
    from analytics_dagster.metrics.export import export_text
    from analytics_dagster.metrics.load import load_catalogue

    asked = settings(ctx)
    parameters = {
        "stream_ms": asked.analytics_stream_seconds * 1000,
        "session_gap_ms": asked.analytics_session_gap_minutes * 60_000,
    }
    written = export_text(load_catalogue(asked.analytics_metrics), format_, parameters)
    if output is None:
        typer.echo(written, nl=False)
        return
    try:
        output.write_text(written, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}") from None


def _recorded(ctx: typer.Context, tenant: str, catalogue: Catalogue) -> Iterator[Metric]:
    from analytics_dagster.metrics.fresh import Fresh
    from analytics_dagster.metrics.recorded import recorded_metrics

    opened = installation(ctx)
    yield from recorded_metrics(tenant_lake(opened, tenant), catalogue, Fresh(opened))


def tenant_lake(opened: Installation, tenant: str) -> TenantLake:
    """A registered tenant's tables. Raises NotFoundError with the nearest names."""
    known = [record.tenant for record in opened.tenants.records()]
    if tenant not in known:
        raise NotFoundError(f"no tenant {tenant!r}{did_you_mean(tenant, known)}; `analytics tenant list` shows all")
    return opened.lake.tenant(tenant)


def parse_day_option(option: str, value: str | None) -> dt.date | None:
    """A day as 2026-01-31. Raises UserError naming the option and what was given."""
    try:
        return dt.date.fromisoformat(value) if value else None
    except ValueError:
        raise UserError(f"{option} {value!r} is not a day; write it as 2026-01-31") from None


def _described(metric: Metric, catalogue: Catalogue) -> dict[str, Any]:
    from analytics_dagster.lake.schemas import MEASURED
    from analytics_dagster.metrics.additivity import additivity
    from analytics_dagster.metrics.grains import grains_of
    from analytics_dagster.metrics.lineage import source_columns
    from analytics_dagster.metrics.reference import formula_text

    family = catalogue.family_of(metric)
    return {
        "name": metric.name,
        "description": metric.description,
        "version": catalogue.version_of(metric),
        "type": metric.type,
        "formula": formula_text(metric.formula, catalogue),
        "additivity": additivity(metric, catalogue).value,
        "unit": metric.unit,
        "direction": metric.direction.value,
        "owner": metric.owner,
        "synonyms": list(metric.synonyms),
        "family": family.name,
        "source": MEASURED[family.source].path,
        "columns": list(source_columns(metric, catalogue)),
        "dimensions": [d.name for d in catalogue.dimensions_of(metric)],
        "grains": [grain.value for grain in grains_of(metric, catalogue)],
        "never_added_over": list(metric.apart_by),
        "time": metric.time.value,
        "kpi": metric.kpi,
        "declared_in": str(metric.origin),
    }


def _print(figures: pa.Table, format_: Format, *, whole: bool) -> None:
    match format_:
        case Format.ARROW:
            import pyarrow.ipc

            with pyarrow.ipc.new_stream(sys.stdout.buffer, figures.schema) as stream:
                stream.write_table(figures)
        case Format.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(figures.column_names)
            writer.writerows([_text(cell) for cell in row] for row in _rows(figures, whole))
        case Format.JSON:
            names = figures.column_names
            typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in _rows(figures, whole)]))
        case Format.TABLE:
            rows = ([_text(cell) for cell in row] for row in _rows(figures, whole))
            _table(figures.column_names, rows)


def _rows(figures: pa.Table, whole: bool) -> Iterator[list[Any]]:
    """Cells as they are printed: times in ISO 8601 with Z, whole numbers without a fraction."""
    for row in figures.to_pylist():
        ts, *by, value = row.values()
        yield [f"{ts:%Y-%m-%dT%H:%M:%SZ}", *by, int(value) if whole and value is not None else value]


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name == "value" else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A pipe has no width: nothing may be cut there.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100_000).print(table)
