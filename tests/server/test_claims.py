"""Claims of Idempotency-Keys where requests end badly: cancelled, refused after a crash, overtaken."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator

import pytest

from analytics_dagster.clock import ManualClock
from analytics_dagster.lake.database import Database
from analytics_dagster.server.idempotency import LEASE, Claim, ClaimKey, Claims
from analytics_dagster.server.problems import Problem

KEY = ClaimKey("acme", "key-1", "/analytics/metrics", "once", "hash of a body")


@pytest.fixture
def claims(database: Database, clock: ManualClock) -> Iterator[Claims]:
    opened = Claims(database, clock, "home", "server-0")
    yield opened
    opened.close()


def claimed(claims: Claims) -> Claim:
    found = claims.claim(KEY).result(30)
    assert isinstance(found, Claim)
    return found


def test_a_request_that_is_cancelled_while_it_waits_stops_nobody_else(claims: Claims) -> None:
    async def cancelled() -> None:
        waiting = asyncio.ensure_future(asyncio.wrap_future(claims.claim(KEY)))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(cancelled())
    other = ClaimKey(KEY.tenant, KEY.key_id, KEY.route, "another", KEY.body_hash)
    assert isinstance(claims.claim(other).result(30), Claim)


def test_a_key_whose_body_was_refused_is_free_for_another_body(claims: Claims) -> None:
    claims.release(claimed(claims)).result(30)
    other = ClaimKey(KEY.tenant, KEY.key_id, KEY.route, KEY.key, "hash of another body")
    assert isinstance(claims.claim(other).result(30), Claim)


def test_a_retry_that_is_refused_leaves_the_rows_of_the_first_try_their_origin(claims: Claims, clock: ManualClock) -> None:
    first = claimed(claims)
    claims.abandon(first).result(30)  # its rows may be durable
    clock.advance(dt.timedelta(seconds=1))
    claims.release(claimed(claims)).result(30)  # over a quota, say
    clock.advance(dt.timedelta(seconds=1))
    assert claimed(claims).origin == first.origin


def test_a_claim_that_was_overtaken_gives_nothing_back(claims: Claims, clock: ManualClock) -> None:
    slow = claimed(claims)
    clock.advance(LEASE + dt.timedelta(seconds=1))
    second = claimed(claims)
    assert second.origin == slow.origin
    claims.release(slow).result(30)
    claims.abandon(slow).result(30)
    with pytest.raises(Problem, match="being worked on"):
        claims.claim(KEY).result(30)
