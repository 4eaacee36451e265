"""Whole pages of the small service: every board is shown, says the same as its documents, and needs no script."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_home import LAST, NOW, Home, copy_of, opened

from analytics_dagster.dashboards.boards import Boards, load_boards, parse_board
from analytics_dagster.dashboards.documents import MOST_ROWS, as_csv, as_json, as_parquet, as_table
from analytics_dagster.dashboards.happenings import Kind
from analytics_dagster.dashboards.page import Page, read_page
from analytics_dagster.dashboards.pages import Surroundings, board_page, refusal_page, static_address, static_files, tenants_page
from analytics_dagster.dashboards.pdf import as_pdf
from analytics_dagster.dashboards.view import parse_view
from analytics_dagster.errors import UserError
from analytics_dagster.lake.schemas import ARTISTS
from analytics_dagster.metrics.declarations import Catalogue

VOID = {"meta", "link", "input", "br", "img"}
BOARDS = ("overview", "engagement", "retention", "content", "revenue", "artists", "technical", "quality", "forecasts", "alerts")


class Markup(html.parser.HTMLParser):
    """What a page is made of; asserts that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


@pytest.fixture(scope="module")
def home(materialized_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    path = tmp_path_factory.mktemp("pages") / ".analytics"
    copy_of(materialized_home, path)
    with opened(path) as small:
        yield small


@pytest.fixture(scope="module")
def boards(catalogue: Catalogue) -> Boards:
    return load_boards(catalogue)


def read(home: Home, catalogue: Catalogue, name: str = "overview", query: str = "", tenant: str = "aurora") -> Page:
    return read_page(home.installation, catalogue, tenant, load_boards(catalogue).board(name), parse_view(query))


def draw(page: Page, catalogue: Catalogue) -> str:
    boards = load_boards(catalogue).boards
    return board_page(page, catalogue, Surroundings(boards, "http://127.0.0.1:3000/", NOW))


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("query", ["period=7d", "f=is,country,DE&compare=off"])
def test_every_board_is_a_whole_page_that_needs_no_script(home: Home, catalogue: Catalogue, name: str, query: str) -> None:
    page = read(home, catalogue, name, query)
    text = draw(page, catalogue)
    markup = Markup(text)
    ids = [attributes["id"] for _, attributes in markup.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in markup.all("section"):
        assert attributes["aria-labelledby"] in ids
    # A strict Content-Security-Policy lets none of these be.
    assert all("style" not in attributes for _, attributes in markup.seen)
    assert all(name != "style" and not any(key.startswith("on") for key in attributes) for name, attributes in markup.seen)
    assert [attributes.get("src") for attributes in markup.all("script")] == [static_address("dashboards.js")]
    pictures = [attributes for attributes in markup.all("svg") if attributes.get("aria-hidden") != "true"]
    assert all(attributes.get("role") == "img" for attributes in pictures)
    assert len(re.findall(r"<svg[^>]*role=\"img\"[^>]*><title>[^<]+</title>", text)) == len(pictures)
    assert "None" not in " ".join(markup.words)


def test_a_page_says_how_fresh_it_is_and_links_to_the_run(home: Home, catalogue: Catalogue) -> None:
    page = read(home, catalogue)
    assert page.trust is not None
    text = draw(page, catalogue)
    assert "Data through <strong>9 Mar 2026 23:59 UTC</strong>" in text
    assert f'href="http://127.0.0.1:3000/runs/{page.trust.run_id}"' in text
    assert page.trust.current == len(page.trust.sources)
    assert page.trust.passed > 40
    assert page.trust.failed == ()


def test_the_tables_twin_json_and_csv_say_the_same(home: Home, catalogue: Catalogue) -> None:
    page = read(home, catalogue, query="period=7d")
    told = json.loads(as_json(page))
    assert (told["tenant"], told["dashboard"], told["period"]["days"]) == ("aurora", "overview", 7)
    kinds = [panel["kind"] for panel in told["panels"]]
    assert kinds == ["figures", "trend", "findings", "leaderboards", "trends"]
    [streams] = [m for m in told["panels"][0]["metrics"] if m["metric"] == "streams"]
    assert streams["value"] == sum(point["value"] for point in streams["series"])
    for board in told["panels"][3]["leaderboards"]:
        rows = [*board["rows"], *([board["other"]] if board["other"] else [])]
        assert sum(row["value"] for row in rows) == streams["value"]
    lines = list(csv.DictReader(io.StringIO(as_csv(page).decode())))
    days = {row["ts"]: row["value"] for row in lines if row["panel"] == "1 figures" and row["metric"] == "streams" and row["ts"]}
    assert days == {f"{point['ts']}T00:00:00Z": str(point["value"]) for point in streams["series"]}
    table = pq.read_table(io.BytesIO(as_parquet(page)))
    assert table.equals(as_table(page))
    assert table.num_rows == len(lines) < MOST_ROWS


def test_a_finding_is_shown_with_its_drivers_and_leads_the_page(home: Home, catalogue: Catalogue) -> None:
    page = read(home, catalogue)
    [panel] = [panel for panel in page.panels if panel.findings is not None]
    assert panel.findings is not None
    assert panel.findings.day == LAST
    assert panel.findings.headline
    words = " ".join(Markup(draw(page, catalogue)).words)
    for told in panel.findings.told[:5]:
        assert f"{told.claim}." in words
        assert "\\" not in told.claim  # what made it safe for markdown is taken off again


def test_forecasts_begin_behind_the_last_day_and_are_left_out_where_figures_are_filtered(
    home: Home, catalogue: Catalogue
) -> None:
    page = read(home, catalogue)
    trend = next(panel.trends[0] for panel in page.panels if panel.kind == "trend")
    assert trend.forecast
    assert all(day > LAST for day, *_ in trend.forecast)
    filtered = read(home, catalogue, query="f=is,country,DE")
    trend = next(panel.trends[0] for panel in filtered.panels if panel.kind == "trend")
    assert (trend.forecast, trend.odd, trend.band) == ((), (), None)


def test_text_of_others_is_never_markup(catalogue: Catalogue) -> None:
    hostile = "<script>alert(1)</script>\"'"
    for text in (refusal_page(hostile, hostile, "/"), tenants_page([hostile])):
        assert "<script>alert" not in text
        Markup(text)


def test_a_hostile_filter_and_metric_are_escaped_everywhere(home: Home, catalogue: Catalogue) -> None:
    page = read(home, catalogue, query="f=is,country,%3Cscript%3Ealert(1)%3C/script%3E%22")
    text = draw(page, catalogue)
    assert "<script>alert" not in text
    assert "No figures in this view" in text
    Markup(text)


def test_a_tenant_without_figures_is_told_what_to_do(home: Home, catalogue: Catalogue) -> None:
    home.installation.tenants.ensure("newcomer")
    page = read(home, catalogue, tenant="newcomer")
    assert (page.trust, page.panels) == (None, ())
    assert "analytics import" in draw(page, catalogue)
    json.loads(as_json(page))


def test_a_period_that_is_too_long_is_refused(home: Home, catalogue: Catalogue) -> None:
    with pytest.raises(UserError, match=r"has 4\d+ days, 1098 are shown at most"):
        read(home, catalogue, query="from=2010-01-01&to=2022-01-01")


def test_a_chosen_metric_takes_the_main_chart(home: Home, catalogue: Catalogue) -> None:
    page = read(home, catalogue, query="metric=skip_rate")
    assert [panel.trends[0].figure.shown.name for panel in page.panels if panel.kind == "trend"] == ["skip_rate"]


def test_a_board_of_ones_own_is_read_like_a_built_in_one(home: Home, catalogue: Catalogue) -> None:
    text = (
        "name: mine\ntitle: Mine\ndescription: d\npanels:\n  - figures: [plays]\n  - leaderboards: [{metric: plays, by: tier}]\n"
    )
    page = read_page(
        home.installation, catalogue, "borealis", parse_board(text, "mine.yaml", catalogue), parse_view("period=day")
    )
    assert page.days.first == LAST
    [board] = page.panels[1].leaderboards
    assert {place.element for place in board.places} <= {"free", "premium", None}


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_is_a_document_for_printing_the_same_each_time(home: Home, catalogue: Catalogue, name: str) -> None:
    page = read(home, catalogue, name, "period=7d")
    made = as_pdf(page, NOW)
    assert made.startswith(b"%PDF-")
    assert made == as_pdf(page, NOW)


def test_static_files_are_named_by_their_content() -> None:
    assert {media for _, media in static_files().values()} >= {"text/css; charset=utf-8", "text/javascript; charset=utf-8"}
    assert static_address("dashboards.css").removeprefix("/static/") in static_files()


def test_artists_are_called_by_their_names_and_chosen_by_their_ids(home: Home, catalogue: Catalogue) -> None:
    page = read(home, catalogue, "artists")
    known = home.installation.lake.tenant("aurora").table(ARTISTS).read().to_pylist()
    names = {row["artist_id"]: row["name"] for row in known}
    [board] = [one for panel in page.panels for one in panel.leaderboards if one.title == "Monthly listeners"]
    assert [place.label for place in board.places] == [names[place.element] for place in board.places]
    first = board.places[0]
    link = f'f=is,artist_id,{first.element}" title="{first.element}">{html.escape(first.label)}</a>'
    assert link in draw(page, catalogue)


def test_a_release_is_marked_on_what_listeners_do_and_not_on_machines(home: Home, catalogue: Catalogue) -> None:
    def kinds(board: str) -> set[Kind]:
        page = read(home, catalogue, board, "period=364d")
        return {mark.kind for panel in page.panels for trend in panel.trends for mark in trend.marks}

    assert Kind.RELEASE in kinds("overview")
    assert Kind.RELEASE not in kinds("technical")
