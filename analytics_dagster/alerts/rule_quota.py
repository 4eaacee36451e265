"""A tenant's quota of rules: those behind it, in the order of the file, are not judged for that tenant, and are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from analytics_dagster.alerts.rules import Level, Problem, RuleSet

_MOST_NAMED = 5


def within_quota(rules: RuleSet, tenants: Iterable[str], limit_of: Callable[[str], int]) -> RuleSet:
    """`rules`, without those that are beyond the quota of one of `tenants` (0: no limit), for that tenant alone.

    A rule without a tenant_id counts for every tenant: it is judged for each.
    """
    beyond: dict[str, frozenset[str]] = {}
    for tenant in tenants:
        limit = limit_of(tenant)
        if limit and (left := rules.for_tenant(tenant)[limit:]):
            beyond[tenant] = frozenset(rule.name for rule in left)
    if not beyond:
        return rules
    problems = [problem for problem in (_problem(rules, at, beyond, limit_of) for at in range(len(rules.rules))) if problem]
    return replace(rules, problems=(*rules.problems, *problems), beyond_quota=beyond)


def _problem(rules: RuleSet, at: int, beyond: dict[str, frozenset[str]], limit_of: Callable[[str], int]) -> Problem | None:
    rule = rules.rules[at]
    without = [tenant for tenant in sorted(beyond) if rule.applies_to(tenant) and rule.name in beyond[tenant]]
    if not without:
        return None
    named = ", ".join(f"{tenant} (quota {limit_of(tenant)})" for tenant in without[:_MOST_NAMED])
    more = f" and {len(without) - _MOST_NAMED} more" if len(without) > _MOST_NAMED else ""
    message = f"is not judged for tenant {named}{more}: beyond the quota of rules; see `analytics tenant quota`"
    return Problem(Level.WARNING, rule.file, rule.line, rule.name, message)
