"""Plays and interactions with two artists, and what follows from them for every metric of content, computed by hand."""

from __future__ import annotations

from typing import Any

DAY = "2026-01-31"
PLAYS: list[dict[str, Any]] = [
    dict(
        zip(
            ("listener_id", "artist_id", "track_id", "country", "source", "playlist_id", "ms_played", "track_ms"),
            play,
            strict=True,
        )
    )
    for play in [
        ("ann", "abba", "sos", "SE", "playlist", "top", 200_000, 200_000),
        ("ann", "abba", "sos", "SE", "artist", None, 30_000, 200_000),
        ("ann", "abba", "waterloo", "SE", "library", None, 10_000, 160_000),
        ("bob", "abba", "sos", "US", "playlist", "top", 200_000, 200_000),
        ("cem", "abba", "sos", "US", "radio", None, 29_999, 200_000),
        (None, "abba", "sos", "US", None, None, None, None),
        ("cem", "kraftwerk", "autobahn", "DE", "album", None, 1_300_000, 1_360_000),
    ]
]

INTERACTIONS: list[dict[str, Any]] = [
    dict(zip(("listener_id", "event", "artist_id", "track_id"), done, strict=True))
    for done in [
        ("ann", "save", "abba", "sos"),
        ("ann", "share", "abba", "sos"),
        ("ann", "follow", "abba", None),
        ("bob", "save", "abba", "waterloo"),
        ("bob", "share", "abba", "sos"),
        ("bob", "follow", "abba", None),
        ("bob", "unfollow", "abba", None),
        ("cem", "discover", "abba", "sos"),
        ("cem", "follow", "kraftwerk", None),
        ("cem", "playlist_add", "kraftwerk", "autobahn"),
        ("dan", "invite", None, None),
        ("dan", "invite", None, None),
        ("eve", "join", None, None),
    ]
]

# Of the one day, without a split.
TOTAL = {
    "artist_streams": 5,  # ann 2, bob 1, cem 1 (29,999 is none), and the one without a length
    "artist_listeners": 3,
    "artist_streams_per_listener": 4 / 3,  # nobody's stream is no known listener's
    "artist_playlist_listeners": 2,
    "artist_playlist_reach": 2 / 3,
    "artist_active_listeners": 2,  # ann, from the page and the library; cem, from an album
    "artist_streams_by_place": 5,
    "save_rate": 2 / 3,  # ann and bob; ann, bob and cem listened
    "shares_per_listener": 2 / 3,
    "viral_coefficient": 2 / 3 * (1 / 2),
    "service_viral_coefficient": 2 / 3 * (1 / 2),
    "country_concentration": (2**2 + 2**2 + 1**2) / 5**2,  # streams: SE 2, US 2, DE 1
    "artist_country_concentration": 9 / 25,
    "artist_saves": 2,
    "artist_save_rate": 2 / 3,
    "artist_shares_per_listener": 2 / 3,
    "artist_viral_coefficient": 2 / 3 * (1 / 2),
    "artist_net_follows": 3 - 1,
    "artist_followers": 2,
    "artist_listeners_per_follower": 3 / 2,
    "artist_fan_retention": 3 / 2,
    "artist_previously_active_listeners": 2 - 2,
    "artist_programmed_listeners": 1,  # bob, to whom a playlist brought abba
    "track_saves": 2,
    "track_shares": 2,
    "track_playlist_adds": 1,
    "track_time_to_peak": 0,
    "track_plays": 7,
    "track_streams": 5,
    "audience_listeners": 3,  # by what they are: test_small_cells.py
    "track_completion_rate": 2 / 6,  # ann's and bob's whole sos; 1,300,000 of 1,360,000 is 95.6 %
}
TOTAL_ROLLING = {
    "artist_monthly_listeners": 3,
    "artist_monthly_streams": 5,
    "artist_quarterly_streams": 5,
    "monthly_invitations": 2,
    "monthly_joins": 1,
    "track_monthly_streams": 5,
    "artist_monthly_active_listeners": 2,  # ann and cem
    "artist_light_listeners": 2,
    "artist_audience": 3,
    "artist_active_audience": 2,
    "monthly_audience_listeners": 3,
}
# Nothing to tell on a tenant's only day, computed by hand over weeks in test_content_by_hand.py.
OVER_WEEKS = {"artist_growth", "artist_growth_score", "artist_super_listeners", "artist_moderate_listeners"}
ALL = set(TOTAL) | set(TOTAL_ROLLING) | OVER_WEEKS
"""Names of the metrics that are computed by hand here or in test_content_by_hand.py."""

OF_ABBA = {
    "artist_country_concentration": (2**2 + 2**2) / 4**2,
    "artist_save_rate": 2 / 3,
    "artist_shares_per_listener": 2 / 3,
    "artist_viral_coefficient": 2 / 3 * (1 / 2),
    "artist_followers": 1,
    "artist_fan_retention": 3 / 1,
    "artist_streams": 4,
    "artist_listeners": 3,
    "artist_streams_per_listener": 3 / 3,
    "artist_playlist_listeners": 2,
    "artist_playlist_reach": 2 / 3,
    "artist_monthly_listeners": 3,
    "artist_monthly_streams": 4,
}
OF_KRAFTWERK = {
    "artist_country_concentration": 1,
    "artist_save_rate": 0,
    "artist_shares_per_listener": 0,
    "artist_followers": 1,
    "artist_fan_retention": 1,
    "artist_streams": 1,
    "artist_listeners": 1,
    "artist_streams_per_listener": 1,
    "artist_playlist_reach": 0,
    "artist_monthly_listeners": 1,
}
