"""Reports by e-mail: one message to one recipient, through the server that SMTP_HOST names.

What went wrong is told in the outbox's terms: a refusal for good (5xx of the recipient or the message) is a DeliveryError,
anything that somebody may mend (the server, the password, the network) is tried again. The Message-ID is made from the message's
key, so a program that sees one twice knows it.
"""

from __future__ import annotations

import html
import smtplib
import ssl
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING

from analytics_dagster.alerts.channels.base import TIMEOUT_SECONDS, UncertainError
from analytics_dagster.errors import DeliveryError, RetryableDeliveryError, SettingsError
from analytics_dagster.words import drawable

if TYPE_CHECKING:
    from analytics_dagster.clock import Clock
    from analytics_dagster.reports.document import Message
    from analytics_dagster.settings import Settings

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class MailServer:
    """Where mail goes. `trust`: authorities that are believed, None for the machine's."""

    host: str
    port: int
    security: str
    sender: str
    user: str | None = None
    password: str | None = None
    trust: ssl.SSLContext | None = None

    def send(self, recipient: str, message: Message, clock: Clock) -> None:
        """Hand one message over. Raises DeliveryError, RetryableDeliveryError or UncertainError."""
        mail = compose(message, self.sender, recipient, clock)
        try:
            server = self._connect()
        except (OSError, smtplib.SMTPException) as error:
            raise RetryableDeliveryError(f"mail server {self.host}:{self.port}: {_said(error)}") from error
        try:
            server.send_message(mail, self.sender, [recipient])
        except smtplib.SMTPSenderRefused as error:  # by SMTP_FROM, which may be mended
            raise RetryableDeliveryError(f"mail server {self.host} refuses {self.sender}: {_said(error)}") from error
        except smtplib.SMTPResponseException as error:
            raise _refused(error.smtp_code, _said(error)) from error
        except smtplib.SMTPRecipientsRefused as error:
            code, said = error.recipients[recipient]
            raise _refused(code, f"{code} {_text(said)}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise UncertainError(f"mail server {self.host}: no answer: {_said(error)}") from error
        finally:
            _leave(server)

    def _connect(self) -> smtplib.SMTP:
        trust = self.trust or ssl.create_default_context()
        if self.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_SECONDS, context=trust)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_SECONDS)
        try:
            if self.security == "starttls":
                server.starttls(context=trust)
            if self.user is not None:
                server.login(self.user, self.password or "")
        except (OSError, smtplib.SMTPException):
            server.close()
            raise
        return server


def mail_server(settings: Settings) -> MailServer:
    """As the settings say. Raises SettingsError naming what is missing."""
    if not settings.smtp_host or not settings.smtp_from:
        missing = "SMTP_HOST" if not settings.smtp_host else "SMTP_FROM"
        raise SettingsError(f"no mail can be sent: {missing} is not set; see docs/how-to/send-a-report.md")
    password = None if settings.smtp_password is None else settings.smtp_password.get_secret_value()
    if settings.smtp_security == "off" and password and settings.smtp_host not in _LOOPBACK:
        raise SettingsError("SMTP_SECURITY=off would send SMTP_PASSWORD in the clear; set starttls or tls")
    return MailServer(
        settings.smtp_host, settings.smtp_port, settings.smtp_security, settings.smtp_from, settings.smtp_user, password
    )


def compose(message: Message, sender: str, recipient: str, clock: Clock) -> EmailMessage:
    """The message as text and HTML. Paper is attached; a picture is seen within the HTML."""
    document = message.document
    mail = EmailMessage()
    mail["From"] = Address(display_name="Analytics reports", addr_spec=sender)
    mail["To"] = recipient
    # A header is one line: the library refuses more, and what this splits at is all that Python takes for the end of one.
    mail["Subject"] = drawable(" ".join(document.subject.split()))
    mail["Date"] = format_datetime(clock.now())
    mail["Message-ID"] = f"<{message.key}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: absence notes do not answer it
    mail.set_content(as_text(message))
    mail.add_alternative(_as_html(message), subtype="html")
    kind, _, subtype = document.media_type.partition("/")
    if kind == "image":
        shown = next(part for part in mail.iter_parts() if part.get_content_type() == "text/html")
        name, cid = document.file_name, f"<{message.key}>"
        shown.add_related(document.content, maintype=kind, subtype=subtype, cid=cid, disposition="inline", filename=name)
    else:
        mail.add_attachment(document.content, maintype=kind, subtype=subtype, filename=document.file_name)
    return mail


def as_text(message: Message) -> str:
    """What the message says, line by line."""
    document = message.document
    figures = [f"{title}: {value}{f' ({change})' if change else ''}" for title, value, change in document.figures]
    parts = [
        [document.title, *document.covers],
        [f"{document.headline}."] if document.headline else [],
        figures,
        [f"Open it live: {document.link}"],
        list(message.notes),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _as_html(message: Message) -> str:
    document, escape = message.document, html.escape
    picture = (
        f'<p><img src="cid:{message.key}" alt="{escape(document.title)}" width="720" style="max-width:100%"></p>'
        if document.media_type.startswith("image/")
        else ""
    )
    rows = "".join(
        f'<tr><td style="padding-right:16px">{escape(title)}</td><td style="padding-right:16px"><b>{escape(value)}</b></td>'
        f"<td>{escape(change)}</td></tr>"
        for title, value, change in document.figures
    )
    return (
        '<html lang="en"><body style="font-family:Helvetica,Arial,sans-serif;color:#1f2933">'
        f'<h1 style="font-size:20px">{escape(document.title)}</h1><p>{"<br>".join(map(escape, document.covers))}</p>'
        + (f"<p><strong>{escape(document.headline)}.</strong></p>" if document.headline else "")
        + picture
        + (f"<table>{rows}</table>" if rows and not picture else "")
        + f'<p><a href="{escape(document.link)}">Open it live</a></p>'
        f'<p style="color:#52606d">{"<br>".join(map(escape, message.notes))}</p></body></html>'
    )


def _refused(code: int, said: str) -> DeliveryError | RetryableDeliveryError:
    """RFC 5321, 4.2.1: 4xx may be tried again, 5xx may not."""
    return DeliveryError(said) if code >= 500 else RetryableDeliveryError(said)


def _leave(server: smtplib.SMTP) -> None:
    """Say goodbye; the message is where it is, whether or not that is heard."""
    try:
        server.quit()
    except (OSError, smtplib.SMTPException):
        server.close()


def _said(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_text(error.smtp_error)}"
    return str(error) or type(error).__name__


def _text(said: bytes | str) -> str:
    return " ".join((said.decode("utf-8", "replace") if isinstance(said, bytes) else said).split())[:300]
