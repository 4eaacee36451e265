"""Sends the reports that are due: note, claim, draw, send, write what became of it. Several processes may do it at once.

At least once: whoever is killed in between leaves a lease behind, and the message goes out again under the same key. What cannot
go out now is tried again, later each time, until it does, the next one is due, or three days have passed; what cannot go out at
all is kept with its reason, which `analytics report list`, `analytics doctor` and /metrics tell.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from analytics_dagster.alerts.outbox import backoff
from analytics_dagster.errors import AnalyticsError, DeclarationError, DeliveryError, RetryableError, UserError
from analytics_dagster.reports.document import Document, message_for, render_report
from analytics_dagster.reports.report import Recipient, Report, Wanted, Way, domains_of, read_recipients, refused_domains

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.metrics.declarations import Catalogue
    from analytics_dagster.reports.document import Message
    from analytics_dagster.reports.sendings import Claim, Policy
    from analytics_dagster.reports.store import Sending

Draw = Callable[["Installation", "Report"], Document]
_log = logging.getLogger(__name__)


@dataclass
class SendReport:
    """What one call did, in messages."""

    sent: int = 0
    retried: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = ", ".join(f"{getattr(self, name)} {name}" for name in ("sent", "retried", "failed") if getattr(self, name))
        return (said or "nothing to send") + "".join(f"; {problem}" for problem in self.problems)


def send_due(
    installation: Installation,
    *,
    draw: Draw | None = None,
    environ: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    only: tuple[str, str] | None = None,
    limit: int = 50,
) -> SendReport:
    """Send up to `limit` due times. `only`: tenant and name of one report, whose schedule is left alone.

    `draw` makes the document, by default from the view as it is now.
    """
    from analytics_dagster.reports import sendings

    database, clock, report = installation.database, installation.clock, SendReport()
    if only is None:
        sendings.note_due(database, clock.now(), report.problems.append)
    policy = policy or sendings.Policy()
    sender = _Sender(installation, draw or _drawing(), os.environ if environ is None else environ, policy, report)
    for _ in range(limit):
        found = sendings.claim(database, sender.me, clock.now(), policy, only)
        if found is None:
            break
        sender.run(found)
    return report


def require_ways(installation: Installation, tenant: str, wanted: Wanted, environ: Mapping[str, str]) -> None:
    """Raise UserError when a recipient's domain is not allowed, or nothing is configured that would reach them for the tenant."""
    settings = installation.settings
    refused = refused_domains(wanted.recipients, domains_of(settings.analytics_report_domains))
    if refused:
        raise UserError(f"reports may not be mailed to {refused[0]}; ANALYTICS_REPORT_DOMAINS allows {_allowed(installation)}")
    for recipient in wanted.recipients:
        _way_to(recipient, installation, tenant, environ)


def require_view(installation: Installation, catalogue: Catalogue, tenant: str, wanted: Wanted) -> None:
    """Raise NotFoundError for a board or a metric that there is not."""
    from analytics_dagster.reports.document import board_of

    board_of(installation, catalogue, tenant, wanted.board)
    if wanted.view.metric is not None:
        catalogue.metric(wanted.view.metric)


@dataclass
class _Sender:
    installation: Installation
    draw: Draw
    environ: Mapping[str, str]
    policy: Policy
    report: SendReport
    me: str = field(default_factory=lambda: uuid.uuid4().hex)

    def run(self, claim: Claim) -> None:
        """One due time: drawn once, sent to each."""
        try:
            document = self._drawn(claim.report)
        except (RetryableError, DeclarationError, OSError) as error:  # somebody may be editing the declaration
            for sending in claim.sendings:
                self._again(sending, error)
        except AnalyticsError as error:
            for sending in claim.sendings:
                self._failed(sending, f"the view cannot be shown: {error}")
        except Exception as error:  # whatever it is, the report says so and is tried again, and the others go out
            for sending in claim.sendings:
                self._unexpected(sending, error)
        else:
            for sending in claim.sendings:
                self._send(claim.report, document, sending)

    def _drawn(self, report: Report) -> Document:
        """Raises RetryableError for what a damaged or busy table says too: it may be mended by the next try."""
        import duckdb
        from deltalake.exceptions import DeltaError

        try:
            return self.draw(self.installation, report)
        except (duckdb.Error, DeltaError) as error:
            raise RetryableError(f"the figures cannot be read: {str(error).partition(chr(10))[0]}") from error

    def _send(self, report: Report, document: Document, sending: Sending) -> None:
        from analytics_dagster.reports import sendings

        database, clock = self.installation.database, self.installation.clock
        if not sendings.hold(database, sending, self.me, clock.now() + self.policy.lease):
            return  # taken over meanwhile, or the report was removed
        try:
            self._hand_over(report.tenant, read_recipients([sending.recipient])[0], message_for(document, report, sending))
        except DeliveryError as error:
            self._failed(sending, str(error))
        except (RetryableError, UserError) as error:  # of settings and alerting.yaml, which somebody may mend
            self._again(sending, error)
        # Broad, because what one board, figure or channel brings up must neither end the round, and with it the reports of all
        # other tenants, nor leave a row that does not say why: it is kept with the row, tried again and given up as others are.
        except Exception as error:
            self._unexpected(sending, error)
        else:
            values = {"state": "sent", "sent_at": clock.now(), "last_error": None, "days": document.days}
            self.report.sent += sendings.finish(database, sending, self.me, values)

    def _hand_over(self, tenant: str, recipient: Recipient, message: Message) -> None:
        # Looked at again: what was allowed when the report was made need not be now.
        if refused_domains([recipient], domains_of(self.installation.settings.analytics_report_domains)):
            raise DeliveryError(f"ANALYTICS_REPORT_DOMAINS allows {_allowed(self.installation)} only")
        _way_to(recipient, self.installation, tenant, self.environ)(message)

    def _again(self, sending: Sending, error: Exception) -> None:
        from analytics_dagster.reports import sendings

        now = self.installation.clock.now()
        # Not since it was due: of what fell into an outage the first try may come days later.
        if now - sending.noted_at >= self.policy.give_up_after:
            self._failed(sending, f"given up after {sending.attempts + 1} attempts; last: {error}")
            return
        named = getattr(error, "retry_after", None)
        wait = backoff(sending.attempts + 1) if named is None else timedelta(seconds=named)
        values = {"state": "due", "try_at": now + wait, "last_error": str(error)}
        self.report.retried += sendings.finish(self.installation.database, sending, self.me, values)
        self._tell(sending, f"{error}; will try again")

    def _unexpected(self, sending: Sending, error: Exception) -> None:
        _log.error("report %s of %s met what it should not", sending.name, sending.tenant, exc_info=error)
        self._again(sending, RetryableError(f"{type(error).__name__}: {error}"))

    def _failed(self, sending: Sending, why: str) -> None:
        from analytics_dagster.reports import sendings

        values = {"state": "failed", "last_error": why}
        self.report.failed += sendings.finish(self.installation.database, sending, self.me, values)
        self._tell(sending, why)

    def _tell(self, sending: Sending, problem: str) -> None:
        self.report.problems.append(f"report {sending.name} of {sending.tenant} to {sending.recipient}: {problem}")


def _drawing() -> Draw:
    """Draws with a catalogue that is read once."""
    read: list[Catalogue] = []

    def draw(installation: Installation, report: Report) -> Document:
        from analytics_dagster.metrics.load import load_catalogue
        from analytics_dagster.metrics.own import OwnMetrics

        extra = installation.settings.analytics_metrics
        if not read:
            read.append(load_catalogue(extra))
        own = OwnMetrics(installation.database, installation.clock, extra)
        return render_report(installation, own.catalogue(report.tenant, lambda: read[0]), report)

    return draw


def _way_to(
    recipient: Recipient, installation: Installation, tenant: str, environ: Mapping[str, str]
) -> Callable[[Message], None]:
    """What sends to a recipient. Raises SettingsError when nothing is configured that would."""
    settings, clock = installation.settings, installation.clock
    if recipient.way is Way.EMAIL:
        from analytics_dagster.reports.mail import mail_server

        server = mail_server(settings)
        return lambda message: server.send(recipient.address, message, clock)
    from analytics_dagster.reports.slack import slack_way

    channel = slack_way(settings, environ, recipient.address, tenant)
    return lambda message: channel.send(message, clock)


def _allowed(installation: Installation) -> str:
    return ", ".join(sorted(domains_of(installation.settings.analytics_report_domains)))
