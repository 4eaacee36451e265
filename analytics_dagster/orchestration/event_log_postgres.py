"""Dagster's event log on PostgreSQL, with checks planned once for a run; see `event_log.py` for why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagster_postgres.event_log import PostgresEventLogStorage

from analytics_dagster.orchestration.event_log import planned_once

if TYPE_CHECKING:
    from dagster import EventLogEntry
    from dagster._serdes import ConfigurableClassData


class WholeRangePostgresEventLogStorage(PostgresEventLogStorage):
    """`PostgresEventLogStorage` for checks that are evaluated once for a range of days."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> WholeRangePostgresEventLogStorage:
        # The parent names itself here; only its address is ours to choose.
        return cls(config_value["postgres_url"], inst_data=inst_data)

    def store_event(self, event: EventLogEntry) -> None:
        super().store_event(planned_once(event))

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        super().store_event_batch([planned_once(event) for event in events])
