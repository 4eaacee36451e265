"""What a report says when it goes out: its view read anew, as a file, and the words beside it. No channel is known here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote
from zoneinfo import ZoneInfo

from analytics_dagster.alerts.messages import digest_of
from analytics_dagster.dashboards.boards import Board, load_boards
from analytics_dagster.dashboards.own import RESERVED, OwnBoards, read_saved
from analytics_dagster.errors import NotFoundError
from analytics_dagster.reports.report import Form, Report, Wanted
from analytics_dagster.reports.store import Sending

if TYPE_CHECKING:
    from analytics_dagster.dashboards.page import Page
    from analytics_dagster.installation import Installation
    from analytics_dagster.metrics.declarations import Catalogue

_MOST_FIGURES = 12
MEDIA_TYPES = {Form.PDF: "application/pdf", Form.PNG: "image/png"}


@dataclass(frozen=True)
class Document:
    """A report's view at one moment. `covers`: days, filters and freshness in lines; `figures`: title, value and change."""

    title: str
    subject: str
    days: str
    covers: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...]
    headline: str | None
    link: str
    file_name: str
    media_type: str
    content: bytes


@dataclass(frozen=True)
class Message:
    """A document for one recipient. `key` is the same at each try; `notes`: what is to be said of this sending."""

    key: str
    document: Document
    notes: tuple[str, ...]


def render_report(installation: Installation, catalogue: Catalogue, report: Report) -> Document:
    """Read the view now and draw it. Raises UserError and NotFoundError for a view that cannot be shown (any more)."""
    from analytics_dagster.dashboards.page import read_page
    from analytics_dagster.dashboards.pdf import as_pdf
    from analytics_dagster.reports.picture import as_png

    wanted, now = report.wanted, installation.clock.now()
    board = board_of(installation, catalogue, report.tenant, wanted.board)
    page = read_page(installation, catalogue, report.tenant, board, wanted.view)
    link = live_address(installation.settings.analytics_dashboards_url, report.tenant, wanted)
    content = as_pdf(page, now, link) if wanted.form is Form.PDF else as_png(page)
    return document_of(page, report, link, content)


def document_of(page: Page, report: Report, link: str, content: bytes) -> Document:
    """The words beside a drawn page."""
    from analytics_dagster.dashboards.pdf import NOTHING_PUBLISHED, how_fresh, what_it_covers

    days = f"{page.days.first} to {page.days.last}" if len(page.days) > 1 else str(page.days.first)
    fresh = how_fresh(page.trust) if page.trust else NOTHING_PUBLISHED
    headline = None
    if not page.view.filters:
        headline = next((panel.findings.headline for panel in page.panels if panel.findings and panel.findings.told), None)
    return Document(
        title=f"{page.board.title}: {page.tenant}",
        subject=f"{page.board.title}, {page.tenant}, {days}",
        days=str(page.days),
        covers=(*what_it_covers(page), fresh),
        figures=tuple(_figures(page))[:_MOST_FIGURES],
        headline=headline,
        link=link,
        file_name=f"{page.tenant}-{page.board.name}-{page.days.last}.{report.wanted.form}",
        media_type=MEDIA_TYPES[report.wanted.form],
        content=content,
    )


def message_for(document: Document, report: Report, sending: Sending) -> Message:
    """The document as it goes to one recipient."""
    zone = report.wanted.timetable.zone
    due = f"{sending.due_at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M} {zone}"
    notes = []
    if sending.missed:
        times = "One earlier time" if sending.missed == 1 else f"{sending.missed} earlier times"
        notes.append(f"{times} could not be kept; this report is the newest and stands for all of them.")
    why = "asked for by hand" if sending.by_hand else f"due {due}"
    notes.append(f"Report {report.name} of {report.tenant}, {why}; set up by {report.creator}.")
    key = digest_of("report", report.tenant, report.name, report.created_at, sending.due_at, sending.recipient)
    return Message(key, document, tuple(notes))


def board_of(installation: Installation, catalogue: Catalogue, tenant: str, name: str) -> Board:
    """A built-in board, or one of the tenant's own. Raises NotFoundError naming those there are."""
    built_in = load_boards(catalogue)
    if name in RESERVED:
        return built_in.board(name)
    try:
        return read_saved(OwnBoards(installation.database, installation.clock).get(tenant, name), catalogue)
    except NotFoundError:
        return built_in.board(name)


def live_address(root: str, tenant: str, wanted: Wanted) -> str:
    """Where the view is to be seen. A relative period stays one: the link shows the newest days, the file its own."""
    return f"{root.rstrip('/')}/dashboards/{quote(tenant)}/{quote(wanted.board)}{wanted.query}"


def _figures(page: Page) -> Iterator[tuple[str, str, str]]:
    from analytics_dagster.insights.numbers import figure

    for panel in page.panels:
        if panel.kind == "figures":
            for trend in panel.trends:
                value, shown = trend.figure.value, trend.figure.shown
                yield shown.title, figure(value.now, shown.unit), value.words if page.compared else ""
