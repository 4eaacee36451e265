"""How large tenants' tables are: measured in the background, read by quota gates from a file and by billing from `usage`."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from analytics_dagster.clock import Clock
from analytics_dagster.lake.lake import Lake
from analytics_dagster.tenancy.quota_gate import QUOTA_FOLDER, STORED_FILE
from analytics_dagster.tenancy.quotas import Quotas
from analytics_dagster.tenancy.tenants import Tenants
from analytics_dagster.tenancy.usage import Usage


def measure_stored_bytes(
    home: Path, lake: Lake, tenants: Iterable[str], usage: Usage, clock: Clock, *, min_age: float = 60.0
) -> Mapping[str, int]:
    """Measure these tenants' tables and write the sizes down, for the quota gates of all processes and for the bill.

    Does nothing, and returns nothing, when that was done less than `min_age` seconds ago or is being done: anybody may call it as
    often as they like.
    """
    import filelock

    path = home / QUOTA_FOLDER / STORED_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path.with_suffix(".lock"), timeout=0):
            at, known = _read(path)
            if at is not None and abs((clock.now() - at).total_seconds()) < min_age:
                return {}
            sizes = {tenant: lake.tenant(tenant).stored_bytes() for tenant in tenants}
            written = path.with_suffix(".new")
            written.write_text(json.dumps({"at": clock.now().isoformat(), "bytes": {**known, **sizes}}), encoding="utf-8")
            os.replace(written, path)
    except filelock.Timeout:
        return {}
    usage.set_stored_bytes(sizes)
    return sizes


def limited_tenants(tenants: Tenants, quotas: Quotas) -> list[str]:
    """Active tenants with a quota of stored bytes: those worth measuring all the time."""
    limits_of = quotas.limits_of()
    return [tenant for tenant in tenants.active() if limits_of(tenant).stored_bytes]


def _read(path: Path) -> tuple[dt.datetime | None, Mapping[str, int]]:
    """When sizes were written last, and what they were."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: a crash of the machine may leave it empty
        return None, {}
    return dt.datetime.fromisoformat(found["at"]), found["bytes"]
