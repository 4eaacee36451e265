"""A report of figures that Dagster published, sent by Dagster: what arrives, which days it covers, and whose figures it shows."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from orchestration.ticking import Ticking, ticking
from PIL import Image
from reports.conftest import Mailbox, keep, mailbox, mailing

from analytics_dagster.errors import UserError
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.orchestration.sensors import report_sensor
from analytics_dagster.reports import sendings
from analytics_dagster.reports.document import board_of, render_report
from analytics_dagster.reports.picture import as_svg
from analytics_dagster.reports.store import By, Reports

__all__ = ["mailbox", "mailing"]
DAY = dt.date(2026, 3, 1)
FIGURES = ("raw/system_samples", "aggregates/system")


@pytest.fixture
def here(mailing: Mailbox, home: Path) -> Iterator[Ticking]:
    """Eight days of a machine of two tenants, published."""
    with ticking(home) as opened:
        opened.land(DAY, days=8, cpu=10)
        opened.land(DAY, days=8, cpu=90, tenant="borealis")
        opened.materialize(*FIGURES, first=DAY, last=DAY + dt.timedelta(days=7))
        yield opened


def test_dagster_sends_what_is_due_with_the_days_of_that_moment(here: Ticking, mailing: Mailbox) -> None:
    keep(here.installation, "machines", view="technical?period=7d&metric=cpu_usage_percent")
    waiting = here.tick(report_sensor)
    assert isinstance(waiting, dg.SkipReason)
    assert waiting.skip_message == "no report is due, or the server sends them"
    here.clock.advance(dt.timedelta(days=1))
    assert isinstance(here.tick(report_sensor), dg.RunRequest)
    under_way = here.begin("send_reports")
    assert isinstance(here.tick(report_sensor), dg.SkipReason)
    here.instance.delete_run(under_way.run_id)
    assert here.run_job("send_reports").success
    [mail] = mailing.mails
    assert str(mail["Subject"]) == "Technical, acme, 2026-03-02 to 2026-03-08"
    text = mail.get_body(("plain",))
    assert text is not None
    said = text.get_content()
    assert "2026-03-02 to 2026-03-08, 7 days, UTC, compared with 2026-02-23 to 2026-03-01" in said
    assert re.search(r"Data through 2026-03-08 23:59 UTC; 1 of \d+ sources; checks \d+ of \d+", said)
    assert "CPU usage percent: 10 %" in said
    assert "Open it live: http://127.0.0.1:8000/dashboards/acme/technical?period=7d&metric=cpu_usage_percent" in said
    [attached] = mail.iter_attachments()
    assert attached.get_filename() == "acme-technical-2026-03-08.pdf"
    assert attached.get_content().startswith(b"%PDF-")
    # New figures by the next time: the same report covers a day more.
    here.land(DAY + dt.timedelta(days=8), cpu=10)
    here.materialize(*FIGURES, first=DAY + dt.timedelta(days=8), last=DAY + dt.timedelta(days=8))
    here.clock.advance(dt.timedelta(days=1))
    assert here.run_job("send_reports").success
    assert str(mailing.mails[1]["Subject"]) == "Technical, acme, 2026-03-03 to 2026-03-09"
    assert not sendings.has_due(here.installation.database, here.clock.now())


def test_a_picture_shows_figures_and_charts_of_its_tenant_alone(here: Ticking) -> None:
    catalogue = load_catalogue(None)
    report = keep(here.installation, "machines", view="technical?period=7d", form="png", tenant="borealis")
    document = render_report(here.installation, catalogue, report)
    assert ("CPU usage percent", "90 %", "-") in document.figures
    with Image.open(io.BytesIO(document.content)) as picture:
        assert picture.width == 1_800
        assert picture.height > 1_000
        assert len(picture.convert("RGB").getcolors(2**20) or ()) > 20  # charts are drawn, not paper alone
    from analytics_dagster.dashboards.page import read_page

    board = board_of(here.installation, catalogue, "borealis", "technical")
    svg = as_svg(read_page(here.installation, catalogue, "borealis", board, report.wanted.view))
    assert ">Technical: borealis<" in svg
    assert "acme" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    # A view of tables alone is no picture, and the report says so.
    keep(here.installation, "checks", view="quality", form="png")
    report = Reports(here.installation.database, here.clock).get("acme", "checks")
    with pytest.raises(UserError, match="'quality' has no figures or charts in this view; send it as pdf"):
        render_report(here.installation, load_catalogue(None), report)
    Reports(here.installation.database, here.clock).send_now("acme", "checks", By())
    assert here.run_job("send_reports").success
    (wrong,) = sendings.not_sent(here.installation.database)
    assert wrong.state == "failed"
    assert "the view cannot be shown: the dashboard 'quality'" in str(wrong.last_error)
