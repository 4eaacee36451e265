"""Signing in as a person does, in Chromium, with scripts off: by a link, by a key, on a phone, and out again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.conftest import CHROMIUM, FLAGS
from cli.command import analytics
from server.running import Running, serving

from analytics_dagster.tenancy.roles import Role

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PHONE, DESK = {"width": 360, "height": 640}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with serving(tmp_path_factory.mktemp("signing-in") / ".analytics", ANALYTICS_SERVER_WORKERS="1") as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def opened(chromium: Browser, served: Running, viewport: dict[str, int], scheme: str, said: list[str]) -> Page:
    """A page of a new person; what the browser complains about is added to `said`."""
    context = chromium.new_context(
        base_url=served.url,
        viewport=viewport,  # type: ignore[arg-type]  # its two numbers
        color_scheme=scheme,  # type: ignore[arg-type]  # light or dark
        java_script_enabled=False,
    )
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    # A picture that was on its way when the next page was asked for is given up by the browser itself.
    page.on(
        "requestfailed",
        lambda request: said.append(f"{request.url}: {request.failure}") if request.failure != "net::ERR_ABORTED" else None,
    )
    return page


def test_a_link_signs_in_without_scripts_and_out_again(served: Running, chromium: Browser) -> None:
    said: list[str] = []
    page = opened(chromium, served, DESK, "light", said)
    link = analytics("--home", served.home, "signin").out.strip()
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    page.goto("/account")
    assert "platform-admin" in page.inner_text("main")
    page.get_by_role("button", name="Sign out").click()
    assert page.url == f"{served.url}/signin"
    page.goto("/account")
    assert page.url == f"{served.url}/signin?next=%2Faccount"
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    assert "was used" in page.get_by_role("alert").inner_text()
    # A refusal's status is what a browser's console tells of, and nothing of the policy.
    assert [text for text in said if "401" not in text] == []
    page.context.close()


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "dark"), (DESK, "light")])
def test_a_key_signs_in_and_a_wrong_one_is_told_at_its_field(
    served: Running, chromium: Browser, viewport: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    said: list[str] = []
    page = opened(chromium, served, viewport, scheme, said)
    page.goto("/account")
    field = page.get_by_label("Key")
    assert field.evaluate("e => e === document.activeElement")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    field.fill("ak_not_a_key")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    alert = page.get_by_role("alert")
    assert "checksum" in alert.inner_text()
    described = (page.get_by_label("Key").get_attribute("aria-describedby") or "").split()
    assert alert.get_attribute("id") in described
    page.screenshot(path=tmp_path / "refused.png")
    page.get_by_label("Key").fill(served.key(Role.VIEWER, "default"))
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url == f"{served.url}/account"
    assert "viewer" in page.inner_text("main")
    assert [text for text in said if "401" not in text] == []
    page.context.close()
