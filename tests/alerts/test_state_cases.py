"""The published scenario cases of alert state machines (Prometheus, its compliance suite, VictoriaMetrics, Grafana)."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from analytics_dagster.alerts.rules import NoData
from analytics_dagster.alerts.state import DuplicateSeriesError, Sample, State, resume, step
from tests.alerts.rules_for_tests import Machine, at, make_rule, sampled, seconds, spelled, states

N, P, F = "inactive", "pending", "firing"
INF = math.inf


def test_a_full_cycle_runs_twice_with_fresh_times():
    series = spelled((1, 3), (3, 5), (4, 9), (13, 11), (32, 15), (16, 19), (20, 9), (45, 15), (16, 8))
    machine = Machine(make_rule(hold="360s")).run(sampled(series, 15, 30, 2400), every=30)
    assert machine.changes() == [(120, P), (480, F), (1050, N), (1350, P), (1710, F), (2010, N)]


def test_the_value_of_an_active_instance_follows_the_series_and_its_start_does_not():
    machine = Machine(make_rule(hold="360s"))
    seen = {}
    series = spelled((1, 3), (3, 5), (4, 9), (13, 11), (32, 15), (16, 19), (20, 9))
    for number, value in enumerate(sampled(series, 15, 30, 1020)):
        machine.tick(number * 30, {(): value})
        if machine.instances:
            seen[number * 30] = machine.instances[()]
    assert [seen[t].value for t in (120, 300, 330, 780, 810, 1020)] == [11, 11, 15, 15, 19, 19]
    assert {seconds(i.active_since) for i in seen.values()} == {120}
    assert {seconds(i.fired_at) for i in seen.values() if i.fired_at} == {480}


def test_pending_that_never_fires_resolves_nothing():
    series = spelled((1, 3), (3, 5), (4, 9), (11, 11), (41, 9))
    values = sampled(series, 15, 30, 840)
    machine = Machine(make_rule(hold="180s")).run(values, every=30)
    assert machine.changes() == [(120, P), (300, N)]
    assert all(t.before is not State.FIRING for t in machine.transitions)
    assert Machine(make_rule(threshold=99, hold="180s")).run(values, every=30).changes() == []


def test_no_hold_fires_at_once_and_a_small_hold_at_the_next_tick():
    series = spelled((1, 3), (3, 5), (4, 9), (13, 15), (72, 9), (13, 11), (14, 9))
    values = sampled(series, 15, 30, 1770)
    assert Machine(make_rule()).run(values, every=30).changes() == [(120, F), (330, N), (1410, F), (1590, N)]
    assert Machine(make_rule(threshold=13, hold="15s")).run(values, every=30).changes() == [(120, P), (150, F), (330, N)]


def test_equality_with_the_threshold_is_no_breach_and_instances_are_judged_alone():
    machine = Machine(make_rule("lt", 100, hold="1m"))
    first, second = (("instance", "0"),), (("instance", "1"),)
    rows = zip([75, 85, 95, 105, 105, 95, 85], [80, 90, 100, 110, 120, 130, 140], strict=True)
    for number, (one, two) in enumerate(rows):
        machine.tick(number * 300, {first: one, second: two})
    assert machine.changes(first) == [(0, P), (300, F), (900, N), (1500, P), (1800, F)]
    assert machine.changes(second) == [(0, P), (300, F), (600, N)]
    assert seconds(machine.instances[first].active_since) == 1500


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        ("gt", 10, N),
        ("gt", 10.1, F),
        ("ge", 10, F),
        ("ge", 9.9, N),
        ("lt", 10, N),
        ("lt", 9.9, F),
        ("le", 10, F),
        ("le", 10.1, N),
        ("eq", 10, F),
        ("eq", 11, N),
        ("ne", 11, F),
        ("ne", 10, N),
        ("gt", math.nan, N),
        ("lt", math.nan, N),
        ("ne", math.nan, N),
        ("gt", INF, F),
        ("lt", -INF, F),
        ("gt", -INF, N),
        ("gt", None, N),
        ("lt", None, N),
    ],
)
def test_each_condition_breaches_on_its_own_side_only(condition, value, expected):
    machine = Machine(make_rule(condition))
    machine.tick(0, {(): value})
    assert machine.state() == expected


@pytest.mark.parametrize(
    ("rule", "values", "every", "expected"),
    [
        pytest.param(
            make_rule(threshold=50, hold="60s", keep="60s"),
            [75, 85, 70, 70, 10, 10, 10],
            60,
            [P, F, F, F, F, N, N],
            id="keep ends",
        ),
        pytest.param(
            make_rule(hold="120s", keep="180s"),
            [12, 12, 12, 9, 9, 12, 9, 9, 9, 9, 9],
            60,
            [P, P, F, F, F, F, F, F, F, N, N],
            id="a breach clears the keep clock without a new pending",
        ),
        pytest.param(
            make_rule(threshold=50, hold="60s", keep="60s"), [75, 10, 10], 60, [P, N, N], id="keep does not save a pending"
        ),
        pytest.param(make_rule(threshold=0, hold="5s", keep="5s"), [1, 1, None, 1], 5, [P, F, F, F], id="keep, then again"),
        pytest.param(
            make_rule(threshold=0, hold="5s", keep="10s"),
            [1, 1, None, None, None, 1, 1],
            5,
            [P, F, F, F, N, P, F],
            id="keep runs out",
        ),
        pytest.param(make_rule(threshold=0, hold="60s"), [1, 1, None, 1, 1], 60, [P, F, N, P, F], id="gone at once without keep"),
        pytest.param(
            make_rule(threshold=100, hold="5m"),
            [90, *[101] * 6, 100, 101],
            60,
            [N, P, P, P, P, P, F, N, P],
            id="the hold's boundary",
        ),
        pytest.param(
            make_rule(threshold=0, hold="90s"), [0, 1, 1, 1, 1, 0, 0], 30, [N, P, P, P, F, N, N], id="a pending period of 90 s"
        ),
    ],
)
def test_states_after_each_tick(rule, values, every, expected):
    assert states(rule, values, every) == expected


def test_a_new_activation_has_a_new_start():
    machine = Machine(make_rule(threshold=0, hold="60s")).run([1, 1, 0, 1, 1])
    assert seconds(machine.instances[()].active_since) == 180
    assert seconds(machine.instances[()].fired_at) == 240


def test_two_series_that_the_rules_labels_make_equal_void_the_evaluation():
    rule = make_rule(labels=(("team", "playback"),))
    same = [Sample((("host", "a"), ("team", "x")), 11), Sample((("host", "a"), ("team", "y")), 11)]
    before = step(rule, {}, [same[0]], at(0)).instances
    with pytest.raises(DuplicateSeriesError, match="host"):
        step(rule, before, same, at(60))
    with pytest.raises(DuplicateSeriesError):
        step(make_rule(), {}, [Sample((("severity", "a"),), 1), Sample((("severity", "b"),), 1)], at(0))


def test_raising_the_hold_or_the_threshold_of_a_firing_rule_does_not_make_it_pending():
    fired = Machine(make_rule(hold="15s")).run([11, 11], every=15).instances
    assert fired[()].state is State.FIRING
    edited = step(make_rule(hold="1h"), fired, [Sample((), 11)], at(30))
    assert edited.instances[()].state is State.FIRING
    assert edited.transitions == ()
    higher = step(make_rule(threshold=20), fired, [Sample((), 11)], at(30))
    assert [t.after for t in higher.transitions] == [State.INACTIVE]


@pytest.mark.parametrize(("back", "since"), [(900, (600, 900)), (2400, (2400, 2400)), (3000, None), (600, (0, 300))])
def test_time_spent_stopped_does_not_count_as_breached(back, since):
    rule = make_rule("lt", 100, hold="1500s")
    first, second = (("instance", "0"),), (("instance", "1"),)
    machine = Machine(rule)
    machine.tick(0, {first: 75, second: 125})
    machine.tick(300, {first: 85, second: 90})
    machine.instances = resume(machine.instances, at(300), at(back), timedelta(seconds=300), timedelta(seconds=1800))
    values = {first: 120, second: 130} if since is None else {first: 0, second: 0}
    machine.tick(back, values)
    if since is None:
        assert machine.instances == {}
        return
    assert tuple(seconds(machine.instances[labels].active_since) for labels in (first, second)) == since
    last = since[1] + 1500
    for time in range(back + 300, int(last) + 1, 300):
        machine.tick(time, values)
    assert (since[0] + 1500, F) in machine.changes(first)
    assert (last, F) in machine.changes(second)


def test_a_firing_instance_and_its_keep_clock_survive_any_restart():
    machine = Machine(make_rule(keep="10m")).run([11, 9])
    after = resume(machine.instances, at(60), at(90_000), timedelta(seconds=60), timedelta(hours=1))
    assert after == machine.instances


def test_flapping_is_tamed_by_a_hold_or_by_keep():
    values = [11 if number % 2 == 0 else 9 for number in range(20)]
    assert all(after is not F for _, after in Machine(make_rule(hold="60s")).run(values).changes())
    plain = Machine(make_rule()).run(values).changes()
    assert [state for _, state in plain].count(F) == 10
    assert [state for _, state in plain].count(N) == 10
    kept = Machine(make_rule(keep="300s")).run(values + [9] * 10).changes()
    assert kept == [(0, F), (1440, N)]


def test_a_hold_is_measured_by_time_and_not_by_counting_evaluations():
    machine = Machine(make_rule(hold="180s"))
    for time in (7, 67, 247):  # two ticks in between never ran
        machine.tick(time, {(): 9 if time == 7 else 11})
    assert machine.changes() == [(67, P), (247, F)]


@pytest.mark.parametrize(("missing_evals", "resolved"), [(1, 120), (2, 180), (5, 360)])
def test_a_vanished_series_may_miss_as_many_evaluations_as_the_rule_says(missing_evals, resolved):
    machine = Machine(make_rule(missing_evals=missing_evals))
    here, gone = (("host", "a"),), (("host", "b"),)
    machine.tick(0, {here: 11, gone: 11})
    machine.tick(60, {here: 11, gone: 11})
    for time in range(120, 421, 60):
        machine.tick(time, {here: 11})
    assert machine.changes(gone) == [(0, F), (resolved, N)]
    assert machine.transitions[-1].reason == "no data"
    assert machine.state(here) == F


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (NoData.KEEP, [P, P, F, F, F, F]),
        (NoData.OK, [P, P, F, N, N, N]),
        (NoData.ALERTING, [P, P, F, F, F, F]),
        (NoData.NO_DATA, [P, P, F, N, N, N]),
    ],
)
def test_what_becomes_of_a_firing_instance_without_data(policy, expected):
    assert states(make_rule(hold="120s", no_data=policy), [11, 11, 11, None, None, None]) == expected


def test_alerting_without_data_takes_an_idle_series_through_its_hold():
    machine = Machine(make_rule(hold="120s", no_data=NoData.ALERTING)).run([9, 9, 9, 9, 9, None, None, None])
    assert machine.changes() == [(300, P), (420, F)]
    assert machine.instances[()].value is None


def test_alerting_without_data_waits_for_the_missed_evaluations_once():
    machine = Machine(make_rule(no_data=NoData.ALERTING, missing_evals=3)).run([9, None, None, None, None, 9])
    assert machine.changes() == [(180, F), (300, N)]


def test_keep_holds_a_pending_instance_where_it_is():
    assert states(make_rule(hold="120s", no_data=NoData.KEEP), [11, None, None, None, 11]) == [P, P, P, P, F]


def test_a_pending_instance_that_vanishes_begins_anew_when_it_returns():
    machine = Machine(make_rule(hold="60s"))
    hosts = [(("host", name),) for name in "abc"]
    machine.tick(0, dict.fromkeys(hosts, 11))
    machine.tick(30, dict.fromkeys(hosts[:2], 11))
    machine.tick(90, dict.fromkeys(hosts, 11))
    assert machine.changes(hosts[2]) == [(0, P), (30, N), (90, P)]
    assert [machine.state(host) for host in hosts] == [F, F, P]
