"""Roles and permissions: the table is whole, no key mints above itself, every verb has its permission."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import typer
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.cli.main import app
from analytics_dagster.tenancy.roles import MEANING, PERMISSIONS, VERBS, Permission, Role, may, may_mint

ROLES = st.sampled_from(list(Role))
TENANTS = st.none() | st.frozensets(st.sampled_from(["acme", "globex", "initech"]))


def test_every_role_and_every_permission_is_in_the_table() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert set(MEANING) == set(Permission)
    assert set(Permission) == frozenset().union(*PERMISSIONS.values())


def test_each_role_can_do_what_the_one_below_it_can() -> None:
    ladder = [Role.VIEWER, Role.ANALYST, Role.OPERATOR, Role.TENANT_ADMIN, Role.PLATFORM_ADMIN]
    for lower, higher in itertools.pairwise(ladder):
        assert PERMISSIONS[lower] < PERMISSIONS[higher]


def test_a_key_that_writes_reads_nothing() -> None:
    assert PERMISSIONS[Role.INGEST] == {Permission.METRICS_WRITE, Permission.PLAYS_WRITE}


def test_only_a_platform_admin_touches_tenants_and_quotas() -> None:
    for permission in (Permission.TENANTS_READ, Permission.TENANTS_MANAGE, Permission.QUOTAS_MANAGE, Permission.PLATFORM_RUN):
        assert [role for role in Role if may(role, permission)] == [Role.PLATFORM_ADMIN]


@given(ROLES, TENANTS, ROLES, TENANTS)
def test_what_is_minted_can_do_nothing_that_its_maker_cannot(
    minter: Role, minter_tenants: frozenset[str] | None, role: Role, tenants: frozenset[str] | None
) -> None:
    if may_mint(minter, minter_tenants, role, tenants):
        assert PERMISSIONS[role] <= PERMISSIONS[minter]
        assert minter_tenants is None or (tenants is not None and tenants <= minter_tenants)
        assert Permission.KEYS_MANAGE in PERMISSIONS[minter]


@given(ROLES, TENANTS, ROLES, TENANTS, ROLES, TENANTS)
def test_a_chain_of_keys_never_climbs(
    first: Role, a: frozenset[str] | None, second: Role, b: frozenset[str] | None, third: Role, c: frozenset[str] | None
) -> None:
    if may_mint(first, a, second, b) and may_mint(second, b, third, c):
        assert may_mint(first, a, third, c)


def _verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(path)
    for name, below in inner.items():
        yield from _verbs(below, (*path, name))


def test_every_verb_names_its_permission() -> None:
    assert set(_verbs(typer.main.get_command(app))) == set(VERBS)
