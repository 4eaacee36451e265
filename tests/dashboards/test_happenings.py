"""What happened by itself, as charts tell it."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from analytics_dagster.dashboards.figures import Shown
from analytics_dagster.dashboards.happenings import Happenings
from analytics_dagster.dashboards.view import Days
from analytics_dagster.lake.schemas import RESTATEMENTS

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.metrics.declarations import Catalogue

DAY = dt.date(2026, 3, 1)


def change(number: int, old: float | None, new: float | None) -> dict[str, Any]:
    at = dt.datetime(2026, 3, 5, number, tzinfo=dt.UTC)
    return {
        "restatement_id": f"r{number}", "ts": at, "day": DAY, "asset": "aggregates/listening", "metric": "streams",
        "split_by": None, "dimensions": "{}", "old": old, "new": new, "difference": None, "share": None, "cause": "late_rows",
        "batch": f"b{number}", "run": "r",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ([5.0, 7.0, 9.0], ["Restated from 5 to 9 (late rows)"]),
        ([None, 5.0, 7.0], ["Restated from - to 7 (late rows)"]),
        ([5.0, 7.0, None], ["Restated from 5 to - (late rows)"]),
        ([None, 5.0, 7.0, None], []),
        ([5.0, 7.0, 5.0], []),
    ],
)
def test_a_day_is_told_from_its_first_figure_to_its_newest_also_where_there_is_none(
    installation: Installation, catalogue: Catalogue, figures: list[float | None], told: list[str]
) -> None:
    lake = installation.lake.tenant("acme")
    changes = [change(number, *pair) for number, pair in enumerate(itertools.pairwise(figures))]
    lake.table(RESTATEMENTS).append(pa.Table.from_pylist(changes, schema=RESTATEMENTS.arrow))
    shown = Shown(catalogue.metric("streams"), "streams")
    marks = Happenings(installation, lake, catalogue, Days(DAY, DAY)).of(shown)
    assert [mark.text for mark in marks] == told
