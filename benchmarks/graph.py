"""The whole graph as users run it: `analytics` in a new home, timed from outside with the system's own accounting."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

ANALYTICS = Path(sys.executable).parent / "analytics"


def run(home: Path, *arguments: str) -> tuple[float, float]:
    """Wall seconds and peak resident gigabytes of one call."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([str(ANALYTICS), *arguments, "--home", str(home)], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}: {output.read().decode()[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024**2


def code_location() -> None:
    command = [sys.executable, "-c", "import analytics_dagster.definitions"]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True)
        times.append(time.perf_counter() - began)
    print(f"code location loads: {min(times):.1f} s (limit 3)")


def million_plays(home: Path) -> None:
    run(home, "simulate", "--tenants", "1", "--users", "115000", "--days", "1")
    seconds, gigabytes = run(home, "materialize")
    print(f"one day of about 1,000,000 plays, raw to insights: {seconds:.0f} s (limit 60), {gigabytes:.2f} GiB (limit 2)")


def ninety_days(home: Path) -> None:
    seconds, _ = run(home, "simulate")
    print(f"simulate 3 tenants x 90 days: {seconds:.0f} s")
    seconds, gigabytes = run(home, "materialize")
    print(f"90 days x 3 tenants in one run: {seconds:.0f} s (limit 75), {gigabytes:.2f} GiB")
    seconds, _ = run(home, "materialize")
    print(f"the newest day again: {seconds:.0f} s")


def fifteen_years(home: Path) -> None:
    chance, rows = random.Random(1), 150_000
    last = datetime.now(UTC) - timedelta(days=2)
    step = timedelta(days=15 * 365) / rows
    source = home.with_suffix(".jsonl")
    with source.open("w") as file:
        for number in range(rows):
            listened = int((last - step * number).timestamp())
            track = {"artist_name": f"Artist {chance.randrange(800)}", "track_name": f"Song {chance.randrange(20)}"}
            file.write(json.dumps({"listened_at": listened, "track_metadata": track}) + "\n")
    imported, _ = run(home, "import", "listenbrainz", str(source), "--tenant", "me")
    materialized, _ = run(home, "materialize", "--tenant", "me")
    log = sum(f.stat().st_size for f in (home / "dagster" / "history").glob("*.db")) / 1e6
    total = imported + materialized
    print(f"15 years, {rows:,} plays, imported and materialized: {total:.0f} s (limit 600), event log {log:.0f} MB (limit 100)")


def main() -> None:
    code_location()
    for benchmark in (million_plays, ninety_days, fifteen_years):
        with tempfile.TemporaryDirectory() as folder:
            benchmark(Path(folder) / ".analytics")


if __name__ == "__main__":
    main()
