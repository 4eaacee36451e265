"""The channel that is always there: one JSON line a message in ANALYTICS_HOME/alerts.log, and a line in the log.

Messages to channels that are not configured come here, so that they are never silently nowhere.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from analytics_dagster.alerts.channels.base import Delivery
from analytics_dagster.alerts.messages import digest_of
from analytics_dagster.clock import Clock
from analytics_dagster.errors import RetryableDeliveryError

_log = logging.getLogger("analytics_dagster.alerts")


class LogChannel:
    """Appends to a file; safe with several writing processes, since each line is one write."""

    group_size = 1
    send_resolved = True

    def __init__(self, name: str, path: Path, clock: Clock) -> None:
        self.name = name
        self.target = digest_of("log", path)
        self._path = path
        self._clock = clock

    def send(self, deliveries: Sequence[Delivery]) -> None:
        """Write one line each. Raises RetryableDeliveryError when the file cannot be written."""
        now = self._clock.now().isoformat()
        for delivery in deliveries:
            line = json.dumps({"logged_at": now, "channel": delivery.channel, **delivery.payload}, ensure_ascii=False)
            try:
                self._append(line + "\n")
            except OSError as error:
                raise RetryableDeliveryError(f"{self._path} cannot be written: {error}") from error
            _log.warning("%s alert %s: %s", delivery.status, delivery.payload.get("alertname"), delivery.payload.get("summary"))

    def _append(self, line: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
