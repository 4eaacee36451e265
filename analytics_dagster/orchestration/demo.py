"""The demo's tenants: which of them have no yesterday yet."""

from __future__ import annotations

import datetime as dt

from analytics_dagster.installation import Installation
from analytics_dagster.tenancy.tenants import TenantStatus


def behind(installation: Installation, until: dt.date) -> list[str]:
    """Demo tenants whose newest play in landing is before `until`."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    demo = {r.tenant for r in installation.tenants.records() if r.demo and r.status is TenantStatus.ACTIVE}
    if not demo:
        return []
    query = (
        sa.select(arrivals.c.tenant, sa.func.max(arrivals.c.day))
        .where(arrivals.c.table_name == "plays", arrivals.c.tenant.in_(demo))
        .group_by(arrivals.c.tenant)
    )
    with installation.database.read() as connection:
        newest = {row[0]: row[1] for row in connection.execute(query)}
    return sorted(tenant for tenant in demo if tenant not in newest or newest[tenant] < until)
