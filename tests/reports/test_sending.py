"""What goes out and when: to a real mail server, through refusals, pauses, outages and two who send at once."""

from __future__ import annotations

import datetime as dt
import os
import threading
from dataclasses import replace
from typing import Any

import pytest
from reports.conftest import Mailbox, drawn, keep

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import ConflictError, NotFoundError, UserError
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.state_tables import report_sendings
from analytics_dagster.lake.state_tables import reports as kept
from analytics_dagster.orchestration.diagnosis import diagnose
from analytics_dagster.reports import sendings
from analytics_dagster.reports.document import Document
from analytics_dagster.reports.report import Report, read_wanted
from analytics_dagster.reports.send import require_ways, send_due
from analytics_dagster.reports.store import By, Reports, Sending, state_of
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.tenants import TenantStatus

DAY = dt.timedelta(days=1)


@pytest.fixture
def installation(mailing: Mailbox, installation: Installation) -> Installation:
    return installation


def send(installation: Installation, **named: Any) -> str:
    return str(send_due(installation, draw=drawn, **named))


def rows(installation: Installation, name: str = "weekly") -> list[Sending]:
    return Reports(installation.database, installation.clock).sendings("acme", name)


def test_a_report_goes_out_once_when_it_is_due(installation: Installation, mailing: Mailbox, clock: ManualClock) -> None:
    keep(installation, "weekly", "ann@example.com", "bob@example.com")
    assert send(installation) == "nothing to send"
    clock.advance(dt.timedelta(hours=1, minutes=1))
    assert send(installation) == "2 sent"
    assert send(installation) == "nothing to send"
    assert [str(mail["To"]) for mail in mailing.mails] == ["ann@example.com", "bob@example.com"]
    first = mailing.mails[0]
    assert str(first["From"]) == "Analytics reports <reports@house.example>"
    assert str(first["Subject"]) == "Overview: acme, 2026-03-09"
    text = first.get_body(("plain",))
    assert text is not None
    assert text.get_content().splitlines() == [
        "Overview: acme",
        "2026-03-09 to 2026-03-09, 1 days, UTC",
        "Data through 2026-03-09 23:59 UTC; 3 of 3 sources; checks 4 of 4",
        "",
        "Plays rose.",
        "",
        "Streams: 1.2k (+12 %)",
        "",
        "Open it live: http://127.0.0.1:8000/dashboards/acme/overview?period=7d",
        "",
        "Report weekly of acme, due 2026-03-10 07:00 UTC; set up by ann.",
    ]
    (attached,) = first.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("acme-overview.pdf", "application/pdf")
    assert attached.get_content() == b"%PDF-1.7 small"
    assert {one.state for one in rows(installation)} == {"sent"}
    assert rows(installation)[0].days == "2026-03-09..2026-03-09"


def test_a_server_that_refuses_for_now_is_asked_again_later_each_time(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    keep(installation)
    clock.advance(DAY)
    mailing.answer = lambda _: "451 greylisted, come again"
    assert "451 greylisted, come again; will try again" in send(installation)
    waits = []
    for _ in range(4):
        waits.append((rows(installation)[0].try_at - clock.now()).total_seconds())
        clock.advance(dt.timedelta(seconds=waits[-1] - 1))
        assert send(installation) == "nothing to send"
        clock.advance(dt.timedelta(seconds=1))
        send(installation)
    assert waits == [5, 10, 20, 40]
    assert state_of(rows(installation)) == "due, trying again; ann@example.com: 451 greylisted, come again"
    mailing.answer = lambda _: None
    clock.advance(dt.timedelta(minutes=10))
    assert send(installation) == "1 sent"
    assert (len(mailing.mails), mailing.tries) == (1, 6)


def test_one_recipient_who_is_refused_for_good_is_no_others_loss(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    keep(installation, "weekly", "gone@example.com", "bob@example.com")
    clock.advance(DAY)
    mailing.answer = lambda to: "550 no such user" if to.startswith("gone") else None
    assert send(installation).startswith("1 sent, 1 failed; report weekly of acme to gone@example.com: 550 no such user")
    clock.advance(dt.timedelta(minutes=59))
    assert send(installation) == "nothing to send"
    assert state_of(rows(installation)[:2]) == "sent to 1 of 2; gone@example.com: 550 no such user"
    (found,) = [finding for finding in diagnose(installation) if finding.about == "reports"]
    assert found.level == "problem"
    assert found.found == "weekly of acme due 2026-03-10 07:00 UTC did not reach gone@example.com: 550 no such user"


def test_a_server_that_is_away_is_tried_until_three_days_have_passed(installation: Installation, clock: ManualClock) -> None:
    monthly = keep(installation, schedule="0 7 1 * *")
    clock.advance(monthly.next_due_at - clock.now() + 7 * DAY)  # nobody looked for a week
    away = installation.settings.model_copy(update={"smtp_port": 1})
    alone = Installation(**{**installation.__dict__, "settings": away})
    assert "mail server 127.0.0.1:1:" in send(alone)
    clock.advance(3 * DAY)
    assert "given up after 2 attempts; last: mail server" in send(alone)
    assert rows(installation)[0].state == "failed"


def test_of_missed_times_the_newest_goes_out_and_says_so(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    keep(installation)
    clock.advance(4 * DAY)  # of the 10th, 11th, 12th and 13th; the 14th is an hour away
    assert send(installation) == "1 sent"
    text = mailing.mails[0].get_body(("plain",))
    assert text is not None
    assert "3 earlier times could not be kept; this report is the newest and stands for all of them." in text.get_content()
    assert "due 2026-03-13 07:00 UTC" in text.get_content()
    clock.advance(DAY)
    assert send(installation) == "1 sent"
    assert "earlier" not in str(mailing.mails[1])


def test_a_newer_due_time_ends_the_tries_of_an_older_one(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    keep(installation)
    mailing.answer = lambda _: "421 busy"
    for _ in range(3):
        clock.advance(DAY)
        send(installation)
    mailing.answer = lambda _: None
    clock.advance(dt.timedelta(minutes=10))
    assert send(installation) == "1 sent"
    text = mailing.mails[0].get_body(("plain",))
    assert text is not None
    assert "2 earlier times could not be kept" in text.get_content()
    assert [(one.due_at.day, one.state) for one in rows(installation)] == [(12, "sent"), (11, "skipped"), (10, "skipped")]


def test_a_suspended_tenant_sends_nothing_and_makes_nothing_up_for(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    keep(installation)
    mailing.answer = lambda _: "451 later"
    clock.advance(DAY)
    send(installation)
    mailing.answer = lambda _: None
    installation.tenants.set_status("acme", TenantStatus.SUSPENDED)
    clock.advance(2 * DAY)
    assert send(installation) == "nothing to send"
    assert rows(installation)[0].last_error == "the tenant is suspended or removed"
    installation.tenants.set_status("acme", TenantStatus.ACTIVE)
    assert send(installation) == "nothing to send"
    clock.advance(DAY)
    assert send(installation) == "1 sent"
    assert "earlier" not in str(mailing.mails[0])


def test_a_paused_report_waits_and_goes_on_with_the_next_time(installation: Installation, clock: ManualClock) -> None:
    reports = Reports(installation.database, clock)
    keep(installation)
    reports.pause("acme", "weekly", By())
    clock.advance(3 * DAY)
    assert send(installation) == "nothing to send"
    assert reports.resume("acme", "weekly", By()).next_due_at == clock.now() + dt.timedelta(hours=1)
    assert send(installation) == "nothing to send"
    clock.advance(dt.timedelta(hours=1))
    assert send(installation) == "1 sent"


def test_sending_by_hand_leaves_the_schedule_alone(installation: Installation, mailing: Mailbox, clock: ManualClock) -> None:
    reports = Reports(installation.database, clock)
    due = keep(installation).next_due_at
    reports.pause("acme", "weekly", By())
    reports.send_now("acme", "weekly", By())
    with pytest.raises(ConflictError, match="is on its way already"):
        reports.send_now("acme", "weekly", By())
    assert send(installation, only=("acme", "weekly")) == "1 sent"
    assert "asked for by hand" in str(mailing.mails[0])
    assert reports.get("acme", "weekly").next_due_at == due


@pytest.mark.parametrize("seconds", [0, 3])
def test_asked_for_by_hand_when_it_is_due_it_goes_out_once_and_holds_nobody_up(
    installation: Installation, mailing: Mailbox, clock: ManualClock, seconds: int
) -> None:
    keep(installation, "weekly", "ann@example.com")
    due = keep(installation, "weekly", "bob@example.com", tenant="borealis").next_due_at
    clock.advance(due - clock.now() + dt.timedelta(seconds=seconds, milliseconds=400))
    Reports(installation.database, clock).send_now("acme", "weekly", By())
    clock.advance(dt.timedelta(seconds=4))
    assert send(installation) == "2 sent"
    assert sorted(str(mail["To"]) for mail in mailing.mails) == ["ann@example.com", "bob@example.com"]
    clock.advance(dt.timedelta(hours=1))
    assert send(installation) == "nothing to send"
    clock.advance(DAY)
    assert send(installation) == "2 sent"


def test_a_report_that_cannot_be_read_is_told_and_is_no_others_loss(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    for tenant in ("acme", "borealis"):
        keep(installation, "weekly", f"{tenant}@example.com", tenant=tenant)
    broken = kept.update().where(kept.c.tenant == "acme").values(time_zone="Mars/Olympus")
    installation.database.write(lambda connection: connection.execute(broken))
    clock.advance(DAY)
    said = send(installation)
    assert said.startswith("1 sent; report weekly of acme cannot be made due: UserError: ")
    assert "Mars/Olympus" in said
    assert [str(mail["To"]) for mail in mailing.mails] == ["borealis@example.com"]


def test_a_removed_report_goes_out_no_more_not_even_what_was_due(installation: Installation, clock: ManualClock) -> None:
    keep(installation)
    clock.advance(DAY)
    assert sendings.note_due(installation.database, clock.now()) == 1
    Reports(installation.database, clock).remove("acme", "weekly", By())
    assert send(installation) == "nothing to send"
    assert rows(installation) == []


def test_one_who_was_away_for_longer_than_the_lease_sends_nothing(installation: Installation, clock: ManualClock) -> None:
    keep(installation)
    clock.advance(DAY)
    sendings.note_due(installation.database, clock.now())
    policy = sendings.Policy()
    slow = sendings.claim(installation.database, "slow", clock.now(), policy)
    assert slow is not None
    assert sendings.claim(installation.database, "other", clock.now(), policy) is None
    clock.advance(policy.lease)
    other = sendings.claim(installation.database, "other", clock.now(), policy)
    assert other is not None
    assert not sendings.hold(installation.database, slow.sendings[0], "slow", clock.now() + policy.lease)
    assert not sendings.finish(installation.database, slow.sendings[0], "slow", {"state": "sent"})
    assert sendings.hold(installation.database, other.sendings[0], "other", clock.now() + policy.lease)
    assert other.sendings[0].attempts == 1


def test_several_who_note_and_claim_at_once_share_what_is_due(database: Database, clock: ManualClock) -> None:
    from analytics_dagster.tenancy.tenants import Tenants

    Tenants(database, clock).ensure("acme")
    for number in range(6):
        wanted = read_wanted(
            name=f"r{number}", view="overview", form="pdf", schedule="0 7 * * *", time_zone="UTC",
            recipients=["ann@example.com", "bob@example.com"], tenant="acme",
        )  # fmt: skip
        Reports(database, clock).add("acme", wanted, By())
    now = clock.advance(DAY)
    found: list[tuple[str, str]] = []

    def work(me: str) -> None:
        sendings.note_due(database, now)
        while (claim := sendings.claim(database, me, now, sendings.Policy())) is not None:
            for one in claim.sendings:
                if sendings.finish(database, one, me, {"state": "sent", "sent_at": now}):
                    found.append((one.name, one.recipient))

    threads = [threading.Thread(target=work, args=(f"me{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 12


def test_only_allowed_domains_are_mailed_to_also_when_the_list_grows_shorter(
    home: Any, mailing: Mailbox, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYTICS_REPORT_DOMAINS", "example.com, label.example")
    opened = open_installation(Settings.from_environment(home), clock, create=True)
    good = keep(opened, "weekly", "ann@example.com", "bob@label.example")
    require_ways(opened, "acme", good.wanted, os.environ)
    bad = keep(opened, "leak", "eve@elsewhere.example", "ann@sub.example.com")
    with pytest.raises(
        UserError, match=r"may not be mailed to eve@elsewhere\.example; ANALYTICS_REPORT_DOMAINS allows example\.com, l"
    ):
        require_ways(opened, "acme", bad.wanted, os.environ)
    shorter = opened.settings.model_copy(update={"analytics_report_domains": "label.example"})
    clock.advance(DAY)
    send(Installation(**{**opened.__dict__, "settings": shorter}))
    assert [str(mail["To"]) for mail in mailing.mails] == ["bob@label.example"]
    assert rows(opened)[0].last_error == "ANALYTICS_REPORT_DOMAINS allows label.example only"
    opened.database.dispose()


def test_a_view_that_cannot_be_shown_is_said_and_the_next_time_is_another_try(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    keep(installation)
    keep(installation, "other")
    clock.advance(DAY)

    def draw(opened: Installation, report: Any) -> Any:
        if report.name == "weekly":
            raise NotFoundError("no metric 'streems'; did you mean 'streams'?")
        return drawn(opened, report)

    said = str(send_due(installation, draw=draw))
    assert said.startswith("1 sent, 1 failed; report weekly of acme to ann@example.com: the view cannot be shown: no metric 'str")
    assert [one.name for one in sendings.not_sent(installation.database)] == ["weekly"]
    clock.advance(DAY)
    assert send(installation) == "2 sent"
    assert sendings.not_sent(installation.database) == []


@pytest.mark.parametrize("where", ["drawing", "sending"])
def test_what_nobody_expected_is_kept_with_its_row_and_given_up_as_other_failures_are(
    installation: Installation, mailing: Mailbox, clock: ManualClock, where: str
) -> None:
    for tenant in ("acme", "borealis"):
        keep(installation, "weekly", f"{tenant}@example.com", tenant=tenant, schedule="0 7 1 4 *")

    def draw(opened: Installation, report: Report) -> Document:
        made = drawn(opened, report)
        if report.tenant == "borealis":
            return made
        if where == "drawing":
            raise ZeroDivisionError("float division by zero")
        return replace(made, covers=("\ud800",))  # which no message can hold

    for tenant in ("acme", "borealis"):
        Reports(installation.database, clock).send_now(tenant, "weekly", By())
    said = str(send_due(installation, draw=draw))
    assert said.startswith("1 sent, 1 retried; report weekly of acme")
    assert [str(mail["To"]) for mail in mailing.mails] == ["borealis@example.com"]
    (row,) = rows(installation)
    kind = "ZeroDivisionError: float division by zero" if where == "drawing" else "UnicodeEncodeError: "
    assert (row.state, str(row.last_error)[: len(kind)]) == ("due", kind)
    clock.advance(3 * DAY)
    assert "given up after 2 attempts; last: " + kind in str(send_due(installation, draw=draw))
    assert rows(installation)[0].state == "failed"


def test_a_due_report_that_cannot_be_read_any_more_fails_alone(
    installation: Installation, mailing: Mailbox, clock: ManualClock
) -> None:
    for tenant in ("acme", "borealis"):
        keep(installation, "weekly", f"{tenant}@example.com", tenant=tenant)
    clock.advance(DAY)
    sendings.note_due(installation.database, clock.now())
    broken = kept.update().where(kept.c.tenant == "acme").values(time_zone="Mars/Olympus")
    installation.database.write(lambda connection: connection.execute(broken))
    assert send(installation) == "1 sent"
    with installation.database.read() as connection:
        (row,) = connection.execute(report_sendings.select().where(report_sendings.c.tenant == "acme")).all()
    assert row.state == "failed"
    assert row.last_error.startswith("the report cannot be read: ")


def test_without_a_mail_server_the_report_waits_for_one(installation: Installation, clock: ManualClock) -> None:
    report = keep(installation)
    bare = Installation(**{**installation.__dict__, "settings": installation.settings.model_copy(update={"smtp_host": None})})
    with pytest.raises(UserError, match="no mail can be sent: SMTP_HOST is not set"):
        require_ways(bare, "acme", report.wanted, os.environ)
    clock.advance(DAY)
    assert "SMTP_HOST is not set" in send(bare)
    clock.advance(dt.timedelta(minutes=1))
    assert send(installation) == "1 sent"


def test_dagster_sends_only_where_nobody_sends_all_the_time(installation: Installation, clock: ManualClock) -> None:
    database = installation.database
    keep(installation)
    assert not sendings.needs_a_sender(database, clock.now())
    clock.advance(DAY)
    assert sendings.needs_a_sender(database, clock.now())
    sendings.renew_sender(database, clock.now())
    assert not sendings.needs_a_sender(database, clock.now())
    clock.advance(dt.timedelta(seconds=sendings.SENDER_SECONDS))
    assert sendings.needs_a_sender(database, clock.now())


def test_what_is_over_for_90_days_is_forgotten(installation: Installation, clock: ManualClock) -> None:
    keep(installation, schedule="0 7 1 1 *")
    Reports(installation.database, clock).send_now("acme", "weekly", By())
    send(installation)
    clock.advance(89 * DAY)
    assert sendings.forget_old(installation.database, clock.now()) == 0
    clock.advance(2 * DAY)
    assert sendings.forget_old(installation.database, clock.now()) == 1
