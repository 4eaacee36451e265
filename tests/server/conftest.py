"""One server for most tests of this room: starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from server.running import Running, serving

from analytics_dagster.tenancy.roles import Role


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, tenants `default`, `acme` and `borealis`."""
    home = tmp_path_factory.mktemp("server") / ".analytics"
    with serving(home, ANALYTICS_SERVER_WORKERS="2", ANALYTICS_MAX_BODY_BYTES=str(2**20)) as running:
        for tenant in ("acme", "borealis"):
            running.installation.tenants.ensure(tenant)
        yield running


@pytest.fixture
def acme(server: Running) -> Iterator[httpx.Client]:
    """A client with acme's tenant-admin's key: it may write and read."""
    with server.client(server.key(Role.TENANT_ADMIN, "acme")) as client:
        yield client
