"""A tenant's quota of rules: what is beyond it is not judged for that tenant, is reported, and takes nothing from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from alerts.rules_for_tests import make_rule
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.alerts.rule_quota import within_quota
from analytics_dagster.alerts.rules import Level, RuleSet
from analytics_dagster.installation import Installation
from analytics_dagster.orchestration.alerting import rule_problems
from analytics_dagster.tenancy.quotas import Quotas

TENANTS = ("acme", "globex")


def rule_set(*rules: tuple[str, str | None]) -> RuleSet:
    return RuleSet(
        tuple(
            replace(make_rule(), name=name, tenant_id=tenant, file="rules.yaml", line=n)
            for n, (name, tenant) in enumerate(rules, 1)
        )
    )


def judged(rules: RuleSet, **limits: int) -> dict[str, list[str]]:
    limited = within_quota(rules, TENANTS, lambda tenant: limits.get(tenant, 0))
    return {tenant: [rule.name for rule in limited.for_tenant(tenant)] for tenant in TENANTS}


def test_without_a_limit_nothing_changes() -> None:
    rules = rule_set(("a", None), ("b", "acme"))
    assert within_quota(rules, TENANTS, lambda _: 0) is rules
    assert within_quota(rules, TENANTS, lambda _: 2) is rules


def test_the_first_rules_of_the_file_are_judged_and_others_have_theirs() -> None:
    rules = rule_set(("everyone's", None), ("first", "acme"), ("second", "acme"), ("globex's", "globex"))
    assert judged(rules, acme=2) == {"acme": ["everyone's", "first"], "globex": ["everyone's", "globex's"]}
    assert judged(rules, globex=1) == {"acme": ["everyone's", "first", "second"], "globex": ["everyone's"]}


def test_what_is_not_judged_is_reported_with_its_place_and_tenants() -> None:
    rules = rule_set(("a", None), ("b", None), ("c", "acme"))
    problems = within_quota(rules, TENANTS, lambda tenant: 1).problems
    assert [problem.level for problem in problems] == [Level.WARNING, Level.WARNING]
    assert [str(problem) for problem in problems] == [
        'rule "b" (rules.yaml:2): is not judged for tenant acme (quota 1), globex (quota 1): beyond the quota of rules; '
        "see `analytics tenant quota`",
        'rule "c" (rules.yaml:3): is not judged for tenant acme (quota 1): beyond the quota of rules; '
        "see `analytics tenant quota`",
    ]


@given(
    st.lists(st.sampled_from([None, *TENANTS]), max_size=12),
    st.fixed_dictionaries({tenant: st.integers(0, 5) for tenant in TENANTS}),
)
def test_each_tenant_has_the_first_of_its_rules_up_to_its_quota(owners: list[str | None], limits: Mapping[str, int]) -> None:
    rules = rule_set(*((f"rule {n}", owner) for n, owner in enumerate(owners)))
    for tenant, names in judged(rules, **limits).items():
        mine = [rule.name for rule in rules.for_tenant(tenant)]
        assert names == (mine[: limits[tenant]] if limits[tenant] else mine)


def test_an_installations_rules_are_held_to_its_tenants_quotas(installation: Installation) -> None:
    rule = "{{name: {}, query: plays, condition: gt, threshold: 1, severity: low}}"
    rules = "\n".join(f"  - {rule.format(name)}" for name in ("First", "Second"))
    installation.settings.rules_path.write_text(f"alert_rules:\n{rules}\n")
    installation.tenants.ensure("acme")
    assert list(rule_problems(installation)) == []
    Quotas(installation.database, installation.settings, installation.clock).set("acme", {"rules": 1})
    [problem] = rule_problems(installation)
    assert problem.rule == "Second"
    assert "not judged for tenant acme" in problem.message
