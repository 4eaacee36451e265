"""Run by test_killed_writer: forks writers, kills each at a random moment, tells what was acknowledged and what was read."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import threading
import time
from pathlib import Path

from log_points import SECONDS, open_folder, points, source, values

THREADS = 3


def write(folder: Path, first: int, out: int) -> None:
    """Append from several threads for ever, and report each number when it is acknowledged."""
    log = open_folder(folder, segment_bytes=200_000)

    def append(thread: int) -> None:
        number = first + thread
        while True:
            rows = points(*[number] * (1 + number % 7), tenant=f"tenant-{number % 13}")
            log.append(rows).result(SECONDS)
            os.write(out, number.to_bytes(8, "little"))
            number += THREADS

    for thread in range(THREADS):
        threading.Thread(target=append, args=(thread,)).start()


def one_life(folder: Path, first: int, seconds: float) -> list[int]:
    """A writer's acknowledged numbers; it is killed so many seconds after its first."""
    told, tell = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(told)
        write(folder, first, tell)
        signal.pause()
    os.close(tell)
    received = b""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ready, _, _ = select.select([told], [], [], max(0.0, deadline - time.monotonic()))
        if ready:
            received += os.read(told, 2**16)
            deadline = min(deadline, time.monotonic() + seconds)
            seconds = SECONDS
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    while rest := os.read(told, 2**16):
        received += rest
    os.close(told)
    return [int.from_bytes(received[at : at + 8], "little") for at in range(0, len(received), 8)]


def main() -> None:
    """Arguments: the folder, a seed and the number of lives."""
    folder, seed, lives = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    moments = random.Random(seed)
    acknowledged: list[list[int]] = []
    read: list[float] = []
    reader, position = source(folder), 0
    for life in range(lives):
        acknowledged.append(one_life(folder, life * 10_000_000, moments.uniform(0.0, 0.25)))
        # Every other time the reader comes before the next writer, and finds what the last one left.
        if life % 2:
            read += values(reader, position)
            position = reader.end()
    read += values(reader, position)
    print(json.dumps({"acknowledged": acknowledged, "read": read, "again": values(source(folder)) == read}))


if __name__ == "__main__":
    main()
