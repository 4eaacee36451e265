"""From configuration to channels that can send."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analytics_dagster.alerts.channels.base import Channel
from analytics_dagster.alerts.channels.log import LogChannel
from analytics_dagster.alerts.channels.slack import SlackChannel
from analytics_dagster.alerts.channels.webhook import WebhookChannel
from analytics_dagster.alerts.config import LOG_CHANNEL, AlertingConfig, ChannelConfig, ChannelType, is_safe_address
from analytics_dagster.clock import Clock
from analytics_dagster.errors import SettingsError

LOG_FILE = "alerts.log"


@dataclass(frozen=True)
class Channels:
    """Every channel by name. A name that is not configured, or cannot be opened, leads to the log channel."""

    by_name: Mapping[str, Channel]
    fallback: Channel
    problems: tuple[str, ...] = ()

    def of(self, name: str) -> Channel:
        """The channel that a message for `name` goes to."""
        return self.by_name.get(name, self.fallback)

    @property
    def default_names(self) -> tuple[str, ...]:
        """Who is told by rules that name nobody: every channel but the log, or the log where there is no other."""
        return tuple(name for name in self.by_name if name != LOG_CHANNEL) or (LOG_CHANNEL,)


def build_channels(
    config: AlertingConfig, home: Path, clock: Clock, environ: Mapping[str, str], verify: ssl.SSLContext | None = None
) -> Channels:
    """Open every configured channel; secrets are read here. `verify` is for servers with a private authority."""
    log = LogChannel(LOG_CHANNEL, home / LOG_FILE, clock)
    channels: dict[str, Channel] = {}
    problems = [str(problem) for problem in config.problems]
    for one in config.channels:
        try:
            channels[one.name] = log if one.name == LOG_CHANNEL else _open(one, home, clock, environ, verify)
        except SettingsError as error:
            problems.append(f"channel {one.name}: {error}; its messages go to the log channel")
    return Channels(channels, log, tuple(problems))


def _open(config: ChannelConfig, home: Path, clock: Clock, environ: Mapping[str, str], verify: ssl.SSLContext | None) -> Channel:
    address = None if config.address is None else config.address.resolve(environ)
    secret = None if config.secret is None else config.secret.resolve(environ)
    if address is not None and not is_safe_address(address):
        raise SettingsError("its address is neither https:// nor on this machine; use https://")
    if config.type is ChannelType.WEBHOOK:
        return WebhookChannel(config.name, str(address), secret, clock, send_resolved=config.send_resolved, verify=verify)
    if config.type is ChannelType.SLACK:
        webhook = address if secret is None else None
        return SlackChannel(
            config.name,
            clock,
            webhook_url=webhook,
            bot_token=secret,
            channel=config.slack_channel,
            api_url=address if secret is not None else None,
            send_resolved=config.send_resolved,
            verify=verify,
        )
    return LogChannel(config.name, home / LOG_FILE, clock)
