"""The OpenAPI document, the reference page and what the server answers are the same thing said three times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from server.running import Running

from analytics_dagster.server.api import build_api
from analytics_dagster.server.reference import document
from analytics_dagster.tenancy.roles import Role

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


@schemathesis.serializer("application/x-protobuf", "application/vnd.apache.arrow.stream")
def as_it_is(_ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """Bytes that are seldom what they should be: their refusals are looked at."""
    return value if isinstance(value, bytes) else str(value).encode()


def described() -> Mapping[str, Any]:
    return document(build_api())


def test_the_reference_page_has_every_route_with_its_permission_and_statuses() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Routes")[2].partition("## ")[0]
    rows = re.findall(r"^\| `([A-Z]+) (\S+)` \| (.+?) \| (.+?) \|", section, re.MULTILINE)
    told = {(method, path): (permission.strip("`"), statuses.strip()) for method, path, permission, statuses in rows}
    real = {
        (method.upper(), path): (
            "open" if operation["x-permission"] == "none" else operation["x-permission"],
            ", ".join(sorted(status for status in operation["responses"])),
        )
        for path, operations in described()["paths"].items()
        for method, operation in operations.items()
    }
    assert told == real


def test_the_page_of_the_server_needs_nothing_from_elsewhere(server: Running) -> None:
    with server.client() as client:
        page = client.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"<script|<link|<img|https?://", page.text)
    for path in described()["paths"]:
        assert path in page.text
    assert "`" not in page.text


@pytest.mark.parametrize("operation", [f"{m.upper()} {p}" for p, ms in described()["paths"].items() for m in ms])
def test_no_request_gets_a_5xx_or_an_answer_that_is_not_described(server: Running, operation: str) -> None:
    method, path = operation.split(" ")
    schema = schemathesis.openapi.from_dict(dict(described()))
    schema.config.update(base_url=server.url)
    # Of its own: the audit trail tells of only so many of one key's attempts, and other tests look for theirs.
    headers = {"Authorization": f"Bearer {server.key(Role.TENANT_ADMIN, 'acme', name='described')}"}

    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=8, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS, session=session)

    with requests.Session() as session:
        ask()
