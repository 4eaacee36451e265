"""The remote engine against `analytics serve` itself: acknowledged through HTTP is in the log of the server's home, once."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from server.running import Running, serving

from analytics_dagster import AnalyticsMetric, RemoteEngine
from analytics_dagster.errors import AuthenticationError, ForeignTenantError, PermissionDeniedError
from analytics_dagster.ingest.log.open import open_sources
from analytics_dagster.tenancy.roles import Role

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home: Path = tmp_path_factory.mktemp("server") / ".analytics"
    with serving(home) as running:
        yield running


def _metric(value: float, name: str, **changes: object) -> AnalyticsMetric:
    return AnalyticsMetric(name, value, NOW, **changes)  # type: ignore[arg-type]  # keywords of the fields


def test_points_are_in_the_servers_log_once(server: Running) -> None:
    async def record() -> None:
        async with RemoteEngine(server.url, server.key(Role.INGEST)) as engine:
            await asyncio.gather(*(engine.record_metric(_metric(n, "single", labels={"n": str(n)})) for n in range(300)))
            frame = pd.DataFrame({"name": "table", "value": range(3_000), "region": ["eu", "us", None] * 1_000})
            assert await engine.record_metrics(frame) == 3_000

    asyncio.run(record())
    rows = [
        row
        for source in open_sources(server.installation.settings)
        for batch in source.read(0, 10**9)
        for row in batch.rows.to_pylist()
    ]
    assert {row["tenant"] for row in rows} == {"default"}
    assert sorted(row["value"] for row in rows if row["name"] == "single") == [float(n) for n in range(300)]
    table = {row["value"]: row["labels"] for row in rows if row["name"] == "table"}
    assert [table[n] for n in range(3)] == ['{"region":"eu"}', '{"region":"us"}', "{}"]
    assert len(rows) == 3_300


def test_a_key_writes_for_its_own_tenant_only(server: Running) -> None:
    with RemoteEngine(server.url, server.key(Role.INGEST)) as engine:
        engine.record_metric_sync(_metric(1, "own", tenant_id="default"))
        with pytest.raises(ForeignTenantError, match="tenant_123"):
            engine.record_metric_sync(_metric(1, "foreign", tenant_id="tenant_123"))


def test_a_key_that_is_wrong_or_may_not_write_is_told_so(server: Running) -> None:
    with RemoteEngine(server.url, "nonsense") as engine, pytest.raises(AuthenticationError):
        engine.record_metric_sync(_metric(1, "x"))
    with RemoteEngine(server.url, server.key(Role.VIEWER)) as engine, pytest.raises(PermissionDeniedError):
        engine.record_metric_sync(_metric(1, "x"))
