"""What these tests share: a clock for what is remembered, and two tenants."""

from __future__ import annotations

import pytest
from tenancy.requests_for_tests import Stopwatch

from analytics_dagster.clock import ManualClock
from analytics_dagster.lake.database import Database
from analytics_dagster.tenancy.tenants import Tenants


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def tenants(database: Database, clock: ManualClock) -> Tenants:
    """A register with two tenants, acme and globex."""
    register = Tenants(database, clock)
    register.ensure("acme")
    register.ensure("globex")
    return register
