"""The picture of each dashboard in docs/images/boards, taken anew from a running demo (`make run`):

.venv/bin/python tests/board_pictures.py "$(.venv/bin/analytics signin)" aurora
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from browser.conftest import CHROMIUM, FLAGS
from PIL import Image

from analytics_dagster.dashboards.boards import load_boards
from analytics_dagster.metrics.load import load_catalogue

TARGET = Path(__file__).parent.parent / "docs" / "images" / "boards"
TALLEST = 2_200  # pixels; of a longer page the beginning


def take(link: str, tenant: str) -> None:
    """`link` signs in once; the pictures are of that server's `tenant`."""
    from playwright.sync_api import sync_playwright

    TARGET.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(link)
        if (button := page.get_by_role("button", name="Sign in")).count():
            button.click()
        page.wait_for_load_state("networkidle")
        address = page.url.split("/dashboards", 1)[0].rstrip("/")
        for board in load_boards(load_catalogue()).boards:
            page.goto(f"{address}/dashboards/{tenant}/{board.name}")
            height = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
            seen = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": 1280, "height": height})
            # A page has few colours: a third of the size.
            few = Image.open(io.BytesIO(seen)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
            few.save(TARGET / f"{board.name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    take(*sys.argv[1:])
