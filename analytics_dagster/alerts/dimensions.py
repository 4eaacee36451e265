"""Whether the labels that a rule names are dimensions of the declared metric it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from analytics_dagster.alerts.rules import Level, Problem, Rule

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Catalogue


def unknown_dimensions(rules: Iterable[Rule], catalogue: Catalogue) -> Iterator[Problem]:
    """A warning for each label in matchers or `by` that the metric does not have; such a rule cannot be evaluated."""
    for rule in rules:
        metric = catalogue.find(rule.query.metric)
        if metric is None:
            continue
        known = [dimension.name for dimension in catalogue.dimensions_of(metric)]
        named = [*rule.by, *(matcher.label for matcher in rule.query.matchers if matcher.label != "tenant_id")]
        for name in dict.fromkeys(named):
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f'did you mean "{near[0]}"?' if near else f"it has {', '.join(known)}"
                message = f'metric "{rule.query.metric}" has no dimension "{name}"; {hint}'
                yield Problem(Level.WARNING, rule.file, rule.line, rule.name, message)
