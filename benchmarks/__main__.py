"""`make bench`: run every benchmark, or those that are named, one after the other in processes of their own."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("event_log", "simulate", "graph", "artificial", "counting")


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
    return 0


sys.exit(main(sys.argv[1:]))
