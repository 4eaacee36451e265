"""Which plays a policy counts and which are taken for artificial: by hand, and against the same rules in plain Python."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from metrics.counting_oracle import Play, verdicts

from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.counting.load import load_counting
from analytics_dagster.metrics.counting.policies import Counting
from analytics_dagster.metrics.counting.verdicts import judged, verdict_column

STREAM_MS = 30_000
NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
SMALL = """\
counting_policies:
  - {name: own, version: 3, description: Ours., source: A contract., minimum_seconds: 10.5, unknown_length: left_out,
     most_a_day: 2, formats_left_out: [radio_log]}
  - {name: strict, version: 1, description: Theirs., source: A contract., known_listener: true, most_a_day: 1}
  - {name: everything, version: 1, description: Every play., source: None., minimum_seconds: 0}
artificial_plays:
  version: 7
  description: Small numbers, so that few plays reach them.
  source: This test.
  rules:
    more_than_a_day: {hours: 1}
    overlapping: {hours: 0.25}
    too_many: {streams: 7}
    repeated: {plays: 4}
    just_over_threshold: {within_seconds: 10, plays: 3, share_percent: 75, deviation_seconds: 2}
    farm: {listeners: 2, plays: 3, share_percent: 60, variation_percent: 20}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Counting:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "own.yaml").write_text(SMALL, encoding="utf-8")
    return load_counting(folder)


def play(number: int, **given: Any) -> Play:
    row = {c.name: None for c in PLAYS.columns}
    return {**row, "play_id": f"p{number:04}", "ts": NOON, "format": "plays", "ms_played": 200_000, **given}


def said(counting: Counting, plays: Sequence[Play]) -> dict[str, dict[str, str | None]]:
    """What the SQL says, in the shape of the oracle."""
    rows = judged(pa.Table.from_pylist(list(plays), schema=PLAYS.arrow), counting, STREAM_MS).to_pylist()
    assert len(rows) == len(plays), "every play once"
    names = {verdict_column(p): p.name for p in counting.policies} | {"artificial": "artificial"}
    return {row["play_id"]: {name: row[column] for column, name in names.items()} for row in rows}


def of(counting: Counting, name: str, plays: Sequence[Play]) -> list[str | None]:
    """One verdict on each play, in their order."""
    found = said(counting, plays)
    return [found[p["play_id"]][name] for p in plays]


# --- by hand


def test_luminate_counts_fifty_plays_of_a_listener_track_and_day_the_earliest_first() -> None:
    plays = [play(n, ts=NOON - dt.timedelta(minutes=n), listener_id="ann", track_id="t") for n in range(53)]
    short = play(90, ts=NOON - dt.timedelta(hours=5), listener_id="ann", track_id="t", ms_played=29_999)
    others = [
        play(91, listener_id="ann", track_id="u"),
        play(92, listener_id="bob", track_id="t"),
        play(93, ts=NOON + dt.timedelta(days=1), listener_id="ann", track_id="t"),
    ]
    reasons = of(load_counting(), "luminate_50_a_day", [*plays, short, *others])
    assert reasons == ["above_cap"] * 3 + [None] * 50 + ["too_short", None, None, None]


def test_plays_at_one_time_are_capped_in_the_order_of_their_ids(small: Counting) -> None:
    plays = [play(n, listener_id="ann", track_id="t") for n in (3, 1, 2)]
    assert of(small, "strict", plays) == ["above_cap", None, "above_cap"]


def test_the_first_reason_that_applies_is_told(small: Counting) -> None:
    plays = [
        play(1, format="radio_log", ms_played=None),
        play(2, ms_played=None),
        play(3, ms_played=10_499),
        play(4, ms_played=10_500),
        play(5, ms_played=29_999, listener_id=None),
    ]
    assert of(small, "own", plays) == ["format_left_out", "unknown_length", "too_short", None, None]
    assert of(small, "strict", plays) == ["unknown_listener", "unknown_listener", "too_short", "too_short", "too_short"]
    assert of(small, "everything", plays) == [None] * 5


def test_without_a_listener_or_a_track_there_is_no_cap(small: Counting) -> None:
    plays = [play(n, track_id="t") for n in range(4)] + [play(9 + n, listener_id="ann") for n in range(4)]
    assert of(small, "own", plays) == [None] * 8


def test_a_listener_of_more_hours_than_a_day_has_is_artificial(small: Counting) -> None:
    hour = [play(n, ts=NOON + dt.timedelta(minutes=20 * n), listener_id="ann", ms_played=1_200_000) for n in range(3)]
    assert of(small, "artificial", hour) == [None] * 3
    assert of(small, "artificial", [*hour, play(9, listener_id="ann", ms_played=1)]) == ["more_than_a_day"] * 4


def test_one_account_in_two_places_at_once_is_artificial(small: Counting) -> None:
    # 16 of 20 minutes are heard twice: more than a quarter of an hour.
    plays = [play(1, listener_id="ann", ms_played=1_200_000)]
    twice = play(2, ts=NOON + dt.timedelta(minutes=4), listener_id="ann", ms_played=1_500_000)
    assert of(small, "artificial", [*plays, twice]) == ["overlapping"] * 2
    assert of(small, "artificial", [*plays, {**twice, "ts": NOON + dt.timedelta(minutes=5)}]) == [None] * 2


def test_a_listener_of_more_streams_than_a_day_has_room_for_is_artificial(small: Counting) -> None:
    times = [NOON + dt.timedelta(minutes=4 * n) for n in range(9)]
    plays = [play(n, ts=ts, listener_id="ann", track_id=f"t{n}") for n, ts in enumerate(times)]
    assert of(small, "artificial", plays[:8]) == ["too_many"] * 8
    plays[0]["ms_played"], plays[1]["ms_played"] = 29_999, None
    assert of(small, "artificial", plays) == [None] * 9, "seven of them are streams"


def test_a_track_that_is_repeated_too_often_is_artificial_and_the_listeners_other_plays_are_not(small: Counting) -> None:
    times = [NOON + dt.timedelta(minutes=4 * n) for n in range(5)]
    plays = [play(n, ts=ts, listener_id="ann", track_id="t") for n, ts in enumerate(times)]
    other = play(9, listener_id="ann", track_id="u", ms_played=1_000)
    assert of(small, "artificial", [*plays, other]) == ["repeated"] * 5 + [None]
    assert of(small, "artificial", [*plays[1:], other]) == [None] * 5


def test_plays_just_over_the_threshold_that_hardly_vary_are_artificial(small: Counting) -> None:
    def lengths(*ms: int) -> list[Play]:
        times = [NOON + dt.timedelta(minutes=n) for n in range(len(ms))]
        return [play(n, ts=times[n], listener_id="ann", track_id=f"t{n}", ms_played=length) for n, length in enumerate(ms)]

    assert of(small, "artificial", lengths(30_000, 32_000, 34_000, 40_000)) == ["just_over_threshold"] * 3 + [None]
    assert of(small, "artificial", lengths(30_000, 32_000, 40_000, 29_999)) == [None] * 4, "too few"
    assert of(small, "artificial", lengths(30_000, 32_000, 34_000, 90_000, 90_000)) == [None] * 5, "too small a share"
    assert of(small, "artificial", lengths(30_000, 34_900, 39_900)) == [None] * 3, "too different"


def test_listeners_who_do_the_same_from_one_place_are_a_farm(small: Counting) -> None:
    def devoted(listener: str, plays: int, first: int, **place: Any) -> list[Play]:
        where = {"artist_id": "x", "country": "DE", "device": "web", **place}
        times = [NOON + dt.timedelta(minutes=4 * n) for n in range(plays)]
        return [play(first + n, ts=times[n], listener_id=listener, track_id=f"t{n}", **where) for n in range(plays)]

    assert of(small, "artificial", devoted("ann", 4, 0) + devoted("bob", 5, 10)) == ["farm"] * 9
    assert of(small, "artificial", devoted("ann", 4, 0) + devoted("bob", 7, 10)) == [None] * 11, "they do not do the same"
    assert of(small, "artificial", devoted("ann", 4, 0) + devoted("bob", 4, 10, country="FR")) == [None] * 8, "another place"
    nowhere = {"country": None, "device": None}
    assert of(small, "artificial", devoted("ann", 4, 0, **nowhere) + devoted("bob", 4, 10, **nowhere)) == [None] * 8


def test_lengths_that_cannot_be_stop_nothing(small: Counting) -> None:
    times = [NOON + dt.timedelta(minutes=n) for n in range(6)]
    plays = [play(n, ts=ts, listener_id="ann", track_id=f"t{n}") for n, ts in enumerate(times)]
    plays[0]["ms_played"], plays[1]["ms_played"] = 2**63 - 1, -(2**63)
    assert of(small, "strict", plays) == [None, "too_short", None, None, None, None]
    assert verdicts(small, plays, STREAM_MS) == said(small, plays)


# --- against the oracle

TIMES = st.integers(0, 40).map(lambda n: NOON + dt.timedelta(minutes=n * 15))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "ts": TIMES,
            "listener_id": st.sampled_from(["ann", "ann", "bob", "cem", None]),
            "track_id": st.sampled_from(["t", "t", "u", None]),
            "artist_id": st.sampled_from(["x", "x", None]),
            "country": st.sampled_from(["DE", "DE", None]),
            "device": st.sampled_from(["web", None]),
            "ms_played": st.sampled_from([None, 0, 10_499, 10_500, 29_999, 30_000, 31_000, 33_000, 39_999, 40_000, 1_000_000]),
            "format": st.sampled_from(["plays", "plays", "radio_log"]),
        }
    ),
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, seed=st.integers(0, 2**16))
@example(rows=[], seed=0)
def test_the_sql_says_what_the_rules_say_in_whatever_order_plays_arrived(
    small: Counting, rows: list[dict[str, Any]], seed: int
) -> None:
    plays = [play(n, **row) for n, row in enumerate(rows)]
    expected = verdicts(small, plays, STREAM_MS)
    random.Random(seed).shuffle(plays)
    assert said(small, plays) == expected
