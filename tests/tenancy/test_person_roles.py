"""From a provider's claims to a role and tenants of ours: only what an entry gives, and nobody without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.errors import DeclarationError
from analytics_dagster.tenancy.person_roles import Grant, PersonRoles, load_person_roles
from analytics_dagster.tenancy.roles import Role

ISSUER = "https://id.example"
TEXT = """\
claim: realm_access.roles
roles:
  - {value: admins, role: platform-admin}
  - value: acme-operators
    role: operator
    tenants: [acme]
  - {value: acme-readers, role: viewer, tenants: [acme]}
  - {value: globex-readers, role: viewer, tenants: [globex]}
"""


@pytest.fixture
def roles(tmp_path: Path) -> PersonRoles:
    (tmp_path / "roles.yaml").write_text(TEXT)
    return load_person_roles(tmp_path / "roles.yaml")


def given_to(roles: PersonRoles, *values: str) -> tuple[Role, frozenset[str] | None] | None:
    person = roles.person(ISSUER, {"sub": "u-1", "realm_access": {"roles": list(values)}})
    return None if person is None else (person.role, person.tenants)


def test_the_first_entry_decides_the_role_and_others_of_that_role_add_tenants(roles: PersonRoles) -> None:
    assert given_to(roles, "acme-readers") == (Role.VIEWER, {"acme"})
    assert given_to(roles, "globex-readers", "acme-readers", "x") == (Role.VIEWER, {"acme", "globex"})
    assert given_to(roles, "globex-readers", "acme-operators") == (Role.OPERATOR, {"acme"})
    assert given_to(roles, "acme-operators", "admins") == (Role.PLATFORM_ADMIN, None)
    assert given_to(roles, "x") is given_to(roles) is None


@given(st.sets(st.sampled_from(["admins", "acme-operators", "acme-readers", "globex-readers", "x"])))
def test_nobody_has_a_role_in_a_tenant_that_no_entry_gives(values: set[str]) -> None:
    grants = (
        Grant("admins", Role.PLATFORM_ADMIN, None),
        Grant("acme-operators", Role.OPERATOR, frozenset({"acme"})),
        Grant("acme-readers", Role.VIEWER, frozenset({"acme"})),
        Grant("globex-readers", Role.VIEWER, frozenset({"globex"})),
    )
    found = given_to(PersonRoles("realm_access.roles", grants), *values)
    held = [grant for grant in grants if grant.value in values]
    if found is None:
        assert not held
        return
    role, tenants = found
    for tenant in tenants or [None]:
        assert [g for g in held if g.role is role and (g.tenants is None if tenant is None else tenant in (g.tenants or ()))]


def test_a_claim_whose_name_has_dots_is_found_by_its_name_first() -> None:
    roles = PersonRoles("https://acme.example/roles", (Grant("a", Role.VIEWER, frozenset({"acme"})),))
    assert roles.person(ISSUER, {"sub": "1", "https://acme.example/roles": "a", "email": "ada@acme.example"}) is not None
    assert not roles.has_claim({"sub": "1", "https://acme": {}})


def test_who_is_whom_is_issuer_and_subject_and_never_a_name(roles: PersonRoles) -> None:
    claims: dict[str, Any] = {"sub": "u-1", "name": "Ada", "realm_access": {"roles": ["admins"]}}
    one, renamed = roles.person(ISSUER, claims), roles.person(ISSUER, {**claims, "name": "Ada L."})
    other, elsewhere = roles.person(ISSUER, {**claims, "sub": "u-2"}), roles.person("https://b.example", claims)
    assert one is not None
    assert renamed is not None
    assert other is not None
    assert elsewhere is not None
    assert one.person_id == renamed.person_id
    assert len({one.person_id, other.person_id, elsewhere.person_id}) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a", ":1: must have the fields claim and roles"),
        ("claim: groups\nroles: []\n", "roles must be a list"),
        ("roles:\n  - {}\n", "claim=None must name a claim"),
        ("claim: groups\nroles: [{}]\ngroups: []\n", "'groups' is not known"),
        ("claim: groups\nroles:\n  - a\n", ":3: an entry has value"),
        ("claim: groups\nroles:\n  - {value: 7, role: viewer, tenants: [a]}\n", ":3: value=7"),
        ("claim: groups\nroles:\n  - {value: a, role: boss, tenants: [a]}\n", "role='boss'"),
        ("claim: groups\nroles:\n  - {value: a, role: platform-admin, tenants: [a]}\n", "leave tenants out"),
        ("claim: groups\nroles:\n\n  - {value: a, role: viewer}\n", ":4: tenants=None"),
        ("claim: groups\nroles:\n  - {value: a, role: viewer, tenants: []}\n", "tenants=[]"),
        ("claim: groups\nroles:\n  - {value: a, role: viewer, tenants: [A B]}\n", "'A B' is not a tenant id"),
        ("claim: groups\nroles:\n  - {value: a, role: viewer, tenant: b}\n", "'tenant' is not known"),
        ("claim: g\nroles:\n- {value: a, role: viewer, tenants: [a]}\n- {value: a, role: viewer, tenants: [b]}\n", "there twice"),
        ("claim: [", "is not YAML"),
    ],
)
def test_a_file_that_is_not_right_is_told_by_line_and_field(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "roles.yaml").write_text(text)
    with pytest.raises(DeclarationError) as raised:
        load_person_roles(tmp_path / "roles.yaml")
    assert told in str(raised.value)
