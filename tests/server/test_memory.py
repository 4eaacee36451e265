"""A worker keeps the memory of a body for the next one; a process that consumes gives back what it freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")

_FAULTS = """
import resource
from analytics_dagster.server.memory import keep_freed_memory
kept = keep_freed_memory() if {keep} else None
def bodies():
    for _ in range(50):
        body = bytes(12 * 2**20)
bodies()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bodies()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

_GIVEN_BACK = """
import os
import pyarrow as pa
from analytics_dagster.server.memory import give_back_freed_memory
give_back_freed_memory()
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
columns = [pa.nulls(100_000, pa.float64()) for _ in range(50)]
held = resident() - before
del columns
print(held, resident() - before)
"""


def test_a_worker_does_not_fetch_the_pages_of_each_body_anew() -> None:
    kept, fetched = (int(_run(_FAULTS.format(keep=keep))) for keep in (True, False))
    assert kept < 50 < fetched


def test_freed_columns_go_back_to_the_kernel() -> None:
    held, left = map(int, _run(_GIVEN_BACK).split())
    assert held > 30 * 2**20
    assert left < held / 4


def _run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
