"""Token buckets: the average holds, whoever charges them from whichever process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenancy.requests_for_tests import Stopwatch

from analytics_dagster.tenancy.token_buckets import BURST_SECONDS, Charge, RateExceededError, RateState, TokenBuckets

RATE = 100
FULL = RATE * BURST_SECONDS


@pytest.fixture
def buckets(tmp_path: Path, stopwatch: Stopwatch) -> TokenBuckets:
    return TokenBuckets(tmp_path / "buckets", stopwatch)


def send(buckets: TokenBuckets, points: int, tenant: str = "acme", rate: int = RATE) -> RateState:
    return buckets.charge({tenant: Charge(points, rate)})[tenant]


def test_ten_seconds_worth_may_come_at_once_and_then_the_rate(buckets: TokenBuckets, stopwatch: Stopwatch) -> None:
    assert send(buckets, FULL) == RateState(FULL, 0, 10.0)
    with pytest.raises(RateExceededError) as refused:
        send(buckets, 250)
    assert refused.value.retry_after == pytest.approx(2.5)
    assert "more than its 100 points a second; try again in 3 s" in str(refused.value)
    assert refused.value.state == RateState(FULL, 0, 10.0)
    stopwatch.advance(2.5)
    assert send(buckets, 250).remaining == 0


def test_what_is_refused_is_charged_to_nobody(buckets: TokenBuckets) -> None:
    send(buckets, FULL, "globex")
    with pytest.raises(RateExceededError, match="tenant globex"):
        buckets.charge({"acme": Charge(FULL, RATE), "globex": Charge(1, RATE)})
    assert send(buckets, FULL, "acme").remaining == 0


def test_a_batch_larger_than_the_bucket_is_taken_when_it_is_full_and_then_owed(
    buckets: TokenBuckets, stopwatch: Stopwatch
) -> None:
    assert send(buckets, 5 * FULL).remaining == 0
    stopwatch.advance(40)
    with pytest.raises(RateExceededError) as refused:
        send(buckets, 1)
    assert refused.value.retry_after == pytest.approx(0.01)
    stopwatch.advance(0.02)
    send(buckets, 1)


def test_the_headers_say_where_a_tenant_stands(buckets: TokenBuckets) -> None:
    assert send(buckets, 250).headers() == {
        "RateLimit-Limit": "1000",
        "RateLimit-Remaining": "750",
        "RateLimit-Reset": "3",
        "RateLimit-Policy": '"points";q=1000;w=10',
        "RateLimit": '"points";r=750;t=3',
    }
    assert RateState().headers() == {}


def test_after_a_restart_of_the_machine_a_bucket_is_full(tmp_path: Path, buckets: TokenBuckets) -> None:
    send(buckets, FULL)
    begun_anew = Stopwatch()
    begun_anew.seconds = 5.0
    assert send(TokenBuckets(tmp_path / "buckets", begun_anew), FULL).remaining == 0


def test_another_process_finds_what_was_charged_here(tmp_path: Path, buckets: TokenBuckets, stopwatch: Stopwatch) -> None:
    elsewhere = TokenBuckets(tmp_path / "buckets", stopwatch)
    for number in range(20):
        send(buckets, 10 + number, f"tenant-{number}")
    for number in reversed(range(20)):
        assert send(elsewhere, 10, f"tenant-{number}").remaining == FULL - 20 - number


def test_a_file_that_is_lost_or_cut_is_begun_anew(tmp_path: Path, buckets: TokenBuckets) -> None:
    send(buckets, FULL)
    os.truncate(tmp_path / "buckets", 10)
    assert send(buckets, FULL).remaining == 0


@given(charges=st.lists(st.tuples(st.integers(1, 3 * FULL), st.floats(0, 20)), max_size=30))
def test_no_order_of_requests_gets_more_than_the_average_and_a_burst(
    tmp_path_factory: pytest.TempPathFactory, charges: list[tuple[int, float]]
) -> None:
    stopwatch = Stopwatch()
    buckets = TokenBuckets(tmp_path_factory.mktemp("buckets") / "file", stopwatch)
    began, sent, largest = stopwatch.seconds, 0, 0
    for points, pause in charges:
        stopwatch.advance(pause)
        try:
            send(buckets, points)
        except RateExceededError:
            pass
        else:
            sent, largest = sent + points, max(largest, points)
    buckets.close()
    assert sent <= (stopwatch.seconds - began) * RATE + FULL + max(0, largest - FULL) + 1e-6 * len(charges)


def test_several_processes_together_get_no_more_than_one(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from analytics_dagster.errors import QuotaExceededError
from analytics_dagster.tenancy.token_buckets import Charge, TokenBuckets
buckets, sent = TokenBuckets(Path(sys.argv[1])), 0
for _ in range(3_000):
    try:
        buckets.charge({"acme": Charge(1, 100)})
        sent += 1
    except QuotaExceededError:
        pass
print(sent)
"""
    began = time.monotonic()
    command = [sys.executable, "-c", program, str(tmp_path / "buckets")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sent = sum(int(process.communicate()[0]) for process in running)
    assert FULL <= sent <= FULL + RATE * (time.monotonic() - began)
