"""A sender that is killed at any moment loses no report, and repeats one only under the same Message-ID."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from reports.conftest import Mailbox, drawn, keep

from analytics_dagster.clock import ManualClock
from analytics_dagster.installation import Installation
from analytics_dagster.reports.store import Reports

_HOUR = dt.timedelta(hours=1)
_KILLS = 6
_TO = ("ann@example.com", "bob@example.com", "eve@example.com")

_SENDER = """
import datetime as dt, sys
from pathlib import Path
from analytics_dagster.clock import ManualClock
from analytics_dagster.installation import open_installation
from analytics_dagster.reports.send import send_due
from analytics_dagster.settings import Settings
from reports.conftest import drawn
clock = ManualClock(dt.datetime.fromisoformat(sys.argv[2]))
opened = open_installation(Settings.from_environment(Path(sys.argv[1])), clock, create=False)
print("ready", flush=True)
print(send_due(opened, draw=drawn), flush=True)
"""


def sender(home: Path, now: dt.datetime) -> subprocess.Popen[str]:
    """A process that sends what is due at `now`; it has begun."""
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *(entry for entry in sys.path if entry)])
    line = [sys.executable, "-c", _SENDER, str(home), now.isoformat()]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_no_due_time_is_lost_and_what_comes_twice_is_known_by_its_id(
    mailing: Mailbox, installation: Installation, clock: ManualClock, home: Path
) -> None:
    reports = [keep(installation, f"r{n}", *_TO, schedule="0 * * * *") for n in range(2)]
    moments = random.Random(7)
    mailing.seconds = 0.02
    for _ in range(_KILLS):
        process = sender(home, clock.advance(_HOUR))
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = sender(home, clock.advance(_HOUR))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said

    sent = Counter(mailing.ids)
    assert sum(sent.values()) - len(sent) <= _KILLS  # each kill may repeat the one message that was under way
    store = Reports(installation.database, clock)
    for report in reports:
        rows = store.sendings("acme", report.name, limit=1_000)
        assert {one.state for one in rows} <= {"sent", "skipped"}
        for recipient in _TO:
            mine = [one for one in rows if one.recipient == recipient]
            # Every hour is told of: by a message, or as missed by the next one.
            assert sum(1 + one.missed for one in mine if one.state == "sent") == _KILLS + 1
    # What was written down as sent has arrived.
    assert len(sent) >= sum(one.state == "sent" for report in reports for one in store.sendings("acme", report.name, limit=1_000))


def test_a_message_that_is_sent_again_after_a_kill_has_the_same_id(
    mailing: Mailbox, installation: Installation, clock: ManualClock, home: Path
) -> None:
    keep(installation)
    clock.advance(dt.timedelta(days=1))
    mailing.seconds = 30  # the message is taken, and the answer does not come
    process = sender(home, clock.now())
    deadline = time.monotonic() + 30
    while not mailing.mails:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    mailing.seconds = 0
    from analytics_dagster.reports.send import send_due

    assert str(send_due(installation, draw=drawn)) == "nothing to send"  # until the lease has run out
    clock.advance(dt.timedelta(minutes=3))
    assert str(send_due(installation, draw=drawn)) == "1 sent"
    assert len(mailing.ids) == 2
    assert len(set(mailing.ids)) == 1
