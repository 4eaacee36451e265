"""What people write for a report is read, or refused with what would do; what they keep is theirs alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports.conftest import keep

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import ConflictError, NotFoundError, UserError
from analytics_dagster.installation import Installation
from analytics_dagster.lake.database import Database
from analytics_dagster.reports.report import Form, read_address, read_recipients, read_wanted
from analytics_dagster.reports.store import MOST_REPORTS, By, Reports
from analytics_dagster.tenancy.audit import Audit

GOOD: dict[str, Any] = {
    "name": "weekly",
    "view": "overview?period=7d&f=is,country,DE,FR",
    "form": "pdf",
    "schedule": "0 7 * * mon",
    "time_zone": "Europe/Berlin",
    "recipients": ["ann@example.com"],
    "tenant": "acme",
}


@pytest.mark.parametrize(
    "view",
    [
        "overview?period=7d&f=is,country,DE,FR",
        "/dashboards/acme/overview?period=7d&f=is,country,DE,FR",
        "https://figures.example/dashboards/acme/overview?f=is,country,DE,FR&period=7d&compare=previous",
        "http://127.0.0.1:8000/dashboards/acme/overview.pdf?period=7d&f=is%2Ccountry%2CDE%2CFR",
    ],
)
def test_a_view_is_named_by_its_address_however_it_was_copied(view: str) -> None:
    assert read_address(view, "acme") == ("overview", "?period=7d&f=is,country,DE,FR")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "Weekly report"}, "name 'Weekly report' cannot be used; write lower-case letters"),
        ({"view": "/dashboards/borealis/overview"}, "is of tenant 'borealis'; a report of 'acme' shows that one alone"),
        ({"view": "https://elsewhere.example/overview"}, "is not a view; copy its page's address"),
        ({"view": ""}, "is not a view"),
        ({"view": "overview?period=fortnight"}, "period='fortnight' is not known; one of day, 7d"),
        ({"form": "xlsx"}, "format 'xlsx' is not known; one of pdf, png"),
        ({"recipients": []}, "a report needs a recipient"),
        ({"recipients": ["ann"]}, "recipient 'ann' is neither an e-mail address"),
        ({"recipients": ["Ann <ann@example.com>"]}, "is neither an e-mail address"),
        ({"recipients": ["ann@example.com\r\nBcc: eve@example.com"]}, "is neither an e-mail address"),
        ({"recipients": ["slack:"]}, "names no Slack channel"),
        ({"recipients": [f"p{n}@example.com" for n in range(21)]}, "21 recipients are named, 20 are allowed"),
        ({"schedule": "0 7 * * mon", "time_zone": "Berlin"}, "no time zone 'Berlin'"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_wanted(**{**GOOD, **wrong})
    assert said in str(refused.value)


def test_recipients_are_told_once_and_domains_know_no_case() -> None:
    found = read_recipients([" ann@Example.COM ", "ann@example.com", "slack:music", "Ann@example.com"])
    assert [str(one) for one in found] == ["ann@example.com", "slack:music", "Ann@example.com"]
    assert [one.domain for one in found] == ["example.com", None, "example.com"]


@given(st.text(max_size=40))
def test_no_text_becomes_a_recipient_with_another_header_in_it(text: str) -> None:
    try:
        (found,) = read_recipients([text])
    except UserError:
        return
    if not str(found).startswith("slack:"):
        assert not set(str(found)) & set('\r\n\t <>",;')


def test_a_report_is_kept_as_it_was_written(database: Database, clock: ManualClock) -> None:
    reports = Reports(database, clock)
    made = reports.add("acme", read_wanted(**GOOD), By("ann"))
    assert reports.get("acme", "weekly") == made
    assert (made.wanted.form, made.creator, made.paused) == (Form.PDF, "ann", False)
    assert f"{made.next_due_at:%Y-%m-%d %H:%M}" == "2026-03-16 06:00"  # seven in Berlin, in winter
    assert reports.all("borealis") == []
    for refused in (reports.pause, reports.resume, reports.remove):
        with pytest.raises(NotFoundError, match="no report 'weekly' of borealis"):
            refused("borealis", "weekly", By())


def test_a_name_is_taken_once_also_by_two_at_once(database: Database, clock: ManualClock) -> None:
    reports, outcomes = Reports(database, clock), []

    def add() -> None:
        try:
            outcomes.append(reports.add("acme", read_wanted(**GOOD), By()).name)
        except ConflictError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("weekly") == 1
    assert outcomes.count("acme has a report 'weekly' already; take another name, or remove that one first") == 3


def test_a_tenant_has_only_so_many(installation: Installation) -> None:
    for number in range(MOST_REPORTS):
        keep(installation, f"r{number}")
    with pytest.raises(UserError, match="acme has 100 reports already; remove one first"):
        keep(installation, "one-more")
    keep(installation, "one-more", tenant="borealis")


def test_every_change_is_in_the_audit_trail(installation: Installation, clock: ManualClock) -> None:
    reports = Reports(installation.database, clock)
    keep(installation, "weekly")
    reports.pause("acme", "weekly", By("bob", "r-1"))
    reports.pause("acme", "weekly", By("bob"))  # it was
    reports.resume("acme", "weekly", By("bob"))
    reports.send_now("acme", "weekly", By("eve"))
    reports.remove("acme", "weekly", By("eve"))
    trail = [entry for entry in Audit(installation.database, clock).entries(tenant="acme") if entry.action.startswith("report.")]
    assert [(entry.action, entry.actor, entry.target) for entry in trail] == [
        ("report.add", "ann", "weekly"),
        ("report.pause", "bob", "weekly"),
        ("report.resume", "bob", "weekly"),
        ("report.send", "eve", "weekly"),
        ("report.remove", "eve", "weekly"),
    ]
    assert trail[0].detail == "overview?period=7d to ann@example.com"
    assert trail[1].request_id == "r-1"
