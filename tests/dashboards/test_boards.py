"""Boards: the built-in ones are whole, and a mistake in one is told with its line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from analytics_dagster.dashboards.boards import BUILT_IN, ORDER, load_boards, parse_board
from analytics_dagster.errors import DeclarationError, NotFoundError

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Catalogue

HEAD = "name: mine\ntitle: Mine\ndescription: What I look at.\npanels:\n"


def test_every_built_in_board_is_read_and_the_navigation_lists_it(catalogue: Catalogue) -> None:
    boards = load_boards(catalogue)
    assert [board.name for board in boards] == [name for name in ORDER if (BUILT_IN / f"{name}.yaml").exists()]
    assert {board.name for board in boards} == {path.stem for path in BUILT_IN.glob("*.yaml")}


def test_a_board_names_each_of_its_metrics_once(catalogue: Catalogue) -> None:
    text = HEAD + "  - figures: [streams, plays]\n  - trend: streams\n  - leaderboards: [{metric: skip_rate, by: country}]\n"
    assert parse_board(text, "mine.yaml", catalogue).metrics == ("streams", "plays", "skip_rate")


@pytest.mark.parametrize(
    ("panels", "said"),
    [
        ("  - figures: [streems]\n", "mine.yaml:5: no metric 'streems'; did you mean 'streams' or 'track_streams'?"),
        ("  - trend: streams\n    figures: [plays]\n", "mine.yaml:5: 0: a panel is one of figures, trend"),
        ("  - title: Nothing\n", "this one has none"),
        (
            "  - leaderboards:\n    - {metric: streams, by: county}\n",
            "mine.yaml:6: streams has no dimension 'county'; did you mean",
        ),
        ("  - leaderboards:\n    - {metric: streams, by: country, top: 0}\n", "mine.yaml:6: top 0: Input should be greater"),
        ("  - figurs: [streams]\n", "mine.yaml:5: unknown key 'figurs'; did you mean 'figures'?"),
        ("  - show: insights\n", "mine.yaml:5: show 'insights': Input should be 'findings'"),
        ("  - figures: []\n", "mine.yaml:5: figures: Tuple should have at least 1 item"),
        ("  - figures: [streams\n", "not valid YAML"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_remedy(catalogue: Catalogue, panels: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(said)):
        parse_board(HEAD + panels, "mine.yaml", catalogue)


def test_a_board_that_there_is_not_is_told_with_the_nearest(catalogue: Catalogue) -> None:
    with pytest.raises(NotFoundError, match="no dashboard 'overviw'; did you mean 'overview'"):
        load_boards(catalogue).board("overviw")
