"""The platform-admin's key of the embedded default: made once, in a file that only its owner can read. And the way to sign in
with it that does not show it: a link that works once, made by whoever may read the file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from analytics_dagster.errors import AuthenticationError, PermissionDeniedError
from analytics_dagster.tenancy.key_text import key_id_of
from analytics_dagster.tenancy.keys import Keys, digest_of
from analytics_dagster.tenancy.roles import Role
from analytics_dagster.tenancy.tickets import TicketKind, Tickets

ADMIN_KEY = "admin.key"
ONCE_PATH = "/signin/once"
"""Route of the server that takes such a code; the code follows."""
_OWNER_ONLY = 0o600
_OTHERS = 0o077


def admin_key(home: Path, keys: Keys) -> Path:
    """The file with a platform-admin's key that works. A key that is there and good is kept; otherwise there is a new one, and
    those that this file held before are revoked: delete the file to have another.
    """
    import filelock

    path, locks = home / ADMIN_KEY, home / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(locks / f"{ADMIN_KEY}.lock"):
        if not _is_good(path, keys):
            _replace(path, keys)
    return path


def sign_in_path(home: Path, keys: Keys, tickets: Tickets) -> str:
    """The path of a link that signs its first caller in as the holder of the file's key, within ten minutes.

    A code that works once is no key: what a browser's history keeps of it is good for nothing.
    """
    secret = admin_key(home, keys).read_text(encoding="utf-8").strip()
    code = tickets.issue(TicketKind.ONCE, {"key_id": key_id_of(secret), "digest": digest_of(secret)})
    return f"{ONCE_PATH}/{code}"


def _is_good(path: Path, keys: Keys) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(file).st_mode & _OTHERS:  # somebody widened it
            os.fchmod(file, _OWNER_ONLY)
        return keys.authenticate(os.read(file, 1_024).decode("utf-8", "replace").strip()).role is Role.PLATFORM_ADMIN
    except (AuthenticationError, PermissionDeniedError):
        return False
    finally:
        os.close(file)


def _replace(path: Path, keys: Keys) -> None:
    for record in keys.list():
        if record.name == ADMIN_KEY and record.role is Role.PLATFORM_ADMIN and record.revoked_at is None:
            keys.revoke(record.key_id)
    made = keys.create(Role.PLATFORM_ADMIN, None, name=ADMIN_KEY)
    unfinished = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        unfinished.unlink()
    # Exclusive and with its mode from the first byte: nobody else can have opened it before.
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
    try:
        os.write(file, f"{made.secret}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
    os.replace(unfinished, path)
