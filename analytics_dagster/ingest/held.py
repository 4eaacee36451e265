"""Rows that left the log and cannot be landed now: a tenant's table is damaged or busy, or nobody registered the tenant.

They wait in files of their own, so that one tenant never stops the log for all. Nothing of a tenant's table may be landed
before what is held of it: the table knows only up to where it contains a source, and would pass over what is older.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from analytics_dagster.ingest.rounds import TenantRows
from analytics_dagster.lake.schemas import BY_NAME
from analytics_dagster.tenant_ids import validate_tenant_id

# Not "source" alone, which is a column of plays.
_SOURCE, _POSITION = "log_source", "log_position"
_FILE = re.compile(r"(?P<table>[a-z_]+)-(?P<number>\d{12})\.arrow")


@dataclass(frozen=True)
class HeldFile:
    """Some rows of one table of a tenant; a larger number came later."""

    path: Path
    tenant: str
    table: str
    number: int


class Held:
    """The folder of one installation, `<home>/held/<tenant>/`. Only who holds the consumer's lock may use it to write."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> list[HeldFile]:
        """By tenant and table, oldest first."""
        found = []
        for path in self._root.glob("*/*.arrow"):
            if named := _FILE.fullmatch(path.name):
                found.append(HeldFile(path, path.parent.name, named["table"], int(named["number"])))
        return sorted(found, key=lambda f: (f.tenant, f.table, f.number))

    def hold(self, rows: TenantRows, sources: Sequence[str]) -> HeldFile:
        """Keep `rows` until they can be landed; they are on disk when this returns. Not for dictionaries of millions."""
        folder = self._root / validate_tenant_id(rows.tenant)
        folder.mkdir(parents=True, exist_ok=True)
        newest = max((f.number for f in self.files() if (f.tenant, f.table) == (rows.tenant, rows.table.name)), default=0)
        made = HeldFile(folder / f"{rows.table.name}-{newest + 1:012d}.arrow", rows.tenant, rows.table.name, newest + 1)
        number = pa.array(rows.source.astype(np.int32))
        table = rows.rows.append_column(_SOURCE, pa.DictionaryArray.from_arrays(number, pa.array(sources)))
        table = table.append_column(_POSITION, pa.array(rows.position)).unify_dictionaries()
        unfinished = made.path.with_suffix(".unfinished")
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        _sync(unfinished)
        unfinished.rename(made.path)
        for changed in (folder, self._root, self._root.parent):
            _sync(changed)
        return made

    def read(self, held: HeldFile) -> tuple[TenantRows, list[str]]:
        """The rows, and the names of their sources by number."""
        with pa.OSFile(str(held.path), "rb") as file:
            table = pa.ipc.open_file(file).read_all()
        source = table.column(_SOURCE).combine_chunks()
        position = table.column(_POSITION).to_numpy()
        rows = table.drop_columns([_SOURCE, _POSITION])
        numbers = source.indices.cast(pa.int64()).to_numpy()
        return TenantRows(held.tenant, BY_NAME[held.table], rows, numbers, position), source.dictionary.to_pylist()

    def done(self, held: HeldFile) -> None:
        """The rows are landed and noted."""
        held.path.unlink(missing_ok=True)

    def drop(self, tenant: str) -> bool:
        """Delete what is held of a tenant whose data is deleted. True when there was something."""
        folder = self._root / validate_tenant_id(tenant)
        there = folder.exists()
        shutil.rmtree(folder, ignore_errors=True)
        return there


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
