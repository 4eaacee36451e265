"""Slack, through slack-sdk: an incoming webhook, or a bot token that posts to a channel.

Messages stay within Block Kit's limits whatever their number: what does not fit is counted (`+12 more`). Text that came
from data is escaped, so that it cannot mention a channel or make a link.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import URLError

from analytics_dagster.alerts.channels.base import TIMEOUT_SECONDS, Delivery, UncertainError, refuse_status
from analytics_dagster.alerts.messages import Status, digest_of
from analytics_dagster.clock import Clock
from analytics_dagster.errors import DeliveryError, RetryableDeliveryError

# docs.slack.dev/reference/block-kit/blocks: limits of a header's, a section's and a context element's text.
MOST_HEADER = 150
MOST_SECTION = 3_000
MOST_LINE = 300
MOST_FALLBACK = 3_000
GROUP_SIZE = 100
_SIGNS = {"firing": ":red_circle:", "resolved": ":large_green_circle:", "digest": ":memo:"}
_API = "https://slack.com/api/"
# The library logs request bodies at debug level, and addresses are secrets.
_log = logging.getLogger("analytics_dagster.alerts.slack")


class _Post(Protocol):
    def __call__(self, text: str, blocks: list[dict[str, Any]]) -> None: ...


class SlackChannel:
    """One of `webhook_url` and `bot_token` (with `channel`) is given. `api_url` is Slack's Web API, another in tests."""

    group_size = GROUP_SIZE

    def __init__(
        self,
        name: str,
        clock: Clock,
        *,
        webhook_url: str | None = None,
        bot_token: str | None = None,
        channel: str | None = None,
        api_url: str | None = None,
        send_resolved: bool = True,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.send_resolved = send_resolved
        self.target = digest_of("slack", webhook_url, bot_token, channel)
        self._clock = clock
        self._verify = verify
        self._webhook_url = webhook_url
        self._bot_token = bot_token
        self._channel = channel
        self._api_url = api_url or _API

    def send(self, deliveries: Sequence[Delivery]) -> None:
        """Post them as one message. Raises DeliveryError, ThrottledError, UncertainError or RetryableDeliveryError."""
        text, blocks = render(deliveries)
        post: _Post = self._post_webhook if self._webhook_url is not None else self._post_message
        try:
            post(text, blocks)
        except URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                raise RetryableDeliveryError(f"cannot connect: {error.reason}") from error
            raise UncertainError(f"no answer: {error.reason}") from error
        except (OSError, HTTPException) as error:
            raise UncertainError(f"no answer: {error}") from error

    def _post_webhook(self, text: str, blocks: list[dict[str, Any]]) -> None:
        from slack_sdk.webhook import WebhookClient

        client = WebhookClient(
            str(self._webhook_url), timeout=int(TIMEOUT_SECONDS), ssl=self._verify, logger=_log, retry_handlers=[]
        )
        response = client.send(text=text, blocks=blocks)
        if response.status_code != 200:
            after = response.headers.get("Retry-After") or response.headers.get("retry-after")
            refuse_status(response.status_code, response.body, after, self._clock.now())
        # Slack answers 200 with an error's name where it took nothing.
        if response.body.strip() != "ok":
            raise DeliveryError(f"Slack answered {response.body[:200]!r} instead of ok")

    def _post_message(self, text: str, blocks: list[dict[str, Any]]) -> None:
        from slack_sdk import WebClient
        from slack_sdk.errors import SlackApiError

        client = WebClient(
            token=self._bot_token,
            base_url=self._api_url,
            timeout=int(TIMEOUT_SECONDS),
            ssl=self._verify,
            logger=_log,
            retry_handlers=[],
        )
        try:
            client.chat_postMessage(channel=str(self._channel), text=text, blocks=blocks)
        except SlackApiError as error:
            status, headers, reason = _answer(error.response)
            if status != 200:
                refuse_status(status, reason, headers, self._clock.now())
            if reason == "ratelimited":
                refuse_status(429, reason, headers, self._clock.now())
            raise DeliveryError(f"Slack refused: {reason}") from error


def render(deliveries: Sequence[Delivery]) -> tuple[str, list[dict[str, Any]]]:
    """Fallback text and blocks of messages of one tenant, rule and status."""
    first = deliveries[0].payload
    status = str(first["status"])
    tenant = first.get("tenant_id")
    title = f"{status.upper()}: {first['alertname']}{f' ({tenant})' if tenant else ''}"
    lines = _digest_lines(first) if status == Status.DIGEST else [_alert_line(d.payload) for d in deliveries]
    known = int(first.get("more_alerts", 0)) if status == Status.DIGEST else 0
    body = fit(lines, known)
    details = f"severity *{escape(str(first['severity']))}*"
    if first.get("expression"):
        details += f" | `{escape(str(first['expression']))[:MOST_LINE]}`"
    details += f" | <{_link(str(first['url']))}|open in Dagster>"
    heading = f"{_SIGNS.get(status, '')} {title}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(heading, MOST_HEADER), "emoji": True}},
        {"type": "section", "text": {"type": "mrkdwn", "text": body}},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": details}]},
    ]
    return _cut(f"{escape(title)}: {escape(str(first['summary']))}", MOST_FALLBACK), blocks


def fit(lines: Sequence[str], more: int = 0) -> str:
    """As many lines as a section holds, and how many did not fit."""
    kept: list[str] = []
    room = MOST_SECTION - len("\n+1000000 more")
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    left = len(lines) - len(kept) + more
    return "\n".join([*kept, *([f"+{left} more"] if left else [])])


def escape(text: str) -> str:
    """Slack's three control characters (docs.slack.dev/messaging/formatting-message-text)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _alert_line(payload: Any) -> str:
    shown = {"alertname", "tenant_id", "severity"}
    labels = ", ".join(f"{name}={value}" for name, value in payload["labels"].items() if name not in shown)
    day = f"{payload['day']}: " if payload.get("day") else ""
    return _line(f"{day}{payload['summary']}{f' ({labels})' if labels else ''}")


def _digest_lines(payload: Any) -> list[str]:
    rules = [
        _line(
            f"{rule['alertname']}: {rule['breaching_days']} of {rule['days']} historical days breach, {rule['firing']} firing now"
        )
        for rule in payload["rules"]
    ]
    return rules + [_line(f"firing now: {alert['alertname']}: {alert['summary']}") for alert in payload["alerts"]]


def _line(text: str) -> str:
    return "• " + escape(_cut(" ".join(text.split()), MOST_LINE))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _link(url: str) -> str:
    return url.replace("|", "%7C").replace(">", "%3E").replace("<", "%3C").replace("&", "&amp;")


def _answer(response: Any) -> tuple[int, str | None, str]:
    """Status, Retry-After and reason of what slack-sdk hands out, which is a response or a dictionary."""
    status = int(getattr(response, "status_code", 0) or response.get("status", 200))
    headers: Iterable[tuple[str, str]] = dict(getattr(response, "headers", None) or response.get("headers") or {}).items()
    after = next((value for name, value in headers if name.lower() == "retry-after"), None)
    return status, after, str(response.get("error") or response.get("body") or "no reason given")
