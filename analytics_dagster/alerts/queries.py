"""What a rule reads: a metric's name and label matchers, `api_error_ratio{endpoint="/play", country!~"X.*"}`.

Regular expressions are RE2's (linear time, so that no rule can hang a judge) and match the whole value, as in
Prometheus. A label that a series does not have counts as the empty string.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, cast

import re2

METRIC_NAME = re.compile(r"[^\W\d][\w:.]*")
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OPERATOR = re.compile(r"=~|!~|!=|=")
_SPACE = re.compile(r"\s*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'|`([^`]*)`')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


class MatchOperator(StrEnum):
    """How a matcher compares."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


class _Pattern(Protocol):
    def fullmatch(self, text: str) -> object | None: ...


@dataclass(frozen=True)
class Matcher:
    """One condition on a label."""

    label: str
    operator: MatchOperator
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.label, "")
        if self.operator is MatchOperator.EQUAL:
            return found == self.value
        if self.operator is MatchOperator.NOT_EQUAL:
            return found != self.value
        matched = compile_regex(self.value).fullmatch(found) is not None
        return matched if self.operator is MatchOperator.REGEX else not matched

    def __str__(self) -> str:
        escaped = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.label}{self.operator.value}"{escaped}"'


@dataclass(frozen=True)
class Query:
    """A metric's name and the matchers that its series must all satisfy."""

    metric: str
    matchers: tuple[Matcher, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(matcher.matches(labels) for matcher in self.matchers)

    def __str__(self) -> str:
        return self.metric + ("{" + ", ".join(map(str, self.matchers)) + "}" if self.matchers else "")


@lru_cache(maxsize=1024)
def compile_regex(pattern: str) -> _Pattern:
    """An RE2 expression. Raises ValueError naming what RE2 cannot do."""
    options = re2.Options()
    options.log_errors = False
    try:
        return cast(_Pattern, re2.compile(pattern, options))
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(
            f'"{pattern}" is not a regular expression of RE2 ({reason}); look-around and back references do not exist there'
        ) from None


def parse_query(text: str) -> Query:
    """Read `metric` or `metric{label="value", ...}`. Raises ValueError saying where it stops making sense."""
    position = _skip(text, 0)
    name = METRIC_NAME.match(text, position)
    if name is None:
        raise ValueError(
            f'"{text}" does not begin with a metric\'s name; write api_error_ratio or api_error_ratio{{endpoint="/play"}}'
        )
    position = _skip(text, name.end())
    matchers: tuple[Matcher, ...] = ()
    if position < len(text) and text[position] == "{":
        matchers, position = _matchers(text, position + 1)
        position = _skip(text, position)
    if position != len(text):
        raise ValueError(
            f'"{text}" has more after the metric and its matchers: "{text[position:]}"; '
            "a query is one metric, and arithmetic belongs in a declared metric"
        )
    return Query(name.group(), matchers)


def snake_case(name: str) -> str:
    """The metric that a rule named so reads by default: `High Error Rate` and `HighErrorRate` give `high_error_rate`."""
    text = unicodedata.normalize("NFC", name)
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    text = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", text)
    return re.sub(r"[\W_]+", "_", text).strip("_").lower()


def _skip(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position


def _matchers(text: str, position: int) -> tuple[tuple[Matcher, ...], int]:
    found: list[Matcher] = []
    while True:
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            return tuple(found), position + 1
        matcher, position = _matcher(text, position)
        found.append(matcher)
        position = _skip(text, position)
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "}":
            raise ValueError(f'"{text}" lacks a comma or a closing brace at "{text[position:]}"')


def _matcher(text: str, position: int) -> tuple[Matcher, int]:
    label = LABEL_NAME.match(text, position)
    if label is None:
        raise ValueError(f'"{text}" lacks a label name or a closing brace at "{text[position:]}"')
    operator = _OPERATOR.match(text, _skip(text, label.end()))
    if operator is None:
        raise ValueError(f'"{text}" has no = != =~ or !~ after {label.group()}')
    string = _STRING.match(text, _skip(text, operator.end()))
    if string is None:
        raise ValueError(
            f'"{text}" has no quoted value after {label.group()}{operator.group()}; write {label.group()}{operator.group()}"..."'
        )
    raw = string.group(3)
    value = raw if raw is not None else _unescape(string.group(1) if string.group(1) is not None else string.group(2))
    matcher = Matcher(label.group(), MatchOperator(operator.group()), value)
    if matcher.operator in (MatchOperator.REGEX, MatchOperator.NOT_REGEX):
        compile_regex(value)
    return matcher, string.end()


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        try:
            return _ESCAPES[match.group(1)]
        except KeyError:
            raise ValueError(
                f'"{text}" has the unknown escape \\{match.group(1)}; write \\\\{match.group(1)}, or `backticks` around it'
            ) from None

    return re.sub(r"\\(.)", character, text, flags=re.DOTALL)
