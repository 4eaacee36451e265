"""Limits: the installation's, unless a tenant has its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.database import Database
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.audit import Audit
from analytics_dagster.tenancy.quotas import Limits, OwnLimits, Quotas
from analytics_dagster.tenancy.tenants import Tenants


@pytest.fixture
def quotas(home: Path, database: Database, clock: ManualClock, tenants: Tenants) -> Quotas:
    settings = Settings.from_environment(home, {"analytics_quota_points_per_second": 100, "analytics_quota_active_series": 50})
    return Quotas(database, settings, clock)


def test_a_tenant_has_the_installations_limits_until_it_has_its_own(quotas: Quotas) -> None:
    assert quotas.limits("acme") == Limits(100, 50, 0, 0, 50)
    assert quotas.set("acme", {"points_per_second": 7, "rules": 3}) == Limits(7, 50, 0, 3, 50)
    assert quotas.set("acme", {"active_series": 0}) == Limits(7, 0, 0, 3, 50)
    assert quotas.set("acme", {"points_per_second": None}) == Limits(100, 0, 0, 3, 50)
    assert quotas.own() == {"acme": OwnLimits(None, 0, None, 3)}
    assert quotas.limits("globex") == Limits(100, 50, 0, 0, 50)
    assert quotas.limits_of()("acme") == quotas.limits("acme")


def test_what_is_no_limit_is_refused(quotas: Quotas) -> None:
    with pytest.raises(NotFoundError, match="no tenant 'nobody'"):
        quotas.set("nobody", {"rules": 1})
    for changes in ({"rules": -1}, {"rules": 2**63}, {"cores": 4}):
        with pytest.raises(UserError, match="is not allowed"):
            quotas.set("acme", changes)
    assert quotas.own() == {}


def test_a_change_is_in_the_audit_trail(quotas: Quotas, database: Database, clock: ManualClock) -> None:
    quotas.set("acme", {"rules": 3, "active_series": None}, actor="ak_12345678")
    quotas.set("acme", {})
    [entry] = [e for e in Audit(database, clock).entries() if e.action == "quota.set"]
    assert (entry.actor, entry.tenant, entry.detail) == ("ak_12345678", "acme", "active_series default, rules 3")
