"""The two resources: the installation that steps work on, and which tenants a run is for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.settings import Settings


class Platform(dg.ConfigurableResource[Any]):
    """The installation. Opened when a step or tick first uses it, so that loading the code reads no environment."""

    home: str = Field(default="", description="ANALYTICS_HOME; empty: from the environment.")

    def open(self) -> Installation:
        return _opened(Settings.from_environment(Path(self.home) if self.home else None))


class TenantScope(dg.ConfigurableResource[Any]):
    """Which tenants a run computes. In the launchpad: `resources: {scope: {config: {tenants: [acme]}}}`."""

    tenants: list[str] = Field(default_factory=list, description="Tenant ids; empty: all active tenants.")

    def of(self, installation: Installation) -> list[str]:
        """Raises Failure, which is not tried again, when a tenant that was named is not active."""
        active = installation.tenants.active()
        unknown = sorted(set(self.tenants) - set(active))
        if unknown:
            said = f"no active tenant {', '.join(unknown)}; `analytics tenant list` shows those there are"
            raise dg.Failure(said, allow_retries=False)
        return [tenant for tenant in active if not self.tenants or tenant in self.tenants]


@functools.cache
def _opened(settings: Settings) -> Installation:
    """One per process and settings, so that the steps of a run share the database's connections."""
    return open_installation(settings, create=True)


def scope_config(tenants: list[str]) -> dict[str, object]:
    """Run config that restricts a run to `tenants`; empty for all."""
    return {"resources": {"scope": {"config": {"tenants": tenants}}}} if tenants else {}


def scoped_tenants(run_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The tenants that `scope_config` put into a run's config."""
    scope = run_config.get("resources", {}).get("scope", {})
    return tuple(scope.get("config", {}).get("tenants", ()))
