"""`analytics key` and `analytics audit`: keys for people and for programs, and who did what."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from cli.command import analytics

from analytics_dagster.clock import SystemClock
from analytics_dagster.installation import open_installation
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.keys import KeyRefusedError, Keys
from analytics_dagster.tenancy.roles import Role


@pytest.fixture
def acme(home: Path) -> Path:
    """A home with the tenants acme and globex."""
    for tenant in ("acme", "globex"):
        assert analytics("tenant", "add", tenant, "--home", home).status == 0
    return home


def created(home: Path, *arguments: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(analytics("key", "create", *arguments, "--json", "--home", home).out)
    return made


def listed(home: Path) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads(analytics("key", "list", "--json", "--home", home).out)
    return keys


def keys_of(home: Path) -> Keys:
    opened = open_installation(Settings.from_environment(home), create=False)
    return Keys(opened.database, opened.clock)


def test_a_key_is_printed_alone_and_once(acme: Path) -> None:
    done = analytics("key", "create", "--tenant", "acme", "--role", "viewer", "--home", acme)
    secret = done.out.strip()
    assert done.status == 0
    assert done.out == f"{secret}\n"
    assert secret not in done.err
    assert keys_of(acme).authenticate(secret).tenants == {"acme"}
    assert secret not in analytics("key", "list", "--home", acme).out
    assert secret not in analytics("audit", "--home", acme).out


def test_a_program_gets_the_key_with_its_id(acme: Path) -> None:
    made = created(acme, "--tenant", "acme", "--role", "ingest", "--name", "billing service")
    assert keys_of(acme).authenticate(made["key"]).role is Role.INGEST
    [shown] = listed(acme)
    assert made["id"] == shown["id"]
    assert (shown["name"], shown["role"], shown["tenants"]) == ("billing service", "ingest", ["acme"])
    assert "key" not in shown


@pytest.mark.parametrize(("text", "length"), [("90d", dt.timedelta(days=90)), ("1h30m", dt.timedelta(minutes=90))])
def test_a_key_may_expire(acme: Path, text: str, length: dt.timedelta) -> None:
    before = SystemClock().now()
    made = created(acme, "--tenant", "acme", "--role", "viewer", "--expires", text)
    assert before + length <= dt.datetime.fromisoformat(made["expires_at"]) <= SystemClock().now() + length


def test_collectors_keys_are_for_several_tenants_or_all(acme: Path) -> None:
    several = created(acme, "--tenant", "acme", "--tenant", "globex", "--role", "ingest")
    every = created(acme, "--tenant", "*", "--role", "ingest")
    admin = created(acme, "--role", "platform-admin")
    assert [made["tenants"] for made in (several, every, admin)] == [["acme", "globex"], "*", "*"]
    lines = analytics("key", "list", "--home", acme).out.splitlines()
    assert [line.split("\t")[2] for line in lines] == ["acme,globex", "*", "*"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--role", "viewer"), "needs a tenant"),
        (("--role", "viewer", "--tenant", "*"), "for one tenant"),
        (("--role", "viewer", "--tenant", "acme", "--tenant", "globex"), "for one tenant, not 2"),
        (("--role", "ingest", "--tenant", "*", "--tenant", "acme"), "leave the others out"),
        (("--role", "platform-admin", "--tenant", "acme"), "leave the tenants out"),
        (("--role", "viewer", "--tenant", "nobody"), "no tenant 'nobody'"),
        (("--role", "king", "--tenant", "acme"), "'king' is not one of"),
        (("--role", "viewer", "--tenant", "acme", "--expires", "soon"), "write 90d, 12h or 30m"),
        (("--role", "viewer", "--tenant", "acme", "--expires", "0"), "which is past"),
        (("--role", "viewer", "--tenant", "acme", "--expires", "999999999y"), "write 90d, 12h or 30m"),
        (("--tenant", "acme"), "--role"),
    ],
)
def test_what_no_key_may_be_is_refused(acme: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in analytics("key", "create", *arguments, "--home", acme).error
    assert listed(acme) == []


def test_a_revoked_key_stops_working_and_stays_in_the_list(acme: Path) -> None:
    made = created(acme, "--tenant", "acme", "--role", "viewer")
    assert analytics("key", "revoke", made["id"], "--home", acme).out == f"key {made['id']} revoked\n"
    assert analytics("key", "revoke", made["id"], "--home", acme).out == f"key {made['id']} was revoked before\n"
    with pytest.raises(KeyRefusedError):
        keys_of(acme).authenticate(made["key"])
    [shown] = listed(acme)
    assert shown["revoked_at"] is not None
    assert "revoked 20" in analytics("key", "list", "--home", acme).out
    assert "no key 'ak_nothing'" in analytics("key", "revoke", "ak_nothing", "--home", acme).error


def test_the_list_says_when_a_key_was_used_last(acme: Path) -> None:
    made, keys = created(acme, "--tenant", "acme", "--role", "viewer"), keys_of(acme)
    assert "never used" in analytics("key", "list", "--home", acme).out
    keys.authenticate(made["key"])
    keys.flush_last_used()
    assert "used 20" in analytics("key", "list", "--home", acme).out


def test_the_trail_says_who_did_what(acme: Path) -> None:
    made = created(acme, "--tenant", "acme", "--role", "viewer")
    analytics("key", "revoke", made["id"], "--home", acme)
    analytics("tenant", "quota", "globex", "--rules", "3", "--home", acme)
    lines = analytics("audit", "--home", acme).out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["tenant.add", "tenant.add", "key.create", "key.revoke", "quota.set"]
    entries = json.loads(analytics("audit", "--tenant", "acme", "--limit", "2", "--json", "--home", acme).out)
    assert [(e["action"], e["actor"], e["target"]) for e in entries] == [
        ("key.create", "command line", made["id"]),
        ("key.revoke", "command line", made["id"]),
    ]


def test_a_verb_about_keys_makes_no_home(home: Path) -> None:
    for verb in (("key", "create", "--role", "platform-admin"), ("key", "list"), ("key", "revoke", "ak_1"), ("audit",)):
        assert "no installation" in analytics(*verb, "--home", home).error
    assert not home.exists()
