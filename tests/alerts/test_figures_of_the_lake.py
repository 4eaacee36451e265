"""Rules over real tables: declared metrics and recorded points, from raw rows to the message."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from analytics_dagster.alerts.judge import Judged, judge_publications
from analytics_dagster.alerts.metric_source import CatalogueSource
from analytics_dagster.alerts.rule_file import load_rules
from analytics_dagster.installation import Installation
from analytics_dagster.lake.content import day_contents
from analytics_dagster.lake.publications import Publication
from analytics_dagster.lake.schemas import BY_NAME
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.load import load_catalogue

DAY = dt.date(2026, 3, 8)


class Service:
    """One tenant's raw rows, published and judged."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.catalogue = load_catalogue()
        self.rules = installation.settings.analytics_home / "rules.yaml"

    def publish(self, source: str, rows: Sequence[dict[str, Any]], day: dt.date = DAY, tenant: str = "acme") -> None:
        schema = BY_NAME[source]
        start = dt.datetime.combine(day, dt.time(10), dt.UTC)
        full = [{schema.key: f"{day}-{n}", "format": "test", "ts": start, **row} for n, row in enumerate(rows)]
        data = pa.table(
            {c.name: pa.array([row.get(c.name) for row in full], c.type) for c in schema.columns}, schema=schema.arrow
        )
        lake = self.installation.lake.tenant(tenant)
        lake.table(schema).overwrite_days(data, day, day)
        for family in self.catalogue.families:
            if family.source == source:
                aggregate_days(lake, family, day, day, stream_ms=30_000)
                content = day_contents(lake.table(family.table("day")), day, day)[day]
                self.installation.publications.record([Publication(tenant, family.asset, content)], "run")

    def judge(self, rules: str) -> Judged:
        self.rules.write_text(rules)
        loaded = load_rules([self.rules])
        assert loaded.errors == ()
        source = CatalogueSource(self.installation.lake, self.catalogue)
        database, clock = self.installation.database, self.installation.clock
        return judge_publications(database, loaded, source, clock, channels=["log"], public_url="http://d")

    def told(self) -> list[dict[str, Any]]:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import outbox

        with self.installation.database.read() as connection:
            return [
                json.loads(payload) for payload in connection.execute(sa.select(outbox.c.payload).order_by(outbox.c.id)).scalars()
            ]


@pytest.fixture
def service(installation: Installation) -> Service:
    return Service(installation)


def requests(endpoint: str, good: int, bad: int) -> list[dict[str, Any]]:
    return [
        {"endpoint": endpoint, "method": "GET", "status": 200 if n < good else 500, "latency_us": 1000} for n in range(good + bad)
    ]


def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "request_id": f"r{n}"} for n, row in enumerate(rows)]


def test_the_products_own_rule_pages_with_the_figure(service):
    service.publish("api_requests", numbered(requests("/play", 90, 10)))
    judged = service.judge(
        "alert_rules: [{name: High Error Rate, condition: gt, threshold: 0.05, severity: critical, for_duration: 5m}]"
    )
    assert judged.errors == []
    [told] = service.told()
    assert (told["status"], told["value"], told["tenant_id"]) == ("firing", 0.1, "acme")
    assert told["summary"] == "high_error_rate is 0.1, breaching > 0.05"


def test_matchers_filter_and_become_labels_and_by_splits(service):
    service.publish("api_requests", numbered(requests("/play", 90, 10) + requests("/search", 99, 1) + requests("/x", 0, 9)))
    judged = service.judge(
        """
alert_rules:
  - {name: Play, query: 'api_error_ratio{endpoint="/play"}', condition: gt, threshold: 0.05, severity: low}
  - {name: Each, query: api_error_ratio, aggregate: avg, by: [endpoint], condition: gt, threshold: 0.05, severity: low}
  - {name: Some, query: 'api_error_ratio{endpoint=~"/(play|search)"}', condition: gt, threshold: 0.005, severity: low}
  - {name: Both, query: 'api_requests{endpoint=~"/(play|search)"}', aggregate: sum, condition: eq, threshold: 200, severity: low}
  - {name: None of ours, query: 'api_requests{tenant_id="other"}', condition: ge, threshold: 0, severity: low}
"""
    )
    assert judged.errors == []
    told = [(t["alertname"], t["labels"].get("endpoint"), round(t["value"], 4)) for t in service.told()]
    assert told == [
        ("Play", "/play", 0.1),
        ("Each", "/play", 0.1),
        ("Each", "/x", 1),
        ("Some", "/play", 0.1),
        ("Some", "/search", 0.01),
        ("Both", None, 200),
    ]


def test_recorded_points_are_series_by_their_labels(service):
    def point(host: str, value: float) -> dict[str, Any]:
        return {"name": "queue_depth", "type": "gauge", "value": value, "labels": json.dumps({"host": host})}

    later = dt.datetime.combine(DAY, dt.time(11), dt.UTC)
    counted = {"name": "plain", "type": "counter", "labels": ""}
    rows = [point("a", 5), point("a", 15), point("b", 100), {**counted, "value": 40.0}, {**counted, "value": 43.0, "ts": later}]
    service.publish("metrics", [{**row, "point_id": f"p{n}"} for n, row in enumerate(rows)])
    judged = service.judge(
        """
alert_rules:
  - {name: Deep, query: queue_depth, condition: gt, threshold: 9, severity: low}
  - {name: B, query: 'queue_depth{host!="a"}', condition: gt, threshold: 9, severity: low}
  - {name: Most, query: queue_depth, aggregate: max, condition: gt, threshold: 99, severity: low}
  - {name: Points, query: queue_depth, aggregate: count, by: [host], condition: ge, threshold: 2, severity: low}
  - {name: Nowhere, query: 'queue_depth{zone="x"}', condition: ge, threshold: 0, severity: low}
  - {name: Zone, query: 'queue_depth{zone=""}', aggregate: sum, by: [zone], condition: ge, threshold: 0, severity: low}
  - {name: Plain, query: plain, condition: eq, threshold: 3, severity: low}
  - {name: Summed, query: plain, aggregate: sum, condition: eq, threshold: 3, severity: low}
"""
    )
    assert judged.errors == []
    told = [(t["alertname"], t["labels"].get("host"), t["value"]) for t in service.told()]
    assert told == [
        ("Deep", "a", 10),
        ("Deep", "b", 100),
        ("B", "b", 100),
        ("Most", None, 100),
        ("Points", "a", 2),
        ("Zone", None, 120),
        ("Plain", None, 3),
        ("Summed", None, 3),
    ]


def test_a_dimension_that_a_metric_lacks_is_an_error_that_names_it(service):
    service.publish("api_requests", numbered(requests("/play", 90, 10)))
    judged = service.judge(
        "alert_rules: [{name: X, query: api_error_ratio, aggregate: avg, by: [endpont], "
        "condition: gt, threshold: 0, severity: low}]"
    )
    assert "no dimension 'endpont'" in judged.errors[0]
    assert "endpoint" in judged.errors[0]


def test_only_what_grows_is_judged_before_its_day_has_ended(service):
    today = service.installation.clock.now().date()
    service.publish("api_requests", numbered(requests("/play", 90, 10)), today)
    service.judge(
        """
alert_rules:
  - {name: Many, query: api_requests, condition: ge, threshold: 100, severity: low}
  - {name: Few, query: api_requests, condition: lt, threshold: 1000, severity: low}
  - {name: Ratio, query: api_error_ratio, condition: gt, threshold: 0.01, severity: low}
"""
    )
    assert [told["alertname"] for told in service.told()] == ["Many"]


def test_retention_is_judged_on_the_day_with_which_it_is_known(service):
    rule = "alert_rules: [{name: Gone, query: day_1_retention, condition: lt, threshold: 0.3, severity: low}]"
    played = [{"listener_id": who, "play_id": f"{who} {DAY}"} for who in ("ann", "bob", "cem", "dan")]
    service.publish("plays", played)
    assert service.judge(rule).errors == []
    assert service.told() == []
    next_day = DAY + dt.timedelta(days=1)
    service.publish("plays", [{"listener_id": "ann", "play_id": f"ann {next_day}"}], next_day)
    assert service.judge(rule).errors == []
    [told] = service.told()
    assert (told["alertname"], told["status"], told["value"]) == ("Gone", "firing", 0.25)
