"""What a user sees: the graph, a red check with its rows, the page of the day, the automation. In a real browser.

KEEP_SCREENSHOTS=1 writes the pictures of docs/images anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

STATES = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
    sensors { name sensorState { status } } schedules { name scheduleState { status } } } } } }"""

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"


def keep(page: Page, name: str, tmp_path: Path) -> None:
    """Every run takes the picture; only a run that is asked to puts it into the documentation."""
    folder = IMAGES if os.environ.get("KEEP_SCREENSHOTS") else tmp_path
    target = folder / f"{name}.png"
    page.screenshot(path=target)
    assert target.stat().st_size > 10_000


def test_the_graph_shows_every_layer(page: Page, dagster_ui: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.goto(f"{dagster_ui}/asset-groups")
    for layer in ("landing", "raw", "catalogue", "aggregates", "quality", "models", "forecasts", "insights"):
        expect(page.get_by_text(layer, exact=True).first).to_be_visible()
    expect(page.get_by_text("Join the Dagster community")).to_have_count(0)
    page.wait_for_timeout(2_000)  # the layout moves for a moment after the names are there
    keep(page, "graph", tmp_path)


def test_a_red_check_names_the_tenant_and_shows_the_rows(page: Page, dagster_ui: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.goto(f"{dagster_ui}/assets/raw/plays?view=checks")
    page.get_by_text("listener_is_known", exact=True).first.click()
    expect(page.get_by_text(re.compile("aurora: .* expected at most 5 %")).first).to_be_visible()
    expect(page.get_by_text(re.compile("rows aurora 2026-03-01")).first).to_be_visible()
    keep(page, "check", tmp_path)


def test_the_page_of_the_day_can_be_read(page: Page, dagster_ui: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.goto(f"{dagster_ui}/assets/insights/daily")
    page.get_by_text("Show Markdown").first.click()
    expect(page.get_by_role("heading", name=re.compile("Monday, 9 March 2026: aurora"))).to_be_visible()
    keep(page, "insights", tmp_path)


def test_a_picture_of_the_metrics_is_shown(page: Page, dagster_ui: str, tmp_path: Path) -> None:
    page.goto(f"{dagster_ui}/assets/aggregates/listening")
    page.get_by_text("Show Markdown").first.click()
    picture = page.locator("img[src^='data:image/svg+xml']").first
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 300")
    keep(page, "metrics", tmp_path)


def test_all_automation_is_on(page: Page, dagster_ui: str) -> None:
    from playwright.sync_api import expect

    page.goto(f"{dagster_ui}/automation")
    for name in (
        "arrivals_sensor",
        "ingest_log_sensor",
        "alert_sensor",
        "run_failure_watch",
        "report_sensor",
        "demo_sensor",
        "daily",
        "keep_house_daily",
    ):
        expect(page.get_by_text(re.compile(f"^{name}")).first).to_be_visible()
    answered = page.request.post(f"{dagster_ui}/graphql", data={"query": STATES}).json()
    states = {
        entry["name"]: entry["state"]["status"]
        for repository in answered["data"]["repositoriesOrError"]["nodes"]
        for entry in (
            *({"name": s["name"], "state": s["sensorState"]} for s in repository["sensors"]),
            *({"name": s["name"], "state": s["scheduleState"]} for s in repository["schedules"]),
        )
    }
    assert len(states) == 9
    assert set(states.values()) == {"RUNNING"}
