"""prometheus/compliance's receiver cases over HTTP against the real server, and read back from its durable log.

What each case is about, and what became of it, is told in tests/ingest/wire/compliance_cases.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import cramjam
import httpx
import pytest
from server.running import Running

from analytics_dagster.ingest.log.open import open_sources
from analytics_dagster.tenancy.roles import Role
from tests.ingest.wire.arrivals import NOW_MS
from tests.ingest.wire.compliance_cases import CASES, Case
from tests.ingest.wire.prometheus_messages import write_request

ROUTE = "/api/v1/write"
VERSION_1 = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
UP = write_request({"labels": {"__name__": "up"}, "samples": [(1.0, NOW_MS)]})
Kept = list[tuple[str, str, dict[str, str], float]]


def snappy(body: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(body))


def marked(case: Case, number: int) -> bytes:
    """The case's request, with a label by which its points are known among those of all cases."""
    series: list[dict[str, Any]] = [{**each, "labels": {**each["labels"], "case": str(number)}} for each in case.series]
    return write_request(*series, metadata=list(case.metadata))


@pytest.fixture(scope="session")
def answers_and_points(server: Running) -> tuple[list[httpx.Response], dict[int, Kept]]:
    """Every case sent once, and all points of theirs as the log holds them."""
    with server.client(server.key(Role.INGEST, "borealis")) as client:
        answers = [client.post(ROUTE, content=snappy(marked(case, n)), headers=VERSION_1) for n, case in enumerate(CASES)]
    kept: dict[int, Kept] = defaultdict(list)
    for source in open_sources(server.installation.settings):
        for batch in source.read(0, 10**9):
            for row in batch.rows.to_pylist() if batch.table == "metrics" else []:
                labels = json.loads(row["labels"])
                if row["tenant"] == "borealis" and "case" in labels:
                    kept[int(labels.pop("case"))].append((row["name"], row["type"], labels, row["value"]))
    return answers, kept


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_a_case_is_answered_and_read_back(number: int, answers_and_points: tuple[list[httpx.Response], dict[int, Kept]]) -> None:
    answers, kept = answers_and_points
    case = CASES[number]

    assert answers[number].status_code == (400 if case.refused else 204), answers[number].text
    assert sorted(kept[number], key=repr) == sorted(case.kept, key=repr)


def test_what_was_written_is_what_a_query_answers(server: Running) -> None:
    body = write_request({"labels": {"__name__": "asked.for", "code": "200"}, "samples": [(3.0, NOW_MS), (5.0, NOW_MS + 1)]})
    with server.client(server.key(Role.TENANT_ADMIN, "acme")) as client:
        assert client.post(ROUTE, content=snappy(body), headers=VERSION_1).status_code == 204
        asked = {"metric": "asked.for", "by": "code", "grain": "minute", "from": "2026-03-01", "to": "2026-03-01"}
        answer = client.get("/analytics/query", params=asked)

    assert (answer.status_code, [(row["code"], row["value"]) for row in answer.json()]) == (200, [("200", 4.0)])


@pytest.mark.parametrize(
    ("suite", "headers", "body", "status"),
    [
        ("BadContentTypes", {"Content-Type": "application/json"}, snappy(UP), 415),
        ("BadContentTypes", {"Content-Type": "image/png"}, snappy(UP), 415),
        ("BadContentEncodings", {"Content-Encoding": "gzip"}, b"0" + snappy(UP)[1:], 415),
        ("BadContentEncodings", {"Content-Encoding": "deflate"}, b"0" + snappy(UP)[1:], 415),
        ("CorruptRequestBody", {}, b"0" + snappy(UP)[1:], 400),
        ("CorruptRequestBody", {}, snappy(b"\x0a\x05\x0a"), 400),
        ("RW1ErrorHandling", {}, b"\xff" + snappy(UP)[1:], 400),
        ("version 2.0", {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}, snappy(UP), 415),
        ("version 1.0 by name", {"Content-Type": "application/x-protobuf;proto=prometheus.WriteRequest"}, snappy(UP), 204),
        ("another tenant", {}, snappy(write_request({"labels": {"__name__": "up", "tenant_id": "acme"}})), 403),
    ],
)
def test_headers_and_bodies_that_are_not_remote_write_are_refused(
    server: Running, suite: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    with server.client(server.key(Role.INGEST, "borealis")) as client:
        answer = client.post(ROUTE, content=body, headers={**VERSION_1, **headers})

    assert answer.status_code == status, (suite, answer.text)
    assert answer.text or status == 204
