"""Writes the reference pages that follow from the code: `python tests/reference_pages.py`. `test_docs.py` holds the two together.

Metrics, checks, formats and rules have pages of their own, written or held by their rooms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from analytics_dagster.definitions import defs
from analytics_dagster.lake.schemas import ARRIVAL_COLUMNS, QUARANTINE, RAW_TABLES, RESTATEMENTS, Column
from analytics_dagster.orchestration.checks import BUILT_CHECK
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.roles import MEANING, PERMISSIONS, VERBS, Role

ROOT = Path(__file__).parents[1]

SETTINGS = {
    "Where things are": (
        "analytics_home",
        "analytics_lake_root",
        "analytics_database_url",
        "analytics_rules",
        "analytics_alerting",
        "analytics_metrics",
        "analytics_public_url",
        "analytics_log_level",
    ),
    "Counting": ("analytics_stream_seconds", "analytics_session_gap_minutes", "analytics_smallest_cell"),
    "When a day is closed": ("analytics_lateness", "analytics_idle_timeout"),
    "The ingest log": (
        "analytics_log",
        "metrics_buffer_size",
        "analytics_log_max_bytes",
        "analytics_log_segment_bytes",
        "analytics_log_retention",
        "analytics_kafka_topics",
        "analytics_future_skew",
    ),
    "The Python engine": ("analytics_url", "analytics_key"),
    "The server": (
        "analytics_server_workers",
        "analytics_max_body_bytes",
        "analytics_allowed_hosts",
        "analytics_trusted_proxies",
        "analytics_tls_certificate",
        "analytics_tls_key",
        "analytics_statsd",
        "analytics_statsd_tenant",
    ),
    "Signing in": (
        "analytics_session_lifetime",
        "analytics_session_idle",
        "analytics_oidc_issuer",
        "analytics_oidc_client_id",
        "analytics_oidc_client_secret",
        "analytics_oidc_scopes",
        "analytics_oidc_roles",
    ),
    "Tenants and quotas": (
        "analytics_quota_points_per_second",
        "analytics_quota_active_series",
        "analytics_quota_stored_bytes",
        "analytics_quota_rules",
        "analytics_quota_metrics",
        "analytics_tenant_grace_days",
    ),
    "Alerting": (
        "alert_cooldown_period",
        "max_alerts_per_hour",
        "slack_webhook_url",
        "slack_bot_token",
        "slack_channel",
        "alert_webhook_url",
        "alert_webhook_secret",
    ),
    "Reports": (
        "analytics_dashboards_url",
        "analytics_report_domains",
        "smtp_host",
        "smtp_port",
        "smtp_security",
        "smtp_user",
        "smtp_password",
        "smtp_from",
    ),
    "Models": ("ml_model_retrain_frequency", "anomaly_detection_threshold", "trend_forecast_horizon"),
    "Work": ("parallel_workers", "analytics_engine"),
}
NOT_YET = (
    "redis_host",
    "redis_port",
    "redis_password",
    "cache_ttl",
    "alert_evaluation_interval",
)
"""Read and checked, for parts of the platform that are not there yet."""

LAYERS = {
    "landing": "What arrived, appended and never changed. Importing appends, and `arrivals_sensor` reports it to Dagster as a "
    "materialization. `landing/metrics` and `landing/plays` can be materialized too, which takes what clients sent from the "
    "[ingest log](../explanation/ingest-log.md); the server and `ingest_log_sensor` do so all the time.",
    "raw": "Each day's arrivals with every key once. Rebuilt from landing whenever asked, with the same rows.",
    "catalogue": "What listeners, tracks, artists and playlists are, as last described. Without partitions; group `catalogue`.",
    "aggregates": "Metric series by hour and by day, one asset for each family of [metrics](metrics.md). "
    "`aggregates/restatements` counts the [ledger](../explanation/restatement.md) `landing/restatements`.",
    "quality": "All verdicts of the [checks](quality.md), and a score for each day.",
    "models": "How odd each day of each KPI was ([models](models.md)).",
    "forecasts": "What comes next ([models](models.md)). A range of days makes the forecast of its newest day.",
    "insights": "A page for people ([models](models.md)). A range of days makes the page of its newest day.",
}


SETTINGS_INTRO = """\
Every setting is an environment variable. All are read once, when a command or a Dagster process starts, and checked: a value that
is not allowed ends the command with status 2 and one line that names the variable, the value and what is allowed. A variable that
is set and empty counts as not set. Secrets are never printed.

`--home DIR` on the command line wins over `ANALYTICS_HOME`, and that over the nearest folder `.analytics` upward from the current
one. Without any of them a verb that writes makes `.analytics` here, and one that only reads says that there is no installation.
"""
NOT_YET_INTRO = """\
Checked like the others, for parts of the platform that this version does not have: a cache, live rules.
"""
SETTINGS_NOTES = """\
## Notes

- An address of an object store in `ANALYTICS_LAKE_ROOT` is taken, and
  [does not work yet](../how-to/production.md#where-the-lake-is).
- The first daily partition is 2005-01-01 (UTC), always. Events before it are quarantined.
- Channels beyond `slack`, `webhook` and `log` stand in [alerting.yaml](alerting.md), rules in [rules.yaml](rules.md).
- `analytics` sets `DAGSTER_HOME` to `dagster` in the home and writes its `dagster.yaml`. Change settings, not that file.
"""
ASSETS_INTRO = """\
Daily partitions are UTC days from 2005-01-01 to yesterday. All tenants of a day, or of a range of days, are computed in one step;
each table is one pool, so two runs never write it at once. Every asset but landing is checked by `every_tenant_was_computed`,
which fails and names the tenants that could not be computed. Columns are described on the asset's page in the Dagster UI and in
[tables](tables.md).
"""
TABLES_INTRO = """\
The columns of what arrives, as they are in `raw/<table>` and, with our own column names, in files for
[import](formats.md#our-own-columns). Times are UTC with microseconds. `landing/<table>` has these columns and an
arrival's. Columns of aggregates follow from the [declared metrics](metrics.md); those of models, forecasts and insights are in
[models](models.md), and where the tables lie in [storage](storage.md).
"""

PERMISSIONS_INTRO = """\
What each role may do, to the tenants that its key is for ([keys and roles](../how-to/keys-and-roles.md)). Every route of the API
names the permission that it needs, in `/openapi.json` too.
"""
VERBS_INTRO = """\
Whoever may open the home's files may call every verb. The permission is what the same thing takes over HTTP.
"""


def settings_page() -> str:
    """`docs/reference/settings.md`."""
    sections = [f"## {title}\n\n{_settings_table(names)}" for title, names in SETTINGS.items()]
    not_yet = f"## Read, not acted on yet\n\n{NOT_YET_INTRO}\n{_settings_table(NOT_YET)}"
    return "\n".join([_generated("Settings"), SETTINGS_INTRO, *sections, not_yet, SETTINGS_NOTES])


def assets_page() -> str:
    """`docs/reference/assets.md`."""
    graph = defs.resolve_asset_graph()
    by_group: dict[str, list[Any]] = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        by_group.setdefault(str(node.group_name), []).append(node)
    sections = [f"## {group}\n\n{said}\n\n{_assets_table(by_group.pop(group))}" for group, said in LAYERS.items()]
    if by_group:
        raise ValueError(f"groups without a text in LAYERS: {', '.join(by_group)}")
    return "\n".join([_generated("Assets"), ASSETS_INTRO, *sections, _suites(graph), _automation()])


def tables_page() -> str:
    """`docs/reference/tables.md`."""
    sections = []
    for table in RAW_TABLES:
        which = "the newest that arrived" if table.time is None else "the first that arrived"
        head = f"## {table.path}\n\n{table.description} One row for each `{table.key}`, {which}."
        sections.append(f"{head}\n\n{_columns(table.columns)}")
    arrival = f"## What an arrival adds\n\n{_columns(ARRIVAL_COLUMNS)}"
    quarantine = f"## {QUARANTINE.path}\n\n{QUARANTINE.description}\n\n{_columns(QUARANTINE.columns)}"
    ledger = f"## {RESTATEMENTS.path}\n\n{RESTATEMENTS.description} Why and when: [restatement](../explanation/restatement.md)."
    apart = [arrival, quarantine, f"{ledger}\n\n{_columns(RESTATEMENTS.columns)}"]
    return "\n".join([_generated("Tables"), TABLES_INTRO, *sections, *apart])


def permissions_page() -> str:
    """`docs/reference/permissions.md`."""
    head = ("permission", "to", *(f"`{role}`" for role in Role))
    rows = [
        (f"`{permission}`", said, *("yes" if permission in PERMISSIONS[role] else "" for role in Role))
        for permission, said in MEANING.items()
    ]
    verbs = [(f"`analytics {verb}`", f"`{permission}`") for verb, permission in VERBS.items()]
    sections = [f"## Roles\n\n{_table(head, rows)}", f"## Verbs\n\n{VERBS_INTRO}\n{_table(('verb', 'permission'), verbs)}"]
    return "\n".join([_generated("Permissions"), PERMISSIONS_INTRO, *sections])


PAGES = {
    "settings.md": settings_page,
    "assets.md": assets_page,
    "tables.md": tables_page,
    "permissions.md": permissions_page,
}


def variable(name: str) -> str:
    return name.upper()


def default(field: FieldInfo) -> str:
    if field.default is None:
        return "not set"
    shown = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return f"`{shown}`"


def _allowed(field: FieldInfo) -> str:
    bounds = []
    for mark in field.metadata:
        match mark:
            case Ge(ge=low):
                bounds.append(f"{low} or more")
            case Gt(gt=low):
                bounds.append(f"more than {low}")
            case Le(le=high):
                bounds.append(f"at most {high}")
            case Lt(lt=high):
                bounds.append(f"less than {high}")
            case _ if getattr(mark, "pattern", None):
                bounds.append(mark.pattern.strip("^$()").replace("|", ", "))
    kind = {int: "a whole number", float: "a number"}.get(field.annotation, "")  # type: ignore[call-overload]
    return ", ".join(filter(None, (kind, *bounds)))


def _settings_table(names: Iterable[str]) -> str:
    rows = []
    for name in names:
        field = Settings.model_fields[name]
        rows.append((f"`{variable(name)}`", default(field), _allowed(field), str(field.description)))
    return _table(("variable", "default", "allowed", "meaning"), rows)


def _assets_table(nodes: Iterable[Any]) -> str:
    rows = []
    for node in nodes:
        upstream = [f"`{key.to_user_string()}`" for key in sorted(node.parent_keys)]
        partitions = "days" if node.partitions_def else "none"
        what = str(node.description or "").split("\n")[0]
        rows.append((f"`{node.key.to_user_string()}`", what, _upstream(upstream), partitions))
    return _table(("asset", "what it is", "made from", "partitions"), rows)


def _upstream(names: Sequence[str]) -> str:
    families = [name for name in names if name.startswith("`aggregates/")]
    if len(families) < 2:
        return ", ".join(names)
    return ", ".join(["all aggregates", *(name for name in names if name not in families)])


def _columns(columns: Iterable[Column]) -> str:
    rows = [(f"`{c.name}`", _kind(c.type), "yes" if c.required else "", c.description) for c in columns]
    return _table(("column", "type", "always there", "meaning"), rows)


def _kind(kind: Any) -> str:
    return "timestamp" if str(kind).startswith("timestamp") else {"date32[day]": "date"}.get(str(kind), str(kind))


def _suites(graph: Any) -> str:
    lines = ["## Checks\n", "Beside `every_tenant_was_computed`. What each asks is in [quality checks](quality.md).\n"]
    for key in sorted(graph.get_all_asset_keys()):
        names = sorted(c.name for c in graph.get_check_keys_for_assets({key}) if c.name != BUILT_CHECK)
        if names:
            lines.append(f"- `{key.to_user_string()}`: {', '.join(f'`{name}`' for name in names)}")
    return "\n".join(lines) + "\n"


def _automation() -> str:
    repository = defs.get_repository_def()
    said = {job.name: job.description or "" for job in repository.get_all_jobs() if not job.name.startswith("__")}
    jobs = [(f"`{name}`", text) for name, text in said.items()]
    schedules = [
        (f"`{s.name}`", f"`{s.cron_schedule}` UTC", f"`{s.job_name}`", s.description or said[s.job_name])
        for s in repository.schedule_defs
    ]
    sensors = [
        (f"`{s.name}`", f"{s.minimum_interval_seconds} s", ", ".join(f"`{j.name}`" for j in s.jobs), s.description or "")
        for s in repository.sensor_defs
        if s.has_jobs
    ]
    return (
        "## Automation\n\nAll schedules and sensors are on by default. A tick that does nothing says why.\n\n"
        f"{_table(('job', 'what it does'), sorted(jobs))}\n"
        f"{_table(('schedule', 'when', 'job', 'what it does'), sorted(schedules))}\n"
        f"{_table(('sensor', 'at most every', 'job', 'what it does'), sorted(sensors))}"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _generated(title: str) -> str:
    return f"# {title}\n\n<!-- Generated from the code by `python tests/reference_pages.py`. -->\n"


def pages() -> Mapping[Path, str]:
    """Path and text of each generated page."""
    return {ROOT / "docs" / "reference" / name: make() for name, make in PAGES.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
