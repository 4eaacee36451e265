"""A simulated day: deterministic, of the declared shape, and with the habits that figures later find."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from analytics_dagster.lake.schemas import BY_NAME, EVENT_TABLES
from analytics_dagster.sources.simulation import Population, catalogue, simulate_day
from analytics_dagster.sources.simulation.population import DAY_MS

from .conftest import FIRST, LAST, world

ORDINARY = date(2026, 1, 13)


@pytest.fixture(scope="module")
def ordinary(aurora: Population) -> dict[str, pa.Table]:
    assert not any(one.covers(ORDINARY) for one in aurora.incidents)
    return simulate_day(aurora, ORDINARY)


def test_equal_seeds_give_equal_tables(ordinary: dict[str, pa.Table]) -> None:
    assert simulate_day(world(0), ORDINARY) == ordinary


def test_another_seed_or_tenant_gives_other_plays(ordinary: dict[str, pa.Table]) -> None:
    assert simulate_day(world(0, seed=7), ORDINARY)["plays"] != ordinary["plays"]
    assert simulate_day(world(1), ORDINARY)["plays"] != ordinary["plays"]


def test_a_day_is_the_same_alone_and_at_the_end_of_a_range(ordinary: dict[str, pa.Table]) -> None:
    assert simulate_day(world(0, through=ORDINARY), ORDINARY) == ordinary


def test_a_day_before_the_first_one_can_be_simulated_too(aurora: Population) -> None:
    assert simulate_day(aurora, FIRST - timedelta(days=30))["plays"].num_rows > 1_000


def test_a_day_beyond_the_population_is_refused(aurora: Population) -> None:
    with pytest.raises(ValueError, match="build it through 2026-04-01"):
        simulate_day(aurora, LAST + timedelta(days=1))


@pytest.mark.parametrize("schema", EVENT_TABLES, ids=lambda schema: schema.name)
def test_event_tables_follow_their_schema(ordinary: dict[str, pa.Table], schema: object) -> None:
    _conforms(ordinary[schema.name])  # type: ignore[attr-defined]
    table = ordinary[schema.name]  # type: ignore[attr-defined]
    midnight = datetime.combine(ORDINARY, time.min, UTC)
    assert pc.min(table["ts"]).as_py() >= midnight
    assert pc.max(table["ts"]).as_py() < midnight + timedelta(days=1)
    assert pc.all(pc.greater_equal(pc.pairwise_diff(table["ts"].cast(pa.int64()).combine_chunks())[1:], 0)).as_py()


def test_catalogue_tables_follow_their_schema(aurora: Population) -> None:
    for table in catalogue(aurora, LAST).values():
        _conforms(table)


def test_an_active_listener_plays_twelve_to_twenty_tracks(ordinary: dict[str, pa.Table]) -> None:
    plays = ordinary["plays"]
    assert 12 <= plays.num_rows / pc.count_distinct(plays["listener_id"]).as_py() <= 20


def test_popularity_has_a_heavy_head_and_a_long_tail(aurora: Population) -> None:
    counts = Counter[str]()
    for offset in range(7, 14):
        counts.update(simulate_day(aurora, FIRST + timedelta(days=offset))["plays"]["track_id"].to_pylist())
    ranked = sorted(counts.values(), reverse=True)
    head = sum(ranked[: len(ranked) // 100]) / sum(ranked)
    assert 0.15 < head < 0.6
    assert sum(1 for plays in ranked if plays <= 5) > len(ranked) * 0.2
    slope = np.polyfit(np.log(np.arange(10, 500)), np.log(ranked[10:500]), 1)[0]
    assert -1.3 < slope < -0.5


def test_hours_and_weekdays_leave_their_pattern() -> None:
    # cascade lives in few time zones, so that its hours show in UTC
    population = world(2)
    days = [
        day
        for day in (date(2026, 1, 5) + timedelta(days=n) for n in range(28))
        if not any(i.covers(day) for i in population.incidents)
    ]
    by_hour = np.zeros(24)
    by_weekday: dict[int, list[int]] = {}
    for day in days:
        plays = simulate_day(population, day)["plays"]
        by_hour += np.bincount(pc.hour(plays["ts"]).to_numpy(), minlength=24)
        by_weekday.setdefault(day.weekday(), []).append(plays.num_rows)
    assert by_hour.max() > 2.5 * by_hour.min()
    assert by_hour.argmin() in range(5, 12)  # night in the Americas
    assert np.mean(by_weekday[5]) > 1.04 * np.mean(by_weekday[1])


def test_plays_follow_one_another_and_a_listeners_sessions_do_not_overlap(
    ordinary: dict[str, pa.Table],
) -> None:
    plays = (
        ordinary["plays"]
        .select(["listener_id", "ts", "ms_played", "session_id"])
        .sort_by([("listener_id", "ascending"), ("ts", "ascending")])
    )
    listener, session = plays["listener_id"].to_pylist(), plays["session_id"].to_pylist()
    start = plays["ts"].cast(pa.int64()).to_numpy() // 1_000
    end = start + plays["ms_played"].to_numpy()
    gaps = start[1:] - end[:-1]
    same_listener = np.array([a == b for a, b in pairwise(listener)])
    same_session = np.array([a == b for a, b in pairwise(session)])
    assert (gaps[same_session] >= 300).all()
    assert (gaps[same_session] < 60_000).all()
    assert (gaps[same_listener & ~same_session] > 30 * 60_000).all()
    assert len(set(zip(listener, session, strict=True))) == len(set(session))


def test_plays_end_for_a_reason_that_fits_their_length(ordinary: dict[str, pa.Table]) -> None:
    plays = ordinary["plays"].to_pylist()
    for play in plays:
        assert 0 < play["ms_played"] <= play["track_ms"]
        assert (play["end_reason"] == "trackdone") == (play["ms_played"] == play["track_ms"])
        assert play["skipped"] == (play["end_reason"] in ("fwdbtn", "backbtn"))
        assert (play["playlist_id"] is not None) == (play["source"] == "playlist")
    completed = np.mean([play["end_reason"] == "trackdone" for play in plays])
    assert 0.6 < completed < 0.9
    assert np.mean([play["ms_played"] >= 30_000 for play in plays]) > 0.75


def test_the_tier_of_a_play_is_the_listeners_at_that_moment(aurora: Population) -> None:
    ids = {name: number for number, name in enumerate(aurora.texts.listener_ids.to_pylist())}
    people = aurora.listeners
    changed = 0
    for offset in range(0, 90, 3):
        day = FIRST + timedelta(days=offset)
        midnight = int(datetime.combine(FIRST, time.min, UTC).timestamp() * 1_000)
        for play in simulate_day(aurora, day)["plays"].to_pylist():
            if play["listener_id"] is None:
                continue
            one = ids[play["listener_id"]]
            at = int(play["ts"].timestamp() * 1_000) - midnight
            premium = people.upgrade[one] <= at < people.cancel[one] or people.reactivate[one] <= at < people.quit[one]
            assert play["tier"] == ("premium" if premium else "free")
            assert people.registered[one] <= at < people.quit[one]
            changed += people.upgrade[one] // DAY_MS == offset
    assert changed > 0


def test_only_free_listeners_are_asked_to_hear_advertisements(ordinary: dict[str, pa.Table]) -> None:
    free = {(p["listener_id"], p["ts"]) for p in ordinary["plays"].to_pylist() if p["tier"] == "free"}
    ads = ordinary["ad_impressions"].to_pylist()
    assert len(ads) > 100
    for ad in ads:
        assert (ad["listener_id"], ad["ts"]) in free
        assert (ad["revenue_micros"] > 0) == ad["filled"]
    assert 0.85 < np.mean([ad["filled"] for ad in ads]) < 0.98


def test_subscriptions_tell_each_listeners_career_without_contradiction(aurora: Population) -> None:
    tier: dict[str, str] = {}
    seen = Counter[str]()
    starting = {row["user_id"]: row["tier"] for row in catalogue(aurora, FIRST - timedelta(days=1))["users"].to_pylist()}
    tier.update(starting)
    for offset in range(90):
        for row in simulate_day(aurora, FIRST + timedelta(days=offset))["subscriptions"].to_pylist():
            seen[row["event"]] += 1
            who = row["listener_id"]
            if row["event"] == "signup":
                assert who not in tier
            else:
                assert tier[who] == row["from_tier"], row
            tier[who] = row["to_tier"]
            paid = row["event"] in ("upgrade", "renewal", "reactivate")
            assert (row["amount_minor"] is not None) == paid
            changes = {"upgrade": 1, "reactivate": 1, "cancel": -1}.get(row["event"], 0)
            assert (row["mrr_change_minor"] > 0) - (row["mrr_change_minor"] < 0) == changes
            assert not paid or row["mrr_change_minor"] in (0, row["amount_minor"])
            assert (row["currency"] == "USD") == (paid or changes != 0)
    assert all(seen[event] > 0 for event in ("signup", "upgrade", "renewal", "cancel"))
    assert seen["renewal"] > seen["upgrade"] > seen["reactivate"]


def test_renewals_come_every_thirty_days(aurora: Population) -> None:
    paid: dict[str, list[date]] = {}
    for offset in range(90):
        for row in simulate_day(aurora, FIRST + timedelta(days=offset))["subscriptions"].to_pylist():
            if row["event"] in ("upgrade", "renewal", "reactivate"):
                paid.setdefault(row["listener_id"], []).append(row["ts"].date())
    gaps = [(b - a).days for days in paid.values() for a, b in pairwise(days)]
    assert len(gaps) > 200
    assert gaps.count(30) > 0.97 * len(gaps)


def test_an_ordinary_day_is_a_healthy_one(ordinary: dict[str, pa.Table]) -> None:
    status = ordinary["api_requests"]["status"].to_numpy()
    assert 0.001 < np.mean(status >= 500) < 0.01
    assert np.mean(status >= 400) < 0.02
    assert pc.max(ordinary["system_samples"]["cpu_percent"]).as_py() < 85
    engaged = ordinary["metrics"].filter(pc.equal(ordinary["metrics"]["name"], "user_engagement_rate"))
    assert engaged.num_rows == 24
    assert pc.min(engaged["value"]).as_py() > 0.7


def test_latency_differs_by_endpoint_and_has_a_long_tail(ordinary: dict[str, pa.Table]) -> None:
    requests = ordinary["api_requests"]
    for route in ("/login", "/home", "/search", "/playlist", "/play"):
        latency = requests.filter(pc.equal(requests["endpoint"], route))["latency_us"].to_numpy()
        assert len(latency) > 50
        assert np.percentile(latency, 95) > 1.8 * np.median(latency)


def test_what_is_done_to_content_is_done_by_whoever_plays_it(ordinary: dict[str, pa.Table], aurora: Population) -> None:
    done = ordinary["interactions"].to_pylist()
    plays = {(play["listener_id"], play["track_id"]): play["artist_id"] for play in ordinary["plays"].to_pylist()}
    kinds = Counter(row["event"] for row in done)
    assert all(kinds[event] > 0 for event in ("save", "playlist_add", "share", "discover", "follow")), kinds
    assert 0.005 < kinds["save"] / len(ordinary["plays"]) < 0.02
    for row in done:
        if row["track_id"] is not None:
            assert plays[row["listener_id"], row["track_id"]] == row["artist_id"]
        assert (row["channel"] is not None) == (row["event"] in ("share", "invite"))
        assert (row["playlist_id"] is not None) == (row["event"] == "playlist_remove")


def test_shares_are_those_that_the_recorded_counter_counts(aurora: Population) -> None:
    for offset in (0, 30, 60):
        day = simulate_day(aurora, FIRST + timedelta(days=offset))
        points = [p for p in day["metrics"].to_pylist() if p["name"] == "shares" and p["value"] > 0]
        shares = [row for row in day["interactions"].to_pylist() if row["event"] == "share"]
        assert sorted(p["ts"] for p in points) == sorted(row["ts"] for row in shares)


def test_a_discovery_follows_another_listeners_share_of_that_track(aurora: Population) -> None:
    found = 0
    for offset in range(0, 90, 6):
        done = simulate_day(aurora, FIRST + timedelta(days=offset))["interactions"].to_pylist()
        shared = [row for row in done if row["event"] == "share"]
        for row in (row for row in done if row["event"] == "discover"):
            found += 1
            earlier = {s["listener_id"] for s in shared if s["track_id"] == row["track_id"] and s["ts"] < row["ts"]}
            assert earlier - {row["listener_id"]}
    assert found > 10


def test_nobody_follows_an_artist_twice_or_lets_go_of_one_unfollowed(aurora: Population) -> None:
    following: set[tuple[str, str]] = set()
    seen = Counter[str]()
    for offset in range(90):
        for row in simulate_day(aurora, FIRST + timedelta(days=offset))["interactions"].to_pylist():
            pair = row["listener_id"], row["artist_id"]
            seen[row["event"]] += 1
            if row["event"] == "follow":
                assert pair not in following
                following.add(pair)
            elif row["event"] == "unfollow":
                following.remove(pair)
    assert seen["follow"] > seen["unfollow"] > 0
    assert seen["join"] > 0


def test_a_large_service_keeps_a_sample_of_its_requests() -> None:
    day = simulate_day(world(0, users=8_000, through=FIRST), FIRST)
    assert day["api_requests"].num_rows < 0.5 * day["plays"].num_rows


def test_a_service_with_one_listener_has_days() -> None:
    population = world(0, users=1)
    rows = [simulate_day(population, FIRST + timedelta(days=n)) for n in range(30)]
    for tables in rows:
        for name, table in tables.items():
            assert table.schema.equals(BY_NAME[name].arrow)


def _conforms(table: pa.Table) -> None:
    schema = next(one for one in BY_NAME.values() if one.arrow.names == table.column_names)
    assert table.schema.equals(schema.arrow)
    table.validate(full=True)
    assert table.num_rows > 0
    assert pc.count_distinct(table[schema.key]).as_py() == table.num_rows
    for column in schema.columns:
        if column.required:
            assert table[column.name].null_count == 0, column.name
