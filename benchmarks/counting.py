"""What counting by every policy costs: the tables of the family `counting` for one day of 10,000,000 plays, beside `listening`.

Run: python -m benchmarks.counting. Processor seconds stand beside the wall clock's, since the figure of a busy machine says
little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.load import load_catalogue
from benchmarks.metrics import FIRST, STREAM_MS, _tenant, _write

PLAYS, LISTENERS = 10_000_000, 1_000_000
FAMILIES = ("listening", "counting")


def measured(family: str, folder: str) -> str:
    """One family's tables, made in a process of their own."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.counting", family, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    gigabytes = usage.ru_maxrss / 1024**2
    return f"{family:<12} {said['wall']:6.1f} s wall {said['processor']:6.1f} s processor {gigabytes:6.2f} GiB"


def main(arguments: list[str]) -> int:
    """All families, or in a process of its own the one that is named."""
    if arguments:
        name, folder = arguments
        family, tenant = load_catalogue().family(name), _tenant(Path(folder))
        wall, processor = time.perf_counter(), time.process_time()
        aggregate_days(tenant, family, FIRST, FIRST, stream_ms=STREAM_MS)
        print(json.dumps({"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-counting-") as folder:
        _write(_tenant(Path(folder)), days=1, per_day=PLAYS, listeners=LISTENERS)
        for name in FAMILIES:
            print(measured(name, folder), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
