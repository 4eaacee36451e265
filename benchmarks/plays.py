"""Plays to measure with: raw tables of one tenant, some listeners and tracks far more often than others."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake

STREAM_MS = 30_000
FIRST = dt.date(2026, 1, 1)
COUNTRIES = np.array(["US", "DE", "FR", "BR", "JP", "GB", "MX", "ES", "IT", "SE"])
TIERS = np.array(["premium", "free"])
SOURCES = np.array(["playlist", "search", "library", "artist", "radio"])
DEVICES = np.array(["ios", "android", "web"])
ENDS = np.array(["trackdone", "fwdbtn", "backbtn", "endplay"])


def tenant_of(folder: Path, name: str = "acme") -> TenantLake:
    from analytics_dagster.lake.lake import Lake

    return Lake(str(folder / "lake"), folder / "locks").tenant(name)


def aggregate(tenant: TenantLake, last: dt.date) -> None:
    from analytics_dagster.metrics.aggregate import aggregate_days
    from analytics_dagster.metrics.load import load_catalogue

    aggregate_days(tenant, load_catalogue().family("listening"), FIRST, last, stream_ms=STREAM_MS)


def write(tenant: TenantLake, days: int, per_day: int, listeners: int, first: dt.date = FIRST) -> None:
    """Raw plays, some listeners and tracks far more often than others."""
    from analytics_dagster.lake.schemas import PLAYS

    chance, count = np.random.default_rng(7), days * per_day
    start = int(dt.datetime.combine(first, dt.time(), dt.UTC).timestamp() * 1_000_000)
    who = (listeners * chance.random(count) ** 2).astype(np.int64)
    track_ms = chance.integers(120_000, 300_000, count)
    played = np.minimum(track_ms, chance.integers(0, 400_000, count))
    source = chance.integers(0, len(SOURCES), count)
    given: dict[str, Any] = {
        "play_id": pa.array(np.arange(count)).cast(pa.string()),
        "ts": pa.array(np.sort(start + chance.integers(0, days * 86_400_000_000, count))).cast(pa.timestamp("us", "UTC")),
        "listener_id": pa.array(who).cast(pa.string()),
        "track_id": pa.array((2_000_000 * chance.random(count) ** 3).astype(np.int64)).cast(pa.string()),
        "ms_played": pa.array(played),
        "track_ms": pa.array(track_ms),
        "end_reason": _text(ENDS, np.where(played >= track_ms, 0, 1 + who % 3)),
        "source": _text(SOURCES, source),
        "playlist_id": pa.array(np.where(source == 0, who % 1_000, -1)).cast(pa.string()),
        "country": _text(COUNTRIES, who % len(COUNTRIES)),
        "tier": _text(TIERS, who % len(TIERS)),
        "device": _text(DEVICES, who % len(DEVICES)),
        "format": _text(np.array(["bench"]), np.zeros(count, np.int64)),
    }
    columns = [given.get(c.name, pa.nulls(count, c.type)).cast(c.type) for c in PLAYS.columns]
    tenant.table(PLAYS).overwrite_days(pa.table(columns, schema=PLAYS.arrow), first, first + dt.timedelta(days=days - 1))


def _text(distinct: np.ndarray, codes: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(distinct.tolist(), pa.string()))
