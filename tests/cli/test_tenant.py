"""`analytics tenant`: the register of tenants, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.command import analytics


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
