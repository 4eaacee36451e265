"""Durations as rule files, alerting.yaml and rule tests write them: `5m`, `300s`, `1h30m`, `0`, and nothing for 0.

The grammar is Prometheus's (`model.ParseDuration`): whole numbers with units, the largest unit first, each at most once.
"""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = (
    ("y", timedelta(days=365)),
    ("w", timedelta(weeks=1)),
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("m", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
    ("ms", timedelta(milliseconds=1)),
)
_PATTERN = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit, _ in _UNITS))
REMEDY = "write 5m, 1h30m or 300s"


def parse_duration(text: str) -> timedelta:
    """The duration that `text` names; `""` and `"0"` are none at all.

    Raises ValueError with a message that ends in what to write instead.
    """
    if text in ("", "0"):
        return timedelta(0)
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a duration; {REMEDY}')
    try:
        return sum((int(count) * unit for count, (_, unit) in zip(match.groups(), _UNITS, strict=True) if count), timedelta(0))
    except OverflowError:
        raise ValueError(f'"{text}" is longer than time itself; {REMEDY}') from None


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as `value`: `1h30m`, `5m`, `0s`."""
    rest = value // timedelta(milliseconds=1)
    parts = []
    for unit, length in _UNITS[2:]:
        count, rest = divmod(rest, length // timedelta(milliseconds=1))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
