"""What can be wrong with an installation, looked at one thing after the other. Reads only."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version

from analytics_dagster.alerts.rules import Level as ProblemLevel
from analytics_dagster.clock import yesterday
from analytics_dagster.errors import AnalyticsError, DeclarationError, UserError
from analytics_dagster.installation import Installation
from analytics_dagster.lake import schemas
from analytics_dagster.lake.publications import Status
from analytics_dagster.orchestration import alerting
from analytics_dagster.orchestration.consuming import LogState, log_state
from analytics_dagster.orchestration.staleness import stale_tenant_days
from analytics_dagster.orchestration.tables import catalogue

# Below this Delta commits and SQLite's journal may fail in the middle of a day's run.
LEAST_FREE_BYTES = 2 * 1024**3

# Part of the log's limit from which on clients will soon be told to wait.
NEARLY_FULL = 0.8
# The sensor starts a run within a minute, the schedule within ten.
CONSUMER_SILENT = dt.timedelta(minutes=15)


class Level(StrEnum):
    OK = "ok"
    NOTICE = "notice"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    level: Level
    about: str
    found: str
    remedy: str = ""


def diagnose(installation: Installation) -> list[Finding]:
    """Everything, in the order in which one thing rests on another."""
    looks: tuple[Callable[[Installation], Iterator[Finding]], ...] = (
        _python,
        _home,
        _database,
        _tenants,
        _metrics,
        _rules,
        _outbox,
        _reports,
        _log,
        _held,
        _freshness,
        _gates,
        _quarantine,
        _dagster,
    )
    return [finding for look in looks for finding in _looked(look, installation)]


def _looked(look: Callable[[Installation], Iterator[Finding]], installation: Installation) -> list[Finding]:
    """What one look found. What it cannot even read is a finding too, and no reason not to look at the rest."""
    import duckdb
    from deltalake.exceptions import DeltaError

    found: list[Finding] = []
    about = look.__name__.removeprefix("_")
    try:
        found.extend(look(installation))
    except AnalyticsError as error:
        found.append(Finding(Level.PROBLEM, about, str(error)))
    except (DeltaError, duckdb.Error, OSError) as error:
        said = str(error).partition("\n")[0]
        found.append(Finding(Level.PROBLEM, about, f"cannot be read: {said}", "put back a copy of the files that it names"))
    return found


def _python(_: Installation) -> Iterator[Finding]:
    names = ("dagster", "deltalake", "duckdb", "great-expectations", "prophet", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    yield Finding(Level.OK, "versions", f"python {sys.version.split()[0]}, {versions}")


def _home(installation: Installation) -> Iterator[Finding]:
    home = installation.settings.analytics_home
    free = shutil.disk_usage(home).free
    if not os.access(home, os.W_OK):
        yield Finding(
            Level.PROBLEM, "home", f"{home} cannot be written", "give this user the right to, or name another with --home"
        )
    elif free < LEAST_FREE_BYTES:
        yield Finding(Level.PROBLEM, "home", f"{home}: {free / 1024**3:.1f} GiB free", "free at least 2 GiB")
    else:
        yield Finding(Level.OK, "home", f"{home}, {free / 1024**3:.0f} GiB free; lake {installation.settings.lake_root}")


def _database(installation: Installation) -> Iterator[Finding]:
    yield Finding(Level.OK, "database", f"{installation.database.dialect}, migrated")


def _tenants(installation: Installation) -> Iterator[Finding]:
    active = installation.tenants.active()
    if active:
        yield Finding(Level.OK, "tenants", f"{len(active)} active: {', '.join(active[:10])}{' ...' if len(active) > 10 else ''}")
    else:
        yield Finding(Level.NOTICE, "tenants", "none", "analytics import FORMAT FILE --tenant me, or analytics simulate")


def _metrics(installation: Installation) -> Iterator[Finding]:
    try:
        found = catalogue(installation.settings.analytics_metrics)
    except (DeclarationError, UserError) as error:
        yield Finding(Level.PROBLEM, "metrics", str(error), "mend the declaration; `analytics metrics list` reads it again")
        return
    yield Finding(Level.OK, "metrics", f"{len(found.metrics)} in {len(found.families)} families")


def _rules(installation: Installation) -> Iterator[Finding]:
    path = installation.settings.rules_path
    if not path.exists():
        yield Finding(Level.NOTICE, "rules", f"no rule file at {path}", "write one; docs/reference/rules.md has an example")
        return
    for problem in alerting.rule_problems(installation):
        yield Finding(Level.PROBLEM if problem.level is ProblemLevel.ERROR else Level.NOTICE, "rules", str(problem))
    yield Finding(Level.OK, "rules", f"{path}: {alerting.rule_count(installation)} rules loaded")


def _outbox(installation: Installation) -> Iterator[Finding]:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import outbox

    query = sa.select(outbox.c.state, outbox.c.channel, sa.func.count(), sa.func.max(outbox.c.last_error)).group_by(
        outbox.c.state, outbox.c.channel
    )
    with installation.database.read() as connection:
        rows = connection.execute(query).all()
    for state, channel, count, error in rows:
        if state == "failed":
            remedy = "mend the channel in alerting.yaml or its secret; failed messages are kept in the table outbox"
            yield Finding(Level.PROBLEM, "messages", f"{count} could not be delivered to {channel}: {error}", remedy)
        else:
            yield Finding(Level.OK, "messages", f"{count} {state} for {channel}")


def _reports(installation: Installation) -> Iterator[Finding]:
    from analytics_dagster.reports.sendings import not_sent

    for one in not_sent(installation.database):
        found = f"{one.name} of {one.tenant} due {one.due_at:%Y-%m-%d %H:%M} UTC did not reach {one.recipient}: {one.last_error}"
        again = one.state != "failed"
        remedy = "it is tried again; see SMTP_... and alerting.yaml" if again else f"analytics report show {one.name}"
        yield Finding(Level.NOTICE if again else Level.PROBLEM, "reports", found, remedy)


def _log(installation: Installation) -> Iterator[Finding]:
    from analytics_dagster.ingest.log.folder_lock import holder
    from analytics_dagster.ingest.log.limits import writer_folders
    from analytics_dagster.ingest.log.open import log_backlog, log_root

    now, settings = installation.clock.now(), installation.settings
    writers = [f"{f.name} (process {process})" for f in writer_folders(log_root(settings)) if (process := holder(f))]
    yield Finding(Level.OK, "log", f"written by {', '.join(writers)}" if writers else "nobody is writing to it")
    state, backlog = log_state(installation), log_backlog(settings)
    last = f"last consumed {state.consumed_at:%Y-%m-%d %H:%M:%S} UTC" if state.consumed_at else "never consumed"
    waits = f"{backlog.unconsumed_bytes / 2**20:.1f} MiB wait"
    if backlog.oldest is not None:
        waits += f", the oldest for {_minutes(now - backlog.oldest)}"
    if not state.left:
        yield Finding(Level.OK, "log", f"nothing waits; {last}")
    elif backlog.unconsumed_bytes >= NEARLY_FULL * settings.analytics_log_max_bytes:
        found = f"{waits}; {last}. At {settings.analytics_log_max_bytes / 2**20:.0f} MiB nothing more is accepted"
        yield Finding(Level.PROBLEM, "log", found, "analytics materialize; then find out what does not keep up")
    elif _is_stuck(state, backlog.oldest, now):
        names = ", ".join(w.source for w in state.left)
        yield Finding(Level.PROBLEM, "log", f"nobody consumes {names}: {waits}; {last}", "analytics materialize, up or serve")
    else:
        yield Finding(Level.OK, "log", f"{waits}; {last}")


def _is_stuck(state: LogState, oldest: dt.datetime | None, now: dt.datetime) -> bool:
    """Whether something has waited for long, and nobody consumed anything since."""
    times = [time for time in (oldest, state.consumed_at) if time is not None]
    return bool(times) and now - max(times) > CONSUMER_SILENT


def _minutes(time: dt.timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return "less than a minute" if minutes < 1 else f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def _held(installation: Installation) -> Iterator[Finding]:
    from analytics_dagster.ingest.held import Held

    registered = {record.tenant for record in installation.tenants.records()}
    root = installation.settings.analytics_home / "held"
    files = Held(root).files()
    for tenant in sorted({file.tenant for file in files}):
        number = sum(file.tenant == tenant for file in files)
        found = f"{tenant}: what came through the log could not be landed, and waits in {number} files in {root / tenant}"
        if tenant in registered:
            remedy = "mend its table in landing; the next round of the log lands them"
        else:
            remedy = f"analytics tenant add {tenant}, and the next round of the log lands them; or delete the folder"
        yield Finding(Level.PROBLEM, "held", found, remedy)


def _freshness(installation: Installation) -> Iterator[Finding]:
    stale = stale_tenant_days(installation, installation.tenants.active())
    if stale:
        days = sum(len(s.days) for s in stale)
        yield Finding(
            Level.NOTICE, "freshness", f"{days} table-days have rows that are not materialized", "analytics materialize"
        )
    last = yesterday(installation.clock)
    newest: dict[str, dt.date] = {}
    for found in installation.publications.newest_days("raw/plays"):
        newest[found.tenant] = max(found.day, newest.get(found.tenant, found.day))
    for tenant, day in sorted(newest.items()):
        level = Level.OK if day >= last else Level.NOTICE
        yield Finding(level, "freshness", f"{tenant}: plays through {day} ({(last - day).days} days behind)")


def _gates(installation: Installation) -> Iterator[Finding]:
    for table in schemas.EVENT_TABLES:
        for record in installation.publications.of(asset=table.path):
            if record.status is Status.GATED:
                found = f"{record.tenant} {record.day} {table.path} is closed: {', '.join(record.failed_checks)}"
                yield Finding(Level.NOTICE, "gate", found, "send the right rows again, or see the check's rows in the UI")


def _quarantine(installation: Installation) -> Iterator[Finding]:
    for tenant in installation.tenants.active():
        table = installation.lake.tenant(tenant).table(schemas.QUARANTINE)
        if table.exists() and (rows := table.read(columns=["line"]).num_rows):
            yield Finding(Level.NOTICE, "quarantine", f"{tenant}: {rows} records", f"analytics quarantine list --tenant {tenant}")


def _dagster(installation: Installation) -> Iterator[Finding]:
    home = installation.settings.dagster_home
    set_home = os.environ.get("DAGSTER_HOME")
    if set_home and set_home != str(home):
        remedy = f"unset it, or use `analytics up`; by hand: DAGSTER_HOME={home} dagster dev"
        yield Finding(Level.PROBLEM, "dagster", f"DAGSTER_HOME is {set_home}, not this installation's", remedy)
    elif not (home / "dagster.yaml").exists():
        yield Finding(
            Level.NOTICE, "dagster", f"{home} has no dagster.yaml yet", "analytics up, or analytics materialize, writes it"
        )
    else:
        yield Finding(Level.OK, "dagster", str(home))
