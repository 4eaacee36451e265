"""HTML of the dashboards: Jinja templates in `templates/`, whole pages that need no script. What is said is decided elsewhere.

Text of tenants is escaped by Jinja; the only markup that passes as it is are the pictures of `pictures.py`, which escapes words.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from analytics_dagster.dashboards import pictures
from analytics_dagster.dashboards.advice import recommendation
from analytics_dagster.dashboards.boards import Board, PanelForm
from analytics_dagster.dashboards.figures import Figure, Shown
from analytics_dagster.dashboards.happenings import Mark
from analytics_dagster.dashboards.own import Saved, board_text
from analytics_dagster.dashboards.page import Page, Panel, Trend
from analytics_dagster.dashboards.row_links import RowLinks
from analytics_dagster.dashboards.view import PERIOD_NAMES, Compare, Period, View
from analytics_dagster.insights.numbers import NOTHING, exact, figure
from analytics_dagster.insights.series import Series
from analytics_dagster.metrics.declarations import Catalogue

if TYPE_CHECKING:
    import jinja2
    import pyarrow as pa

    from analytics_dagster.insights.charts import Chart

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
STATIC_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_KEYS = {
    Period.DAY: "d",
    Period.WEEK: "w",
    Period.FOUR_WEEKS: "f",
    Period.QUARTER: "n",
    Period.MONTH_TO_DATE: "m",
    Period.YEAR_TO_DATE: "y",
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@cache
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Name as pages link to it (`dashboards.1a2b3c4d.css`, which changes with the content) -> content and media type."""
    found = {}
    for path in sorted(STATIC.iterdir()):
        content = path.read_bytes()
        name = f"{path.stem}.{hashlib.sha256(content).hexdigest()[:8]}{path.suffix}"
        found[name] = (content, STATIC_TYPES[path.suffix])
    return found


def static_address(name: str) -> str:
    """Where a file of `static/` is served."""
    stem, _, suffix = name.rpartition(".")
    return next(f"/static/{known}" for known in static_files() if known.startswith(f"{stem}.") and known.endswith(f".{suffix}"))


class Addresses:
    """Where the parts of one tenant's pages are, in one view."""

    def __init__(self, tenant: str, board: Board, view: View) -> None:
        self._tenant, self._board, self._view = tenant, board, view
        self._root = f"/dashboards/{quote(tenant)}"

    @property
    def path(self) -> str:
        return f"{self._root}/{self._board.name}"

    def here(self, view: View) -> str:
        """The board in another view."""
        return self.path + view.query()

    def board(self, name: str) -> str:
        """Another board in this view. The chosen metric stays behind: it is this board's."""
        return f"{self._root}/{name}{replace(self._view, metric=None).query()}"

    def file(self, kind: str) -> str:
        return f"{self.path}.{kind}{self._view.query()}"

    def picture(self, shown: Shown, kind: str) -> str:
        """A metric's chart alone."""
        return f"{self.path}.{kind}{self._view.showing(shown.metric.name).query()}"


@dataclass(frozen=True)
class Surroundings:
    """What stands around a board: the boards to go to, the address of the Dagster UI, the time (UTC), who is signed in (markup),
    and whether who looks may edit, send, see raw rows and annotate; `own`: the board that is shown is one of the tenant's own.
    `csrf`: the field that forms carry (markup), empty for a key.
    """

    boards: Sequence[Board]
    dagster: str
    now: dt.datetime
    session: str = ""
    may_edit: bool = False
    own: bool = False
    may_send: bool = False
    csrf: str = ""
    may_see_rows: bool = False
    may_annotate: bool = False


def board_page(page: Page, catalogue: Catalogue, around: Surroundings) -> str:
    """A board as HTML."""
    import markupsafe

    at = Addresses(page.tenant, page.board, page.view)
    edit = f"/dashboards/{quote(page.tenant)}/edit{f'/{page.board.name}' if around.own else ''}"
    shown_by = next((panel.trends[0].figure.shown.name for panel in page.panels if panel.kind == "trend" and panel.trends), "")
    return _environment().get_template("board.html").render(
        page=page,
        view=page.view,
        pairs=_pairs(page.view),
        boards=around.boards,
        address=at.board,
        here=at.here,
        path=at.path,
        file=at.file,
        picture_file=at.picture,
        query_address=lambda shown: _query_address(page, shown),
        rows=RowLinks(page.days, page.grain, catalogue) if around.may_see_rows else None,
        periods=PERIOD_NAMES,
        keys=_KEYS,
        wider=replace(page.view, period=Period.YEAR, first=None, filters=()),
        main=shown_by,
        dimensions=_dimensions(page.board, catalogue),
        headline=_headline(page),
        edit=edit if around.may_edit else "",
        send=send_address(page) if around.may_send else "",
        annotate=f"/dashboards/{quote(page.tenant)}/annotations" if around.may_annotate else "",
        edit_name="Edit" if around.own else "Own dashboards",
        age_days=(around.now.date() - page.trust.through).days if page.trust else 0,
        begins=min((source.first for source in page.trust.sources), default=None) if page.trust else None,
        dagster=around.dagster.rstrip("/"),
        session=markupsafe.Markup(around.session),
        feedback=markupsafe.Markup(around.csrf) if around.may_edit and around.csrf else "",
        recommendation=recommendation,
    )  # fmt: skip


def send_address(page: Page) -> str:
    """Where the view that is shown can be put on a schedule."""
    view = f"{page.board.name}{page.view.query()}"
    return f"/dashboards/{quote(page.tenant)}/reports?{urlencode({'view': view})}"


def rendered(template: str, /, *, csrf: str, session: str, **values: object) -> str:
    """One of the templates, for a page of another room. `csrf` and `session` are markup."""
    import markupsafe

    marked = {"csrf": markupsafe.Markup(csrf), "session": markupsafe.Markup(session)}
    return _environment().get_template(template).render(**marked, **values)


def own_boards_page(
    tenant: str, boards: Sequence[Saved], catalogue: Catalogue, *, csrf: str, message: str = "", text: str = "", session: str = ""
) -> str:
    """The boards that people of a tenant made, and forms for one more. `text`: YAML that was sent and refused with `message`."""
    return _edit(tenant, catalogue, csrf, session, board=None, boards=boards, message=message, text=text)


def edit_page(
    tenant: str,
    board: Board,
    versions: Sequence[Saved],
    catalogue: Catalogue,
    *,
    csrf: str,
    message: str = "",
    text: str | None = None,
    session: str = "",
) -> str:
    """One board of their own with forms to change it. `versions`: newest first."""
    written = board_text(board) if text is None else text
    made = {"board": board, "saved": versions[0], "versions": versions, "message": message, "text": written}
    return _edit(tenant, catalogue, csrf, session, action=f"/dashboards/{quote(tenant)}/edit/{board.name}", **made)


def _edit(tenant: str, catalogue: Catalogue, csrf: str, session: str, **values: object) -> str:
    import markupsafe

    metrics = {family.name: [metric.name for metric in family.metrics] for family in catalogue.families}
    dimensions = dict.fromkeys(dimension.name for family in catalogue.families for dimension in family.dimensions)
    return _environment().get_template("edit.html").render(
        tenant=tenant,
        metrics=metrics,
        dimensions=list(dimensions),
        csrf=markupsafe.Markup(csrf),
        session=markupsafe.Markup(session),
        **values,
    )  # fmt: skip


def _told(panel: PanelForm) -> str:
    """What a panel shows, in a line."""
    if panel.leaderboards:
        return ", ".join(f"{one.metric} by {one.by}" for one in panel.leaderboards)
    return ", ".join(panel.figures or panel.trends or ([panel.trend] if panel.trend else []))


def tenants_page(tenants: Sequence[str], session: str = "") -> str:
    """Whose dashboards there are to see."""
    import markupsafe

    return (
        _environment().get_template("tenants.html").render(title="Tenants", tenants=tenants, session=markupsafe.Markup(session))
    )


def refusal_page(title: str, detail: str, back: str, session: str = "") -> str:
    """Why a page is not shown."""
    import markupsafe

    template = _environment().get_template("refusal.html")
    return template.render(title=title, detail=detail, back=back, session=markupsafe.Markup(session))


def render(template: str, session: str = "", **values: object) -> str:
    """One of the templates, for pages that have a module of their own."""
    import markupsafe

    return _environment().get_template(template).render(session=markupsafe.Markup(session), **values)


def warm() -> None:
    """Load what pages are made with: Altair, Vega and the templates. Safe to call from any thread."""
    days = tuple((dt.date(2026, 1, day), float(day)) for day in range(1, 8))
    pictures.trend("", "", days, days)
    for name in ("board.html", "panels.html"):
        _environment().get_template(name)


def chart_of(trend: Trend, size: pictures.Size = pictures.Size.WIDE, *, headed: bool = True) -> Chart:
    """The picture of a trend. On a page its title stands above it."""
    made = trend.figure
    marks = tuple((mark.first, mark.last, mark.words) for mark in trend.marks_of(small=size is pictures.Size.SMALL))
    return pictures.trend(
        made.shown.title, made.shown.unit, made.days, made.compared, trend.forecast, trend.odd_pairs, None, size, headed, marks
    )


class Drawing:
    """Draws a page's charts in a thread of its own while the page is read; the page finds them kept. A context manager."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drawing")

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # What could not be drawn fails again where the page asks for it.
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)

    def begin(self, kind: str, trend: Trend) -> None:
        """Of a panel of this kind. Figures have sparklines, which take no time."""
        if kind in _PLOTS:
            self._thread.submit(chart_of, trend, _PLOTS[kind], headed=False)


_PLOTS = {"trend": pictures.Size.WIDE, "trends": pictures.Size.SMALL, "forecasts": pictures.Size.SMALL}


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2
    import markupsafe

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sizes = {True: pictures.Size.SMALL, False: pictures.Size.WIDE}
    markup: dict[str, Callable[..., str]] = {
        "picture": lambda trend, small: pictures.inline(chart_of(trend, sizes[small], headed=False).svg),
        "check_picture": _check_picture,
        "spark": _spark,
        "bar": pictures.bar,
    }
    for name, draw in markup.items():
        made.filters[name] = lambda *args, draw=draw: markupsafe.Markup(draw(*args))
    made.filters |= {
        "figure": figure,
        "exact": lambda value: NOTHING if value is None else exact(value),
        "signed": lambda value: f"{value:+.3g}",
        "day": lambda day: f"{day.day} {_MONTHS[day.month - 1]} {day.year}",
        "labels": lambda labels: ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "-",
        "told": _told,
        "said_of": _said_of,
        "title_of": lambda metric: Series(metric, "", "", _nothing()).name,
    }
    made.globals["static"] = static_address
    return made


def _said_of(marks: Sequence[Mark], figure: Figure, place: int) -> str:
    """What is said of one bucket of a chart: of what begins in it, the words."""
    days = [day for day, _ in figure.days]
    begin, end = days[place], days[place + 1] if place + 1 < len(days) else dt.date.max
    return "; ".join(mark.words for mark in marks if begin <= max(mark.first, days[0]) < end)


def _spark(made: Figure) -> str:
    title = f"{made.shown.title}, {made.days[0][0]} to {made.days[-1][0]}" if made.days else made.shown.title
    return pictures.sparkline([value for _, value in made.days], title)


def _check_picture(panel: Panel) -> str:
    from analytics_dagster.insights.charts import quality_chart

    return pictures.inline(quality_chart("Checks passed", panel.check_days).svg)


def _headline(page: Page) -> str | None:
    """The day's headline, where the view is of what it was written for: everything, nothing filtered out."""
    if page.view.filters:
        return None
    return next((panel.findings.headline for panel in page.panels if panel.findings and panel.findings.told), None)


def _dimensions(board: Board, catalogue: Catalogue) -> list[str]:
    """What the board can be filtered by."""
    metrics = [catalogue.metric(name) for name in board.metrics]
    return list(dict.fromkeys(dimension.name for metric in metrics for dimension in catalogue.dimensions_of(metric)))


def _pairs(view: View) -> list[tuple[str, str]]:
    """The view as a form's hidden fields."""
    found = [("period", str(view.period))] if view.period is not Period.FOUR_WEEKS else []
    found += [("from", str(view.first))] if view.first else []
    found += [("to", str(view.last))] if view.last else []
    found += [("compare", str(view.compare))] if view.compare != Compare.PREVIOUS else []
    found += [("f", f.text) for f in view.filters]
    found += [("metric", view.metric)] if view.metric else []
    return found


def _query_address(page: Page, shown: Shown) -> str:
    """The same days from the API."""
    asked = [("metric", shown.metric.name), ("tenant", page.tenant), ("from", str(page.days.first)), ("to", str(page.days.last))]
    return f"/analytics/query?{urlencode([*asked, *(('where', condition) for condition in shown.where)])}"


def _nothing() -> pa.Table:
    import pyarrow as pa

    return pa.table({})
