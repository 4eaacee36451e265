"""Which tenant-days are not up to date: rows that no raw day contains, raw days that no figure contains, figures that no page
has seen. What a killed run left undone is found here, because nothing is remembered but `publications`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from analytics_dagster.ingest.landing import FROM_LOG
from analytics_dagster.ingest.raw import StaleDays, newest_note, stale_days
from analytics_dagster.installation import Installation
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.publications import Status
from analytics_dagster.lake.schemas import CATALOGUE_DAY, CATALOGUE_TABLES, METRICS, PLAYS
from analytics_dagster.metrics.restatement_causes import declared_as
from analytics_dagster.orchestration.tables import family_sources, own_families

# Clients send all day, and each round of the log makes the day stale: a run for each would never end. What is newer is in the
# answers to queries at once, so the stored figures may be ten minutes old.
COMPUTE_AGAIN = dt.timedelta(minutes=10)
_FROM_LOG = (METRICS.name, PLAYS.name)

LAST_ASSET = "insights/daily"
"""The end of the graph. Its `input_id` is the newest sequence of a figure that its page could see."""


def stale_tenant_days(installation: Installation, tenants: Sequence[str]) -> list[StaleDays]:
    """Everything that has to be computed, by tenant and raw table."""
    database, families = installation.database, family_sources(installation.settings.analytics_metrics)
    stale: dict[tuple[str, str], set[dt.date]] = {}
    for found in stale_days(database, tuple(tenants)):
        stale.setdefault((found.tenant, found.table), set()).update(found.days)
    today = installation.clock.now().date()
    for tenant, source, day in [
        *_without_figures(database, families, tenants),
        *_without_page(database, families, tenants, today),
    ]:
        stale.setdefault((tenant, source), set()).add(day)
    for owner, families_of_own in own_families(installation, tenants).items():
        own = [(family.source, family.asset) for family in families_of_own]
        versions = {family.asset: family.version for family in families_of_own}
        for tenant, source, day in [
            *_without_figures(database, own, [owner], versions),
            *_without_page(database, own, [owner], today),
        ]:
            stale.setdefault((tenant, source), set()).add(day)
    return [
        StaleDays(tenant, table, tuple(sorted(days)), newest_note(database, tenant, table))
        for (tenant, table), days in sorted(stale.items())
    ]


def stale_catalogue(installation: Installation, tenants: Sequence[str]) -> list[StaleDays]:
    """Catalogue tables with arrivals that were never published; they have no days."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals, publications

    noted = (
        sa.select(arrivals.c.tenant, arrivals.c.table_name, sa.func.max(arrivals.c.id).label("newest"))
        .where(arrivals.c.table_name.in_([table.name for table in CATALOGUE_TABLES]), arrivals.c.tenant.in_(tenants))
        .group_by(arrivals.c.tenant, arrivals.c.table_name)
        .subquery()
    )
    same = sa.and_(
        publications.c.tenant == noted.c.tenant,
        publications.c.asset == sa.literal("raw/") + noted.c.table_name,
        publications.c.day == CATALOGUE_DAY,
    )
    query = (
        sa.select(noted)
        .outerjoin(publications, same)
        .where(sa.or_(publications.c.day.is_(None), publications.c.input_id < noted.c.newest))
        .order_by(noted.c.tenant, noted.c.table_name)
    )
    with installation.database.read() as connection:
        return [StaleDays(tenant, table, (), newest) for tenant, table, newest in connection.execute(query)]


def just_computed(installation: Installation, tenants: Sequence[str]) -> set[tuple[str, str, dt.date]]:
    """Tenant, raw table and day of what was computed less than COMPUTE_AGAIN ago and has had nothing since but the log's rows."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals, publications

    now, raw = installation.clock.now(), {f"raw/{name}": name for name in _FROM_LOG}
    newer = (
        sa.select(arrivals.c.id)
        .where(arrivals.c.tenant == publications.c.tenant, arrivals.c.day == publications.c.day)
        .where(publications.c.asset == sa.literal("raw/") + arrivals.c.table_name)
        .where(arrivals.c.arrival != FROM_LOG, arrivals.c.id > publications.c.input_id)
    )
    query = (
        sa.select(publications.c.tenant, publications.c.asset, publications.c.day)
        .where(publications.c.asset.in_(raw), publications.c.tenant.in_(tenants), ~newer.exists())
        # Not after now either: after a clock was stepped back nothing must wait until it has caught up.
        .where(publications.c.published_at > now - COMPUTE_AGAIN, publications.c.published_at <= now)
    )
    with installation.database.read() as connection:
        return {(tenant, raw[asset], day) for tenant, asset, day in connection.execute(query)}


def newest_figure(database: Database, tenant: str) -> int:
    """Newest sequence of this tenant's figures; read it before reading them."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import publications

    figures = publications.c.asset.startswith("aggregates/", autoescape=True)
    query = sa.select(sa.func.max(publications.c.sequence)).where(publications.c.tenant == tenant, figures)
    with database.read() as connection:
        return int(connection.execute(query).scalar() or 0)


def _without_figures(
    database: Database,
    families: Sequence[tuple[str, str]],
    tenants: Sequence[str],
    versions: Mapping[str, str] | None = None,
) -> list[tuple[str, str, dt.date]]:
    """Raw days that are published and newer than the figures made of them. A closed gate keeps the figures it had. Of assets in
    `versions` also those whose figures are of another version of the declaration.
    """
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import publications

    found: list[tuple[str, str, dt.date]] = []
    with database.read() as connection:
        for source, asset in families:
            raw, figure = publications.alias("raw"), publications.alias("figure")
            same_day = sa.and_(figure.c.tenant == raw.c.tenant, figure.c.day == raw.c.day, figure.c.asset == asset)
            missing = [figure.c.day.is_(None), figure.c.input_id < raw.c.sequence]
            if versions is not None:
                of_it = figure.c.basis.contains(declared_as(versions[asset]), autoescape=True)
                missing.append(sa.not_(sa.func.coalesce(of_it, sa.false())))
            query = (
                sa.select(raw.c.tenant, raw.c.day)
                .outerjoin_from(raw, figure, same_day)
                .where(raw.c.asset == f"raw/{source}", raw.c.status == Status.PUBLISHED, raw.c.tenant.in_(tenants))
                .where(sa.or_(*missing))
            )
            found += [(tenant, source, day) for tenant, day in connection.execute(query)]
    return found


def _without_page(
    database: Database, families: Sequence[tuple[str, str]], tenants: Sequence[str], today: dt.date
) -> list[tuple[str, str, dt.date]]:
    """Figures that changed after the tenant's last page was written. A day has none before it is over."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import publications

    source_of = {asset: source for source, asset in families}
    seen = (
        sa.select(publications.c.tenant, sa.func.max(publications.c.input_id).label("seen"))
        .where(publications.c.asset == LAST_ASSET)
        .group_by(publications.c.tenant)
        .subquery()
    )
    query = (
        sa.select(publications.c.tenant, publications.c.asset, publications.c.day)
        .outerjoin_from(publications, seen, seen.c.tenant == publications.c.tenant)
        .where(publications.c.asset.in_(source_of), publications.c.tenant.in_(tenants), publications.c.day < today)
        .where(sa.or_(seen.c.seen.is_(None), publications.c.sequence > seen.c.seen))
    )
    with database.read() as connection:
        return [(tenant, source_of[asset], day) for tenant, asset, day in connection.execute(query)]
