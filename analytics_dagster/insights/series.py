"""What a page of insights is written from: a KPI of one tenant by day, as a whole and split by its dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

_PINNED = re.compile(r'="([^"]*)"')
_ABBREVIATIONS = {name.lower(): name for name in ("API", "CPU", "DAU", "WAU", "MAU", "ARPU", "ARPPU", "MRR", "LTV", "eCPM")}


class Direction(StrEnum):
    """Which way is bad, as the metric's declaration says."""

    UP_IS_BAD = "up_is_bad"
    DOWN_IS_BAD = "down_is_bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True)
class Series:
    """One declared metric of one tenant.

    daily: ts (start of the day, UTC), value. by: dimension -> ts, <dimension>, value[, weight]; of a ratio, weight is
    the denominator of each part, without which its parts cannot be weighed against each other. unit and direction are
    those of the declaration; `title` is what people read, by default the metric's name in words.
    """

    metric: str
    unit: str
    direction: str
    daily: pa.Table
    by: Mapping[str, pa.Table] = field(default_factory=dict)
    title: str = ""

    @property
    def name(self) -> str:
        """The title, else `API error ratio` for api_error_ratio and `Revenue (EUR)` for revenue{currency="EUR"}."""
        if self.title:
            return self.title
        base, _, pinned = self.metric.partition("{")
        first, *others = base.split("_")
        words = [_ABBREVIATIONS.get(first, first[:1].upper() + first[1:]), *(_ABBREVIATIONS.get(word, word) for word in others)]
        values = _PINNED.findall(pinned)
        return " ".join(words) + (f" ({', '.join(values)})" if values else "")
