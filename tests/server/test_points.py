"""Points by HTTP: durable when acknowledged, asked for at once, refused by name."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import time
import uuid

import httpx
import pyarrow as pa
import pyarrow.ipc
import pytest
import sqlalchemy as sa
import zstandard
from server.running import Running, wait_for

from analytics_dagster.ingest.consume import consume_all
from analytics_dagster.lake.state_tables import idempotency_keys
from analytics_dagster.tenancy.roles import Role

ROUTE = "/analytics/metrics"
ARROW = "application/vnd.apache.arrow.stream"


def unique(what: str) -> str:
    return f"{what}_{uuid.uuid4().hex[:8]}"


def figure(client: httpx.Client, metric: str, **asked: str) -> float | None:
    answer = client.get("/analytics/query", params={"metric": metric, **asked})
    if answer.status_code == 404:
        return None
    assert answer.status_code == 200, answer.text
    return sum(row["value"] for row in answer.json())


def test_a_point_that_was_acknowledged_is_in_the_next_answer(acme: httpx.Client) -> None:
    name = unique("user_engagement_rate")
    point = {"name": name, "value": 0.85, "metric_type": "gauge", "labels": {"region": "us-east", "user_tier": "premium"}}
    sent = acme.post(ROUTE, json=point)
    assert (sent.status_code, sent.json()) == (202, {"accepted": 1})
    assert figure(acme, name) == 0.85
    [row] = acme.get("/analytics/query", params={"metric": name, "grain": "minute", "by": "region"}).json()
    assert (row["region"], row["value"]) == ("us-east", 0.85)
    assert figure(acme, name, where='region="eu"') == 0


def test_a_board_has_the_greatest_elements_and_all_others_as_one(acme: httpx.Client) -> None:
    name = unique("queue_depth")
    sizes = {"us": 5, "eu": 7, "asia": 2, "it's": 1}
    points = [{"name": name, "value": value, "labels": {"region": region}} for region, value in sizes.items()]
    assert acme.post(ROUTE, json=points).status_code == 202
    asked = {"metric": name, "grain": "total", "by": "region", "aggregate": "sum", "top": 2}
    board = acme.get("/analytics/query", params=asked).json()
    assert [(row["region"], row["rank"], row["value"]) for row in board] == [("eu", 1, 7), ("us", 2, 5), ("Other", None, 3)]


def arrow_body(name: str, values: list[float]) -> bytes:
    now = int(time.time() * 1_000_000)
    table = pa.table(
        {
            "name": [name] * len(values),
            "value": values,
            "timestamp": pa.array([now + n for n in range(len(values))], pa.timestamp("us", "UTC")),
        }
    )
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["array", "ndjson", "arrow"])
def test_every_form_and_encoding_of_a_body_is_taken(acme: httpx.Client, kind: str, encoding: str | None) -> None:
    name = unique("form")
    rows = [{"name": name, "value": value, "labels": {"n": str(value)}} for value in (1, 2, 3)]
    body, media = {
        "array": (json.dumps(rows).encode(), "application/json"),
        "ndjson": ("\n".join(json.dumps(row) for row in rows).encode(), "application/x-ndjson"),
        "arrow": (arrow_body(name, [1.0, 2.0, 3.0]), ARROW),
    }[kind]
    headers = {"Content-Type": media}
    if encoding:
        body = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
        headers["Content-Encoding"] = encoding
    assert acme.post(ROUTE, content=body, headers=headers).json() == {"accepted": 3}
    assert figure(acme, name, aggregate="sum") == 6


def test_answers_come_as_json_csv_and_arrow(acme: httpx.Client) -> None:
    name = unique("formats")
    acme.post(ROUTE, json={"name": name, "value": 2, "timestamp": "2026-03-01T10:00:00Z"})
    asked = {"metric": name, "from": "2026-03-01", "to": "2026-03-01"}
    assert acme.get("/analytics/query", params=asked).json() == [{"ts": "2026-03-01T00:00:00Z", "value": 2.0}]
    told = acme.get("/analytics/query", params=asked, headers={"Accept": "text/csv"})
    assert told.text == "ts,value\n2026-03-01T00:00:00Z,2.0\n"
    table = pyarrow.ipc.open_stream(acme.get("/analytics/query", params={**asked, "format": "arrow"}).content).read_all()
    assert table.column("value").to_pylist() == [2.0]
    narrow = {"metric": name, "grain": "hour", "from": "2026-03-01T10:00:00Z", "to": "2026-03-01T11:00:00Z"}
    assert len(acme.get("/analytics/query", params=narrow).json()) == 1
    assert acme.get("/analytics/query", params={**narrow, "from": "2026-03-01T10:30:00Z"}).json() == []


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 400),
        ({"metric": "nothing_like_it"}, 404),
        ({"metric": "plays", "grain": "fortnight"}, 400),
        ({"metric": "plays", "from": "yesterday"}, 400),
        ({"metric": "plays", "from": "2026-03-02", "to": "2026-03-01"}, 400),
        ({"metric": "plays", "where": "country"}, 400),
        ({"metric": "plays", "by": "shoe_size"}, 404),
        ({"metric": "plays", "top": "3"}, 400),
        ({"metric": "plays", "by": "country", "top": "0"}, 400),
        ({"metric": "plays", "format": "xml"}, 400),
        ({"metric": "plays", "tenant": "borealis"}, 404),
    ],
)
def test_a_question_that_cannot_be_answered_is_told_why(acme: httpx.Client, asked: dict[str, str], status: int) -> None:
    answer = acme.get("/analytics/query", params=asked)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["detail"]


def test_one_bad_row_refuses_the_body_and_names_it(acme: httpx.Client) -> None:
    name = unique("whole")
    rows: list[dict[str, object]] = [{"name": name, "value": 1}, {"name": "", "value": 1}, {"name": name, "value": "much"}]
    answer = acme.post(ROUTE, json=rows)
    assert answer.status_code == 422
    told = answer.json()
    assert told["refused"] == 2
    assert told["detail"].endswith("; with ?partial=true the others would be stored")
    assert [(error["index"], error["field"]) for error in told["errors"]] == [(1, "name"), (2, "value")]
    assert figure(acme, name) is None
    many = acme.post(ROUTE, json=[{"name": "", "value": 1}] * 150).json()
    assert (many["refused"], len(many["errors"])) == (150, 100)
    assert "partial" not in many["detail"]


def test_partial_stores_the_good_rows_and_sets_the_bad_aside(acme: httpx.Client) -> None:
    name = unique("partial")
    rows = [{"name": name, "value": 1}, {"name": name, "value": 2, "labels": {"tenant": "x", "__a": "b"}}]
    answer = acme.post(ROUTE, params={"partial": "true"}, json=rows)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["quarantined"], told["errors"][0]["index"]) == (1, 1, 1)
    assert figure(acme, name) == 1
    aside = [row for row in acme.get("/analytics/quarantine").json() if name in row["original"]]
    assert [(row["line"], row["format"]) for row in aside] == [(2, "http")]
    assert aside[0]["file"].startswith("http:")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"name": "x"', {"Content-Type": "application/json"}, 400),
        (b"not arrow", {"Content-Type": ARROW}, 400),
        (b"<xml/>", {"Content-Type": "application/xml"}, 415),
        (b"{}", {"Content-Encoding": "br"}, 415),
        (b"{}", {"Content-Encoding": "gzip"}, 400),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(acme: httpx.Client, body: bytes, headers: dict[str, str], status: int) -> None:
    assert acme.post(ROUTE, content=body, headers=headers).status_code == status


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_bomb_is_refused_before_it_is_unpacked(acme: httpx.Client, compress: object) -> None:
    assert callable(compress)
    bomb = compress(b" " * (64 * 2**20))
    assert len(bomb) < 2**20
    headers = {"Content-Encoding": "gzip" if compress is gzip.compress else "zstd"}
    assert acme.post(ROUTE, content=bomb, headers=headers).status_code == 413


def test_a_body_over_the_limit_is_refused_however_it_is_sent(acme: httpx.Client) -> None:
    assert acme.post(ROUTE, content=b" " * (2**20 + 1)).status_code == 413
    assert acme.post(ROUTE, content=(b" " * 2**16 for _ in range(40))).status_code == 413


def test_points_sent_with_curl_are_taken(server: Running) -> None:
    name, key = unique("curl"), server.key(Role.INGEST, "acme")
    line = ["curl", "-sS", "-w", "%{http_code}", f"{server.url}{ROUTE}", "-H", f"Authorization: Bearer {key}"]
    body = ["-H", "Content-Type: application/json", "-d", json.dumps({"name": name, "value": 1})]
    done = subprocess.run([*line, *body], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == '{"accepted":1}202'
    forgot = subprocess.run([*line, *body[2:]], capture_output=True, text=True, check=True, timeout=30)
    assert forgot.stdout.endswith("415")
    assert "add -H 'Content-Type: application/json'" in forgot.stdout


# --- Idempotency-Key


def test_the_same_request_again_gets_the_first_answer_and_is_stored_once(acme: httpx.Client) -> None:
    name, key = unique("once"), uuid.uuid4().hex
    body = [{"name": name, "value": 5, "metric_type": "histogram"}, {"name": name, "value": 5, "metric_type": "histogram"}]
    first = acme.post(ROUTE, json=body, headers={"Idempotency-Key": key})
    again = acme.post(ROUTE, json=body, headers={"Idempotency-Key": key})
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (202, {"accepted": 2})
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert figure(acme, name, aggregate="count") == 2


def test_a_retry_after_a_crash_between_log_and_answer_stores_observations_once(server: Running, acme: httpx.Client) -> None:
    name, headers = unique("crashed"), {"Idempotency-Key": uuid.uuid4().hex}
    body = [{"name": name, "value": 5, "metric_type": "timer"} for _ in range(3)]
    assert acme.post(ROUTE, json=body, headers=headers).status_code == 202

    def crash(connection: sa.Connection) -> None:
        # What a worker leaves that dies when the rows are durable and before their answer is kept.
        mine = idempotency_keys.c.idempotency_key == headers["Idempotency-Key"]
        connection.execute(idempotency_keys.update().where(mine).values(state="pending", status=None, answer=""))

    server.installation.database.write(crash)
    again = acme.post(ROUTE, json=body, headers=headers)
    assert (again.status_code, again.json()) == (202, {"accepted": 3})
    assert "idempotency-replayed" not in again.headers
    assert figure(acme, name, aggregate="count") == 3
    consume_all(server.installation)
    assert figure(acme, name, aggregate="count") == 3


def test_another_body_under_the_same_key_is_refused(acme: httpx.Client) -> None:
    name, headers = unique("other"), {"Idempotency-Key": uuid.uuid4().hex}
    assert acme.post(ROUTE, json={"name": name, "value": 1}, headers=headers).status_code == 202
    assert acme.post(ROUTE, json={"name": name, "value": 2}, headers=headers).status_code == 422
    assert figure(acme, name) == 1


def test_a_refused_body_leaves_its_key_free(acme: httpx.Client) -> None:
    name, headers = unique("free"), {"Idempotency-Key": uuid.uuid4().hex}
    assert acme.post(ROUTE, json={"name": name, "value": "x"}, headers=headers).status_code == 422
    assert acme.post(ROUTE, json={"name": name, "value": 1}, headers=headers).status_code == 202


def test_keys_of_two_tenants_and_api_keys_do_not_meet(server: Running, acme: httpx.Client) -> None:
    name, headers = unique("scoped"), {"Idempotency-Key": uuid.uuid4().hex}
    with server.client(server.key(Role.TENANT_ADMIN, "borealis")) as borealis:
        assert acme.post(ROUTE, json={"name": name, "value": 1}, headers=headers).status_code == 202
        assert borealis.post(ROUTE, json={"name": name, "value": 2}, headers=headers).status_code == 202
        assert (figure(acme, name), figure(borealis, name)) == (1, 2)


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_that_is_none_is_refused(acme: httpx.Client, key: str) -> None:
    assert acme.post(ROUTE, json={"name": "x", "value": 1}, headers={"Idempotency-Key": key}).status_code == 400


# --- the table and the tail


def test_figures_stay_the_same_while_the_log_is_consumed(server: Running, acme: httpx.Client) -> None:
    name = unique("moving")
    acme.post(ROUTE, json=[{"name": name, "value": 1, "labels": {"n": str(n)}} for n in range(100)])
    assert figure(acme, name, aggregate="count") == 100
    consume_all(server.installation)
    assert figure(acme, name, aggregate="count") == 100
    acme.post(ROUTE, json={"name": name, "value": 1, "labels": {"n": "one more"}})
    assert wait_for("the new point", lambda: figure(acme, name, aggregate="count") == 101)
