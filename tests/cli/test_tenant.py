"""`analytics tenant`: the register of tenants, their quotas and usage, for people and for programs."""

from __future__ import annotations

import datetime as dt
import json
from functools import partial
from pathlib import Path

import pytest
from cli.command import analytics

from analytics_dagster.installation import open_installation
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.usage import Arrived, Usage


def listed(home: Path) -> dict[str, str]:
    return {row["tenant"]: row["status"] for row in json.loads(analytics("tenant", "list", "--json", "--home", home).out)}


def test_a_tenant_is_added_suspended_removed_and_brought_back(home: Path) -> None:
    def said(*verb: str) -> str:
        done = analytics("tenant", *verb, "--home", home)
        assert (done.status, done.err) == (0, "")
        return done.out

    assert said("add", "acme") == "tenant acme added\n"
    assert said("add", "acme") == "tenant acme is active\n"
    assert listed(home) == {"acme": "active"}
    assert said("suspend", "acme") == "tenant acme suspended\n"
    assert listed(home) == {"acme": "suspended"}
    told = said("remove", "acme")
    assert "deleted for good after 20" in told
    assert "`analytics tenant add acme` brings it back" in told
    assert listed(home) == {"acme": "removed"}
    said("add", "acme")
    assert listed(home) == {"acme": "active"}


def test_the_list_for_people_has_a_line_for_each_tenant(landed_home: Path) -> None:
    lines = analytics("tenant", "list", "--home", landed_home).out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["aurora", "active"], ["borealis", "active"]]


@pytest.mark.parametrize("name", ["Acme", "a|b", "a,b", "../etc", "", "x" * 64])
def test_a_name_that_cannot_be_a_tenants_is_refused(home: Path, name: str) -> None:
    assert "tenant" in analytics("tenant", "add", "--home", home, "--", name).error


@pytest.mark.parametrize("verb", ["suspend", "remove"])
def test_an_unknown_tenant_is_not_found(home: Path, verb: str) -> None:
    analytics("tenant", "add", "acme", "--home", home)
    assert "no tenant 'nobody'" in analytics("tenant", verb, "nobody", "--home", home).error
    assert listed(home) == {"acme": "active"}


def quota(home: Path, *arguments: str) -> dict[str, object]:
    shown: dict[str, object] = json.loads(analytics("tenant", "quota", "acme", *arguments, "--json", "--home", home).out)
    return {name: value for name, value in shown.items() if name != "tenant"}


def test_quotas_are_the_installations_until_they_are_set(home: Path) -> None:
    analytics("tenant", "add", "acme", "--home", home)
    standard = {"points_per_second": 0, "active_series": 150_000, "stored_bytes": 0, "rules": 0, "metrics": 50}
    assert quota(home) == standard
    assert quota(home, "--points-per-second", "1000", "--active-series", "0") == {
        **standard,
        "points_per_second": 1_000,
        "active_series": 0,
    }
    assert quota(home, "--active-series", "default")["active_series"] == 150_000
    lines = analytics("tenant", "quota", "acme", "--home", home).out.splitlines()
    assert lines[:2] == ["points_per_second\t1000\tits own", "active_series\t150000\tdefault"]
    assert lines[3] == "rules\tno limit\tdefault"


@pytest.mark.parametrize("number", ["-1", "many", "1.5", "99999999999999999999"])
def test_what_is_no_limit_is_refused(home: Path, number: str) -> None:
    analytics("tenant", "add", "acme", "--home", home)
    assert "rules" in analytics("tenant", "quota", "acme", f"--rules={number}", "--home", home).error
    assert "no tenant 'nobody'" in analytics("tenant", "quota", "nobody", "--home", home).error


def test_usage_is_shown_by_day(home: Path) -> None:
    analytics("tenant", "add", "acme", "--home", home)
    assert analytics("tenant", "usage", "acme", "--home", home).out == ""
    opened = open_installation(Settings.from_environment(home), create=False)
    meter, at = Usage(opened.database, opened.clock), dt.datetime(2026, 3, 10, 23, 59, tzinfo=dt.UTC)
    for hours, points in ((0, 1_500), (1, 20)):
        arrived = [Arrived("acme", "metrics", 1 + hours, points)]
        later = at + dt.timedelta(hours=hours)
        opened.database.write(partial(meter.count, source="log/server-0", arrived=arrived, at=later))
    lines = analytics("tenant", "usage", "acme", "--home", home).out.splitlines()
    assert lines[0] == "2026-03-10\t1,500 points\t0 plays\t0 requests"
    [row] = json.loads(analytics("tenant", "usage", "acme", "--from", "2026-03-11", "--json", "--home", home).out)
    assert row == {"tenant": "acme", "day": "2026-03-11", "points": 20, "plays": 0, "requests": 0, "stored_bytes": None}
    assert json.loads(analytics("tenant", "usage", "acme", "--to", "2026-03-09", "--json", "--home", home).out) == []
    assert "--from 'x' is not a day" in analytics("tenant", "usage", "acme", "--from", "x", "--home", home).error
    assert "no tenant 'nobody'" in analytics("tenant", "usage", "nobody", "--home", home).error
