"""A consumer that is killed at random moments, on a real log: what was acknowledged is in landing once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from analytics_dagster.clock import SystemClock
from analytics_dagster.ingest.consume import consume_all
from analytics_dagster.ingest.log.open import log_backlog, open_log
from analytics_dagster.ingest.points import Points, SeriesTable
from analytics_dagster.installation import open_installation
from analytics_dagster.lake.schemas import METRICS, landing
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.usage import Usage

TENANTS = ("acme", "other")
KILLS = 5
CONSUMER = """
import sys
from pathlib import Path
from analytics_dagster.ingest.consume import consume
from analytics_dagster.installation import open_installation
from analytics_dagster.settings import Settings

opened = open_installation(Settings.from_environment(Path(sys.argv[1])), create=True)
consume(opened, max_rows=1)
print("consuming", flush=True)
while True:
    consume(opened, max_rows=40)
"""


def test_a_consumer_killed_at_random_moments_loses_and_doubles_nothing(home: Path) -> None:
    chance = random.Random(7)
    opened = open_installation(Settings.from_environment(home), create=True)
    for tenant in TENANTS:
        opened.tenants.ensure(tenant)
    log, series, written = open_log(opened.settings, SystemClock(), "local"), SeriesTable(), 0
    numbers = [series.number(tenant, "counter", "a", "{}") for tenant in TENANTS]
    now = int(SystemClock().now().timestamp()) * 1_000_000

    def write(batches: int) -> None:
        nonlocal written
        for _ in range(batches):
            rows = np.arange(written, written + 20)
            made = Points(series, np.array(numbers, np.int32)[rows % 2], now - rows, rows.astype(np.float64))
            log.append(made).result(timeout=30)
            written += 20

    for _ in range(KILLS):
        consumer = subprocess.Popen([sys.executable, "-c", CONSUMER, str(home)], stdout=subprocess.PIPE)
        try:
            assert consumer.stdout is not None
            assert consumer.stdout.readline() == b"consuming\n"
            write(30)
            time.sleep(chance.uniform(0, 0.4))
        finally:
            consumer.kill()
            consumer.wait()
            assert consumer.stdout is not None
            consumer.stdout.close()
    write(1)
    log.close()
    consume_all(opened)
    values = [opened.lake.tenant(t).table(landing(METRICS)).read(columns=["value"]).column(0).to_pylist() for t in TENANTS]
    assert sorted(int(value) for some in values for value in some) == list(range(written))
    usage = Usage(opened.database, opened.clock)
    assert sum(day.points for tenant in TENANTS for day in usage.days(tenant)) == written
    assert log_backlog(opened.settings).unconsumed_bytes == 0
    opened.database.dispose()
