"""A real mail server, reports in a database, and a way to draw that takes no time."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from analytics_dagster.installation import Installation
from analytics_dagster.reports.document import Document
from analytics_dagster.reports.report import Report, read_wanted
from analytics_dagster.reports.store import By, Reports

Answer = Callable[[str], str | None]


@dataclass
class Mailbox:
    """What a server took, and what it answers: `answer` gives a refusal for a recipient, None to take the message.

    `seconds`: how long it waits with its answer to a message that it has taken.
    """

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    tries: int = 0
    seconds: float = 0.0
    answer: Answer = lambda _recipient: None
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def handle_RCPT(self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]) -> str:  # noqa: N802
        self.tries += 1
        if refusal := self.answer(address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        assert [str(mail["To"])] == envelope.rcpt_tos
        self.mails.append(mail)
        await asyncio.sleep(self.seconds)
        return "250 taken"

    def login(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"right", handled=False)

    @property
    def ids(self) -> list[str]:
        return [str(mail["Message-ID"]) for mail in self.mails]

    def settings(self) -> dict[str, str]:
        return {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(self.port),
            "SMTP_SECURITY": "off",
            "SMTP_FROM": "reports@house.example",
        }


@contextmanager
def mail_server(**options: Any) -> Iterator[Mailbox]:
    box = Mailbox()
    with socket.socket() as probe:  # the controller wants to know its port before it listens
        probe.bind(("127.0.0.1", 0))
        box.port = probe.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=box.port, authenticator=box.login, **options)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with mail_server(auth_required=False) as box:
        yield box


@pytest.fixture
def mailing(mailbox: Mailbox, home: Any, monkeypatch: pytest.MonkeyPatch) -> Mailbox:
    """The mail server is the installation's. Ask for it before `installation`."""
    for name, value in mailbox.settings().items():
        monkeypatch.setenv(name, value)
    return mailbox


def drawn(installation: Installation, report: Report) -> Document:
    """A document of the right form without reading any figures."""
    day = installation.clock.now().date() - dt.timedelta(days=1)
    name, kind = f"{report.tenant}-{report.wanted.board}.{report.wanted.form}", "application/pdf"
    covers = (f"{day} to {day}, 1 days, UTC", f"Data through {day} 23:59 UTC; 3 of 3 sources; checks 4 of 4")
    figures = (("Streams", "1.2k", "+12 %"),)
    link = f"http://127.0.0.1:8000/dashboards/{report.tenant}/{report.wanted.board}{report.wanted.query}"
    title = f"Overview: {report.tenant}"
    return Document(title, f"{title}, {day}", f"{day}..{day}", covers, figures, "Plays rose", link, name, kind, b"%PDF-1.7 small")


def keep(
    installation: Installation,
    name: str = "weekly",
    *to: str,
    tenant: str = "acme",
    schedule: str = "0 7 * * *",
    time_zone: str = "UTC",
    view: str = "overview?period=7d",
    form: str = "pdf",
) -> Report:
    """Keep a report of a tenant, who is registered."""
    installation.tenants.ensure(tenant)
    wanted = read_wanted(
        name=name,
        view=view,
        form=form,
        schedule=schedule,
        time_zone=time_zone,
        recipients=to or ("ann@example.com",),
        tenant=tenant,
    )
    return Reports(installation.database, installation.clock).add(tenant, wanted, By("ann"))
