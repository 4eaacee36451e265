"""Conditions on dimensions and labels, as in `country="US"`: = != =~ !~, with Prometheus' meaning.

A missing value is like an empty one. A regular expression must match the whole value and is RE2's, so that none can hang.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from analytics_dagster.errors import UserError


class Operator(StrEnum):
    """How a value is compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    MATCH = "=~"
    NO_MATCH = "!~"


@dataclass(frozen=True)
class Matcher:
    """One condition: `name operator value`."""

    name: str
    operator: Operator
    value: str

    def sql(self, expr: str) -> tuple[str, str]:
        """A DuckDB condition on `expr` with one `?`, and the parameter for it."""
        present = f"coalesce({expr}, '')"
        match self.operator:
            case Operator.EQUAL:
                return f"{present} = ?", self.value
            case Operator.NOT_EQUAL:
                return f"{present} <> ?", self.value
            case Operator.MATCH:
                return f"regexp_full_match({present}, ?)", self.value
            case Operator.NO_MATCH:
                return f"NOT regexp_full_match({present}, ?)", self.value

    def accepts(self, value: str) -> bool:
        """Whether a value meets it, as the SQL says."""
        import re2

        match self.operator:
            case Operator.EQUAL:
                return value == self.value
            case Operator.NOT_EQUAL:
                return value != self.value
            case _:
                return (re2.fullmatch(self.value, value) is not None) == (self.operator is Operator.MATCH)


_SHAPE = re.compile(
    r"""\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"'=~!][^"']*?)\s*""", re.DOTALL
)
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "'": "'", "\\": "\\"}


def parse_matcher(text: str) -> Matcher:
    """Read `country="US"`; the quotes may be single, or left out around a plain word.

    Raises UserError for another shape and for a regular expression that RE2 does not take.
    """
    import re2

    found = _SHAPE.fullmatch(text)
    if found is None:
        examples = """country="US", tier!="free", endpoint=~"/play.*\""""
        raise UserError(f"{text!r} is not a condition; write for example {examples}")
    name, operator, raw = found.groups()
    # A backslash before anything that is no escape stays, so that "\\d" needs no second one.
    plain = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), raw[1:-1], flags=re.DOTALL) if raw[0] in "\"'" else raw
    matcher = Matcher(name, Operator(operator), plain)
    if matcher.operator in (Operator.MATCH, Operator.NO_MATCH):
        try:
            options = re2.Options()
            options.log_errors = False
            re2.compile(plain, options)
        except re2.error as error:
            reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise UserError(f"{text!r}: {plain!r} is not a regular expression of RE2: {reason}") from None
    return matcher
