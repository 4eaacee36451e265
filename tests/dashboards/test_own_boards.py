"""Boards that people make: every version is kept, and of two who save at once one is told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from analytics_dagster.clock import ManualClock
from analytics_dagster.dashboards.boards import Board, load_boards, parse_board
from analytics_dagster.dashboards.own import (
    RESERVED,
    OwnBoards,
    board_text,
    moved_panel,
    new_panel,
    read_saved,
    with_panel,
    without_panel,
)
from analytics_dagster.errors import ConflictError, DeclarationError, NotFoundError, UserError
from analytics_dagster.lake.database import Database

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Catalogue

TEXT = "name: mine\ntitle: Mine\ndescription: What I look at.\npanels:\n- figures: [plays]\n- trend: streams\n- show: alerts\n"


@pytest.fixture
def boards(database: Database, clock: ManualClock) -> OwnBoards:
    return OwnBoards(database, clock)


@pytest.fixture
def mine(catalogue: Catalogue) -> Board:
    return parse_board(TEXT, "mine.yaml", catalogue)


def test_a_board_is_saved_read_and_listed_for_its_tenant_alone(boards: OwnBoards, mine: Board, catalogue: Catalogue) -> None:
    saved = boards.save("acme", mine, "ann", based_on=0)
    assert read_saved(boards.get("acme", "mine"), catalogue) == mine
    assert boards.all("acme") == [saved]
    assert boards.all("borealis") == []
    with pytest.raises(NotFoundError, match="no dashboard 'mine'"):
        boards.get("borealis", "mine")


def test_every_version_is_kept_and_one_can_go_back(boards: OwnBoards, mine: Board, catalogue: Catalogue) -> None:
    boards.save("acme", mine, "ann", based_on=0)
    boards.save("acme", without_panel(mine, 0), "bob", based_on=1)
    first = boards.versions("acme", "mine")[-1]
    boards.save("acme", read_saved(first, catalogue), "ann", based_on=2)
    assert [(saved.version, saved.author) for saved in boards.versions("acme", "mine")] == [(3, "ann"), (2, "bob"), (1, "ann")]
    assert read_saved(boards.get("acme", "mine"), catalogue) == mine


def test_whoever_saves_second_is_told_by_whom_the_first_was(boards: OwnBoards, mine: Board) -> None:
    boards.save("acme", mine, "ann", based_on=0)
    with pytest.raises(ConflictError, match="was saved by ann at 2026-03-10 06:00 UTC meanwhile"):
        boards.save("acme", mine, "bob", based_on=0)
    boards.save("acme", mine, "ann", based_on=1)
    for change in (boards.save, lambda *args, **named: boards.remove(args[0], "mine", args[2], **named)):
        with pytest.raises(ConflictError):
            change("acme", mine, "bob", based_on=1)


def test_of_many_who_save_the_same_version_at_once_one_does(boards: OwnBoards, mine: Board) -> None:
    boards.save("acme", mine, "ann", based_on=0)
    told: list[str] = []

    def save(name: str) -> None:
        try:
            boards.save("acme", mine, name, based_on=1)
            told.append("saved")
        except ConflictError:
            told.append("conflict")

    threads = [threading.Thread(target=save, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == ["conflict"] * 5 + ["saved"]


def test_a_removed_board_is_gone_and_its_name_may_be_taken_again(boards: OwnBoards, mine: Board) -> None:
    boards.save("acme", mine, "ann", based_on=0)
    boards.remove("acme", "mine", "ann", based_on=1)
    assert boards.all("acme") == []
    assert boards.save("acme", mine, "bob", based_on=0).version == 3
    assert [saved.text is None for saved in boards.versions("acme", "mine")] == [False, True, False]


@pytest.mark.parametrize("name", ["overview", "alerts", "edit"])
def test_built_in_names_are_taken(boards: OwnBoards, mine: Board, name: str) -> None:
    with pytest.raises(UserError, match=f"cannot be named '{name}'"):
        boards.save("acme", mine.model_copy(update={"name": name}), "ann", based_on=0)


def test_every_built_in_board_is_an_example_to_begin_from(catalogue: Catalogue) -> None:
    for board in load_boards(catalogue):
        assert board.name in RESERVED
        assert parse_board(board_text(board), "copy.yaml", catalogue) == board


def test_panels_are_added_moved_and_removed(mine: Board) -> None:
    figures, trend, alerts = mine.panels
    assert moved_panel(mine, 2, -1).panels == (figures, alerts, trend)
    assert moved_panel(mine, 0, 1).panels == (trend, figures, alerts)
    assert moved_panel(mine, 0, -1) == moved_panel(mine, 2, 1) == mine
    assert without_panel(mine, 1).panels == (figures, alerts)
    added = with_panel(mine, new_panel("leaderboards", ["streams", "plays"], ["country"], " Where "))
    boards = added.panels[-1].leaderboards or ()
    assert added.panels[-1].title == "Where"
    assert [(one.metric, one.by) for one in boards] == [("streams", "country"), ("plays", "country")]
    with pytest.raises(UserError, match="there is no panel 4"):
        without_panel(mine, 3)
    with pytest.raises(UserError, match="at least one panel"):
        without_panel(mine.model_copy(update={"panels": (figures,)}), 0)


@pytest.mark.parametrize(
    ("kind", "metrics", "by", "said"),
    [
        ("figures", [], [], "choose at least one metric"),
        ("trend", ["plays", "streams"], [], "choose one metric"),
        ("leaderboards", ["plays"], [], "choose a metric and a dimension"),
        ("pie", ["plays"], [], "there is no panel 'pie'"),
    ],
)
def test_a_panel_that_lacks_something_is_refused(kind: str, metrics: list[str], by: list[str], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        new_panel(kind, metrics, by, "")


@pytest.mark.parametrize("unseen", ["\n", "\x01", "\x85", "\u2028", "\ufffe"])
def test_a_title_is_one_line_of_what_can_be_seen(catalogue: Catalogue, unseen: str) -> None:
    told = f"has U\\+{ord(unseen):04X} as character 5; write one line"
    with pytest.raises(DeclarationError, match=f"title .* {told}"):
        new_panel("trend", ["plays"], [], f"Mine{unseen}too")
    escaped = TEXT.replace("title: Mine", f'title: "Mine\\u{ord(unseen):04x}too"')
    with pytest.raises(DeclarationError, match=f"mine.yaml:2: title .*{told}"):
        parse_board(escaped, "mine.yaml", catalogue)
    joined = "Le café\u00a0: 👩\u200d🎤"
    assert new_panel("trend", ["plays"], [], joined).title == joined
