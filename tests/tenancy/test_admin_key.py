"""The embedded default's own key: for its owner's eyes only, made once, made anew when it is no good."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import AuthenticationError
from analytics_dagster.lake.database import Database
from analytics_dagster.tenancy.admin_key import admin_key
from analytics_dagster.tenancy.keys import Keys
from analytics_dagster.tenancy.roles import Role


@pytest.fixture
def keys(database: Database, clock: ManualClock) -> Keys:
    return Keys(database, clock)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_a_platform_admins_and_is_kept(tmp_path: Path, keys: Keys) -> None:
    path = admin_key(tmp_path, keys)
    assert path == tmp_path / "admin.key"
    held = path.read_text()
    principal = keys.authenticate(held.strip())
    assert (principal.role, principal.tenants) == (Role.PLATFORM_ADMIN, None)
    assert admin_key(tmp_path, keys).read_text() == held
    assert len(keys.list()) == 1


def test_nobody_else_can_read_it_from_its_first_byte_on(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = os.write

    def watched(file: int, data: bytes) -> int:
        seen.append(stat.S_IMODE(os.fstat(file).st_mode))
        return real(file, data)

    monkeypatch.setattr(os, "write", watched)
    before = os.umask(0)
    try:
        path = admin_key(tmp_path, keys)
    finally:
        os.umask(before)
    assert seen
    assert {*seen, mode(path)} == {0o600}


def test_a_file_that_somebody_made_readable_is_closed_again(tmp_path: Path, keys: Keys) -> None:
    path = admin_key(tmp_path, keys)
    held = path.read_text()
    path.chmod(0o644)
    assert admin_key(tmp_path, keys).read_text() == held
    assert mode(path) == 0o600


@pytest.mark.parametrize("spoiled", ["deleted", "damaged", "revoked", "another role's"])
def test_a_key_that_is_no_good_is_replaced_and_the_old_one_revoked(tmp_path: Path, keys: Keys, spoiled: str) -> None:
    path = admin_key(tmp_path, keys)
    old = path.read_text().strip()
    match spoiled:
        case "deleted":
            path.unlink()
        case "damaged":
            path.write_bytes(b"\xff\xfe")
        case "revoked":
            keys.revoke(old[:11])
        case _:
            path.write_text(keys.create(Role.INGEST, None).secret)
    new = admin_key(tmp_path, keys).read_text().strip()
    assert new != old
    assert keys.authenticate(new).role is Role.PLATFORM_ADMIN
    with pytest.raises(AuthenticationError):
        keys.authenticate(old)
    assert mode(path) == 0o600


def test_a_key_that_was_left_half_written_does_not_stand_in_the_way(tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "admin.new").write_text("ak_")
    (tmp_path / "admin.new").chmod(0o666)
    path = admin_key(tmp_path, keys)
    assert keys.authenticate(path.read_text().strip()).role is Role.PLATFORM_ADMIN
    assert mode(path) == 0o600


def test_processes_that_start_together_make_one(tmp_path: Path, database: Database, clock: ManualClock) -> None:
    threads = [threading.Thread(target=lambda: admin_key(tmp_path, Keys(database, clock))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = Keys(database, clock)
    assert len(keys.list()) == 1
    keys.authenticate((tmp_path / "admin.key").read_text().strip())
