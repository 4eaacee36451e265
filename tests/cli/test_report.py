"""`analytics report`: from adding one to the mail that arrives, and what it says when it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.command import analytics
from reports.conftest import Mailbox, mailbox, mailing

from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.settings import Settings

__all__ = ["mailbox", "mailing"]
ADD = ("report", "add", "weekly", "--tenant", "acme", "--view", "overview?period=7d", "--schedule", "0 7 * * mon")


@pytest.fixture
def acme(mailing: Mailbox, home: Path) -> Installation:
    opened = open_installation(Settings.from_environment(home), create=True)
    opened.tenants.ensure("acme")
    opened.database.dispose()
    return opened


def test_a_report_is_added_listed_sent_paused_and_removed(acme: Installation, mailing: Mailbox, home: Path) -> None:
    here = ("--home", home)
    added = analytics(*ADD, "--to", "ann@example.com", "--time-zone", "Europe/Berlin", *here)
    assert added.out.startswith("report weekly of acme: first due 2")
    sent = analytics("report", "send", "weekly", "--tenant", "acme", *here)
    assert sent.out.startswith("ann@example.com\tsent\t2")
    [mail] = mailing.mails
    [attached] = mail.iter_attachments()
    assert attached.get_content().startswith(b"%PDF-")
    [listed] = json.loads(analytics("report", "list", "--tenant", "acme", "--json", *here).out)
    assert (listed["view"], listed["schedule"], listed["time_zone"]) == ("overview?period=7d", "0 7 * * mon", "Europe/Berlin")
    assert (listed["state"], listed["last_error"], listed["creator"]) == ("sent", None, "command line")
    assert "paused" in analytics("report", "pause", "weekly", "--tenant", "acme", *here).out
    assert "\tpaused\tsent" in analytics("report", "list", "--tenant", "acme", *here).out
    assert "next due 2" in analytics("report", "resume", "weekly", "--tenant", "acme", *here).out
    shown = analytics("report", "show", "weekly", "--tenant", "acme", *here).out
    assert "recipients\tann@example.com\n" in shown
    [sending] = json.loads(analytics("report", "show", "weekly", "--tenant", "acme", "--json", *here).out)["sendings"]
    assert (sending["state"], sending["by_hand"], sending["attempts"]) == ("sent", True, 1)
    assert "removed" in analytics("report", "remove", "weekly", "--tenant", "acme", *here).out
    assert "no report 'weekly' of acme" in analytics("report", "show", "weekly", "--tenant", "acme", *here).error


def test_what_could_not_be_sent_is_said_and_ends_with_status_2(acme: Installation, mailing: Mailbox, home: Path) -> None:
    here = ("--home", home)
    analytics(*ADD, "--to", "gone@example.com", *here)
    mailing.answer = lambda _: "550 no such user"
    done = analytics("report", "send", "weekly", "--tenant", "acme", *here)
    assert done.error == "analytics: report weekly of acme to gone@example.com: 550 no such user"
    assert "gone@example.com: 550 no such user" in analytics("report", "list", "--tenant", "acme", *here).out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--to", "ann"), "recipient 'ann' is neither an e-mail address (ann@example.com) nor slack:NAME"),
        (("--to", "slack:music"), "no Slack channel 'music' is configured for acme; there are none"),
        (("--to", "ann@example.com", "--time-zone", "Berlin"), "no time zone 'Berlin'"),
        (("--to", "ann@example.com", "--format", "docx"), "format 'docx' is not known; one of pdf, png"),
        (("--to", "ann@example.com", "--view", "overvieww"), "overvieww"),
        (("--to", "ann@example.com", "--tenant", "acmee"), "no tenant 'acmee'; did you mean 'acme'?"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(acme: Installation, home: Path, more: tuple[str, ...], said: str) -> None:
    assert said in analytics(*ADD, *more, "--home", home).error


def test_without_a_mail_server_no_report_by_mail_is_made(acme: Installation, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP_HOST")
    assert "no mail can be sent: SMTP_HOST is not set" in analytics(*ADD, "--to", "ann@example.com", "--home", home).error
