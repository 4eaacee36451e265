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

# Of the one day, without a split.
TOTAL = {
    "artist_streams": 5,  # ann 2, bob 1, cem 1 (29,999 is none), and the one without a length
    "artist_listeners": 3,
    "artist_streams_per_listener": 4 / 3,  # nobody's stream is no known listener's
    "artist_playlist_listeners": 2,
    "artist_playlist_reach": 2 / 3,
    "artist_active_listeners": 2,  # ann, from the page and the library; cem, from an album
    "artist_streams_by_place": 5,
    "track_plays": 7,
    "track_streams": 5,
    "track_completion_rate": 2 / 6,  # ann's and bob's whole sos; 1,300,000 of 1,360,000 is 95.6 %
}
TOTAL_ROLLING = {
    "artist_monthly_listeners": 3,
    "artist_monthly_streams": 5,
    "artist_quarterly_streams": 5,
    "track_monthly_streams": 5,
}
# Nothing to tell on a tenant's only day, computed by hand over weeks in test_content_by_hand.py.
OVER_WEEKS = {"artist_growth"}
ALL = set(TOTAL) | set(TOTAL_ROLLING) | OVER_WEEKS
"""Names of the metrics that are computed by hand here or in test_content_by_hand.py."""

OF_ABBA = {
    "artist_streams": 4,
    "artist_listeners": 3,
    "artist_streams_per_listener": 3 / 3,
    "artist_playlist_listeners": 2,
    "artist_playlist_reach": 2 / 3,
    "artist_monthly_listeners": 3,
    "artist_monthly_streams": 4,
}
OF_KRAFTWERK = {
    "artist_streams": 1,
    "artist_listeners": 1,
    "artist_streams_per_listener": 1,
    "artist_playlist_reach": 0,
    "artist_monthly_listeners": 1,
}
