"""How soon the Overview is there: 12 charts over 100,000,000 plays in two years, in headless Chromium, our caches cold.

Each load is of four weeks that no load before it showed (pictures are kept by content), in a browser context of its own. The
operating system's cache of files stays. With scripts a frame loop notes when the first and when the last chart has a size on the
page. Without them that cannot be seen from within: charts are part of the document, so what is told is the end of parsing it, or
the first paint where that is later, and one frame more. A slow phone is CPU x 4 and 1.6 Mbit/s, without latency.
"""

from __future__ import annotations

import datetime as dt
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.asking import DAYS, PER_DAY, TENANT, large_lake
from benchmarks.ingest import servers
from benchmarks.plays import FIRST, STREAM_MS
from benchmarks.report import Line

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.lake.schemas import TableSchema

LOADS = 50
SLOWER = 4
BITS_A_SECOND = 1_600_000
FRAME_MS = 1_000 / 60
# As tests/browser starts it.
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
# Sparklines, and the plots; leaderboards are tables.
CHARTS = "svg.spark, svg.picture"
WATCH = f"""
window.__seen = {{first: null, last: null, count: 0, shift: 0}};
new PerformanceObserver((list) => {{
  for (const entry of list.getEntries()) window.__seen.shift += entry.value;
}}).observe({{type: "layout-shift", buffered: true}});
const look = () => {{
  const count = [...document.querySelectorAll("{CHARTS}")].filter((c) => c.getBoundingClientRect().width > 0).length;
  if (count > window.__seen.count) {{
    const now = performance.now();
    requestAnimationFrame(() => {{
      window.__seen.first ??= performance.now(); window.__seen.last = performance.now();
    }});
    window.__seen.count = count;
  }}
  requestAnimationFrame(look);
}};
requestAnimationFrame(look);
"""
TIMES = """() => {
  const [nav] = performance.getEntriesByType("navigation"), paint = performance.getEntriesByName("first-contentful-paint")[0];
  const styles = performance.getEntriesByType("resource").filter((r) => r.name.endsWith(".css"));
  return {
    answered: nav.responseStart, received: nav.responseEnd, parsed: nav.domContentLoadedEventEnd, painted: paint.startTime,
    bytes: nav.transferSize + styles.reduce((sum, r) => sum + r.transferSize, 0),
    charts: document.querySelectorAll("CHARTS").length,
    ...(window.__seen ? {first: window.__seen.first, last: window.__seen.last, shift: window.__seen.shift} : {}),
  };
}""".replace("CHARTS", CHARTS)


@dataclass(frozen=True)
class Load:
    """Milliseconds since the navigation began, bytes of document and styles, charts, and layout shift (None: not seen)."""

    answered: float
    first: float
    last: float
    bytes: int
    charts: int
    shift: float | None


def overview(loads: int = LOADS) -> Iterator[Line]:
    """A line for each way of looking: scripts on and off, a fast machine and a slow phone."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        yield Line("Overview in Chromium", "Chromium is not installed", "-")
        return
    days = _days()
    with large_lake() as (home, key):
        publish(home)
        with servers.serving(home, key, {"ANALYTICS_SERVER_WORKERS": "1"}) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            _load(browser, server, next(days), scripts=True, slow=False)  # opens the engine and the catalogue
            for slow in (False, True):
                for scripts in (True, False):
                    seen = [_load(browser, server, next(days), scripts=scripts, slow=slow) for _ in range(loads)]
                    yield _line(seen, scripts=scripts, slow=slow)
            browser.close()


def _line(seen: list[Load], *, scripts: bool, slow: bool) -> Line:
    answered, first, last = (
        np.percentile([getattr(load, name) for load in seen], [50, 95]) for name in ("answered", "first", "last")
    )
    figure = (
        f"{len(seen)} loads, p50 and p95: answer begins {answered[0]:,.0f}, {answered[1]:,.0f} ms, first chart {first[0]:,.0f}, "
        f"{first[1]:,.0f} ms, all {min(load.charts for load in seen)} {last[0]:,.0f}, {last[1]:,.0f} ms; "
        f"{max(load.bytes for load in seen) / 1_000:.0f} kB"
    )
    shifts = [load.shift for load in seen if load.shift is not None]
    if shifts:
        figure += f", layout shift {max(shifts):.3f}"
    wanted = "p95 1,000 ms" if slow else "first chart p95 500 ms, all 1,000 ms, 150 kB, no shift"
    machine = f"CPU x {SLOWER}, {BITS_A_SECOND / 1e6} Mbit/s" if slow else "two cores"
    return Line(f"Overview, {DAYS * PER_DAY:,} plays, {machine}, scripts {'on' if scripts else 'off'}", figure, wanted)


def _days() -> Iterator[dt.date]:
    """Last days of views, in no order, none twice."""
    numbers = list(range(60, DAYS))
    random.Random(11).shuffle(numbers)
    yield from (FIRST + dt.timedelta(days=n) for n in numbers)


def _load(browser: Browser, server: servers.Server, last: dt.date, *, scripts: bool, slow: bool) -> Load:
    headers = {"Authorization": f"Bearer {server.key}"}
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, java_script_enabled=scripts, extra_http_headers=headers
    )
    page = context.new_page()
    if scripts:
        page.add_init_script(WATCH)
    if slow:
        _slow_down(page)
    page.goto(f"http://127.0.0.1:{server.port}/dashboards/{TENANT}/overview?to={last}", wait_until="load", timeout=60_000)
    page.wait_for_timeout(300)  # the frames after the last chart
    said: Mapping[str, Any] = page.evaluate(TIMES)
    context.close()
    whole = max(said["parsed"], said["painted"]) + FRAME_MS
    return Load(
        said["answered"],
        said.get("first") or whole,
        said.get("last") or whole,
        said["bytes"],
        said["charts"],
        said.get("shift"),
    )


def _slow_down(page: Page) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    session.send("Network.enable")
    speed = BITS_A_SECOND / 8
    session.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": speed, "uploadThroughput": speed},
    )


def publish(home: Path) -> None:
    """Say that the lake's figures are published, and add a little of what else the board shows: subscriptions, advertisements."""
    from analytics_dagster.installation import open_installation
    from analytics_dagster.lake.content import days_between
    from analytics_dagster.lake.schemas import AD_IMPRESSIONS, SUBSCRIPTIONS
    from analytics_dagster.metrics.aggregate import aggregate_days
    from analytics_dagster.metrics.load import load_catalogue
    from analytics_dagster.orchestration.tenant_steps import publications_of
    from analytics_dagster.settings import Settings

    installation, catalogue = open_installation(Settings.from_environment(home), create=False), load_catalogue()
    lake, last = installation.lake.tenant(TENANT), FIRST + dt.timedelta(days=DAYS - 1)
    days = days_between(FIRST, last)
    given: dict[str, list[Any]] = {"currency": ["USD"], "country": ["US"], "listener_id": ["1"]}
    _fill(lake, SUBSCRIPTIONS, days, {**given, "event": ["upgrade", "renewal"], "amount_minor": [999]})
    _fill(lake, AD_IMPRESSIONS, days, {**given, "filled": [True], "revenue_micros": [1_000, 3_000]})
    for family in (catalogue.family(name) for name in ("listening", "subscriptions", "ads")):
        if family.name != "listening":
            aggregate_days(lake, family, FIRST, last, stream_ms=STREAM_MS)
        made = publications_of(lake, family.table("day"), family.asset, FIRST, last)
        installation.publications.record(made, "bench")
    installation.database.dispose()


def _fill(lake: TenantLake, table: TableSchema, days: list[dt.date], given: Mapping[str, list[Any]], a_day: int = 20) -> None:
    count = len(days) * a_day
    columns: dict[str, Any] = {name: [values[n % len(values)] for n in range(count)] for name, values in given.items()}
    columns[table.key] = [str(n) for n in range(count)]
    noon = dt.time(12, tzinfo=dt.UTC)
    columns["ts"] = [dt.datetime.combine(day, noon) for day in days for _ in range(a_day)]
    made = [pa.array(columns[c.name], c.type) if c.name in columns else pa.nulls(count, c.type) for c in table.columns]
    lake.table(table).overwrite_days(pa.table(made, schema=table.arrow), days[0], days[-1])


if __name__ == "__main__":
    for line in overview(int(sys.argv[1]) if sys.argv[1:] else LOADS):
        print(line, flush=True)
