"""prometheus/compliance's receiver cases, read by the parser; the table is in compliance_cases.py."""

from __future__ import annotations

import pytest

from analytics_dagster.ingest.wire.remote_write import RemoteWriteReader
from tests.ingest.wire.arrivals import admission, rows
from tests.ingest.wire.compliance_cases import CASES, OVER_HTTP_ONLY, Case
from tests.ingest.wire.prometheus_messages import write_request


def test_all_39_cases_of_the_suite_are_here() -> None:
    assert len({case.suite for case in CASES} | set(OVER_HTTP_ONLY)) == 39


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_is_read_back_as_it_was_sent(case: Case) -> None:
    body = write_request(*case.series, metadata=list(case.metadata))

    got = RemoteWriteReader().read(body, admission())

    kept = [(row.name, row.type, row.labels, row.value) for row in rows(got.parsed.points)]
    assert sorted(kept, key=repr) == sorted(case.kept, key=repr)
    assert len(got.parsed.refused) == case.refused
