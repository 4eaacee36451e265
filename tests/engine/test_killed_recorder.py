"""A recording process is killed, again and again: every point whose await returned is in the log, and once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECORDER = """
import asyncio, itertools, os, sys
from analytics_dagster import analytics_engine, AnalyticsMetric

numbers = itertools.count(int(sys.argv[1]))

async def record():
    for number in numbers:
        if number % 3:
            await analytics_engine.record_metric(AnalyticsMetric("n", number))
        else:
            await analytics_engine.record_metrics([AnalyticsMetric("n", number, metric_type="timer")] )
        os.write(1, b"%d\\n" % number)

async def main():
    await asyncio.gather(*(record() for _ in range(20)))

asyncio.run(main())
"""


def test_every_acknowledged_point_is_in_the_log_once(home: Path, logged: Callable[[], list[dict[str, Any]]]) -> None:
    acknowledged: list[int] = []
    for attempt, enough in enumerate((1, 150, 700)):
        program = [sys.executable, "-c", RECORDER, str(attempt * 1_000_000)]
        environment = {**os.environ, "ANALYTICS_HOME": str(home)}
        with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE) as recorder:
            assert recorder.stdout is not None
            for _ in range(enough):
                acknowledged.append(int(recorder.stdout.readline()))
            recorder.kill()
            # Whole lines only: what stands before the kill was acknowledged.
            acknowledged += [int(line) for line in recorder.stdout.read().split(b"\n")[:-1]]
    found = Counter(int(row["value"]) for row in logged())
    assert set(acknowledged) <= set(found)
    assert set(found.values()) == {1}
    assert len(acknowledged) == len(set(acknowledged)) >= 851
