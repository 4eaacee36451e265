"""Who may do what: the roles, the permissions, and the one table between them.

Every HTTP route and every verb of the command line names the permission that it needs. Verbs work on the files of the home,
so whoever may open those may call every verb; the table says which role the same thing takes over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Permission(StrEnum):
    """One thing that a key may be allowed to do, to the tenants that it is for."""

    METRICS_WRITE = "metrics:write"
    PLAYS_WRITE = "plays:write"
    FIGURES_READ = "figures:read"
    PLAYS_READ = "plays:read"
    ROWS_READ = "rows:read"
    CATALOGUE_READ = "catalogue:read"
    CATALOGUE_EDIT = "catalogue:edit"
    DASHBOARDS_EDIT = "dashboards:edit"
    REPORTS_MANAGE = "reports:manage"
    ANNOTATIONS_EDIT = "annotations:edit"
    QUARANTINE_READ = "quarantine:read"
    ALERTS_READ = "alerts:read"
    ALERTS_ACT = "alerts:act"
    PIPELINE_RUN = "pipeline:run"
    USAGE_READ = "usage:read"
    KEYS_READ = "keys:read"
    KEYS_MANAGE = "keys:manage"
    AUDIT_READ = "audit:read"
    TENANTS_READ = "tenants:read"
    TENANTS_MANAGE = "tenants:manage"
    QUOTAS_MANAGE = "quotas:manage"
    STATUS_READ = "status:read"
    PLATFORM_RUN = "platform:run"


MEANING: Mapping[Permission, str] = {
    Permission.METRICS_WRITE: "send points",
    Permission.PLAYS_WRITE: "send plays",
    Permission.FIGURES_READ: "query figures",
    Permission.PLAYS_READ: "read single plays, with who listened",
    Permission.ROWS_READ: "read the raw rows behind a figure: plays, payments, requests, with whose they are",
    Permission.CATALOGUE_READ: "read which metrics there are and how they are declared",
    Permission.CATALOGUE_EDIT: "declare, change and remove a tenant's own metrics",
    Permission.DASHBOARDS_EDIT: "make, change and remove a tenant's own dashboards",
    Permission.REPORTS_MANAGE: "send views on a schedule, and see to whom they go",
    Permission.ANNOTATIONS_EDIT: "add and remove annotations of a tenant's charts",
    Permission.QUARANTINE_READ: "read the records that could not be taken",
    Permission.ALERTS_READ: "read rules and alerts",
    Permission.ALERTS_ACT: "act on alerts",
    Permission.PIPELINE_RUN: "import, simulate and materialize",
    Permission.USAGE_READ: "read what a tenant used, and its quotas",
    Permission.KEYS_READ: "list keys (never their text)",
    Permission.KEYS_MANAGE: "create and revoke keys, none above one's own",
    Permission.AUDIT_READ: "read the audit trail",
    Permission.TENANTS_READ: "list tenants",
    Permission.TENANTS_MANAGE: "add, suspend and remove tenants",
    Permission.QUOTAS_MANAGE: "change a tenant's quotas",
    Permission.STATUS_READ: "read the server's own state: `/metrics`, the details of `/readyz`, `analytics doctor`",
    Permission.PLATFORM_RUN: "start the platform",
}


class Role(StrEnum):
    """What a key is for."""

    VIEWER = "viewer"
    ANALYST = "analyst"
    OPERATOR = "operator"
    INGEST = "ingest"
    TENANT_ADMIN = "tenant-admin"
    PLATFORM_ADMIN = "platform-admin"


_WRITE = frozenset({Permission.METRICS_WRITE, Permission.PLAYS_WRITE})
_VIEWER = frozenset({Permission.FIGURES_READ, Permission.CATALOGUE_READ, Permission.ALERTS_READ})
_ANALYST = _VIEWER | {
    Permission.PLAYS_READ,
    Permission.QUARANTINE_READ,
    Permission.USAGE_READ,
    Permission.DASHBOARDS_EDIT,
    Permission.REPORTS_MANAGE,
    Permission.ROWS_READ,
    Permission.ANNOTATIONS_EDIT,
    Permission.CATALOGUE_EDIT,
}
_OPERATOR = _ANALYST | {Permission.ALERTS_ACT, Permission.PIPELINE_RUN, Permission.STATUS_READ}
_TENANT_ADMIN = _OPERATOR | _WRITE | {Permission.KEYS_READ, Permission.KEYS_MANAGE, Permission.AUDIT_READ}

PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.ANALYST: _ANALYST,
    Role.OPERATOR: _OPERATOR,
    Role.INGEST: _WRITE,
    Role.TENANT_ADMIN: _TENANT_ADMIN,
    Role.PLATFORM_ADMIN: frozenset(Permission),
}
"""What each role may do. `docs/reference/permissions.md` is generated from it."""

VERBS: Mapping[str, Permission] = {
    "up": Permission.PLATFORM_RUN,
    "serve": Permission.PLATFORM_RUN,
    "simulate": Permission.PIPELINE_RUN,
    "import": Permission.PIPELINE_RUN,
    "materialize": Permission.PIPELINE_RUN,
    "quarantine list": Permission.QUARANTINE_READ,
    "query": Permission.FIGURES_READ,
    "metrics list": Permission.CATALOGUE_READ,
    "metrics query": Permission.FIGURES_READ,
    "metrics show": Permission.CATALOGUE_READ,
    "metrics export": Permission.CATALOGUE_READ,
    "reconcile": Permission.PLAYS_READ,
    "restatements": Permission.FIGURES_READ,
    "annotation add": Permission.ANNOTATIONS_EDIT,
    "annotation list": Permission.FIGURES_READ,
    "annotation remove": Permission.ANNOTATIONS_EDIT,
    "rules check": Permission.ALERTS_READ,
    "rules test": Permission.ALERTS_READ,
    "rules list": Permission.ALERTS_READ,
    **{f"report {verb}": Permission.REPORTS_MANAGE for verb in ("add", "list", "show", "send", "pause", "resume", "remove")},
    "tenant add": Permission.TENANTS_MANAGE,
    "tenant list": Permission.TENANTS_READ,
    "tenant suspend": Permission.TENANTS_MANAGE,
    "tenant remove": Permission.TENANTS_MANAGE,
    "tenant quota": Permission.QUOTAS_MANAGE,
    "tenant usage": Permission.USAGE_READ,
    "key create": Permission.KEYS_MANAGE,
    "key list": Permission.KEYS_READ,
    "key revoke": Permission.KEYS_MANAGE,
    "signin": Permission.PLATFORM_RUN,
    "session list": Permission.KEYS_READ,
    "session revoke": Permission.KEYS_MANAGE,
    "audit": Permission.AUDIT_READ,
    "doctor": Permission.STATUS_READ,
}
"""The permission of each verb of the command line; a test walks the verbs there are."""


def may(role: Role, permission: Permission) -> bool:
    return permission in PERMISSIONS[role]


def may_mint(minter: Role, minter_tenants: frozenset[str] | None, role: Role, tenants: frozenset[str] | None) -> bool:
    """Whether a key of `minter` for `minter_tenants` (None: every tenant) may make one of `role` for `tenants`.

    Never above itself: it may manage keys, has every permission that it gives away, and every tenant.
    """
    if not may(minter, Permission.KEYS_MANAGE) or not PERMISSIONS[role] <= PERMISSIONS[minter]:
        return False
    if minter_tenants is None:
        return True
    return tenants is not None and tenants <= minter_tenants
