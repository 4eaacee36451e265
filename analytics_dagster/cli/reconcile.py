"""`analytics reconcile`: why two counts of the same days differ, in total, by reason and play by play."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analytics_dagster.cli.context import installation
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.metrics.declarations import did_you_mean

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.counting.reconcile import Reconciler, Reconciliation

MOST_ROWS = 10_000


class ReportFormat(StrEnum):
    """How a reconciliation is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def reconcile(
    ctx: typer.Context,
    first_count: Annotated[
        str, typer.Argument(metavar="POLICY_A", help="A counting policy; with _adjusted behind it without artificial plays.")
    ],
    second_count: Annotated[str, typer.Argument(metavar="POLICY_B", help="The one to compare it with.")],
    tenant: Annotated[str, typer.Option(help="Tenant whose plays are counted.")],
    from_: Annotated[str | None, typer.Option("--from", help="First day (UTC), as 2026-01-31. Default: the first.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last day (UTC), included. Default: the last.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help='Condition on a text column of raw/plays: country="US", with = != =~ !~; may be repeated.'),
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="List the plays that only one of the two counts.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --rows: at most so many plays, the earliest.")] = MOST_ROWS,
    format_: Annotated[
        ReportFormat, typer.Option("--format", help="csv is the reasons, or with --rows the plays.")
    ] = ReportFormat.TABLE,
) -> None:
    """Explain the difference of two counts: totals, plays by reason, and with --rows each play.

    The reasons add up to the difference exactly. Plays are judged anew from raw/plays; where the stored figure of a count is
    another, standard error says so.
    """
    from analytics_dagster.metrics.counting.reconcile import Question, Reconciler, counting_of
    from analytics_dagster.metrics.load import load_catalogue

    first, last = _day("--from", from_), _day("--to", to)
    if first and last and first > last:
        raise UserError(f"--from {first} is after --to {last}")
    opened = installation(ctx)
    lake = _tenant(opened, tenant)
    catalogue = load_catalogue(opened.settings.analytics_metrics)
    counting = counting_of(catalogue)
    question = Question((counting.count(first_count), counting.count(second_count)), first, last, tuple(where or ()))
    stream_ms = opened.settings.analytics_stream_seconds * 1000
    asked = Reconciler(lake, catalogue, question, stream_ms=stream_ms)
    report = asked.report()
    _remark_stale(report)
    match format_:
        case ReportFormat.JSON:
            listed = [_cells(row) for row in _rows(asked, limit)] if rows else None
            typer.echo(json.dumps(_document(report, listed, stream_ms), indent=2))
        case ReportFormat.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            if rows:
                _write_rows(writer.writerow, _rows(asked, limit))
            else:
                writer.writerow(("counted_by", "reason", "plays"))
                writer.writerows((p.counted_by, p.reason or "", p.plays) for p in report.parts)
        case ReportFormat.TABLE:
            _print(report, stream_ms)
            if rows:
                typer.echo()
                _write_rows(lambda cells: typer.echo("  ".join(str(c) for c in cells)), _rows(asked, limit), "-")
    if rows and report.differing > limit:
        remark = f"{limit:,} of {report.differing:,} plays are listed; raise --limit, or narrow with --from, --to or --where"
        typer.echo(remark, err=True)


def _tenant(opened: Installation, tenant: str) -> TenantLake:
    known = [record.tenant for record in opened.tenants.records()]
    if tenant not in known:
        raise NotFoundError(f"no tenant {tenant!r}{did_you_mean(tenant, known)}; `analytics tenant list` shows all")
    return opened.lake.tenant(tenant)


def _day(option: str, value: str | None) -> dt.date | None:
    try:
        return dt.date.fromisoformat(value) if value else None
    except ValueError:
        raise UserError(f"{option} {value!r} is not a day; write it as 2026-01-31") from None


def _remark_stale(report: Reconciliation) -> None:
    for total in report.stale:
        typer.echo(
            f"analytics query {total.count.metric} says {total.stored:,}, not {total.plays:,}: some of these days are not "
            "materialized since their plays or the policy changed, or their gate is closed",
            err=True,
        )


def _print(report: Reconciliation, stream_ms: int) -> None:
    from analytics_dagster.metrics.counting.measures import policy_text
    from analytics_dagster.metrics.counting.reconcile import BOTH
    from analytics_dagster.metrics.counting.verdicts import MEANING

    for total in report.totals:
        without = f"; without artificial plays (rules version {report.rules_version})" if total.count.adjusted else ""
        text = policy_text(total.count.policy).replace("ANALYTICS_STREAM_SECONDS", f"{stream_ms / 1000:g} s")
        typer.echo(f"{total.count.name}: {total.plays:,} ({text}{without})")
    typer.echo(f"difference: {report.difference:,}\n")
    lines = [("plays", "counted by", "not by the other, because")]
    for part in report.parts:
        why = "" if part.reason is None else f"{part.reason}: {MEANING[part.reason]}"
        lines.append((f"{part.plays:,}", "both" if part.counted_by == BOTH else part.counted_by, why))
    _columns(lines)


def _columns(lines: Sequence[tuple[str, str, str]]) -> None:
    first, second = (max(len(line[n]) for line in lines) for n in (0, 1))
    for plays, counted_by, why in lines:
        typer.echo(f"{plays:>{first}}  {counted_by:<{second}}  {why}".rstrip())


def _rows(asked: Reconciler, limit: int) -> Iterator[dict[str, Any]]:
    for batch in asked.rows(limit):
        yield from batch.to_pylist()


def _write_rows(write: Callable[[Sequence[Any]], Any], rows: Iterable[dict[str, Any]], nothing: str = "") -> None:
    """Write the plays one by one as they are read, under the names of their columns; `nothing` for what is not known."""
    from analytics_dagster.metrics.counting.reconcile import ROW_COLUMNS

    write(ROW_COLUMNS)
    for row in rows:
        write([nothing if cell is None else cell for cell in _cells(row).values()])


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """A play as it is printed: its time in ISO 8601 with Z."""
    return {**row, "ts": row["ts"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


def _document(report: Reconciliation, rows: list[dict[str, Any]] | None, stream_ms: int) -> dict[str, Any]:
    from analytics_dagster.metrics.counting.reconcile import report_document

    said = report_document(report, stream_ms)
    return said if rows is None else {**said, "rows": rows, "truncated": report.differing > len(rows)}
