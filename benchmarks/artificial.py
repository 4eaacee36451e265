"""How well the rules for artificial plays find what is artificial: precision and recall by play, on labelled days.

Run: python -m benchmarks.artificial. First the bot farms of the simulated service, of several seeds; then farms as they have been
described in public, among a day of simulated people; then what people really listened to, where the real data is beside the
clone, of which nothing should be marked.
"""

from __future__ import annotations

import csv
import gzip
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.counting.load import load_counting
from analytics_dagster.metrics.counting.verdicts import judged
from analytics_dagster.sources.simulation import IncidentKind, Parameters, build_population, simulate_day

STREAM_MS = 30_000
UNTIL = date(2026, 1, 31)
SEEDS = (1, 2, 3, 4, 5)
REAL = Path(__file__).parents[2] / "shared" / "data" / "listening" / "lastfm1k_events_5000.csv.gz"
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Judged:
    """Plays by what they are and what the rules take them for."""

    artificial: int
    people: int
    found: int
    wronged: int

    @property
    def precision(self) -> float:
        """Share of marked plays that are artificial; not a number where none is marked."""
        marked = self.found + self.wronged
        return self.found / marked if marked else math.nan

    @property
    def recall(self) -> float:
        """Share of artificial plays that are marked; not a number where there are none."""
        return self.found / self.artificial if self.artificial else math.nan

    def __add__(self, other: Judged) -> Judged:
        return Judged(
            self.artificial + other.artificial,
            self.people + other.people,
            self.found + other.found,
            self.wronged + other.wronged,
        )

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.4f}, recall {self.recall:.4f}: {self.found:,} of {self.artificial:,} artificial plays, "
            f"{self.wronged:,} of {self.people:,} others"
        )


def judge(plays: pa.Table, bots: set[str]) -> Judged:
    """Judge plays of whole days, of which those by `bots` are artificial."""
    rows = judged(plays, load_counting(), STREAM_MS).select(["listener_id", "artificial"]).to_pylist()
    is_bot = np.array([row["listener_id"] in bots for row in rows], dtype=bool)
    marked = np.array([row["artificial"] is not None for row in rows], dtype=bool)
    return Judged(int(is_bot.sum()), int((~is_bot).sum()), int((is_bot & marked).sum()), int((~is_bot & marked).sum()))


def simulated(seed: int, users: int = 1_000, days: int = 30) -> Judged:
    """A simulated tenant's days of a bot farm, and one day before and after it."""
    population = build_population(Parameters("aurora", 1, seed, users, UNTIL - timedelta(days=days - 1), days), UNTIL)
    texts, people = population.texts.listener_ids, population.listeners
    bots = {texts[int(n)].as_py() for n in np.flatnonzero(people.bot >= 0)}
    farm = next(one for one in population.incidents if one.kind is IncidentKind.BOT_FARM)
    count = (farm.end - farm.start).days + 2
    heard = (simulate_day(population, farm.first + timedelta(days=n - 1))["plays"] for n in range(count))
    total = Judged(0, 0, 0, 0)
    for plays in heard:
        total += judge(plays, bots)
    return total


def playlist_farm(rng: np.random.Generator, accounts: int) -> pa.Table:
    """Accounts that play a list of 467 tracks of 43 s on average, whole and round the clock (Music Business Worldwide, 2018)."""
    lengths = rng.integers(31_000, 55_000, 467)
    return _round_the_clock(rng, accounts, lambda n: (chosen := rng.integers(0, 467, n), lengths[chosen]), artists=60)


def spread_farm(rng: np.random.Generator, accounts: int) -> pa.Table:
    """Accounts with 636 plays a day over tracks of many artists, each played for 31 to 130 s (United States v. Smith, 2024)."""
    return _round_the_clock(rng, accounts, lambda n: (rng.integers(0, 10_000, n), rng.integers(31_000, 130_000, n)), 2_000, 636)


def click_farm(rng: np.random.Generator, accounts: int) -> pa.Table:
    """Accounts of one place that play one artist's ten tracks for eight hours a day, each for 30 s to 3 min."""
    return _round_the_clock(rng, accounts, lambda n: (rng.integers(0, 10, n), rng.integers(30_000, 180_000, n)), 1, 270)


def hidden_farm(rng: np.random.Generator, accounts: int) -> pa.Table:
    """Accounts with forty plays a day of one artist, of usual length: nobody would see one of them."""
    return _round_the_clock(rng, accounts, lambda n: (rng.integers(0, 10, n), rng.integers(90_000, 240_000, n)), 1, 40)


FARMS = {"playlist": playlist_farm, "one artist": click_farm, "spread thin": spread_farm, "hidden": hidden_farm}


def described(name: str, seed: int, accounts: int = 30) -> Judged:
    """A farm as it was described, among the people of one simulated day."""
    population = build_population(Parameters("aurora", 1, seed, 1_000, UNTIL, 1), UNTIL)
    people, farm = simulate_day(population, UNTIL)["plays"], FARMS[name](np.random.default_rng(seed), accounts)
    return judge(pa.concat_tables([people, farm]), set(farm.column("listener_id").to_pylist()))


def real() -> Judged | None:
    """Two people's listening of years, as Last.fm has it: without lengths. None where the file is not there."""
    if not REAL.exists():
        return None
    with gzip.open(REAL, "rt", encoding="utf-8", newline="") as lines:
        rows = [
            _row(n, datetime.fromisoformat(r["timestamp"]), r["user_id"], r["artist"] + "\n" + r["track"], r["artist"])
            for n, r in enumerate(csv.DictReader(lines))
        ]
    return judge(pa.Table.from_pylist(rows, schema=PLAYS.arrow), set())


def _round_the_clock(
    rng: np.random.Generator, accounts: int, draw: Any, artists: int, plays: int = DAY_MS // 31_000 + 1
) -> pa.Table:
    """Plays one after another from midnight on, at most `plays` an account. `draw` gives tracks and milliseconds for a number."""
    rows = []
    midnight = datetime.combine(UNTIL, time(), UTC)
    for account in range(accounts):
        tracks, lengths = draw(plays)
        began = np.cumsum(lengths + rng.integers(100, 900, plays)) - lengths
        for track, ms, at in zip(tracks.tolist(), lengths.tolist(), began.tolist(), strict=True):
            if at < DAY_MS:
                when = midnight + timedelta(milliseconds=at)
                farm = {"country": "NL", "device": "web", "ms_played": ms}
                rows.append(_row(len(rows), when, f"bot{account}", f"farm{track}", f"farm{track % artists}", **farm))
    return pa.Table.from_pylist(rows, schema=PLAYS.arrow)


def _row(number: int, ts: datetime, listener: str, track: str, artist: str, **more: Any) -> dict[str, Any]:
    named = {"listener_id": listener, "track_id": track, "artist_id": artist}
    empty: dict[str, Any] = {column.name: None for column in PLAYS.columns}
    return {**empty, "play_id": f"x{number:08}", "ts": ts, "format": "bench", **named, **more}


def lines() -> Iterator[str]:
    """Everything, a line each."""
    for seed in SEEDS:
        yield f"simulated bot farm, seed {seed:<10} {simulated(seed)}"
    for name in FARMS:
        total = Judged(0, 0, 0, 0)
        for seed in SEEDS[:3]:
            total += described(name, seed)
        yield f"described farm, {name:<19} {total}"
    found = real()
    yield f"two people's Last.fm {'is not there' if found is None else f'{found}':>18}"


def main() -> int:
    for line in lines():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
