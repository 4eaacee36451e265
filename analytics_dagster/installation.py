"""One installation opened: what every entry point (command line, Dagster resource, server) works on."""

from __future__ import annotations

from dataclasses import dataclass

from analytics_dagster.clock import Clock, SystemClock
from analytics_dagster.ingest.landing import Landing
from analytics_dagster.ingest.lateness import lateness_of
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.lake import Lake
from analytics_dagster.lake.publications import Publications
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.tenants import Tenants


@dataclass(frozen=True)
class Installation:
    settings: Settings
    clock: Clock
    lake: Lake
    database: Database
    tenants: Tenants
    landing: Landing
    publications: Publications


def open_installation(settings: Settings, clock: Clock | None = None, *, create: bool) -> Installation:
    """Open the home that `settings` names, bringing its database up to date.

    `create=False` (a verb that only reads) raises NotFoundError where there is none.
    """
    if create:
        settings.analytics_home.mkdir(parents=True, exist_ok=True)
    else:
        settings.require_home()
    clock = clock or SystemClock()
    database = Database(settings.database_url)
    database.migrate()
    lake = Lake(settings.lake_root, settings.analytics_home / "locks", smallest_cell=settings.analytics_smallest_cell)
    return Installation(
        settings,
        clock,
        lake,
        database,
        Tenants(database, clock),
        Landing(lake, database, clock, lateness_of(settings)),
        Publications(database, clock),
    )
