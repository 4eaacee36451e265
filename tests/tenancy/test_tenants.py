"""Tenant ids and the register."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import InvalidNameError, NotFoundError
from analytics_dagster.lake.database import Database
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus, tenant_id_from, validate_tenant_id


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Studio Brussel", "studio-brussel"),
        ("MNM!", "mnm"),
        ("tenant_123", "tenant_123"),
        ("  Été 24 ", "t-24"),
        ("A|B,C", "a-b-c"),
    ],
)
def test_an_id_is_made_from_any_text(text: str, made: str) -> None:
    assert tenant_id_from(text) == made


@given(st.text(max_size=200))
def test_what_is_made_is_always_an_id_and_stays_what_it_is(text: str) -> None:
    try:
        made = tenant_id_from(text)
    except InvalidNameError:
        return
    assert validate_tenant_id(made) == made
    assert tenant_id_from(made) == made


def test_a_text_without_a_letter_or_digit_makes_no_id() -> None:
    with pytest.raises(InvalidNameError, match="no letter or digit"):
        tenant_id_from("***")


def test_a_tenant_is_registered_once(database: Database, clock: ManualClock) -> None:
    tenants = Tenants(database, clock)
    assert tenants.ensure("acme")
    assert not tenants.ensure("acme")
    assert [r.tenant for r in tenants.records()] == ["acme"]


def test_a_suspended_tenant_is_in_no_run_and_a_removed_one_comes_back_when_it_is_added(
    database: Database, clock: ManualClock
) -> None:
    tenants = Tenants(database, clock)
    for name in ("a", "b", "c"):
        tenants.ensure(name)
    tenants.set_status("a", TenantStatus.SUSPENDED)
    tenants.set_status("b", TenantStatus.REMOVED)
    assert tenants.active() == ["c"]
    tenants.ensure("a")
    tenants.ensure("b")
    assert tenants.active() == ["b", "c"]


def test_an_unknown_tenant_is_named(database: Database, clock: ManualClock) -> None:
    with pytest.raises(NotFoundError, match="no tenant 'nobody'"):
        Tenants(database, clock).set_status("nobody", TenantStatus.SUSPENDED)
