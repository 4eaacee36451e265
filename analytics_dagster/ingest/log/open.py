"""Which log this installation has, by its settings: folders below its home, or Kafka."""

from __future__ import annotations

import datetime as dt
import re
from itertools import count
from pathlib import Path

from analytics_dagster.clock import Clock, SystemClock
from analytics_dagster.errors import BusyError, SettingsError
from analytics_dagster.ingest.log.embedded import LOCK_PATIENCE_SECONDS, EmbeddedLog
from analytics_dagster.ingest.log.interface import IngestLog, LogSource
from analytics_dagster.ingest.log.limits import Backlog, backlog, writer_folders
from analytics_dagster.ingest.log.segments import sync_folder
from analytics_dagster.ingest.log.source import FolderSource
from analytics_dagster.settings import Settings

LOCAL = "local"
_ROLE = re.compile(r"[a-z]+(-\d+)?")
# More engines than this on one home are a mistake; each would keep a folder for ever.
_MOST_LOCAL = 1_000


def log_root(settings: Settings) -> Path:
    """The folder that the writers' folders are in."""
    return settings.analytics_home / "log"


def open_log(settings: Settings, clock: Clock, role: str) -> IngestLog:
    """The log for writing. `role` is `server-<n>`, a folder of that name, or `local`: the lowest `local-<n>` that is free.

    Raises BusyError when another process writes to that folder, naming it.
    """
    if _on_kafka(settings):
        from analytics_dagster.ingest.log.kafka import KafkaLog

        kafka: IngestLog = KafkaLog.from_url(settings, clock)
        return kafka
    if not _ROLE.fullmatch(role):
        raise ValueError(f"role {role!r} is not local or a name and a number")
    if role != LOCAL:
        return _open(settings, clock, role)
    for number in count():
        try:
            return _open(settings, clock, f"{LOCAL}-{number}", patience=0)
        except BusyError:
            if number >= _MOST_LOCAL:
                raise
    raise AssertionError("count() does not end")


def open_sources(settings: Settings, clock: Clock | None = None) -> list[LogSource]:
    """Everything there is to consume: the folder of each writer that there ever was, and the partitions of Kafka's topics.

    `clock` is what the retention is measured with. Files' times are by the machine's clock, so that is the default.
    """
    retention = dt.timedelta(seconds=settings.analytics_log_retention)
    sources: list[LogSource] = [
        FolderSource(folder, clock or SystemClock(), retention) for folder in writer_folders(log_root(settings))
    ]
    if _on_kafka(settings) or settings.analytics_kafka_topics:
        from analytics_dagster.ingest.log.kafka import kafka_sources

        sources.extend(kafka_sources(settings))
    return sources


def log_backlog(settings: Settings) -> Backlog:
    """What waits in the embedded log to be consumed, over all its writers."""
    return sum(backlog(log_root(settings)).values(), Backlog(0, 0, None))


def _open(settings: Settings, clock: Clock, name: str, patience: float = LOCK_PATIENCE_SECONDS) -> EmbeddedLog:
    root = log_root(settings)
    new = not (root / name).is_dir()
    log = EmbeddedLog(
        root / name,
        clock,
        segment_bytes=settings.analytics_log_segment_bytes,
        max_bytes=settings.analytics_log_max_bytes,
        patience=patience,
    )
    if new:
        for folder in (root, root.parent, root.parent.parent):
            sync_folder(folder)
    return log


def _on_kafka(settings: Settings) -> bool:
    if not settings.analytics_log:
        return False
    if not settings.analytics_log.startswith("kafka://"):
        raise SettingsError(
            f"ANALYTICS_LOG={settings.analytics_log!r} is not allowed: leave it empty, or kafka://broker:9092/topic"
        )
    return True
