"""The rules of counting in plain Python, play by play: what the SQL has to say too."""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from analytics_dagster.metrics.counting.policies import ArtificialRules, Counting, CountingPolicy

Play = dict[str, Any]


def verdicts(counting: Counting, plays: Sequence[Play], stream_ms: int) -> dict[str, dict[str, str | None]]:
    """By play_id: the reason of each policy that does not count it, and `artificial`; None where it counts and is none."""
    days: defaultdict[dt.date, list[Play]] = defaultdict(list)
    for play in plays:
        days[play["ts"].date()].append(play)
    found: dict[str, dict[str, str | None]] = {}
    for day in days.values():
        ordered = sorted(day, key=lambda p: (p["ts"], p["play_id"]))
        rules = _artificial(counting.rules, ordered, stream_ms)
        for play in ordered:
            found[play["play_id"]] = {"artificial": rules.get(play["play_id"])}
        for policy in counting.policies:
            for play_id, reason in _policy(policy, ordered, stream_ms).items():
                found[play_id][policy.name] = reason
    return found


def _policy(policy: CountingPolicy, ordered: Sequence[Play], stream_ms: int) -> dict[str, str | None]:
    reasons: dict[str, str | None] = {}
    counted: Counter[tuple[str, str]] = Counter()
    for play in ordered:
        ms, listener, track = play["ms_played"], play["listener_id"], play["track_id"]
        reason = None
        if play["format"] in policy.formats_left_out:
            reason = "format_left_out"
        elif ms is None and not policy.unknown_length_counts:
            reason = "unknown_length"
        elif ms is not None and ms < policy.minimum_ms(stream_ms):
            reason = "too_short"
        elif policy.known_listener and listener is None:
            reason = "unknown_listener"
        elif policy.most_a_day is not None and listener is not None and track is not None:
            counted[listener, track] += 1
            reason = "above_cap" if counted[listener, track] > policy.most_a_day else None
        reasons[play["play_id"]] = reason
    return reasons


def _artificial(rules: ArtificialRules, ordered: Sequence[Play], stream_ms: int) -> dict[str, str]:
    mine: defaultdict[str, list[Play]] = defaultdict(list)
    for play in ordered:
        if play["listener_id"] is not None:
            mine[play["listener_id"]].append(play)
    members = _members(rules, mine)
    found: dict[str, str] = {}
    for listener, plays in mine.items():
        whole = _whole_day(rules, plays, stream_ms)
        near = [p for p in plays if _just_over(rules, p, stream_ms)]
        alike = _too_alike(rules, plays, near)
        tracks = Counter(p["track_id"] for p in plays if p["track_id"] is not None)
        for play in plays:
            place = (play["artist_id"], play["country"], play["device"])
            if whole:
                reason: str | None = whole
            elif rules.repeated and tracks[play["track_id"]] > rules.repeated.plays:
                reason = "repeated"
            elif alike and _just_over(rules, play, stream_ms):
                reason = "just_over_threshold"
            else:
                reason = "farm" if (listener, *place) in members else None
            if reason:
                found[play["play_id"]] = reason
    return found


def _whole_day(rules: ArtificialRules, plays: Sequence[Play], stream_ms: int) -> str | None:
    heard = sum(p["ms_played"] or 0 for p in plays)
    if rules.more_than_a_day and heard > rules.more_than_a_day.hours * 3_600_000:
        return "more_than_a_day"
    at_once, until, streams = 0, 0, 0
    for play in plays:
        began, ms = int(play["ts"].timestamp() * 1000), play["ms_played"] or 0
        if ms > 0:
            at_once += max(0, min(began + ms, until) - began)
            until = max(until, began + ms)
        streams += ms >= stream_ms
    if rules.overlapping and at_once > rules.overlapping.hours * 3_600_000:
        return "overlapping"
    return "too_many" if rules.too_many and streams > rules.too_many.streams else None


def _just_over(rules: ArtificialRules, play: Play, stream_ms: int) -> bool:
    rule = rules.just_over_threshold
    return rule is not None and play["ms_played"] is not None and 0 <= play["ms_played"] - stream_ms < rule.within_seconds * 1000


def _too_alike(rules: ArtificialRules, plays: Sequence[Play], near: Sequence[Play]) -> bool:
    rule = rules.just_over_threshold
    if rule is None or len(near) < rule.plays or len(near) * 100 < len(plays) * rule.share_percent:
        return False
    return statistics.pvariance([p["ms_played"] for p in near]) <= (rule.deviation_seconds * 1000) ** 2


def _members(rules: ArtificialRules, mine: dict[str, list[Play]]) -> set[tuple[str, Any, Any, Any]]:
    rule = rules.farm
    if rule is None:
        return set()
    groups: defaultdict[tuple[Any, Any, Any], dict[str, int]] = defaultdict(dict)
    for listener, plays in mine.items():
        places = Counter((p["artist_id"], p["country"], p["device"]) for p in plays)
        for place, count in places.items():
            known = place[0] is not None and (place[1] is not None or place[2] is not None)
            if known and count >= rule.plays and count * 100 >= len(plays) * rule.share_percent:
                groups[place][listener] = count
    members = set()
    for place, counts in groups.items():
        mean, variance = statistics.mean(counts.values()), statistics.pvariance(counts.values())
        if len(counts) >= rule.listeners and variance * 10_000 <= rule.variation_percent**2 * mean**2:
            members |= {(listener, *place) for listener in counts}
    return members
