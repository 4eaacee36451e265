"""Every setting of the product, typed, read from the environment once by an entry point and then passed on.

What does not belong here: anything a tenant or a rule declares (YAML), and secrets of channels (referenced from
`alerting.yaml`). `docs/reference/settings.md` is generated from this class and a test holds the two together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from analytics_dagster.errors import NotFoundError, SettingsError

HOME_NAME = ".analytics"


class Settings(BaseSettings):
    """The environment of one installation. Field names are the environment variables in lower case."""

    model_config = SettingsConfigDict(env_prefix="", case_sensitive=False, extra="ignore", frozen=True)

    # where things are
    analytics_home: Path = Field(Path(HOME_NAME), description="Folder that holds everything the embedded default keeps.")
    analytics_database_url: SecretStr | None = Field(
        None,
        description="Operational state and Dagster's storage. Empty: SQLite in ANALYTICS_HOME. "
        "PostgreSQL: postgresql://user:password@host:port/database.",
    )
    analytics_lake_root: str | None = Field(
        None, description="Folder of the Delta lake, on a local disk. Empty: ANALYTICS_HOME/lake."
    )
    analytics_rules: Path | None = Field(
        None, description="Rule file. Empty: rules.yaml in ANALYTICS_HOME, else beside a home named .analytics."
    )
    analytics_alerting: Path | None = Field(
        None, description="Channels and routing. Empty: alerting.yaml, looked for where rules.yaml is."
    )
    analytics_metrics: Path | None = Field(
        None,
        description="Folder of further metric declarations (*.yaml) and counting policies (policies/*.yaml), added to the "
        "built-in ones.",
    )
    analytics_public_url: str = Field(
        "http://127.0.0.1:3000", description="Address of the Dagster UI as people reach it; used for links in messages."
    )
    analytics_log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = Field(
        "INFO", description="Least severe log line that is printed: DEBUG, INFO, WARNING or ERROR."
    )

    # data
    analytics_stream_seconds: int = Field(
        30, ge=1, description="Seconds of listening that make a play a stream (policy spotify_30s)."
    )
    analytics_session_gap_minutes: int = Field(
        30, ge=1, le=1439, description="Minutes without a play after which the next one begins another session."
    )

    analytics_smallest_cell: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="Least distinct listeners that a figure split by age band, gender or the like may rest on; what rests on "
        "fewer is suppressed.",
    )

    analytics_lateness: str | None = Field(
        None,
        description="How long after an event its row may come before its day is closed, for tables that differ from the default: "
        "table=duration, comma separated, for example plays=7d,metrics=30m (s, m, h, d).",
    )
    analytics_idle_timeout: int = Field(
        172_800,
        ge=0,
        le=315_360_000,
        description="Seconds after a table's last arrival from which its days close by the clock alone.",
    )

    # the ingest log
    analytics_log: str | None = Field(
        None,
        description="Where points and plays are made durable. Empty: segments in ANALYTICS_HOME/log. "
        "Kafka: kafka://broker:9092[,broker:9092]/topic.",
    )
    analytics_log_max_bytes: int = Field(
        10 * 2**30, ge=2**20, description="Bytes of the log that may wait to be consumed; beyond it, clients are told to wait."
    )
    analytics_log_segment_bytes: int = Field(
        64 * 2**20, ge=2**16, description="Size at which a segment of the log is closed and a new one begun."
    )
    analytics_log_retention: int = Field(3_600, ge=0, description="Seconds that a consumed segment is kept before it is deleted.")
    analytics_kafka_topics: str | None = Field(
        None,
        description="Topics that others write, to consume as well: table=topic@tenant, comma separated; table is metrics or "
        "plays, @tenant may be left out where each record has a tenant_id.",
    )
    analytics_future_skew: int = Field(600, ge=0, description="Seconds that a point's time may be ahead of this machine's clock.")

    # the Python engine
    analytics_url: str | None = Field(
        None, description="Server that analytics_engine posts to. Empty: points go to the log in ANALYTICS_HOME."
    )
    analytics_key: SecretStr | None = Field(None, description="API key that analytics_engine sends to ANALYTICS_URL.")

    # the server
    analytics_server_workers: int = Field(
        2,
        ge=1,
        le=64,
        description="Processes that answer requests, each with its own folder of the log. Python parses on one core each.",
    )
    analytics_max_body_bytes: int = Field(64 * 2**20, ge=2**10, description="Largest request body, in bytes after decompression.")
    analytics_allowed_hosts: str | None = Field(
        None, description="Host names that requests may ask for, comma separated. Empty: localhost and the bound address."
    )
    analytics_trusted_proxies: str | None = Field(
        None, description="Addresses or networks of proxies whose X-Forwarded-For and -Proto count, comma separated."
    )
    analytics_tls_certificate: Path | None = Field(None, description="Certificate chain (PEM) the server answers with.")
    analytics_tls_key: Path | None = Field(None, description="Private key (PEM) of ANALYTICS_TLS_CERTIFICATE.")
    analytics_statsd: str | None = Field(
        None, description="Loopback address that takes StatsD by UDP, for example 127.0.0.1:8125. Empty: none."
    )
    analytics_statsd_tenant: str = Field("default", description="Tenant that StatsD's points belong to.")

    # people who sign in to pages
    analytics_session_lifetime: int = Field(
        43_200, ge=60, le=2_592_000, description="Seconds after which a person has to sign in again, whatever was done meanwhile."
    )
    analytics_session_idle: int = Field(
        7_200, ge=60, le=2_592_000, description="Seconds without a request after which a person has to sign in again."
    )

    analytics_oidc_issuer: str | None = Field(
        None, description="OpenID provider that people may sign in through, for example https://id.example.com. Empty: keys only."
    )
    analytics_oidc_client_id: str | None = Field(None, description="What the provider knows this server as.")
    analytics_oidc_client_secret: SecretStr | None = Field(
        None, description="The client's secret at the provider. Empty: a public client, which PKCE alone protects."
    )
    analytics_oidc_scopes: str = Field(
        "openid profile email", description="What the provider is asked to tell, separated by spaces; some need `groups`."
    )
    analytics_oidc_roles: Path | None = Field(
        None, description="YAML file that says which groups of the provider get which role and tenants. Who is in none stays out."
    )

    # quotas, unless `analytics tenant quota` set a tenant's own
    analytics_quota_points_per_second: int = Field(
        0, ge=0, description="Points a second that a tenant may send, on average; 0: no limit."
    )
    analytics_quota_active_series: int = Field(
        150_000, ge=0, description="Series of a tenant with a point in the last hour or two; 0: no limit."
    )
    analytics_quota_stored_bytes: int = Field(0, ge=0, description="Bytes of a tenant's tables; 0: no limit.")
    analytics_quota_rules: int = Field(0, ge=0, description="Alert rules of a tenant; 0: no limit.")
    analytics_quota_metrics: int = Field(50, ge=0, description="Metrics that a tenant may declare for itself; 0: no limit.")
    analytics_tenant_grace_days: int = Field(
        30, ge=0, description="Days after which a removed tenant's data is deleted for good."
    )

    # cache (used by the server)
    redis_host: str | None = Field(None, description="Redis server for the cache. Empty: cache in process.")
    redis_port: int = Field(6379, ge=1, le=65_535, description="Port of the Redis server.")
    redis_password: SecretStr | None = Field(None, description="Password of the Redis server.")
    cache_ttl: int = Field(3_600, ge=0, description="Seconds that a cached answer may be served.")

    # alerting
    alert_evaluation_interval: int = Field(60, ge=1, description="Seconds between evaluations of live rules.")
    alert_cooldown_period: int = Field(
        900, ge=0, description="Seconds after a firing message during which the same alert is not sent to that channel again."
    )
    max_alerts_per_hour: int = Field(
        100, ge=1, description="Firing messages per tenant and channel in an hour; more are deferred."
    )
    slack_webhook_url: SecretStr | None = Field(None, description="Incoming webhook that the default channel `slack` posts to.")
    slack_bot_token: SecretStr | None = Field(
        None, description="Bot token (xoxb-...) for the default channel `slack`, with SLACK_CHANNEL."
    )
    slack_channel: str | None = Field(None, description="Channel that a bot token posts to, for example #alerts.")
    alert_webhook_url: SecretStr | None = Field(None, description="Address that the default channel `webhook` posts to.")
    alert_webhook_secret: SecretStr | None = Field(
        None, description="Secret (whsec_ and base64) that signs what `webhook` posts, after the Standard Webhooks specification."
    )

    # reports
    analytics_dashboards_url: str = Field(
        "http://127.0.0.1:8000", description="Address of the dashboards as people reach them; used for links in reports."
    )
    analytics_report_domains: str | None = Field(
        None, description="Domains that reports may be mailed to, comma separated, for example example.com. Empty: any."
    )
    smtp_host: str | None = Field(None, description="Mail server that reports are sent through. Empty: no mail is sent.")
    smtp_port: int = Field(587, ge=1, le=65_535, description="Port of the mail server.")
    smtp_security: Annotated[str, Field(pattern="^(starttls|tls|off)$")] = Field(
        "starttls",
        description="How the connection is encrypted: starttls, tls (from the first byte, port 465), or off, which takes no "
        "password to another machine.",
    )
    smtp_user: str | None = Field(None, description="Name to log in to the mail server with. Empty: without logging in.")
    smtp_password: SecretStr | None = Field(None, description="Password of SMTP_USER.")
    smtp_from: str | None = Field(None, description="Address that reports come from, for example reports@example.com.")

    # models
    ml_model_retrain_frequency: int = Field(86_400, ge=1, description="Seconds after which a stored model is fitted again.")
    anomaly_detection_threshold: float = Field(
        0.1, gt=0, lt=0.5, description="Expected share of odd points: the contamination given to the Isolation Forest."
    )
    trend_forecast_horizon: int = Field(24, ge=1, le=1_000, description="Buckets (days or hours) that a forecast looks ahead.")

    # work
    metrics_buffer_size: int = Field(10_000, ge=1, description="Points that may wait for one commit of the ingest log.")
    parallel_workers: int = Field(
        8, ge=1, le=256, description="Most tenants that a step computes at once; never more than there are processors."
    )
    analytics_engine: Annotated[str, Field(pattern="^(duckdb|spark)$")] = Field(
        "duckdb", description="What computes the metrics' tables: duckdb, or spark (needs the extra `spark` and Java 17)."
    )

    @field_validator("analytics_database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or value.get_secret_value().startswith(("postgresql://", "postgresql+psycopg2://", "sqlite:///")):
            return value
        raise ValueError("must begin with postgresql:// or sqlite:///")

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the operational database, with the driver named (SQLAlchemy 2.1 would take psycopg 3)."""
        if self.analytics_database_url is None:
            return f"sqlite:///{self.analytics_home / 'state.db'}"
        return self.analytics_database_url.get_secret_value().replace("postgresql://", "postgresql+psycopg2://", 1)

    @property
    def lake_root(self) -> str:
        return self.analytics_lake_root or str(self.analytics_home / "lake")

    @property
    def dagster_home(self) -> Path:
        return self.analytics_home / "dagster"

    @property
    def rules_path(self) -> Path:
        return self.analytics_rules or self._beside_home("rules.yaml")

    @property
    def alerting_path(self) -> Path:
        return self.analytics_alerting or self._beside_home("alerting.yaml")

    def _beside_home(self, name: str) -> Path:
        inside = self.analytics_home / name
        if inside.exists() or self.analytics_home.name != HOME_NAME:
            return inside
        return self.analytics_home.parent / name

    @classmethod
    def from_environment(cls, home: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read the environment. `home` (the command line's --home) wins over ANALYTICS_HOME, and that over the nearest
        `.analytics` upward from the current folder.

        Raises SettingsError naming the variable, its value and what is allowed.
        """
        set_values = {name: value for name, value in os.environ.items() if name.lower() in cls.model_fields and value == ""}
        chosen = home or _home_from_environment() or nearest_home(Path.cwd()) or Path.cwd() / HOME_NAME
        values = {**{name.lower(): cls.model_fields[name.lower()].default for name in set_values}, **(overrides or {})}
        values["analytics_home"] = chosen.expanduser().absolute()
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(_describe(error)) from None

    def require_home(self) -> None:
        """Raise NotFoundError unless the home exists. Verbs that only read call this instead of creating it."""
        if not self.analytics_home.is_dir():
            raise NotFoundError(
                f"no installation at {self.analytics_home}; run `analytics up`, `analytics import` or `analytics simulate` "
                "first, or name one with --home"
            )


def nearest_home(start: Path) -> Path | None:
    """The nearest `.analytics` folder at or above `start`, as git finds its own."""
    for folder in (start, *start.parents):
        if (folder / HOME_NAME).is_dir():
            return folder / HOME_NAME
    return None


def _home_from_environment() -> Path | None:
    named = os.environ.get("ANALYTICS_HOME")
    return Path(named) if named else None


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]).upper() if first["loc"] else "settings"
    secret = any(word in name for word in ("PASSWORD", "TOKEN", "SECRET", "URL"))
    value = "(hidden)" if secret else repr(first["input"])
    return f"{name}={value} is not allowed: {first['msg']}; see docs/reference/settings.md"
