"""The ledger of restatements: what materializing closed, published days again changes, written down exactly once.

The order that must hold, for one tenant's family at a time:

1. A *batch* in the database: the closed days that are about to be computed again, why, and the Delta version of the family's
   table of days, which still has the published figures. Housekeeping leaves that table's old files while there is a batch.
2. The tables are overwritten.
3. The figures of both versions are compared; what differs is appended to the ledger in one commit, with the batch's name.
4. The batch is deleted.

Whoever comes after a process that was killed in between does 3 and 4 first: a batch that the ledger names is done, any other is
compared with what the tables hold then. So no change is lost, none is written twice, and each old figure is the new one of
the row before.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.ingest.landing import FROM_LOG
from analytics_dagster.ingest.lateness import closed_through, lateness_of, seen_of
from analytics_dagster.installation import Installation
from analytics_dagster.lake.compute import ComputeEngine, connect, literal
from analytics_dagster.lake.content import day_contents
from analytics_dagster.lake.lake import Table, TenantLake
from analytics_dagster.lake.publications import Publication, PublicationRecord, Status
from analytics_dagster.lake.schemas import RESTATEMENTS
from analytics_dagster.metrics.declarations import Family, Grain
from analytics_dagster.metrics.restatement_causes import Basis, cause
from analytics_dagster.orchestration.tables import catalogue
from analytics_dagster.orchestration.tenant_steps import publications_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.metrics.restatements import Restated


@dataclass(frozen=True)
class Batch:
    """Days that are computed again, and the version of the table that has their figures of before."""

    name: str
    version: int
    causes: Mapping[dt.date, str]
    run_id: str
    noted_at: dt.datetime


@dataclass(frozen=True)
class Restating:
    """One tenant's family while it is computed."""

    installation: Installation
    family: Family
    lake: TenantLake
    run_id: str

    def around(self, compute: Callable[[], None], bases: Mapping[dt.date, Basis]) -> Counter[dt.date]:
        """Run `compute`, which overwrites the days of `bases`, and note in the ledger what it changed of closed days.

        Returns how many figures of each day were noted, also those that a run before this could not note any more.
        """
        with self.alone():
            noted = self._finish()
            causes = self._closed(bases)
            if causes:
                self._begin(causes)
            compute()
            return noted + self._finish() if causes else noted

    def _closed(self, bases: Mapping[dt.date, Basis]) -> dict[dt.date, str]:
        """Why figures may change, for each day that is published with figures and closed."""
        database, source = self.installation.database, self.family.source
        seen = seen_of(database, self.lake.tenant, source)
        if seen is None or not bases or not self.days_table().exists():
            return {}
        lateness, now = lateness_of(self.installation.settings)[source], self.installation.clock.now()
        by_now, by_arrivals = closed_through(seen, lateness, now), seen.closed_through
        arrivals = self._arrivals(min(bases), max(bases))
        causes = {}
        for day, published in self._published(min(bases), max(bases)).items():
            if day not in bases or published.basis is None:
                continue
            before = Basis.of(published.basis)
            if self.family.own and before.declaration != self.family.version:
                continue  # of another version, whose figures are in other tables: declared anew, not restated
            newer = [rows for note, rows in arrivals.get(day, ()) if before.note < note <= bases[day].note]
            # Rows that came when the day was open are no restatement, even if by now it would be closed.
            closed = by_arrivals if newer else by_now
            if closed is not None and day <= closed:
                arrived = None if None in newer else sum(rows for rows in newer if rows is not None)
                causes[day] = cause(before, bases[day], arrived)
        return causes

    def _published(self, first: dt.date, last: dt.date) -> dict[dt.date, PublicationRecord]:
        found = self.installation.publications.of(tenant=self.lake.tenant, asset=self.family.asset, first=first, last=last)
        return {record.day: record for record in found if record.status is Status.PUBLISHED}

    def _arrivals(self, first: dt.date, last: dt.date) -> dict[dt.date, list[tuple[int, int | None]]]:
        """Notes of each day with how many rows they are about; the log's, which are about rows of before too, without."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import arrivals as notes

        query = sa.select(notes.c.day, notes.c.id, notes.c.rows, notes.c.arrival).where(
            notes.c.tenant == self.lake.tenant, notes.c.table_name == self.family.source, notes.c.day.between(first, last)
        )
        found: dict[dt.date, list[tuple[int, int | None]]] = {}
        with self.installation.database.read() as connection:
            for day, note, rows, arrival in connection.execute(query):
                found.setdefault(day, []).append((note, None if arrival == FROM_LOG else int(rows)))
        return found

    def _begin(self, causes: Mapping[dt.date, str]) -> None:
        from analytics_dagster.lake.state_tables import restatement_batches as table

        row = {
            "tenant": self.lake.tenant,
            "asset": self.family.asset,
            "batch": uuid.uuid4().hex,
            "table_version": self.days_table().version(),
            "days": json.dumps({day.isoformat(): why for day, why in causes.items()}),
            "run_id": self.run_id,
            "noted_at": self.installation.clock.now(),
        }
        self.installation.database.write(lambda connection: connection.execute(table.insert().values(row)))

    def _finish(self) -> Counter[dt.date]:
        """Note what the batch changed, unless the ledger has it, and delete the batch. Nothing without one."""
        batch = self.batch()
        if batch is None:
            return Counter()
        ledger = self.lake.table(RESTATEMENTS)
        changed = [] if _has(ledger, batch) else self._changes(batch)
        if changed:
            ledger.append(_rows(changed, batch, self.family.asset))
        if changed or _has(ledger, batch):
            measure_ledger(self.installation, self.lake, batch.noted_at.date(), batch.noted_at.date(), batch.run_id)
        self.installation.database.write(self._forget)
        return Counter(restated.figure.day for restated in changed)

    def _changes(self, batch: Batch) -> list[Restated]:
        from analytics_dagster.metrics.restatements import restated

        schema, first, last = self.days_table().schema, min(batch.causes), max(batch.causes)
        before = self.lake.as_of(schema, batch.version)
        was, now = (day_contents(lake.table(schema), first, last) for lake in (before, self.lake))
        days = [day for day in batch.causes if was[day] != now[day]]
        redeclared = [day for day in days if "policy" in batch.causes[day]]
        return restated(before, self.lake, self.family, days, redeclared)

    def batch(self) -> Batch | None:
        """What is under way, or was when its process was killed."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import restatement_batches as table

        query = sa.select(table).where(table.c.tenant == self.lake.tenant, table.c.asset == self.family.asset)
        with self.installation.database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        causes = {dt.date.fromisoformat(day): why for day, why in json.loads(row.days).items()}
        return Batch(row.batch, row.table_version, causes, row.run_id, row.noted_at)

    def _forget(self, connection: sa.Connection) -> None:
        from analytics_dagster.lake.state_tables import restatement_batches as table

        connection.execute(table.delete().where(table.c.tenant == self.lake.tenant, table.c.asset == self.family.asset))

    def days_table(self) -> Table:
        """The family's table of days."""
        return self.lake.table(self.family.table(Grain.DAY))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time goes through the steps for a tenant's family."""
        days = self.days_table().schema
        with self.lake.table(replace(days, name=f"{self.family.name}_restating")).lock():
            yield


def measure_ledger(installation: Installation, lake: TenantLake, first: dt.date, last: dt.date, run_id: str) -> list[Publication]:
    """Compute and publish the metrics over a tenant's ledger for days on which changes were noted, so that rules read them."""
    from analytics_dagster.metrics.aggregate import aggregate_days

    family = catalogue(installation.settings.analytics_metrics).family(RESTATEMENTS.name)
    engine = ComputeEngine(installation.settings.analytics_engine)
    ledger = lake.table(RESTATEMENTS)
    with ledger.lock():  # two families may be computed at once, and who reads the ledger last must write last
        aggregate_days(lake, family, first, last, stream_ms=0, engine=engine)
        made = publications_of(lake, family.table(Grain.DAY), family.asset, first, last, since=_first_day(ledger))
        installation.publications.record(made, run_id)
    return made


def maintain_days(installation: Installation, lake: TenantLake, family: Family, keep: dt.timedelta) -> bool:
    """Maintain a family's table of days; False, and nothing done, while a batch needs an old version of it."""
    restating = Restating(installation, family, lake, "")
    with restating.alone():
        if restating.batch() is not None:
            return False
        restating.days_table().maintain(keep)
    return True


def _first_day(ledger: Table) -> dt.date | None:
    with connect() as connection:
        [(found,)] = connection.execute(f"SELECT min(ts)::DATE FROM {ledger.sql()}").fetchall()
    first: dt.date | None = found
    return first


def _has(ledger: Table, batch: Batch) -> bool:
    day = batch.noted_at.date()
    query = f"SELECT 1 FROM {ledger.sql(day, day)} WHERE batch = {literal(batch.name)} LIMIT 1"
    with connect() as connection:
        return bool(connection.execute(query).fetchall())


def _rows(changed: list[Restated], batch: Batch, asset: str) -> pa.Table:
    rows = [
        {
            "restatement_id": _identity(batch.name, asset, restated),
            "ts": batch.noted_at,
            "day": restated.figure.day,
            "asset": asset,
            "metric": restated.figure.metric,
            "split_by": restated.figure.split_by or None,
            "dimensions": restated.figure.dimensions,
            "old": restated.old,
            "new": restated.new,
            "difference": restated.difference,
            "share": restated.share,
            "cause": batch.causes[restated.figure.day],
            "batch": batch.name,
            "run": batch.run_id,
        }
        for restated in changed
    ]
    return pa.Table.from_pylist(rows, schema=RESTATEMENTS.arrow)


def _identity(batch: str, asset: str, restated: Restated) -> str:
    figure = restated.figure
    parts = "\x1f".join([batch, asset, figure.day.isoformat(), figure.metric, figure.split_by, figure.dimensions])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
