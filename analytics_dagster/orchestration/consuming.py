"""Dagster's part in consuming the log: whether a run should, and what a step says about it. No Dagster here.

The server consumes by itself every few seconds, and so does the command line when it materializes. A run is started where
nobody else does it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.ingest.positions import Waiting, positions, waiting
from analytics_dagster.ingest.raw import Arrived, take_unreported
from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import METRICS, PLAYS

if TYPE_CHECKING:
    from analytics_dagster.ingest.consume import Consumed
    from analytics_dagster.ingest.log.limits import Backlog

CONSUMED_TABLES = (METRICS, PLAYS)

# More than the server's pause and the time of a round: who consumed since then is at it, and a run costs seconds to start.
SOMEBODY_CONSUMES = dt.timedelta(seconds=45)


@dataclass(frozen=True)
class LogState:
    """What the log holds that is not consumed, and when anything was last."""

    left: Sequence[Waiting]
    consumed_at: dt.datetime | None


def log_state(installation: Installation) -> LogState:
    """A look at the sources' ends; no row is read."""
    from analytics_dagster.ingest.log.open import open_sources

    times = [position.at for position in positions(installation.database).values()]
    return LogState(waiting(installation.database, open_sources(installation.settings)), max(times, default=None))


def why_not_consume(state: LogState, now: dt.datetime, *, under_way: bool) -> str | None:
    """Why no run is to be started that consumes the log, None to start one."""
    if not state.left:
        return "the log is consumed"
    if under_way:
        return "a run that consumes the log is under way"
    # A time to come is a clock that was stepped back, and says nothing about who consumes.
    if state.consumed_at is not None and dt.timedelta(0) <= now - state.consumed_at < SOMEBODY_CONSUMES:
        seconds = (now - state.consumed_at).seconds
        return f"the log was consumed {seconds} s ago; a run is started when nobody has for {SOMEBODY_CONSUMES.seconds} s"
    return None


@dataclass(frozen=True)
class ConsumeReport:
    """What a step took from the log, and all that landed in its tables since that was last told, whoever brought it."""

    consumed: Consumed
    arrived: Mapping[str, Arrived]
    left: Backlog

    def metadata(self, table: str, now: dt.datetime) -> dict[str, Any]:
        """Of one landing table, for the UI."""
        arrived = self.arrived.get(table)
        return {
            "rows": arrived.rows if arrived else 0,
            "tenants": ", ".join(arrived.tenants) if arrived else "none",
            "rows consumed by this run": self.consumed.points if table == METRICS.name else self.consumed.plays,
            "bytes left in the log": self.left.unconsumed_bytes,
            "seconds behind": max(0.0, round((now - self.left.oldest).total_seconds(), 1)) if self.left.oldest else 0.0,
        }


def consume_and_report(installation: Installation, tables: Sequence[str]) -> ConsumeReport:
    """Consume all that is in the log, and take the report of what landed in `tables`."""
    from analytics_dagster.ingest.consume import consume_all
    from analytics_dagster.ingest.log.open import log_backlog

    consumed = consume_all(installation)
    arrived = take_unreported(installation.database, installation.clock.now(), tables)
    return ConsumeReport(consumed, {a.table: a for a in arrived}, log_backlog(installation.settings))
