"""What `analytics up` says when it is ready: where things are, and how to sign in."""

from __future__ import annotations

import re
from pathlib import Path

from analytics_dagster.installation import open_installation
from analytics_dagster.orchestration.supervisor import Supervisor
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.keys import Keys
from analytics_dagster.tenancy.roles import Role
from analytics_dagster.tenancy.tickets import TicketKind, Tickets


def test_a_terminal_gets_a_link_that_signs_in_and_a_log_does_not(home: Path) -> None:
    opened = open_installation(Settings.from_environment(home), create=True)
    in_log = Supervisor(opened, 3_000, 8_000, shown=False).announcement()
    on_terminal = Supervisor(opened, 3_000, 8_000, shown=True).announcement()
    assert "http://127.0.0.1:8000/   sign in with a key" in in_log
    assert "/signin/once/" not in in_log
    [code] = re.findall(r"http://127\.0\.0\.1:8000/signin/once/(\S+)", on_terminal)
    ticket = Tickets(opened.database, opened.clock).take(TicketKind.ONCE, code)
    assert ticket is not None
    assert Keys(opened.database, opened.clock).standing(ticket["key_id"], ticket["digest"]).role is Role.PLATFORM_ADMIN
    assert (home / "admin.key").read_text().strip() not in on_terminal
    opened.database.dispose()
