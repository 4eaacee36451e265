"""HTML of the rows behind a figure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analytics_dagster.dashboards.pages import render
from analytics_dagster.metrics.rows import Rows


@dataclass(frozen=True)
class RowsPage:
    """The rows with where their files, their other parts and their neighbours are. `where`: the figure's conditions."""

    tenant: str
    rows: Rows
    files: Mapping[str, str]
    parts: Mapping[str, str]
    before: str | None
    behind: str | None
    where: tuple[str, ...]

    @property
    def says(self) -> str:
        """Whether the rows are as many as the figure says."""
        rows = self.rows
        if not rows.counted or rows.figure is None:
            return ""
        if rows.figure == rows.total:
            return "As many rows as the figure says."
        return "The figure was computed from other rows: the raw table has changed since, or the day is held back by a check."


def rows_page(page: RowsPage, session: str = "") -> str:
    """The page."""
    return render("rows.html", session, page=page, rows=page.rows, cell=_cell)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00").removesuffix(".000")
    return str(value)
