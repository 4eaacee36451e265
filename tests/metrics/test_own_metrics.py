"""Metrics that a tenant declares for itself: what may be declared, whose they are, and what happens to them later."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import ConflictError, DeclarationError, NotFoundError, UserError
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.expressions import MOST_NESTED, ExpressionError, require_plain, scalar
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.own import OwnMetrics

NOW = dt.datetime(2026, 3, 10, 6, tzinfo=dt.UTC)
RATE = """
metrics:
  - name: german_rate
    description: Streams of plays.
    type: derived
    type_params: {expr: streams / plays}
    unit: ratio
    direction: down_is_bad
"""
MODEL = """
semantic_models:
  - name: evenings
    description: Plays in the evening.
    model: raw/plays
    owner: us
    dimensions:
      - {name: country, description: Country.}
    measures:
      - {name: evening_plays, agg: sum_boolean, expr: extract(hour from ts) >= 18, description: Plays after six.}
metrics:
  - name: evening_plays
    description: Plays after six.
    type: simple
    type_params: {measure: evening_plays}
    unit: plays
    direction: down_is_bad
"""

NAMED = MODEL.replace("evening_plays\n    desc", "german_rate\n    desc")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnMetrics]:
    database = Database(f"sqlite:///{tmp_path / 'state.db'}")
    database.migrate()
    yield OwnMetrics(database, ManualClock(NOW), None)
    database.dispose()


def test_what_one_declares_is_there_for_it_and_for_nobody_else(own: OwnMetrics) -> None:
    assert own.save("acme", "evening_plays", MODEL, "ann", based_on=0).version == 1
    own.save("acme", "german_rate", RATE, "ann", based_on=0)
    mine, theirs = own.of("acme"), own.of("globex")
    assert mine.own == {"evening_plays", "german_rate"}
    assert mine.catalogue.metric("evening_plays").owner == "us"
    assert [family.name for family in mine.families] == ["evenings"]
    assert theirs.catalogue.find("evening_plays") is None
    assert theirs.families == ()
    # The same name is free for another tenant.
    own.save("globex", "evening_plays", MODEL.replace(">= 18", ">= 19"), "bob", based_on=0)
    assert own.of("acme").families[0].version != own.of("globex").families[0].version


def test_every_version_is_kept_with_who_and_when_and_none_is_overwritten_unseen(own: OwnMetrics) -> None:
    own.save("acme", "german_rate", RATE, "ann", based_on=0)
    with pytest.raises(ConflictError, match="was saved by ann"):
        own.save("acme", "german_rate", RATE, "bob", based_on=0)
    own.save("acme", "german_rate", RATE.replace("Streams of", "Share of"), "bob", based_on=1)
    own.remove("acme", "german_rate", "ann", based_on=2)
    kept = own.versions("acme", "german_rate")
    assert [(one.version, one.author, one.text is None) for one in kept] == [
        (3, "ann", True),
        (2, "bob", False),
        (1, "ann", False),
    ]
    assert own.of("acme").own == frozenset()
    with pytest.raises(NotFoundError):
        own.get("acme", "german_rate")


def test_no_more_than_the_quota(own: OwnMetrics) -> None:
    own.save("acme", "german_rate", RATE, "ann", based_on=0, most=1)
    own.save("acme", "german_rate", RATE, "ann", based_on=1, most=1)
    with pytest.raises(UserError, match="1 are allowed"):
        own.save("acme", "evening_plays", MODEL, "ann", based_on=0, most=1)


def test_what_another_is_made_from_stays(own: OwnMetrics) -> None:
    own.save("acme", "evening_plays", MODEL, "ann", based_on=0)
    own.save("acme", "german_rate", RATE.replace("streams / plays", "evening_plays / plays"), "ann", based_on=0)
    with pytest.raises(ConflictError, match="'german_rate' is made from 'evening_plays'"):
        own.remove("acme", "evening_plays", "ann", based_on=1)
    own.remove("acme", "german_rate", "ann", based_on=1)
    own.remove("acme", "evening_plays", "ann", based_on=1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RATE.replace("german_rate", "other"), r"german_rate.yaml:2: metrics: declare one metric, named as the address"),
        (RATE + "    synonyms: [plays]\n", r"german_rate.yaml:\d+: synonyms: the metric 'plays' is the installation's"),
        (RATE.replace("unit", "unitt"), r"german_rate.yaml:7: unknown key 'unitt'; did you mean 'unit'"),
        (RATE.replace("streams / plays", "streems / plays"), r"german_rate.yaml:6: no 'streems'"),
        (RATE.replace("streams / plays", "'(select 1)'"), r"german_rate.yaml:6: expr: .* is not taken in own declarations"),
        (RATE.replace("streams / plays", "&a x") + "    owner: *a\n", r"german_rate.yaml:9: aliases"),
        (NAMED.replace("extract(hour from ts)", "read_text('/etc/passwd')"),
         r"german_rate.yaml:10: expr: .*read_text"),
        (NAMED.replace("extract(hour from ts)", "CAST(country AS BIGINT)"),
         "write TRY_CAST"),
        (NAMED.replace("extract(hour from ts)", "secret"), "no 'secret' in raw/plays"),
        (NAMED.replace("raw/plays", "landing/restatements"), "name one of raw/"),
        (NAMED.replace("name: evenings", "name: listening"),
         "the semantic model 'listening' is the installation's"),
        (RATE.replace("unit: ratio", 'unit: "a\\x01b"'), r"german_rate.yaml:7: unit .* has U\+0001 as character 2"),
        (NAMED.replace("name: evening_plays, agg", "name: ts, agg"),
         "german_rate.yaml:10: name: 'ts' is the name of a column that is made beside yours"),
        *((NAMED.replace("name: country,", f"name: {taken}, expr: country,"), f"german_rate.yaml:8: name: '{taken}' is the name")
          for taken in ("month", "day", "n0", "m12", "given", "combination", "value")),
        (NAMED.replace("extract(hour from ts) >= 18", "\"regexp_matches(country, '(')\""),
         "german_rate.yaml:3: measure 'evening_plays': DuckDB: .*missing \\)"),
        (NAMED.replace("name: country,", "name: country, expr: 'date_trunc(country, ts)',"),
         "german_rate.yaml:8: the type of .* cannot be told"),
        (NAMED.replace("name: country,", "name: country, expr: country AS c,"), "is not taken in own declarations"),
        (NAMED.replace("name: country,", "name: country, expr: date(country),"), "is not taken in own declarations"),
        ("[", "not valid YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_line_and_field(own: OwnMetrics, text: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        own.save("acme", "german_rate", text, "ann", based_on=0)
    assert own.all("acme") == []


def test_a_built_in_name_cannot_be_taken(own: OwnMetrics) -> None:
    with pytest.raises(DeclarationError, match="the metric 'streams' is the installation's"):
        own.save("acme", "streams", RATE.replace("german_rate", "streams"), "ann", based_on=0)


def test_one_that_cannot_be_loaded_any_more_leaves_the_others_in_place(tmp_path: Path) -> None:
    extra = tmp_path / "declared"
    extra.mkdir()
    database = Database(f"sqlite:///{tmp_path / 'state.db'}")
    database.migrate()
    OwnMetrics(database, ManualClock(NOW), None).save("acme", "evening_plays", MODEL, "ann", based_on=0)
    OwnMetrics(database, ManualClock(NOW), None).save("acme", "german_rate", RATE, "ann", based_on=0)
    # The people of the installation declare a metric of the same name later.
    (extra / "later.yaml").write_text(RATE, encoding="utf-8")
    found = OwnMetrics(database, ManualClock(NOW), extra).of("acme")
    assert found.own == {"evening_plays"}
    assert "also declared in" in found.problems["german_rate"]
    database.dispose()


WORDS = st.sampled_from(
    [
        "read_text('/x')",
        "(select 1)",
        "getenv('A')",
        "glob('*')",
        "query('select 1')",
        "unnest([1])",
        "range(9)",
        "x -> x",
        "columns(*)",
    ]
)


@given(
    word=WORDS,
    around=st.sampled_from(["{}", "coalesce({}, 1)", "case when ({}) = 1 then 1 end", "1 + {}", "a in ({})", "not {}"]),
)
def test_nothing_that_reads_elsewhere_is_taken_wherever_it_stands(word: str, around: str) -> None:
    with pytest.raises(ExpressionError):
        require_plain(around.format(word))


def _sum(name: str, *parts: str) -> str:
    return RATE.replace("german_rate", name).replace("streams / plays", " + ".join(parts))


def test_what_a_metric_is_made_of_is_counted_written_out(own: OwnMetrics) -> None:
    own.save("acme", "ten", _sum("ten", *["plays"] * 10), "ann", based_on=0)
    own.save("acme", "hundred", _sum("hundred", *["ten"] * 10), "ann", based_on=0)
    own.save("acme", "most", _sum("most", "hundred", "hundred"), "ann", based_on=0)
    with pytest.raises(DeclarationError, match=r"more.yaml:6: metric 'more' has 201 figures .*, 200 are allowed"):
        own.save("acme", "more", _sum("more", "most", "plays"), "ann", based_on=0)


def test_metrics_that_name_all_before_them_are_refused_in_no_time(own: OwnMetrics) -> None:
    texts = [("m00", _sum("m00", "plays"))]
    for n in range(1, 30):
        texts.append((f"m{n:02}", _sum(f"m{n:02}", *(name for name, _ in texts))))
    with pytest.raises(DeclarationError, match="metric 'm09' has 256 figures"):
        load_catalogue(None, texts)
    chain = [("c00", _sum("c00", "plays")), *((f"c{n:02}", _sum(f"c{n:02}", f"c{n - 1:02}")) for n in range(1, 22))]
    with pytest.raises(DeclarationError, match="metric 'c19' is made of metrics in 21 steps, 20 are allowed"):
        load_catalogue(None, chain)


@pytest.mark.parametrize(("opened", "closed"), [("(", ")"), ("abs(", ")"), ("- ", ""), ("not ", ""), ("(1 + ", ")")])
def test_nesting_has_an_end_and_a_long_sum_is_not_nested(opened: str, closed: str) -> None:
    require_plain(opened * MOST_NESTED + "plays" + closed * MOST_NESTED)
    with pytest.raises(ExpressionError, match="nested 21 deep, 20 are allowed"):
        require_plain(opened * (MOST_NESTED + 1) + "plays" + closed * (MOST_NESTED + 1))
    require_plain(" + ".join(["plays"] * 200))


def test_what_is_too_deep_for_the_stack_is_refused_like_any_other_mistake() -> None:
    with pytest.raises(ExpressionError, match="nested too deeply"):
        scalar("(" * 900 + "ms_played" + ")" * 900, PLAYS)
