"""Reading a tenant's ledger of restatements."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.schemas import RESTATEMENTS

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake


def restatements(
    tenant: TenantLake,
    *,
    first: dt.date | None = None,
    last: dt.date | None = None,
    metric: str | None = None,
    limit: int | None = None,
) -> pa.Table:
    """Rows of the ledger in RESTATEMENTS' columns, in the order in which they were noted: of the days `first` to `last` whose
    figures changed (inclusive, UTC), of one metric, the newest `limit` of them.
    """
    conditions = {"day >= ?": first, "day <= ?": last, "metric = ?": metric}
    given = {condition: value for condition, value in conditions.items() if value is not None}
    where = f" WHERE {' AND '.join(given)}" if given else ""
    newest = "" if limit is None else f" LIMIT {int(limit)}"
    rows = f"SELECT * FROM {tenant.table(RESTATEMENTS).sql()}{where}"
    backwards = f"SELECT * FROM ({rows}) ORDER BY ts DESC, day DESC, metric DESC, dimensions DESC, restatement_id DESC{newest}"
    with connect() as connection:
        ordered = f"SELECT * FROM ({backwards}) ORDER BY ts, day, metric, dimensions, restatement_id"
        return connection.sql(ordered, params=list(given.values())).to_arrow_table().cast(RESTATEMENTS.arrow)
