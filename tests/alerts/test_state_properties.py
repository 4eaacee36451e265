"""What must hold for every series and rule, whatever happens."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.alerts.rules import NoData
from analytics_dagster.alerts.state import State
from tests.alerts.rules_for_tests import Machine, make_rule, seconds

VALUES = st.lists(st.one_of(st.none(), st.floats(), st.sampled_from([9.0, 10.0, 11.0])), max_size=40)
RULES = st.builds(
    make_rule,
    condition=st.sampled_from(["gt", "ge", "lt", "le", "eq", "ne"]),
    hold=st.sampled_from(["0", "30s", "1m", "150s", "5m"]),
    keep=st.sampled_from(["0", "1m", "3m"]),
    no_data=st.sampled_from(list(NoData)),
    missing_evals=st.integers(1, 4),
)


@given(RULES, VALUES)
def test_every_firing_is_told_once_and_ends_at_most_once(rule, values):
    machine = Machine(rule).run(values)
    state = State.INACTIVE
    for transition in machine.transitions:
        assert transition.before is state
        assert transition.after is not state
        state = transition.after
    fired = sum(t.after is State.FIRING for t in machine.transitions)
    resolved = sum(t.before is State.FIRING for t in machine.transitions)
    assert fired - resolved in (0, 1)


@given(RULES, VALUES)
def test_a_pending_instance_never_becomes_resolved_and_a_firing_one_never_pending(rule, values):
    for transition in Machine(rule).run(values).transitions:
        if transition.before is State.PENDING:
            assert transition.after in (State.FIRING, State.INACTIVE)
        if transition.before is State.FIRING:
            assert transition.after is State.INACTIVE


@given(RULES, VALUES)
def test_no_instance_fires_before_its_hold_or_resolves_before_keep(rule, values):
    machine = Machine(rule)
    for number, value in enumerate(values):
        before = machine.instances.get(())
        machine.tick(number * 60, {} if value is None else {(): value})
        after = machine.instances.get(())
        if after is not None and after.fired_at is not None:
            assert after.fired_at - after.active_since >= rule.for_duration
        if before is not None and before.state is State.FIRING and after is None:
            since = before.keep_since
            held = timedelta(0) if since is None else timedelta(seconds=number * 60) - timedelta(seconds=seconds(since))
            assert held >= rule.keep_firing_for


@given(RULES, VALUES, VALUES)
def test_two_series_do_not_touch_each_other(rule, first, second):
    one, two = (("host", "a"),), (("host", "b"),)
    both = Machine(rule)
    for number in range(max(len(first), len(second))):
        samples = {
            labels: values[number]
            for labels, values in ((one, first), (two, second))
            if number < len(values) and values[number] is not None
        }
        both.tick(number * 60, samples)
    padded = first + [None] * (max(len(first), len(second)) - len(first))
    alone = Machine(rule).run(padded, labels=one)
    assert both.changes(one) == alone.changes(one)
