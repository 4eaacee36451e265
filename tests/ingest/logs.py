"""A log of batches in memory, and points to put into it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from analytics_dagster.ingest.log.interface import PLAYS, POINTS, Batch
from analytics_dagster.ingest.points import PLAY_ROWS, POINT_ROWS
from analytics_dagster.lake import schemas
from analytics_dagster.lake.lake import Lake

NOON = dt.datetime(2026, 3, 9, 12, tzinfo=dt.UTC)


@dataclass
class ListedSource:
    """A LogSource over a list; positions are 10, 20, 30, ... so that nothing rests on them being neighbours."""

    name: str
    batches: list[Batch] = field(default_factory=list)
    released: int = 0

    def read(self, after: int, max_rows: int) -> Iterator[Batch]:
        given = 0
        for batch in self.batches:
            if batch.position > after and given < max_rows:
                given += batch.rows.num_rows
                yield batch

    def end(self) -> int:
        return self.batches[-1].position if self.batches else 0

    def release(self, through: int) -> None:
        self.released = max(self.released, through)

    def add(self, rows: pa.Table, table: str = POINTS) -> int:
        position = self.end() + 10
        self.batches.append(Batch(position, table, rows))
        return position

    def add_plays(self, tenant: str, plays: pa.Table) -> int:
        tenants = pa.array([tenant] * plays.num_rows).dictionary_encode()
        rows = pa.Table.from_arrays([tenants, *plays.columns], schema=PLAY_ROWS)
        return self.add(rows, PLAYS)


def points(
    *rows: tuple[str, str, float], type_: str = "gauge", labels: str = "{}", at: dt.datetime = NOON, every: int = 1
) -> pa.Table:
    """Points of (tenant, name, value), `every` seconds apart from `at` on."""
    columns = {
        "tenant": [row[0] for row in rows],
        "name": [row[1] for row in rows],
        "type": [type_] * len(rows),
        "labels": [labels] * len(rows),
        "ts": [at + dt.timedelta(seconds=every * number) for number in range(len(rows))],
        "value": [row[2] for row in rows],
    }
    made = [pa.array(columns[field.name], _plain(field.type)) for field in POINT_ROWS]
    encoded = [
        column.dictionary_encode() if pa.types.is_dictionary(field.type) else column
        for column, field in zip(made, POINT_ROWS, strict=True)
    ]
    return pa.Table.from_arrays(encoded, schema=POINT_ROWS)


def landed(lake: Lake, tenants: Sequence[str], table: schemas.TableSchema = schemas.METRICS) -> list[tuple[object, ...]]:
    """What landing holds, as (tenant, name, value) or (tenant, play_id), sorted."""
    found: list[tuple[object, ...]] = []
    for tenant in tenants:
        rows = lake.tenant(tenant).table(schemas.landing(table)).read().to_pylist()
        found += [(tenant, r["name"], r["value"]) if table is schemas.METRICS else (tenant, r["play_id"]) for r in rows]
    return sorted(found)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
