"""Annotations' templates: `{{ labels.endpoint }} fails {{ value | percent }} of requests`.

A fixed small grammar, read when the rule file is loaded: names, `labels.x`, and filters without arguments. Nothing is
executed, so a rule file can say what a message reads and nothing else. A leading `$` (`{{ $value }}`) is accepted, as
Prometheus writes it. What a template gives is plain text; each channel escapes it for its own format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches

from analytics_dagster.alerts.durations import format_duration

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NAME = re.compile(r"\$?(labels\.([a-zA-Z_][a-zA-Z0-9_]*)|[a-z_]+)")
NO_DATA = "no data"


def format_number(value: float) -> str:
    """`11`, `0.07`, `1500000`, `NaN`, `+Inf`: as a person would write it, without losing digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def _significant(value: float) -> str:
    return format_number(float(f"{value:.4g}")) if math.isfinite(value) else format_number(value)


def _percent(value: float) -> str:
    return f"{_significant(value * 100)}%"


def _humanize(value: float) -> str:
    for power, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if math.isfinite(value) and abs(value) >= power:
            return f"{_significant(value / power)}{suffix}"
    return _significant(value)


def _round(value: float) -> str:
    return format_number(round(value, 2)) if math.isfinite(value) else format_number(value)


def _duration(value: float) -> str:
    return format_duration(timedelta(seconds=value)) if math.isfinite(value) and 0 <= value < 1e11 else format_number(value)


_NUMBER_FILTERS: Mapping[str, Callable[[float], str]] = {
    "percent": _percent,
    "round": _round,
    "humanize": _humanize,
    "duration": _duration,
}
_TEXT_FILTERS: Mapping[str, Callable[[str], str]] = {"upper": str.upper, "lower": str.lower, "title": str.title}
_NAMES = ("value", "threshold", "alertname", "name", "severity", "tenant_id", "condition")
FILTERS = (*_NUMBER_FILTERS, *_TEXT_FILTERS)


@dataclass(frozen=True)
class TemplateContext:
    """What a template may name."""

    labels: Mapping[str, str]
    value: float | None
    threshold: float | None
    alertname: str
    severity: str
    tenant_id: str
    condition: str


@dataclass(frozen=True)
class _Placeholder:
    name: str
    label: str | None
    filters: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A parsed template: text and placeholders in turn."""

    source: str
    parts: tuple[str | _Placeholder, ...]

    def render(self, context: TemplateContext) -> str:
        return "".join(part if isinstance(part, str) else _render(part, context) for part in self.parts)


def parse_template(text: str) -> Template:
    """Raises ValueError naming the first thing that the grammar does not have."""
    parts: list[str | _Placeholder] = []
    end = 0
    for match in _PLACEHOLDER.finditer(text):
        parts += [_plain(text[end : match.start()], text), _placeholder(match.group(1))]
        end = match.end()
    parts.append(_plain(text[end:], text))
    return Template(text, tuple(part for part in parts if part != ""))


def _plain(piece: str, text: str) -> str:
    if "{{" in piece:
        raise ValueError(f'"{text}" opens {{{{ without closing it')
    return piece


def _placeholder(expression: str) -> _Placeholder:
    name, *filters = (piece.strip() for piece in expression.split("|"))
    match = _NAME.fullmatch(name)
    if match is None or (match.group(2) is None and match.group(1) not in _NAMES):
        raise ValueError(f'"{{{{{expression}}}}}" names nothing; write labels.x or one of {", ".join(_NAMES)}')
    for given in filters:
        if given not in FILTERS:
            near = get_close_matches(given, FILTERS, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise ValueError(f'"{given}" is not a filter{hint} (there are {", ".join(FILTERS)})')
    return _Placeholder(match.group(1), match.group(2), tuple(filters))


def _render(part: _Placeholder, context: TemplateContext) -> str:
    value: str | float | None = context.labels.get(part.label, "") if part.label is not None else _named(part.name, context)
    for name in part.filters:
        if value is None:
            break
        if name in _NUMBER_FILTERS:
            value = _NUMBER_FILTERS[name](value) if isinstance(value, float) else _number_of(value, name)
        else:
            value = _TEXT_FILTERS[name](format_number(value) if isinstance(value, float) else value)
    if value is None:
        return NO_DATA
    return format_number(value) if isinstance(value, float) else value


def _number_of(text: str, name: str) -> str:
    # A label holds text; one that is a number may be formatted as one, anything else stays as it is.
    try:
        return _NUMBER_FILTERS[name](float(text))
    except ValueError:
        return text


def _named(name: str, context: TemplateContext) -> str | float | None:
    if name == "value":
        return None if context.value is None else float(context.value)
    if name == "threshold":
        return None if context.threshold is None else float(context.threshold)
    return str(getattr(context, "alertname" if name == "name" else name))
