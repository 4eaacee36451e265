"""Every metric of the catalogue against an example that was computed by hand."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING

import pytest

from analytics_dagster.metrics.declarations import Catalogue
from tests.metrics import content_by_hand

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures

PLAYS = [
    # listener, country, tier, playlist, ms_played, track_ms, end_reason, skipped
    ("ann", "DE", "premium", "top", 200_000, 200_000, "trackdone", False),
    ("ann", "DE", "premium", "top", 30_000, 200_000, "fwdbtn", True),
    ("ann", "DE", "premium", "top", 29_999, 200_000, "fwdbtn", None),
    ("bob", "US", "free", None, 198_000, 200_000, "trackdone", None),
    ("bob", "US", "free", None, 197_999, 200_000, "endplay", None),
    ("bob", None, None, None, 5_000, 5_000, None, None),
    ("cem", None, None, None, 5_000, 200_000, None, None),
    ("cem", "US", None, None, 5_000, 200_000, "trackerror", True),
    ("cem", "US", None, None, 5_000, None, None, True),
    (None, "US", None, None, None, None, None, None),
]


INTERACTIONS = [
    {"listener_id": who, "event": event, "track_id": "t", "artist_id": "a"}
    for who, event in [
        *(("ann", event) for event in ("save", "save", "playlist_add", "share", "follow", "invite")),
        *(("bob", event) for event in ("save", "unsave", "playlist_remove", "share", "share", "share", "follow", "unfollow")),
        *(("cem", event) for event in ("discover", "follow", "invite", "join")),
    ]
]


@pytest.fixture
def listening(figures: Figures) -> Figures:
    names = ("listener_id", "country", "tier", "playlist_id", "ms_played", "track_ms", "end_reason", "skipped")
    figures.write("plays", [{"ts": "2026-01-31 10:00", **dict(zip(names, play, strict=True))} for play in PLAYS])
    return figures


@pytest.fixture
def all_sources(listening: Figures) -> Figures:
    """Every source table holds the same day."""
    ts = "2026-01-31 10:00"
    events = ["signup", "signup", "trial", "upgrade", "upgrade", "downgrade", "cancel", "reactivate", "renewal"]
    tiers = {3: "premium", 4: None, 5: "free"}
    before = {3: "free", 4: "premium", 5: "premium"}
    money = {3: 999, 4: 999, 8: 500}
    # New; larger; ended by going free, and by cancelling; taken up again; smaller.
    change = {3: 999, 4: 300, 5: -100, 6: -700, 7: 50, 8: -20}
    listening.write(
        "subscriptions",
        [
            {
                "ts": ts,
                "listener_id": "bob" if n == 8 else "ann",
                "event": e,
                "from_tier": before.get(n),
                "to_tier": tiers.get(n),
                "mrr_change_minor": change.get(n),
                "amount_minor": money.get(n),
                "currency": "EUR",
            }
            for n, e in enumerate(events)
        ],
    )
    listening.write(
        "ad_impressions",
        [
            {"ts": ts, "listener_id": "ann", "filled": True, "revenue_micros": 1_500, "currency": "EUR"},
            {"ts": ts, "listener_id": "ann", "filled": True, "revenue_micros": 2_500, "currency": "EUR"},
            {"ts": ts, "filled": False, "revenue_micros": 0, "currency": None},
            {"ts": ts, "filled": False, "revenue_micros": 0, "currency": None},
        ],
    )
    statuses = [200, 200, 200, 500, 503, 404, 499, 399]
    listening.write(
        "api_requests",
        [
            {"ts": ts, "endpoint": "/play", "method": "GET", "status": s, "latency_us": (n + 1) * 10_000}
            for n, s in enumerate(statuses)
        ],
    )
    listening.write(
        "system_samples",
        [
            {"ts": ts, "host": "a", "cpu_percent": 0.1, "memory_percent": 40.0, "disk_percent": 70.0, "network_bytes": 10},
            {"ts": ts, "host": "b", "cpu_percent": 0.2, "memory_percent": 60.0, "disk_percent": 71.0, "network_bytes": 5},
            {"ts": ts, "host": "a", "db_queries": 100, "db_time_us": 200_000, "db_slowest_us": 90_000},
            {"ts": ts, "host": "b", "db_queries": 300, "db_time_us": 1_000_000, "db_slowest_us": 70_000},
            {"ts": ts, "host": "b", "db_queries": 0, "db_time_us": 0},
            {"ts": ts, "host": "a", "cache_hits": 90, "cache_misses": 10},
            {"ts": ts, "host": "b", "cache_hits": 10, "cache_misses": 40},
            {"ts": ts, "host": "b", "cpu_percent": math.nan, "memory_percent": None, "disk_percent": None, "network_bytes": None},
        ],
    )
    listening.write("interactions", [{"ts": ts, **done} for done in INTERACTIONS])
    restated = [
        # day, share, of one value of a dimension
        (dt.date(2026, 1, 3), 0.25, None),
        (dt.date(2026, 1, 3), 0.75, "country"),
        (dt.date(2026, 1, 4), None, None),
        (dt.date(2026, 1, 4), 0.05, None),
    ]
    listening.write(
        "restatements",
        [{"ts": ts, "day": day, "metric": "plays", "share": share, "split_by": split} for day, share, split in restated],
    )
    return listening


BY_HAND = {
    "plays": 10,
    "streams": 5,  # 200,000; 30,000; 198,000; 197,999; and the one without a length
    "listen_time": (200_000 + 30_000 + 29_999 + 198_000 + 197_999 + 4 * 5_000) / 1000,
    # cem's 5 s and bob's are not within 5 s; none of 4,999
    "skip_rate_at_once": 0,
    "skip_rate_early": 3 / 9,
    "skip_rate_late": 2 / 9,  # 30,000 of 200,000 by fwdbtn; 197,999 by endplay. 198,000 is 99 % of 200,000
    "skip_rate": 3 / 9,  # 29,999 by fwdbtn; cem's cut short without a word; cem's own mark. Not bob's whole 5 s, not the error
    "completion_rate": 3 / 8,  # 200,000 of 200,000; 198,000 of 200,000; 5,000 of 5,000
    "engagement_rate": 4 / 9,
    "daily_active_listeners": 3,
    "streams_per_listener": 4 / 3,
    "playlist_streams": 2,  # 200,000 and 30,000
    "playlist_stream_share": 2 / 5,
    "sessions": 3,  # ann, bob and cem at ten o'clock; the play of nobody is of none
    "session_length": (200 + 198 + 5) / 3,
    "sessions_per_listener": 3 / 3,
    "plays_per_session": 9 / 3,
    "streams_spotify_30s": 5,
    "streams_spotify_30s_adjusted": 5,
    "streams_luminate_50_a_day": 4,  # not the one by nobody; the cap is in test_counting.py
    "streams_luminate_50_a_day_adjusted": 4,
    "artificial_plays": 0,  # test_counting.py has some
    "artificial_share": 0,
    "signups": 2,
    "trials": 1,
    "premium_conversions": 2,
    "downgrades": 1,
    "cancellations": 1,
    "reactivations": 1,
    "net_new_subscribers": 2 + 1 - 1 - 1,
    "new_mrr": 999,
    "expansion_mrr": 300,
    "reactivation_mrr": 50,
    "contraction_mrr": 20,
    "churned_mrr": 100 + 700,
    "net_new_mrr": 999 + 300 + 50 - 20 - 800,
    "churned_subscribers": 2,
    "revenue": 2_498,
    "revenue_per_payment": 2_498 / 3,
    "ad_requests": 4,
    "ad_impressions": 2,
    "ad_revenue": 0.004,
    "fill_rate": 0.5,
    "ecpm": 0.004 / 2 * 1000,
    "ad_reach": 1,
    "ad_frequency": 2 / 1,
    "api_requests": 8,
    "api_error_ratio": 2 / 8,
    "api_refusal_ratio": 2 / 8,
    "cpu_usage_percent": 0.3 / 2,
    "cpu_usage_max_percent": 0.2,
    "memory_usage_percent": 50,
    "memory_usage_max_percent": 60,
    "disk_usage_percent": 70.5,
    "disk_usage_max_percent": 71,
    "network_bytes": 15,
    "db_queries": 100 + 300,
    "db_latency": (200_000 + 1_000_000) / 400 / 1000,  # 3 ms over all queries; the mean of 2 ms and 3.33 ms would be another
    "db_slowest_query": 90,
    "cache_hit_ratio": (90 + 10) / (100 + 50),
    "saves": 3,
    "playlist_adds": 1,
    "removals": 2,  # one unsaved, one taken off a playlist
    "removal_ratio": 2 / (3 + 1),
    "content_shares": 4,
    "discoveries": 1,
    "discoveries_per_share": 1 / 4,
    "follows": 3,
    "net_follows": 3 - 1,
    "invitations": 2,
    "invitation_conversion": 1 / 2,
    "daily_savers": 2,
    "daily_sharers": 2,
    "interacting_listeners": 3,
    "restated_figures": 4,
    "restated_days": 2,
    "largest_restatement": 0.25,
}
# Over the days that end with the only one. ann paid twice and bob once.
ROLLING = {
    "weekly_active_listeners": 3,
    "monthly_active_listeners": 3,
    "monthly_streams": 5,
    "monthly_payers": 2,
    "monthly_revenue": 2_498,
    "monthly_savers": 2,
    "mrr": 2_498,
    "subscribers": 2,
    "arpu": 2_498 / 2,
    "monthly_churned_subscribers": 2,
    "monthly_ad_reach": 1,
    "monthly_ad_revenue": 4_000,
    "ad_revenue_per_listener": 0.004 / 1,
    "revenue_per_active_listener": 2_498 / 3,  # ann, bob and cem listened
}
# What the platform tells of itself, by the rows in `own_work`.
OWN_WORK = {
    "arrived_rows": 98 + 2,
    "table_age": 7_200,  # of plays; metrics are an hour old
    "scored_forecasts": 3,
    "forecast_mape": (10 / 100 + 20 / 100) / 2,  # nothing came on the third
    "forecast_coverage": 1 / 2,
    "input_drift_psi": 0.5,
    "input_drift_ks": 0.25,
}
OF_ONE_FIGURE = {"forecast_wape": (10 + 20 + 5) / (100 + 100 + 0)}
PER_SECOND = {"api_request_rate": 8 / 86_400}
SHARES_OF_ROLLING = {"stickiness": 3 / 3, "revenue_per_payer": 2_498 / 2}
# What looks at later days: of the first of January 2026, by the rows in `later_days`.
LATER = {
    "new_listeners": 4,
    "day_1_retention": 2 / 4,  # ann and bob
    "day_7_retention": 1 / 4,  # ann
    "week_4_retention": 2 / 4,  # cem on day 28 and bob on day 34
    "week_12_retention": 1 / 4,  # ann on day 84; cem was there a day before
    "trial_conversion": 2 / 3,  # ann at once and bob on the last of the 30 days; cem was a day late
    "free_to_premium_conversion": 1 / 4,  # eve on the last of the 28 days; fay was a day late
    "conversions_within_28_days": 1,
}
# What looks at a month before: of the 31st of January 2026, by the payments in `a_month_of_payments`.
MONTH_BEFORE = {
    "churn_rate": 1 / 4,  # dan, of the four who had paid until the first
    "ltv": 999 / (1 / 4),
}
WITHIN_ONE_PERCENT = {
    "session_length_p50": 198,
    "session_length_p95": 200,
    "api_p50_latency": 40,
    "api_p95_latency": 80,
    "api_p99_latency": 80,
}
LAGS_WITHIN_ONE_PERCENT = {"ingest_lag_p50": 2, "ingest_lag_p95": 2, "ingest_lag_p99": 3_600}


def test_every_metric_of_the_catalogue_is_computed_by_hand_here(catalogue: Catalogue) -> None:
    days = (BY_HAND, ROLLING, SHARES_OF_ROLLING, LATER, MONTH_BEFORE, PER_SECOND, OWN_WORK, OF_ONE_FIGURE)
    parts = (*days, WITHIN_ONE_PERCENT, LAGS_WITHIN_ONE_PERCENT, content_by_hand.ALL)
    assert sorted(m.name for m in catalogue.metrics) == sorted(name for part in parts for name in part)


def test_every_metric_gives_what_was_computed_by_hand(all_sources: Figures) -> None:
    by_hand = BY_HAND | ROLLING | SHARES_OF_ROLLING
    given = {name: all_sources.value(name) for name in by_hand}
    assert given == {name: pytest.approx(value, rel=1e-12) for name, value in by_hand.items()}


@pytest.fixture
def own_work(figures: Figures) -> Figures:
    """98 plays came within 2 s and 2 an hour late; three forecasts of plays, and how far its days are from those before."""
    ts = "2026-01-31 00:00"
    figures.write(
        "deliveries",
        [
            {"ts": ts, "table_name": "plays", "lag_ms": 2_000, "rows": 98},
            {"ts": ts, "table_name": "metrics", "lag_ms": 3_600_000, "rows": 2},
            {"ts": ts, "table_name": "plays", "rows": 1, "age_ms": 7_200_000},
            {"ts": ts, "table_name": "metrics", "rows": 1, "age_ms": 3_600_000},
        ],
    )
    plays = {"ts": ts, "figure": "plays"}
    figures.write(
        "model_scores",
        [
            {**plays, "horizon": 1, "actual": 100.0, "yhat": 90.0, "within_band": True},
            {**plays, "horizon": 7, "actual": 100.0, "yhat": 120.0, "within_band": False},
            {**plays, "horizon": 8, "actual": 0.0, "yhat": 5.0},
            {**plays, "psi": 0.5, "ks": 0.25},
            {"ts": ts, "figure": "streams", "psi": 0.1, "ks": 0.2},
        ],
    )
    return figures


def test_what_the_platform_tells_of_itself_is_what_was_computed_by_hand(own_work: Figures) -> None:
    by_hand = OWN_WORK | OF_ONE_FIGURE
    asked = {name: {"where": ('figure="plays"',)} if name in OF_ONE_FIGURE else {} for name in by_hand}
    given = {name: own_work.value(name, **asked[name]) for name in by_hand}
    assert given == {name: pytest.approx(value, rel=1e-9) for name, value in by_hand.items()}
    lags = {name: own_work.value(name) for name in LAGS_WITHIN_ONE_PERCENT}
    assert lags == {name: pytest.approx(value, rel=0.0101) for name, value in LAGS_WITHIN_ONE_PERCENT.items()}


def test_the_work_of_each_table_and_of_each_horizon_is_told_apart(own_work: Figures) -> None:
    day = "2026-01-31 00:00"
    assert own_work.ask("freshness", by=("table_name",)) == [(day, "metrics", 3_600), (day, "plays", 7_200)]
    assert own_work.ask("model_accuracy", by=("horizon",)) == [(day, "1 day", 1), (day, "2 to 7 days", 0)]
    assert own_work.ask("model_drift", by=("figure",)) == [(day, "plays", 0.5), (day, "streams", 0.1)]


def test_a_rate_is_for_each_second_of_its_bucket(all_sources: Figures) -> None:
    assert all_sources.value("request_rate") == pytest.approx(8 / 86_400)
    assert all_sources.value("request_rate", grain="hour") == pytest.approx(8 / 3_600)


@pytest.fixture
def later_days(figures: Figures) -> Figures:
    """Listeners and subscriptions that begin on the first of January, and what they do on the n-th day after it."""
    first = dt.date(2026, 1, 1)
    plays = {0: ["ann", "bob", "cem", "dan"], 1: ["ann", "bob"], 7: ["ann"], 28: ["cem"], 34: ["bob"], 83: ["cem"], 84: ["ann"]}
    figures.write(
        "plays",
        [
            {"ts": f"{first + dt.timedelta(days=d)} 10:00", "listener_id": who}
            for d in sorted({**plays, 90: []})
            for who in plays.get(d, [None])
        ],
    )
    events = [(0, who, "trial") for who in ("ann", "bob", "cem")] + [(0, who, "signup") for who in ("eve", "fay", "gus", "hal")]
    events += [
        (0, "ann", "upgrade"),
        (27, "eve", "upgrade"),
        (28, "fay", "upgrade"),
        (29, "bob", "upgrade"),
        (30, "cem", "upgrade"),
    ]
    figures.write(
        "subscriptions",
        [{"ts": f"{first + dt.timedelta(days=d)} 10:00", "listener_id": who, "event": event} for d, who, event in events],
    )
    return figures


def test_every_metric_that_looks_ahead_gives_what_was_computed_by_hand(later_days: Figures) -> None:
    first = dt.date(2026, 1, 1)
    given = {name: later_days.value(name, first=first, last=first) for name in LATER}
    assert given == {name: pytest.approx(value, rel=1e-12) for name, value in LATER.items()}


@pytest.fixture
def a_month_of_payments(figures: Figures) -> Figures:
    """Four pay 9.99 on the first of January; dan cancels on the eleventh, the others pay again on the 31st."""
    paid = {"event": "renewal", "from_tier": "premium", "amount_minor": 999, "currency": "EUR"}
    rows = [{"ts": "2026-01-01 10:00", "listener_id": who, **paid} for who in ("ann", "bob", "cem", "dan")]
    rows += [{"ts": "2026-01-11 10:00", "listener_id": "dan", "event": "cancel", "from_tier": "premium"}]
    rows += [{"ts": "2026-01-31 10:00", "listener_id": who, **paid} for who in ("ann", "bob", "cem")]
    figures.write("subscriptions", rows)
    return figures


def test_what_looks_at_a_month_before_gives_what_was_computed_by_hand(a_month_of_payments: Figures) -> None:
    day = dt.date(2026, 1, 31)
    given = {name: a_month_of_payments.value(name, first=day, last=day) for name in MONTH_BEFORE}
    assert given == {name: pytest.approx(value, rel=1e-12) for name, value in MONTH_BEFORE.items()}
    # On the day before, all four had paid within 30 days, and the month before has nobody yet.
    assert a_month_of_payments.value("mrr", first=dt.date(2026, 1, 30), last=dt.date(2026, 1, 30)) == 4 * 999
    assert a_month_of_payments.value("churn_rate", first=dt.date(2026, 1, 30), last=dt.date(2026, 1, 30)) is None


@pytest.mark.parametrize("name", WITHIN_ONE_PERCENT)
def test_a_quantile_is_within_one_percent_of_the_nearest_rank(all_sources: Figures, name: str) -> None:
    assert all_sources.value(name) == pytest.approx(WITHIN_ONE_PERCENT[name], rel=0.0100001)


@pytest.mark.parametrize("grain", ["hour", "day", "week", "month"])
def test_every_grain_gives_the_same_figure_when_all_rows_are_in_one_bucket(all_sources: Figures, grain: str) -> None:
    for name, value in (BY_HAND if grain == "hour" else BY_HAND | ROLLING).items():
        assert all_sources.value(name, grain=grain) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("synonym", "name"),
    [
        ("dau", "daily_active_listeners"),
        ("high_error_rate", "api_error_ratio"),
        ("low_user_engagement", "engagement_rate"),
        ("user_engagement", "engagement_rate"),
    ],
)
def test_a_synonym_speaks_for_its_metric(all_sources: Figures, synonym: str, name: str) -> None:
    assert all_sources.value(synonym) == all_sources.value(name)


def test_a_radio_log_has_plays_and_streams_but_no_listeners_and_no_listened_time(figures: Figures) -> None:
    figures.write("plays", [{"ts": "2026-01-31 10:00"}, {"ts": "2026-01-31 11:00"}])
    assert figures.value("plays") == figures.value("streams") == 2
    for name in ("dau", "listen_time", "skip_rate", "completion_rate", "engagement_rate", "streams_per_listener"):
        assert figures.ask(name) == []
