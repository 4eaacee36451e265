"""A tenant's limits: the installation's defaults, and what was set for it alone. Enforcing them is `quota_gate`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.audit import COMMAND_LINE, Audit

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

# What a signed 64-bit column takes.
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Limits:
    """What a tenant may use; 0 is no limit."""

    points_per_second: int = 0
    active_series: int = 0
    stored_bytes: int = 0
    rules: int = 0
    metrics: int = 0


LIMITS = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True)
class OwnLimits:
    """What was set for a tenant alone; None takes the default."""

    points_per_second: int | None = None
    active_series: int | None = None
    stored_bytes: int | None = None
    rules: int | None = None
    metrics: int | None = None

    def over(self, defaults: Limits) -> Limits:
        return replace(defaults, **{name: value for name, value in asdict(self).items() if value is not None})


def default_limits(settings: Settings) -> Limits:
    return Limits(
        settings.analytics_quota_points_per_second,
        settings.analytics_quota_active_series,
        settings.analytics_quota_stored_bytes,
        settings.analytics_quota_rules,
        settings.analytics_quota_metrics,
    )


class Quotas:
    """The limits of an installation's tenants."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self.defaults = default_limits(settings)
        self._database = database
        self._clock = clock
        self._audit = Audit(database, clock)

    def limits(self, tenant: str) -> Limits:
        """What `tenant` may use, registered or not."""
        return self.own().get(tenant, OwnLimits()).over(self.defaults)

    def limits_of(self) -> Callable[[str], Limits]:
        """The same for many tenants, from one look into the database."""
        own = self.own()
        return lambda tenant: own.get(tenant, OwnLimits()).over(self.defaults)

    def own(self) -> Mapping[str, OwnLimits]:
        """The tenants with limits of their own."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import quotas

        with self._database.read() as connection:
            rows = connection.execute(sa.select(quotas)).all()
        return {row.tenant: OwnLimits(**{name: getattr(row, name) for name in LIMITS}) for row in rows}

    def set(self, tenant: str, changes: Mapping[str, int | None], *, actor: str = COMMAND_LINE) -> Limits:
        """Set some of a tenant's limits (None: back to the default) and return all it has now; servers follow within 5 s.

        Raises NotFoundError for a tenant that is not registered, UserError for a limit that is negative or none that there is.
        """
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import quotas, tenants

        for name, value in changes.items():
            if name not in LIMITS or (value is not None and not 0 <= value <= _MOST):
                raise UserError(f"quota {name}={value} is not allowed; one of {', '.join(LIMITS)}, 0 (no limit) or more")

        def write(connection: sa.Connection) -> None:
            if connection.execute(sa.select(tenants.c.tenant).where(tenants.c.tenant == tenant)).scalar() is None:
                raise NotFoundError(f"no tenant {tenant!r}; `analytics tenant list` shows those there are")
            values = {**changes, "changed_at": self._clock.now()}
            if connection.execute(quotas.update().where(quotas.c.tenant == tenant).values(values)).rowcount == 0:
                connection.execute(quotas.insert().values(tenant=tenant, **values))
            detail = ", ".join(f"{name} {'default' if value is None else value}" for name, value in sorted(changes.items()))
            self._audit.record("quota.set", actor, tenant=tenant, target=tenant, detail=detail, connection=connection)

        if changes:
            self._database.write(write)
        return self.limits(tenant)
