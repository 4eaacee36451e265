"""Figures of people that rest on too few of them: suppressed, with what would tell them, in every way of asking."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import DeclarationError, UserError
from analytics_dagster.lake.schemas import USERS
from analytics_dagster.metrics.declarations import Grain
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import DayReader
from analytics_dagster.metrics.restatements import figures_of_days
from analytics_dagster.metrics.small_cells import Cell, in_row, in_table
from tests.metrics.conftest import Figures

DAY = "2026-01-31"
# How many listeners of each gender and age: 60 women, 12 men, 4 others and 11 who do not say.
PEOPLE = [("f", 20, 30), ("Female", 30, 30), ("m", 22, 12), ("diverse", 19, 4), (None, 33, 11)]


def _describe(figures: Figures, people: list[tuple[str, str | None, int | None]]) -> None:
    rows = [{"user_id": who, "gender": gender, "age": age, "format": "test"} for who, gender, age in people]
    figures.tenant.table(USERS).append(pa.Table.from_pylist(rows, schema=USERS.arrow))


def _listeners() -> list[tuple[str, str | None, int | None]]:
    counted = ((gender, age) for gender, age, count in PEOPLE for _ in range(count))
    return [(f"listener-{n}", gender, age) for n, (gender, age) in enumerate(counted)]


def _with_smallest(figures: Figures, smallest: int) -> Figures:
    return Figures(replace(figures.tenant, smallest_cell=smallest), figures.catalogue)


@pytest.fixture
def audience(figures: Figures) -> Figures:
    """87 listeners of abba, all from Sweden but the first three from Norway, who all are women of 18 to 24."""
    _describe(figures, _listeners())
    figures.write(
        "plays",
        [
            {"ts": f"{DAY} 10:00", "listener_id": who, "artist_id": "abba", "country": "NO" if n < 3 else "SE"}
            for n, (who, _, _) in enumerate(_listeners())
        ],
        only="audience",
    )
    return figures


def test_a_split_by_gender_tells_large_cells_and_suppresses_the_small_one_with_the_next_smallest(audience: Figures) -> None:
    # 4 others are too few; told alone they would follow from 87 - 60 - 12 - 11, so those who do not say are suppressed too.
    assert audience.ask("demographics", by=("gender",)) == [
        (f"{DAY} 00:00", None, True, None),
        (f"{DAY} 00:00", "female", False, 60),
        (f"{DAY} 00:00", "male", False, 12),
        (f"{DAY} 00:00", "other", True, None),
    ]
    assert audience.ask("demographics") == [(f"{DAY} 00:00", 87)]


def test_age_bands_are_of_the_age_last_stated(audience: Figures) -> None:
    assert audience.ask("audience_listeners", by=("age_band",)) == [
        (f"{DAY} 00:00", "18-24", False, 30 + 12 + 4),
        (f"{DAY} 00:00", "25-34", False, 30 + 11),
    ]


@pytest.mark.parametrize("metric", ["audience_listeners", "monthly_audience_listeners"])
@pytest.mark.parametrize("grain", ["day", "month", "total"])
def test_a_condition_picks_a_cell_and_does_not_change_what_is_suppressed(audience: Figures, metric: str, grain: str) -> None:
    told = {g: audience.ask(metric, where=(f'gender="{g}"',), grain=grain) for g in ("female", "male", "other", "")}
    assert {g: [row[1:] for row in rows] for g, rows in told.items()} == {
        "female": [(False, 60)],
        "male": [(False, 12)],
        "other": [(True, None)],
        "": [(True, None)],
    }


def test_the_smallest_cell_is_a_setting_of_the_lake(audience: Figures) -> None:
    told = _with_smallest(audience, 4).ask("demographics", by=("gender",))
    assert [row[2] for row in told] == [False] * 4
    # 4, 11 and 12 are too few, and are 27 together.
    told = _with_smallest(audience, 13).ask("demographics", by=("gender",))
    assert [row[1:] for row in told if not row[2]] == [("female", False, 60)]


def test_a_country_with_few_listeners_takes_the_other_with_it(audience: Figures) -> None:
    assert audience.ask("demographics", by=("country",)) == [
        (f"{DAY} 00:00", "NO", True, None),
        (f"{DAY} 00:00", "SE", True, None),
    ]


def test_what_is_suppressed_by_one_dimension_is_so_in_each_of_its_cells(audience: Figures) -> None:
    told = {row[1:3]: row[3:] for row in audience.ask("demographics", by=("gender", "age_band"))}
    # Others are suppressed in every band, also where there are none: a cell that is missing would say of which band they are not.
    assert told["other", "18-24"] == told["other", "25-34"] == (True, None)
    assert told[None, "18-24"] == told[None, "25-34"] == (True, None)
    # Of the 46 of 18 to 24, 4 would be left without the men; these would follow from the 12 of all ages, were 25-34 told as 0.
    assert told["male", "18-24"] == told["male", "25-34"] == (True, None)
    assert told["female", "18-24"] == told["female", "25-34"] == (False, 30)


def test_of_an_artist_with_too_few_listeners_nothing_is_said(audience: Figures) -> None:
    plays = [{"ts": f"{DAY} 11:00", "listener_id": f"listener-{n}", "artist_id": "cher"} for n in range(9)]
    audience.write("plays", plays, only="audience")
    said = [(f"{DAY} 00:00", "cher", "(fewer than 10)", True, None)]
    assert audience.ask("demographics", by=("artist_id", "gender")) == said
    for gender in ("female", "male"):  # there is not even a difference between none and some
        assert audience.ask("demographics", where=(f'gender="{gender}"', 'artist_id="cher"')) == [(f"{DAY} 00:00", True, None)]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"where": ('gender!="other"',)}, "a condition with != would let small cells be had by subtraction; write gender="),
        ({"where": ('gender=~"f.*"',)}, "a condition with =~ would"),
        ({"by": ("gender",), "where": ('artist_id!="abba"',)}, "a condition with != would"),
        ({"by": ("artist_id",), "where": ('gender="male"',), "top": 3}, "the others of a board would let small cells"),
        ({"by": ("gender", "age_band", "country")}, "its cells would be too small; split and filter by 2 of them at most"),
    ],
)
def test_a_question_that_would_get_around_suppression_is_refused(audience: Figures, question: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        audience.ask("demographics", **question)


def test_a_reader_of_days_suppresses_too(audience: Figures) -> None:
    day = dt.date.fromisoformat(DAY)
    with DayReader(audience.tenant, audience.catalogue, day, day) as reader:
        told = reader.query(audience.catalogue.metric("demographics"), ("gender",), (), day, day, Grain.TOTAL)
    assert dict(zip(told["gender"].to_pylist(), told["value"].to_pylist(), strict=True)) == {
        None: None,
        "female": 60,
        "male": 12,
        "other": None,
    }


def test_the_ledger_of_restatements_has_no_figures_by_what_people_are(audience: Figures) -> None:
    noted = figures_of_days(audience.tenant, audience.catalogue.family("audience"), [dt.date.fromisoformat(DAY)])
    assert {figure.split_by for figure in noted} == {"", "artist_id"}


def test_a_day_keeps_what_was_known_of_its_listeners(figures: Figures) -> None:
    figures = _with_smallest(figures, 1)
    play = {"ts": f"{DAY} 10:00", "listener_id": "ann"}
    figures.write("plays", [play], only="audience")
    assert figures.ask("demographics", by=("gender",)) == [(f"{DAY} 00:00", None, False, 1)]
    _describe(figures, [("ann", "W", 12), ("bob", "m", 40)])
    figures.write("plays", [play], only="audience")
    # An age of 12 is none that a listener may have.
    assert figures.ask("demographics", by=("gender", "age_band")) == [(f"{DAY} 00:00", "female", None, False, 1)]


COUNTS = st.dictionaries(st.sampled_from("abcdef").map(lambda v: (v,)), st.integers(1, 40), min_size=1)


@given(people=COUNTS, smallest=st.integers(1, 20))
def test_cells_of_a_total_are_suppressed_in_company_or_not_at_all(people: dict[Cell, int], smallest: int) -> None:
    hidden = in_row(people, smallest)
    assert {cell for cell, n in people.items() if n < smallest} <= hidden
    if hidden and hidden != set(people):
        assert len(hidden) >= 2
        assert sum(people[cell] for cell in hidden) >= smallest


@settings(max_examples=60)
@given(
    st.dictionaries(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), st.integers(1, 9), min_size=1), st.integers(2, 5)
)
def test_no_suppressed_cell_follows_from_the_sums_that_are_told(people: dict[Cell, int], smallest: int) -> None:
    sides: list[dict[Cell, int]] = [{}, {}]
    for cell, n in people.items():
        for place in (0, 1):
            sides[place][(cell[place],)] = sides[place].get((cell[place],), 0) + n
    hidden = in_table(list(sides), people, smallest)
    assert {cell for cell, n in people.items() if n < smallest} <= hidden
    if not any(cell not in hidden for cell in people):
        return  # nothing is told, and all that could be suppressed is
    rows, columns = (in_row(side, smallest) for side in sides)
    equations = [
        [cell for cell in hidden if cell[place] == value]
        for place, told in ((0, rows), (1, columns))
        for (value,) in sides[place]
        if (value,) not in told
    ]
    # A cell that is alone in a sum would be the rest of it.
    assert all(len(cells) != 1 for cells in equations)


def test_a_bridge_between_suppressed_cells_is_closed_by_another_cell() -> None:
    # Two squares of small cells, and one small cell that alone joins them: it follows from the sums of one square.
    small = [*itertools.product("ab", "xy"), *itertools.product("cd", "zw"), ("b", "z")]
    people = {cell: 3 if cell in small else 50 for cell in itertools.product("abcd", "xyzw")}
    sides = [Counter[Cell](), Counter[Cell]()]
    for cell, n in people.items():
        sides[0][cell[:1]] += n
        sides[1][cell[1:]] += n
    hidden = in_table([dict(side) for side in sides], people, 4)
    assert set(small) < hidden
    assert len([cell for cell in hidden if cell[0] == "b" or cell[1] == "z"]) > 5


OWN = """
semantic_models:
  - name: own
    description: Own.
    model: raw/plays
    step: listeners
    owner: me
    {more}
    dimensions:
      - {{name: gender, description: Gender.}}
    measures:
      - {{name: own_listeners, agg: count_distinct, expr: {expr}, description: Listeners.}}
metrics:
  - name: own_listeners
    description: Listeners.
    {kind}
    unit: listeners
    direction: neutral
"""
SIMPLE = "type: simple\n    type_params: {measure: own_listeners}"
CELLS = "small_cells: {people: own_listeners, dimensions: [gender]}"


@pytest.mark.parametrize(
    ("more", "expr", "kind", "said"),
    [
        ("", "listener_id", SIMPLE, "dimension 'gender' is of people; name it in small_cells"),
        (CELLS, "case when gender = 'male' then listener_id end", SIMPLE, "reads what people are, which no rule would suppress"),
        (
            "small_cells: {people: own, dimensions: [gender]}",
            "listener_id",
            SIMPLE,
            "people is to be a measure with agg: count_dis",
        ),
        ("small_cells: {people: own_listeners, dimensions: [gendr, gender]}", "listener_id", SIMPLE, "no dimension 'gendr'"),
        (CELLS, "listener_id", f"{SIMPLE}\n    kpi: true", "small_cells allow no KPI"),
        (
            CELLS,
            "listener_id",
            "type: retention\n    type_params: {measure: own_listeners, retention_type_params: {period: 1}}",
            "looks at later days, which small_cells do not allow",
        ),
        (
            CELLS,
            "listener_id",
            "type: ratio\n    type_params: {numerator: own_listeners, denominator: plays}",
            "is put together from several answers, which small_cells do not allow",
        ),
        (
            CELLS,
            "listener_id",
            "type: standing\n    type_params: {metric: own_listeners, alike: own_listeners, dimension: gender}",
            "tells the small ones by the others",
        ),
        (
            CELLS,
            "listener_id",
            "type: cumulative\n    type_params: {measure: own_listeners, cumulative_type_params: {window: 28 days}, "
            "seen_on: {at_least: 2}}",
            "small_cells do not allow seen_on",
        ),
    ],
)
def test_a_declaration_that_would_get_around_suppression_is_refused(
    declare: Callable[[str], Path], more: str, expr: str, kind: str, said: str
) -> None:
    with pytest.raises(DeclarationError, match=said):
        load_catalogue(declare(OWN.format(more=more, expr=expr, kind=kind)))


def test_many_artists_are_asked_about_at_once(figures: Figures) -> None:
    draw = random.Random(7)
    people = [(f"p{n}", draw.choice(["f", "m", None]), draw.choice([None, *range(15, 80)])) for n in range(400)]
    _describe(figures, people)
    plays = [
        {"ts": f"{DAY} 10:00", "listener_id": f"p{draw.randrange(400)}", "artist_id": f"a{int(draw.paretovariate(0.8))}"}
        for _ in range(4_000)
    ]
    figures.write("plays", plays, only="audience")
    told = figures.ask("demographics", by=("artist_id", "age_band", "gender"))
    assert all((value is None) == suppressed for *_, suppressed, value in told)
    assert all(value is None or value >= 10 for *_, value in told)
