"""The rules for artificial plays on labelled days: the simulated service's bot farms, and what real people listened to.

`benchmarks/artificial.py` measures the same on larger days, and on farms as they were described in public.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.counting.load import load_counting
from analytics_dagster.metrics.counting.verdicts import judged
from analytics_dagster.sources.simulation import IncidentKind, Parameters, build_population, simulate_day

STREAM_MS = 30_000
UNTIL = dt.date(2026, 1, 31)


def marked(plays: pa.Table) -> tuple[set[str], dict[str | None, str]]:
    """Ids of the plays that are marked, and of every play who listened."""
    rows = judged(plays, load_counting(), STREAM_MS).select(["play_id", "listener_id", "artificial"]).to_pylist()
    return {r["play_id"] for r in rows if r["artificial"]}, {r["play_id"]: r["listener_id"] for r in rows}


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_exactly_the_plays_of_a_simulated_bot_farm_are_marked(seed: int) -> None:
    parameters = Parameters("aurora", 1, seed, 150, UNTIL - dt.timedelta(days=29), 30)
    population = build_population(parameters, UNTIL)
    bots = {population.texts.listener_ids[int(n)].as_py() for n in np.flatnonzero(population.listeners.bot >= 0)}
    farm = next(one for one in population.incidents if one.kind is IncidentKind.BOT_FARM)
    artificial, listeners = marked(simulate_day(population, farm.first)["plays"])
    assert artificial == {play for play, listener in listeners.items() if listener in bots}
    assert len(artificial) > 7_000
    quiet, _ = marked(simulate_day(population, farm.first - dt.timedelta(days=1))["plays"])
    assert quiet == set()


def test_nothing_of_what_two_people_listened_to_for_years_is_marked(shared_data: Path) -> None:
    empty: dict[str, Any] = {column.name: None for column in PLAYS.columns}
    with gzip.open(shared_data / "listening" / "lastfm1k_events_5000.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        rows = [
            {
                **empty,
                "play_id": f"l{n:05}",
                "ts": dt.datetime.fromisoformat(row["timestamp"]),
                "listener_id": row["user_id"],
                "artist_id": row["artist"],
                "track_id": f"{row['artist']} {row['track']}",
                "format": "lastfm",
            }
            for n, row in enumerate(csv.DictReader(lines))
        ]
    artificial, listeners = marked(pa.Table.from_pylist(rows, schema=PLAYS.arrow))
    assert (artificial, len(listeners)) == (set(), 5_000)
