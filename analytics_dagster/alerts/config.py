"""Reads `alerting.yaml` (docs/reference/alerting.md) and what the environment says about the default channels.

Secrets stand there by reference only: the name of an environment variable or a file, read when a channel is opened.
Keys are Alertmanager's wherever it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from analytics_dagster.alerts.rule_file import load_rules
from analytics_dagster.alerts.rules import Level, Problem, RuleSet
from analytics_dagster.alerts.yaml_nodes import Entries, Value, read_yaml, text_of
from analytics_dagster.errors import DeclarationError, InvalidNameError, NotFoundError, SettingsError
from analytics_dagster.settings import Settings
from analytics_dagster.tenant_ids import validate_tenant_id

LOG_CHANNEL = "log"
_LATER_KEYS = ("route", "inhibit_rules", "time_intervals", "escalation_policies", "schedules", "actions")
_LATER_TYPES = ("email", "sms", "pagerduty", "opsgenie", "discord", "msteams", "telegram", "in_app")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ChannelType(StrEnum):
    """Kinds of channel that can be configured."""

    SLACK = "slack"
    WEBHOOK = "webhook"
    LOG = "log"


_TYPE_KEYS: Mapping[ChannelType, tuple[str, ...]] = {
    ChannelType.SLACK: ("api_url", "api_url_env", "api_url_file", "bot_token_env", "bot_token_file", "channel", "tenants"),
    ChannelType.WEBHOOK: ("url", "url_env", "url_file", "secret_env", "secret_file"),
    ChannelType.LOG: (),
}
_CLEAR = {"bot_token": "bot_token_env: SLACK_BOT_TOKEN", "secret": "secret_env: ALERT_WEBHOOK_SECRET"}


@dataclass(frozen=True)
class SecretReference:
    """Where a secret is: in an environment variable, in a file, or (from settings, or harmless) at hand."""

    env: str | None = None
    file: Path | None = None
    value: SecretStr | None = None

    def resolve(self, environ: Mapping[str, str]) -> str:
        """Raises SettingsError naming the variable or file that lacks it."""
        if self.value is not None:
            return self.value.get_secret_value()
        if self.env is not None:
            found = environ.get(self.env, "")
            if not found:
                raise SettingsError(f"environment variable {self.env} is not set")
            return found
        if self.file is None:
            raise SettingsError("no secret is named")
        try:
            return self.file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"file {self.file} cannot be read: {error}") from None


@dataclass(frozen=True)
class ChannelConfig:
    """One channel. `address` is Slack's webhook or API address, or the webhook's; `secret` its bot token or signing secret.

    `tenants`: whose reports may go there, None for everybody's. Alerts go where rules say, which are the operator's.
    """

    name: str
    type: ChannelType
    address: SecretReference | None = None
    secret: SecretReference | None = None
    slack_channel: str | None = None
    send_resolved: bool = True
    tenants: frozenset[str] | None = None

    def takes_reports_of(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants


@dataclass(frozen=True)
class AlertingConfig:
    """The channels that can be used, and what is to be said about the rest."""

    channels: tuple[ChannelConfig, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(channel.name for channel in self.channels)


def load_alerting(settings: Settings, environ: Mapping[str, str]) -> AlertingConfig:
    """Channels of alerting.yaml, then `slack` and `webhook` from the environment unless the file has them, then `log`.

    Raises UnreadableFileError, DeclarationError or NotFoundError when the file as a whole cannot be used; a channel that
    cannot is reported and left out, so that its messages go to the log channel.
    """
    path = settings.alerting_path
    declared: tuple[ChannelConfig, ...] = ()
    refused: frozenset[str] = frozenset()
    problems: list[Problem] = []
    if path.exists():
        declared, refused = _read_channels(path, environ, problems)
    elif settings.analytics_alerting is not None:
        raise NotFoundError(f"ANALYTICS_ALERTING names {path}, which does not exist; create it or unset the variable")
    # A channel that is refused is not replaced by another one of its name, which may be anybody's; the log is always there.
    taken = {channel.name for channel in declared} | (refused - {LOG_CHANNEL})
    defaults = [channel for channel in _default_channels(settings) if channel.name not in taken]
    return AlertingConfig((*declared, *defaults), tuple(problems))


def load_installed_rules(settings: Settings, channels: frozenset[str], known: Callable[[str], bool] | None = None) -> RuleSet:
    """The installation's rule file. Without one nothing is judged, and what is stored is kept."""
    path = settings.rules_path
    if not path.exists():
        if settings.analytics_rules is not None:
            raise NotFoundError(f"ANALYTICS_RULES names {path}, which does not exist; create it or unset the variable")
        return RuleSet((), missing=True)
    return load_rules([path], known=known, channels=channels, shown=lambda file: file.name)


def is_safe_address(address: str) -> bool:
    """HTTPS, or HTTP that never leaves this machine."""
    parts = urlsplit(address)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK))


def _default_channels(settings: Settings) -> list[ChannelConfig]:
    channels = []
    if settings.slack_webhook_url is not None:
        address = SecretReference(value=settings.slack_webhook_url)
        channels.append(ChannelConfig("slack", ChannelType.SLACK, address=address))
    elif settings.slack_bot_token is not None and settings.slack_channel is not None:
        token = SecretReference(value=settings.slack_bot_token)
        channels.append(ChannelConfig("slack", ChannelType.SLACK, secret=token, slack_channel=settings.slack_channel))
    if settings.alert_webhook_url is not None:
        secret = None if settings.alert_webhook_secret is None else SecretReference(value=settings.alert_webhook_secret)
        channels.append(
            ChannelConfig(
                "webhook", ChannelType.WEBHOOK, address=SecretReference(value=settings.alert_webhook_url), secret=secret
            )
        )
    return [*channels, ChannelConfig(LOG_CHANNEL, ChannelType.LOG)]


def _read_channels(
    path: Path, environ: Mapping[str, str], problems: list[Problem]
) -> tuple[tuple[ChannelConfig, ...], frozenset[str]]:
    """The channels that can be used, and the names of those that cannot."""
    root = read_yaml(path)
    if root is None:
        return (), frozenset()
    try:
        entries = root.entries()
        listed = entries.get("channels")
        items = [] if listed is None else list(listed.items())
    except ValueError as error:
        raise DeclarationError(f"{path}:{root.line}: {error}") from None
    for key, value, hint in entries.unknown(("channels", *_LATER_KEYS)):
        remedy = "list channels under channels" if key == "receivers" else hint
        problems.append(Problem(Level.ERROR, path.name, value.line, None, f'unknown key "{key}"; {remedy}'))
    later = [(key, entries.values[key].line) for key in _LATER_KEYS if entries.get(key) is not None]
    problems += [Problem(Level.NOTICE, path.name, line, None, f"{key} is not acted on yet") for key, line in later]
    channels: dict[str, ChannelConfig] = {}
    refused = set()
    for item in items:
        reader = _ChannelReader(path, item)
        try:
            channel = reader.read(environ)
            if channel.name in channels:
                raise ValueError("the name is taken by an earlier channel; choose another")
        except (ValueError, SettingsError, InvalidNameError) as error:
            message = (
                f"channel{f' {reader.name!r}' if reader.name else ''}: {error}; until then its messages go to the log channel"
            )
            problems.append(Problem(Level.ERROR, path.name, reader.line, None, message))
            refused.add(reader.name)
            continue
        channels[channel.name] = channel
    return tuple(channels.values()), frozenset(refused)


@dataclass
class _ChannelReader:
    path: Path
    item: Value
    name: str = ""
    line: int = 0

    def read(self, environ: Mapping[str, str]) -> ChannelConfig:
        """Raises ValueError or SettingsError; `line` is then where."""
        self.line = self.item.line
        entries = self.item.entries()
        self.name = self._text(entries, "name") or ""
        if not self.name or len(self.name) > 128:
            raise ValueError("name is missing or longer than 128 characters; write name: slack")
        kind = self._type(entries)
        self._known_keys(entries, kind)
        send_resolved = self._flag(entries, "send_resolved", True)
        self.line = self.item.line
        if kind is ChannelType.SLACK:
            return self._slack(entries, environ, send_resolved)
        if kind is ChannelType.WEBHOOK:
            return self._webhook(entries, environ, send_resolved)
        return ChannelConfig(self.name, kind, send_resolved=send_resolved)

    def _slack(self, entries: Entries, environ: Mapping[str, str], send_resolved: bool) -> ChannelConfig:
        address = self._reference(entries, "api_url", environ)
        token = self._reference(entries, "bot_token", environ)
        channel = self._text(entries, "channel")
        if token is None and address is None:
            raise ValueError("names no webhook and no bot token; write api_url_env: SLACK_WEBHOOK_URL")
        if token is not None and not channel:
            raise ValueError('a bot token needs channel; write channel: "#alerts"')
        if (
            token is None
            and address is not None
            and address.value is not None
            and not _is_loopback(address.value.get_secret_value())
        ):
            raise ValueError(
                "api_url is a secret (whoever has it can post); write api_url_env: SLACK_WEBHOOK_URL, or api_url_file"
            )
        return ChannelConfig(self.name, ChannelType.SLACK, address, token, channel, send_resolved, self._tenants(entries))

    def _tenants(self, entries: Entries) -> frozenset[str] | None:
        value = entries.get("tenants")
        if value is None:
            # Written without a value it is most likely unfinished, and must not open the channel to everybody.
            if "tenants" in entries.values:
                self.line = entries.values["tenants"].line
                raise ValueError("tenants names nobody; write tenants: [acme], or leave it out for every tenant")
            return None
        self.line = value.line
        found = set()
        for one in value.items():
            self.line = one.line
            found.add(validate_tenant_id(text_of(one)))
        if not found:
            raise ValueError("tenants names nobody; write tenants: [acme], or leave it out for every tenant")
        self.line = self.item.line
        return frozenset(found)

    def _webhook(self, entries: Entries, environ: Mapping[str, str], send_resolved: bool) -> ChannelConfig:
        address = self._reference(entries, "url", environ)
        if address is None:
            raise ValueError("names no address; write url: https://... or url_env: ALERT_WEBHOOK_URL")
        secret = self._reference(entries, "secret", environ)
        return ChannelConfig(self.name, ChannelType.WEBHOOK, address, secret, None, send_resolved)

    def _reference(self, entries: Entries, key: str, environ: Mapping[str, str]) -> SecretReference | None:
        names = [name for name in (key, f"{key}_env", f"{key}_file") if entries.get(name) is not None]
        if not names:
            return None
        if len(names) > 1:
            raise ValueError(f"has {' and '.join(names)}; keep one")
        text = self._text(entries, names[0]) or ""
        if names[0] == f"{key}_env":
            reference = SecretReference(env=text)
        elif names[0] == f"{key}_file":
            reference = SecretReference(file=self.path.parent / text)
        else:
            reference = SecretReference(value=SecretStr(text))
        found = reference.resolve(environ)
        if key in ("api_url", "url") and not is_safe_address(found):
            raise ValueError(f"{names[0]} gives an address that is neither https:// nor on this machine; use https://")
        return reference

    def _type(self, entries: Entries) -> ChannelType:
        text = self._text(entries, "type") or self.name
        if text in _LATER_TYPES:
            raise ValueError(f"type {text} is not acted on yet")
        try:
            return ChannelType(text)
        except ValueError:
            raise ValueError(f'type "{text}" is not known; write one of {", ".join(ChannelType)}') from None

    def _known_keys(self, entries: Entries, kind: ChannelType) -> None:
        for key, value, hint in entries.unknown(("name", "type", "send_resolved", *_TYPE_KEYS[kind])):
            self.line = value.line
            if key in _CLEAR:
                raise ValueError(f"{key} must not stand here in clear; write {_CLEAR[key]}, or {key}_file")
            raise ValueError(f'unknown key "{key}"; {hint}')

    def _text(self, entries: Entries, key: str) -> str | None:
        value = entries.get(key)
        if value is None:
            return None
        self.line = value.line
        return text_of(value).strip()

    def _flag(self, entries: Entries, key: str, default: bool) -> bool:
        text = self._text(entries, key)
        if text is None:
            return default
        if text.lower() not in ("true", "false", "yes", "no"):
            raise ValueError(f'{key} "{text}" is neither true nor false')
        return text.lower() in ("true", "yes")


def _is_loopback(address: str) -> bool:
    return urlsplit(address).hostname in _LOOPBACK
