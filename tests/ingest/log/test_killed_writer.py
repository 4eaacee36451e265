"""SIGKILL at random moments: what was acknowledged is there once, in order; what was not is there once or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path


def test_every_acknowledged_point_of_a_killed_writer_is_read_back_once(tmp_path: Path) -> None:
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-m", "ingest.log.killed_writer", str(tmp_path / "log" / "server-0"), "3", "8"]
    answer = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    read = [int(value) for value in told["read"]]
    acknowledged = [number for life in told["acknowledged"] for number in life]
    assert all(told["acknowledged"]), "a writer was killed before it had begun"
    assert told["again"], "what was read while writers came and went is what is read in the end"
    times = Counter(read)
    assert set(acknowledged) <= set(times)
    # A request has 1 to 7 equal points: all of them or none, and never twice.
    assert {number: count for number, count in times.items() if count != 1 + number % 7} == {}
    for life, numbers in groupby(dict.fromkeys(read), key=lambda number: number // 10_000_000):
        begun = list(numbers)
        for thread in range(3):
            own = [number for number in begun if number % 10_000_000 % 3 == thread]
            assert own == sorted(own)
            # Of each thread at most the one request that was under way is there without having been acknowledged.
            assert len(set(own) - set(told["acknowledged"][life])) <= 1
