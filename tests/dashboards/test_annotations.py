"""What may be said of days, and which of it touches a period."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from analytics_dagster.dashboards.annotations import Annotations, written
from analytics_dagster.errors import UserError

if TYPE_CHECKING:
    from analytics_dagster.clock import ManualClock
    from analytics_dagster.lake.database import Database
    from analytics_dagster.metrics.declarations import Catalogue


@pytest.mark.parametrize("unseen", ["\n", "\x01", "\u2028"])
def test_an_annotation_is_one_line_of_what_can_be_seen(catalogue: Catalogue, unseen: str) -> None:
    with pytest.raises(UserError, match=rf"text .* has U\+{ord(unseen):04X} as character 4; write one line"):
        written(catalogue, f"Cam{unseen}paign", "2026-03-04")
    assert written(catalogue, " Käse 👩\u200d🎤 ", "2026-03-04").text == "Käse 👩\u200d🎤"


def test_a_period_without_end_has_every_annotation_also_to_the_last_day_of_the_calendar(
    catalogue: Catalogue, database: Database, clock: ManualClock
) -> None:
    notes = Annotations(database, clock)
    for day in ("2026-03-04", "9999-12-31"):
        notes.add("acme", written(catalogue, f"On {day}", day), "ann")
    assert [note.text for note in notes.of("acme", None, dt.date.max)] == ["On 2026-03-04", "On 9999-12-31"]
    assert [note.text for note in notes.of("acme", dt.date.min, dt.date(9999, 12, 30))] == ["On 2026-03-04"]
