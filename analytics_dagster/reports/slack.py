"""Reports to Slack, over the channels of type slack that alerting.yaml or the environment configures.

A bot token uploads the file with the words as its comment, in one message. A webhook takes no files: its message says what the
report covers and links to the live view.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from analytics_dagster.alerts.channels.base import TIMEOUT_SECONDS, UncertainError, refuse_status
from analytics_dagster.alerts.channels.slack import MOST_SECTION, escape
from analytics_dagster.alerts.config import ChannelConfig, ChannelType, load_alerting
from analytics_dagster.errors import DeliveryError, RetryableDeliveryError, SettingsError

if TYPE_CHECKING:
    from analytics_dagster.clock import Clock
    from analytics_dagster.reports.document import Message
    from analytics_dagster.settings import Settings

_API = "https://slack.com/api/"
# Channels, private channels and conversations; files are not uploaded to a name.
_CHANNEL_ID = re.compile(r"[CGD][A-Z0-9]{7,}")
# Reasons that a person at Slack or here may mend without touching the report.
_MENDABLE = frozenset({"not_in_channel", "invalid_auth", "token_expired", "token_revoked", "missing_scope", "not_authed"})
_log = logging.getLogger("analytics_dagster.reports.slack")


@dataclass(frozen=True)
class SlackWay:
    """One channel, opened: a webhook, or a bot token with a channel's id. `api_url` is Slack's Web API, another in tests."""

    webhook_url: str | None = None
    bot_token: str | None = None
    channel: str | None = None
    api_url: str = _API

    def send(self, message: Message, clock: Clock) -> None:
        """Post it. Raises DeliveryError, RetryableDeliveryError, ThrottledError or UncertainError."""
        try:
            if self.bot_token is None:
                self._post(message, clock)
            else:
                self._upload(message, clock)
        except URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                raise RetryableDeliveryError(f"Slack: cannot connect: {error.reason}") from error
            raise UncertainError(f"Slack: no answer: {error.reason}") from error
        except (OSError, HTTPException) as error:
            raise UncertainError(f"Slack: no answer: {error}") from error

    def _post(self, message: Message, clock: Clock) -> None:
        from slack_sdk.webhook import WebhookClient

        client = WebhookClient(str(self.webhook_url), timeout=int(TIMEOUT_SECONDS), logger=_log, retry_handlers=[])
        response = client.send(text=as_mrkdwn(message, file_missing=True))
        if response.status_code != 200:
            after = response.headers.get("Retry-After") or response.headers.get("retry-after")
            refuse_status(response.status_code, response.body, after, clock.now())
        if response.body.strip() != "ok":
            raise DeliveryError(f"Slack answered {response.body[:200]!r} instead of ok")

    def _upload(self, message: Message, clock: Clock) -> None:
        from slack_sdk import WebClient
        from slack_sdk.errors import SlackApiError, SlackRequestError

        document = message.document
        client = WebClient(
            token=self.bot_token, base_url=self.api_url, timeout=int(TIMEOUT_SECONDS), logger=_log, retry_handlers=[]
        )
        try:
            client.files_upload_v2(
                content=document.content,
                filename=document.file_name,
                title=document.subject,
                channel=self.channel,
                initial_comment=as_mrkdwn(message),
            )
        except SlackApiError as error:
            raise _refused(error.response, clock) from error
        except SlackRequestError as error:  # the address that files go to answered with an error
            raise UncertainError(f"Slack did not take the file: {error}") from error


def slack_channels(settings: Settings, environ: Mapping[str, str], tenant: str) -> dict[str, ChannelConfig]:
    """Where a tenant's reports may go, by name. Raises UserError where alerting.yaml cannot be read."""
    configured = load_alerting(settings, environ).channels
    return {one.name: one for one in configured if one.type is ChannelType.SLACK and one.takes_reports_of(tenant)}


def slack_way(settings: Settings, environ: Mapping[str, str], name: str, tenant: str) -> SlackWay:
    """The tenant's channel of that name; one that is others' alone is to it as one that is not there.

    Raises SettingsError naming what is missing, UserError where alerting.yaml cannot be read.
    """
    found = slack_channels(settings, environ, tenant)
    if name not in found:
        known = ", ".join(f"slack:{known}" for known in found) or "none; see docs/how-to/slack.md"
        raise SettingsError(f"no Slack channel {name[:80]!r} is configured for {tenant}; there are {known}")
    return _opened(found[name], environ)


def as_mrkdwn(message: Message, *, file_missing: bool = False) -> str:
    """What the message says, in Slack's own markup; text of tenants is escaped."""
    document = message.document
    parts = [f"*{escape(document.title)}*", *map(escape, document.covers)]
    parts += [f"*{escape(document.headline)}.*"] if document.headline else []
    parts += [f"{escape(title)}: *{escape(value)}* {escape(change)}".rstrip() for title, value, change in document.figures]
    link = document.link.replace("&", "&amp;").replace("|", "%7C").replace(">", "%3E")
    end = [f"<{link}|Open it live>", *(f"_{escape(note)}_" for note in message.notes)]
    if file_missing:
        end.append("_A webhook takes no files; with a bot token the file comes along._")
    while len("\n".join([*parts, *end])) > MOST_SECTION and len(parts) > 1:
        parts.pop()
    return "\n".join([*parts, *end])


def _opened(config: ChannelConfig, environ: Mapping[str, str]) -> SlackWay:
    address = None if config.address is None else config.address.resolve(environ)
    if config.secret is None:
        return SlackWay(webhook_url=address)
    channel = config.slack_channel or ""
    if not _CHANNEL_ID.fullmatch(channel):
        raise SettingsError(
            f"Slack takes files for a channel's id, and channel {config.name!r} has {channel!r}; write the id that Slack shows "
            "at the end of the channel's details, like C0123ABCD"
        )
    return SlackWay(bot_token=config.secret.resolve(environ), channel=channel, api_url=address or _API)


def _refused(response: Any, clock: Clock) -> Exception:
    """What Slack's answer means."""
    status = int(getattr(response, "status_code", 0) or 200)
    headers = {name.lower(): value for name, value in dict(getattr(response, "headers", None) or {}).items()}
    reason = str(response.get("error") or "no reason given")
    if reason == "ratelimited":
        status = 429
    try:
        if status != 200:
            refuse_status(status, reason, headers.get("retry-after"), clock.now())
    except (DeliveryError, RetryableDeliveryError) as error:
        return error
    if reason in _MENDABLE:
        return RetryableDeliveryError(f"Slack refused: {reason}")
    return DeliveryError(f"Slack refused: {reason}")
