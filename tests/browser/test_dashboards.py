"""Dashboards in a real browser: sign in, filter, drill, use the keys, make a dashboard and share it; with scripts and without.

KEEP_SCREENSHOTS=1 writes the picture of the page for editing in docs/images anew; `tests/board_pictures.py` those of the demo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.conftest import CHROMIUM, FLAGS, require_chromium
from server.running import Running, serving
from small_home import copy_of

from analytics_dagster.tenancy.roles import Role

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
BOARDS = ("overview", "engagement", "retention", "content", "revenue", "artists", "technical", "quality", "forecasts", "alerts")
WORSE = ("serious", "critical")


@pytest.fixture(scope="module")
def shown(materialized_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The small service, served."""
    require_chromium()
    home = tmp_path_factory.mktemp("dashboards") / ".analytics"
    copy_of(materialized_home, home)
    with serving(home, ANALYTICS_SERVER_WORKERS="1") as running:
        yield running


@pytest.fixture(scope="module")
def chromium(shown: Running) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(shown: Running, chromium: Browser, role: Role, tenant: str = "aurora", **options: object) -> Iterator[Page]:
    """A page of somebody who signed in; what the browser complains of fails the test."""
    context = chromium.new_context(base_url=shown.url, **{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Content Security Policy" in message.text else None)
    page.goto(f"/dashboards/{tenant}/overview")
    page.get_by_label("Key").fill(shown.key(role, tenant))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/overview")
    yield page
    assert complaints == []
    context.close()


def keep(page: Page, name: str, tmp_path: Path) -> None:
    folder = IMAGES if os.environ.get("KEEP_SCREENSHOTS") else tmp_path
    target = folder / f"{name}.png"
    page.screenshot(path=target, full_page=True)
    assert target.stat().st_size > 10_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_finding_of_axe(shown: Running, chromium: Browser, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = []
    with opened(shown, chromium, Role.ANALYST, color_scheme=scheme) as page:
        rows = "rows?metric=skip_rate&from=2026-03-08&to=2026-03-08"
        others = ("edit", "reports?view=overview", "annotations", "metrics", "metrics/skip_rate", rows)
        for path in (*BOARDS, "overview?f=is,country,DE&compare=off", *others):
            page.goto(f"/dashboards/aurora/{path}")
            for details in page.locator("figure details, .filter-form").all()[:2]:
                details.evaluate("element => element.open = true")
            for violation in Axe().run(page).response["violations"]:
                if violation["impact"] in WORSE:
                    found.append((path, violation["id"], violation["nodes"][0]["html"][:200]))
    assert found == []


def test_filter_drill_and_back(shown: Running, chromium: Browser) -> None:
    from playwright.sync_api import expect

    with opened(shown, chromium, Role.VIEWER) as page:
        streams = page.locator(".figures li", has_text="Streams").first.locator(".value")
        before = streams.inner_text()
        page.get_by_role("link", name="premium", exact=True).click()
        page.wait_for_url("**/overview?f=is,tier,premium")
        expect(streams).not_to_have_text(before)
        page.get_by_role("link", name="Skip rate", exact=True).click()
        page.wait_for_url("**&metric=skip_rate")
        expect(page.locator("figure.chart").first).to_contain_text("Skip rate")
        page.locator("figure.chart").first.locator("summary").click()
        rows = page.locator("figure.chart").first.locator("tbody tr")
        assert rows.count() >= 16
        page.go_back()
        page.go_back()
        page.wait_for_url("**/overview")
        expect(streams).to_have_text(before)


def test_without_scripts_a_figure_leads_to_its_rows_and_a_day_is_annotated(shown: Running, chromium: Browser) -> None:
    from playwright.sync_api import expect

    with opened(shown, chromium, Role.ANALYST, java_script_enabled=False) as page:
        page.goto("/dashboards/aurora/overview?period=7d")  # behind the day that is held back, whose figure is an older one
        page.get_by_role("link", name="Rows behind Streams", exact=True).click()
        page.wait_for_url("**/rows?metric=streams&**")
        expect(page.get_by_text("As many rows as the figure says.")).to_be_visible()
        page.get_by_role("link", name="Later ones").click()
        expect(page.get_by_text("Rows 101 to")).to_be_visible()
        page.goto("/dashboards/aurora/overview")
        page.get_by_role("link", name="Annotate", exact=True).click()
        page.get_by_label("What happened?").fill("Player 4.2 released")
        page.get_by_label("From").fill("2026-03-05")
        page.get_by_role("button", name="Add", exact=True).click()
        page.goto("/dashboards/aurora/overview")
        expect(page.locator(".plot.wide title", has_text="Player 4.2 released").first).to_be_attached()
        expect(page.locator(".note.marks").first).to_contain_text("5 Mar 2026: Player 4.2 released")
        page.goto("/dashboards/aurora/annotations")
        page.get_by_role("button", name="Remove the annotation Player 4.2 released").click()
        expect(page.get_by_text("None yet.")).to_be_visible()


def test_the_form_adds_a_filter_and_its_chip_removes_it(shown: Running, chromium: Browser) -> None:
    from playwright.sync_api import expect

    with opened(shown, chromium, Role.VIEWER) as page:
        page.get_by_text("Filter", exact=True).click()
        page.get_by_label("Dimension").select_option("country")
        page.get_by_label("Condition").select_option("is_not")
        page.get_by_label("Value").fill("US")
        page.get_by_role("button", name="Add filter").click()
        page.wait_for_url("**/overview?f=is_not,country,US")
        page.get_by_role("link", name="Remove the filter country is not US").click()
        page.wait_for_url("**/overview")
        expect(page.locator(".chips")).to_have_count(0)


def test_keys_and_the_day_under_the_pointer(shown: Running, chromium: Browser) -> None:
    from playwright.sync_api import expect

    with opened(shown, chromium, Role.VIEWER) as page:
        page.keyboard.press("w")
        page.wait_for_url("**/overview?period=7d")
        page.keyboard.press("x")
        page.wait_for_url("**&compare=off")
        page.keyboard.press("Control+f")  # the browser's own keys stay its own
        page.keyboard.press("f")
        page.wait_for_url("**/overview?compare=off")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        picture = page.locator("figure.chart .picture").first
        box = picture.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        expect(page.locator(".readout")).to_contain_text("2026-0")


def test_everything_works_without_a_script(shown: Running, chromium: Browser) -> None:
    from playwright.sync_api import expect

    with opened(shown, chromium, Role.ANALYST, java_script_enabled=False) as page:
        assert page.locator("svg.picture").count() >= 7
        expect(page.get_by_role("button", name="Keys")).to_be_hidden()
        page.get_by_role("link", name="7 days").click()
        page.wait_for_url("**?period=7d")
        page.get_by_role("link", name="Revenue", exact=True).first.click()
        page.wait_for_url("**/revenue?period=7d")
        expect(page.get_by_role("heading", name="Revenue", level=1)).to_be_visible()


def test_a_dashboard_is_made_shared_and_closed_to_others(shown: Running, chromium: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with opened(shown, chromium, Role.ANALYST) as page:
        page.get_by_role("link", name="Own dashboards").click()
        page.get_by_label("Name, its part of the address").fill("monday")
        page.get_by_label("Title", exact=True).fill("Monday meeting")
        page.get_by_label("What is it for?").fill("What we look at on Mondays.")
        page.get_by_label("Metrics").select_option(["streams", "skip_rate"])
        page.get_by_role("button", name="Create").click()
        page.wait_for_url("**/edit/monday")
        page.get_by_label("Kind").select_option("leaderboards")
        page.get_by_label("Metrics").select_option(["streams"])
        page.get_by_label("Ranked by").select_option(["country"])
        page.get_by_role("button", name="Add").click()
        page.get_by_role("button", name="Move panel 2 up").click()
        keep(page, "edit-dashboard", tmp_path)
        page.get_by_role("link", name="Look at it").click()
        expect(page.get_by_role("heading", name="Monday meeting")).to_be_visible()
        shared = page.url
        assert page.locator("h2, .figures, caption").first.inner_text() == "Where"
    with opened(shown, chromium, Role.VIEWER) as colleague:
        colleague.goto(shared)
        expect(colleague.get_by_role("heading", name="Monday meeting")).to_be_visible()
        expect(colleague.get_by_role("link", name="Edit", exact=True)).to_have_count(0)
    with opened(shown, chromium, Role.TENANT_ADMIN, "borealis") as other:
        answer = other.goto(shared)
        assert answer is not None
        assert answer.status == 404


def test_a_phone_shows_a_page_without_scrolling_sideways(shown: Running, chromium: Browser) -> None:
    with opened(shown, chromium, Role.VIEWER, viewport={"width": 390, "height": 844}, is_mobile=True) as page:
        for board in BOARDS:
            page.goto(f"/dashboards/aurora/{board}")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 390, board
