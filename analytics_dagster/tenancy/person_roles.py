"""What people of an OpenID provider may do: a file that gives the values of one claim roles and tenants of ours.

Who has none of the values has nothing. Of several the first in the file decides the role, and further ones with the same role
add their tenants: nobody gets a role in a tenant for which no entry gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analytics_dagster.errors import DeclarationError, InvalidNameError
from analytics_dagster.tenancy.roles import Role
from analytics_dagster.tenancy.sessions import Person
from analytics_dagster.tenant_ids import validate_tenant_id

_TOP = ("claim", "roles")
_ENTRY = ("value", "role", "tenants")
_ROLES = tuple(role.value for role in Role if role is not Role.INGEST)
# The claims that say what somebody is called, the best first.
_NAMES = ("name", "preferred_username", "email")


@dataclass(frozen=True)
class Grant:
    """What one value of the claim gives. `tenants` None: every one."""

    value: str
    role: Role
    tenants: frozenset[str] | None


@dataclass(frozen=True)
class PersonRoles:
    """The file, read."""

    claim: str
    grants: tuple[Grant, ...]

    def has_claim(self, claims: Mapping[str, Any]) -> bool:
        """Whether the claim is there at all; a provider may tell it elsewhere."""
        return _claim(claims, self.claim) is not None

    def person(self, issuer: str, claims: Mapping[str, Any]) -> Person | None:
        """Who somebody with these claims is here; None for nobody."""
        told = _claim(claims, self.claim)
        values = {told} if isinstance(told, str) else {v for v in told if isinstance(v, str)} if isinstance(told, list) else set()
        matching = [grant for grant in self.grants if grant.value in values]
        if not matching:
            return None
        role = matching[0].role
        given = [grant.tenants for grant in matching if grant.role is role]
        tenants = None if None in given else frozenset().union(*(some for some in given if some is not None))
        name = next((str(claims[key]) for key in _NAMES if claims.get(key)), "")
        return Person(issuer, str(claims["sub"]), name, role, tenants)


def load_person_roles(path: Path) -> PersonRoles:
    """Read the file. Raises DeclarationError naming file, line and field."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root, loaded = yaml.compose(text), yaml.safe_load(text)
    except OSError as error:
        raise DeclarationError(f"ANALYTICS_OIDC_ROLES={path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict) or not isinstance(root, yaml.MappingNode):
        raise DeclarationError(f"{path}:1: must have the fields claim and roles")
    _known(loaded, _TOP, f"{path}:1")
    claim, entries = loaded.get("claim"), loaded.get("roles")
    if not isinstance(claim, str) or not claim:
        raise DeclarationError(f"{path}:1: claim={claim!r} must name a claim, such as groups or realm_access.roles")
    if not isinstance(entries, list) or not entries:
        raise DeclarationError(f"{path}:1: roles must be a list with an entry for each group that may sign in")
    nodes = next(value.value for key, value in root.value if key.value == "roles")
    grants = [_grant(entry, f"{path}:{node.start_mark.line + 1}") for entry, node in zip(entries, nodes, strict=True)]
    _check_values_differ(grants, path)
    return PersonRoles(claim, tuple(grants))


def _grant(entry: Any, where: str) -> Grant:
    if not isinstance(entry, dict):
        raise DeclarationError(f"{where}: an entry has value, role and tenants")
    _known(entry, _ENTRY, where)
    value, role, tenants = entry.get("value"), entry.get("role"), entry.get("tenants")
    if not isinstance(value, str) or not value:
        raise DeclarationError(f"{where}: value={value!r} must be a value of the claim, in quotes if it is a number")
    if role not in _ROLES:
        raise DeclarationError(f"{where}: role={role!r} is none that a person may have; choose {', '.join(_ROLES)}")
    if role == Role.PLATFORM_ADMIN:
        if tenants is not None:
            raise DeclarationError(f"{where}: a platform-admin is one of every tenant; leave tenants out")
        return Grant(value, Role(role), None)
    if not isinstance(tenants, list) or not tenants:
        raise DeclarationError(f"{where}: tenants={tenants!r} must be a list of the tenants that a {role} is for")
    try:
        return Grant(value, Role(role), frozenset(validate_tenant_id(str(tenant)) for tenant in tenants))
    except InvalidNameError as error:
        raise DeclarationError(f"{where}: tenants: {error}") from None


def _known(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise DeclarationError(f"{where}: {unknown[0]!r} is not known; known are {', '.join(known)}")


def _check_values_differ(grants: Sequence[Grant], path: Path) -> None:
    seen: set[str] = set()
    for grant in grants:
        if grant.value in seen:
            raise DeclarationError(f"{path}: value {grant.value!r} is there twice; put its tenants into one entry")
        seen.add(grant.value)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or, where no claim has it, by a path of names with dots between."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found
