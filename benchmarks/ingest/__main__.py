"""`make bench-ingest`: every part, or those that are named, with each figure beside what it has to be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from benchmarks.ingest import embedded, faults, throughput, under_load
from benchmarks.report import Line

PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "json": throughput.json_batches,
    "arrow": throughput.arrow,
    "remote_write": throughput.remote_write,
    "single": throughput.single_points,
    "dataframe": embedded.dataframes,
    "delta": embedded.log_to_delta,
    "memory": under_load.memory,
    "fresh": under_load.acknowledged_to_queryable,
    "kill": faults.kills,
    "faults": faults.refusals,
}


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        print(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name in names or PARTS:
        for line in PARTS[name]():
            print(line, flush=True)
    return 0


sys.exit(main(sys.argv[1:]))
