"""A view as one picture."""

from __future__ import annotations

import datetime as dt

from analytics_dagster.dashboards.boards import Board, load_boards
from analytics_dagster.dashboards.page import Page
from analytics_dagster.dashboards.view import Days, View
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.reports.picture import as_png, as_svg


def test_a_word_that_no_picture_can_hold_is_left_out_and_the_rest_is_drawn() -> None:
    board: Board = load_boards(load_catalogue()).board("overview").model_copy(update={"title": "Mon\x01day"})
    day = dt.date(2026, 3, 9)
    page = Page("acme", board, View(), Days(day, day), None, None, (), 0)
    assert ">Monday: acme</text>" in as_svg(page)
    assert as_png(page).startswith(b"\x89PNG")
