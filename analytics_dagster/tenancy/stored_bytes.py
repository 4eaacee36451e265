"""How large each tenant's tables are: measured in the background, read by quota gates from a file and by billing from `usage`."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping
from pathlib import Path

from analytics_dagster.clock import Clock
from analytics_dagster.lake.lake import Lake
from analytics_dagster.tenancy.quota_gate import QUOTA_FOLDER, STORED_FILE
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus
from analytics_dagster.tenancy.usage import Usage


def measure_stored_bytes(
    home: Path, lake: Lake, tenants: Tenants, usage: Usage, clock: Clock, *, min_age: float = 60.0
) -> Mapping[str, int]:
    """Measure every tenant's tables and write the sizes down, for the quota gates of all processes and for the bill.

    Does nothing, and returns nothing, when that was done less than `min_age` seconds ago or is being done: anybody may call it as
    often as they like.
    """
    import filelock

    path = home / QUOTA_FOLDER / STORED_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path.with_suffix(".lock"), timeout=0):
            if _age(path, clock) < min_age:
                return {}
            kept = [record.tenant for record in tenants.records() if record.status is not TenantStatus.PURGING]
            sizes = {tenant: lake.tenant(tenant).stored_bytes() for tenant in kept}
            written = path.with_suffix(".new")
            written.write_text(json.dumps({"at": clock.now().isoformat(), "bytes": sizes}), encoding="utf-8")
            os.replace(written, path)
    except filelock.Timeout:
        return {}
    usage.set_stored_bytes(sizes)
    return sizes


def _age(path: Path, clock: Clock) -> float:
    """Seconds since `path` was written; without end if it was not."""
    try:
        written = dt.datetime.fromisoformat(json.loads(path.read_text(encoding="utf-8"))["at"])
    except FileNotFoundError:
        return float("inf")
    return abs((clock.now() - written).total_seconds())
