"""Counts by policy as metrics, and the report of why two of them differ."""

from __future__ import annotations

import datetime as dt
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import DeclarationError, NotFoundError, UserError
from analytics_dagster.lake.lake import Lake
from analytics_dagster.metrics.counting.reconcile import BOTH, Question, Reconciler, Reconciliation, counting_of
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.export import ExportFormat, export_text
from analytics_dagster.metrics.lineage import source_columns
from analytics_dagster.metrics.load import load_catalogue

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures

STREAM_MS = 30_000
OWN = """\
counting_policies:
  - name: own
    version: 2
    description: What our contract counts.
    source: The contract, section 4.
    minimum_seconds: 60
    most_a_day: 3
    formats_left_out: [radio_log]
"""
FEW = """\
artificial_plays:
  version: 9
  description: Few.
  source: A test.
  rules: {repeated: {plays: 5}}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The built-in policies and one of the tenant's own, with a rule that few plays reach."""
    folder = tmp_path_factory.mktemp("declared")
    (folder / "policies").mkdir()
    (folder / "policies" / "own.yaml").write_text(OWN, encoding="utf-8")
    (folder / "policies" / "rules.yaml").write_text(FEW, encoding="utf-8")
    return load_catalogue(folder)


def explained(figures: Figures, first: str, second: str, *where: str, **options: Any) -> Reconciliation:
    return asked(figures, first, second, *where, **options).report()


def asked(figures: Figures, first: str, second: str, *where: str, **options: Any) -> Reconciler:
    counting = counting_of(figures.catalogue)
    question = Question((counting.count(first), counting.count(second)), where=where)
    return Reconciler(figures.tenant, figures.catalogue, question, stream_ms=STREAM_MS, **options)


def parts(report: Reconciliation) -> dict[tuple[str, str | None], int]:
    return {(part.counted_by, part.reason): part.plays for part in report.parts}


@pytest.fixture
def two_days(figures: Figures, own: Catalogue) -> Figures:
    """On the 30th ann hears one song 52 times, 5 of them briefly; on the 31st four people hear one song twice."""
    figures.catalogue = own
    times = [f"2026-01-30 {n // 4:02}:{n % 4 * 15:02}" for n in range(57)]
    plays = [
        {"ts": ts, "listener_id": "ann", "track_id": "t", "country": "DE", "ms_played": 10_000 if n < 5 else 200_000}
        for n, ts in enumerate(times)
    ]
    plays += [
        {"ts": f"2026-01-31 10:0{n}", "listener_id": who, "track_id": "t", "country": "US", "ms_played": ms, "format": form}
        for n, (who, ms, form) in enumerate(
            [("ann", 59_999, "test"), ("bob", 60_000, "test"), (None, 200_000, "test"), ("cem", 200_000, "radio_log")] * 2
        )
    ]
    figures.write("plays", plays)
    return figures


def test_every_policy_counts_as_it_says(two_days: Figures) -> None:
    days = {"first": dt.date(2026, 1, 30), "last": dt.date(2026, 1, 31), "grain": "month"}
    given = {m.name: two_days.value(m.name, **days) for m in two_days.catalogue.family("counting").metrics}
    assert given == {
        "streams_spotify_30s": 52 + 8,
        "streams_luminate_50_a_day": 50 + 6,  # 50 of ann's 52; nobody's two do not count
        "streams_own": 3 + 4,  # three of ann's; bob's two and nobody's two: no short ones, nothing by radio
        "artificial_plays": 57,  # all of ann's song on the 30th
        "artificial_share": 57 / 65,
        "streams_spotify_30s_adjusted": 8,
        "streams_luminate_50_a_day_adjusted": 6,
        "streams_own_adjusted": 4,
    }
    assert two_days.ask("streams_luminate_50_a_day", by=("country",), grain="month") == [
        ("2026-01-01 00:00", "DE", 50.0),
        ("2026-01-01 00:00", "US", 6.0),
    ]
    by_hour = two_days.ask("streams_luminate_50_a_day", last=dt.date(2026, 1, 30), grain="hour")
    assert sum(value for _, value in by_hour) == 50, "an hour has what is left of its day's cap"
    assert by_hour[-2:] == [("2026-01-30 13:00", 3.0), ("2026-01-30 14:00", 0.0)]


def test_the_policy_of_spotify_counts_what_the_metric_streams_counts(two_days: Figures) -> None:
    assert two_days.ask("streams") == two_days.ask("streams_spotify_30s")


def test_a_policy_without_a_minimum_follows_the_setting(two_days: Figures) -> None:
    counting = counting_of(two_days.catalogue)
    question = Question((counting.count("spotify_30s"), counting.count("own")))
    report = Reconciler(two_days.tenant, two_days.catalogue, question, stream_ms=5_000).report()
    assert [total.plays for total in report.totals] == [57 + 8, 7]
    assert [total.stored for total in report.totals] == [60, 7]
    assert [total.count.name for total in report.stale] == ["spotify_30s"]


def test_the_report_says_why_two_policies_differ(two_days: Figures) -> None:
    report = explained(two_days, "spotify_30s", "own")
    assert [(total.plays, total.stored) for total in report.totals] == [(60, 60), (7, 7)]
    assert (report.difference, report.differing, report.stale) == (53, 53, ())
    assert parts(report) == {
        (BOTH, None): 7,
        ("spotify_30s", "above_cap"): 49,
        ("spotify_30s", "format_left_out"): 2,
        ("spotify_30s", "too_short"): 2,
    }


def test_plays_that_each_leaves_out_of_the_others_are_told_apart(two_days: Figures) -> None:
    report = explained(two_days, "own", "luminate_50_a_day_adjusted")
    assert parts(report) == {
        (BOTH, None): 2,
        ("own", "artificial_repeated"): 3,
        ("own", "unknown_listener"): 2,
        ("luminate_50_a_day_adjusted", "format_left_out"): 2,
        ("luminate_50_a_day_adjusted", "too_short"): 2,
    }
    assert report.difference == 7 - 6 == 3 + 2 - 2 - 2


def test_a_policy_and_its_own_adjusted_count_differ_by_what_is_artificial(two_days: Figures) -> None:
    report = explained(two_days, "luminate_50_a_day", "streams_luminate_50_a_day_adjusted")
    assert parts(report) == {(BOTH, None): 6, ("luminate_50_a_day", "artificial_repeated"): 50}


def test_a_condition_chooses_among_plays_that_were_judged_with_all_others(two_days: Figures) -> None:
    report = explained(two_days, "spotify_30s", "luminate_50_a_day", 'country="DE"')
    assert [(total.plays, total.stored) for total in report.totals] == [(52, 52), (50, 50)]
    of_track = explained(two_days, "spotify_30s", "luminate_50_a_day", "track_id=t", "listener_id!=ann")
    assert [(total.plays, total.stored) for total in of_track.totals] == [(6, None), (4, None)]
    assert of_track.stale == ()
    with pytest.raises(NotFoundError, match=r"no text column 'nation'.*it has listener_id, track_id"):
        explained(two_days, "spotify_30s", "own", "nation=DE")


def test_rows_are_the_plays_of_the_report_in_order_of_time(two_days: Figures) -> None:
    rows = [row for batch in asked(two_days, "spotify_30s", "luminate_50_a_day").rows(1_000) for row in batch.to_pylist()]
    assert [(r["ts"].strftime("%d %H:%M"), r["listener_id"], r["counted_by"], r["reason"]) for r in rows] == [
        ("30 13:45", "ann", "spotify_30s", "above_cap"),
        ("30 14:00", "ann", "spotify_30s", "above_cap"),
        ("31 10:02", None, "spotify_30s", "unknown_listener"),
        ("31 10:06", None, "spotify_30s", "unknown_listener"),
    ]
    few = [batch.num_rows for batch in asked(two_days, "spotify_30s", "luminate_50_a_day", rows_at_once=1).rows(3)]
    assert sum(few) == 3


def test_a_day_that_was_not_materialized_is_said_to_be_stale(two_days: Figures, raw_table: Callable[..., Any]) -> None:
    late = {"ts": "2026-01-31 20:00", "play_id": "late", "listener_id": "dan", "track_id": "t", "ms_played": 100_000}
    data, schema = raw_table("plays", [late])
    two_days.tenant.table(schema).append(data)
    report = explained(two_days, "spotify_30s", "own")
    assert [(total.plays, total.stored) for total in report.stale] == [(61, 60), (8, 7)]


def test_a_tenant_without_plays_has_counts_of_nothing(figures: Figures) -> None:
    report = explained(figures, "spotify_30s", "luminate_50_a_day")
    assert ([total.plays for total in report.totals], report.parts, report.stale) == ([0, 0], (), ())


def test_counts_are_named_by_policy_or_metric_and_never_compared_with_themselves(figures: Figures) -> None:
    with pytest.raises(NotFoundError, match=r"no counting policy 'luminate_50'; did you mean 'luminate_50_a_day'"):
        explained(figures, "luminate_50", "spotify_30s")
    with pytest.raises(UserError, match="compared with itself"):
        explained(figures, "spotify_30s", "streams_spotify_30s")


PLAYS = st.lists(
    st.fixed_dictionaries(
        {
            "ts": st.builds("2026-01-3{} 1{}:00".format, st.integers(0, 1), st.integers(0, 3)),
            "listener_id": st.sampled_from(["ann", "ann", "bob", None]),
            "track_id": st.sampled_from(["t", "t", None]),
            "country": st.sampled_from(["DE", None]),
            "ms_played": st.sampled_from([None, 10_000, 40_000, 200_000]),
            "format": st.sampled_from(["test", "radio_log"]),
        }
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=10)
@given(plays=PLAYS, pair=st.permutations(["spotify_30s", "luminate_50_a_day_adjusted", "own", "own_adjusted"]))
def test_the_reasons_always_add_up_and_every_total_is_the_metrics(
    plays: list[dict[str, Any]], pair: list[str], own: Catalogue, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from metrics.conftest import Figures

    folder = tmp_path_factory.mktemp("lake")
    figures = Figures(Lake(str(folder / "lake"), folder / "locks").tenant("acme"), own)
    figures.write("plays", plays, only="counting")
    first, second, *_ = pair
    report = explained(figures, first, second, rows_at_once=10)
    mine, theirs = (sum(p.plays for p in report.parts if p.counted_by == name) for name in (first, second))
    assert report.difference == mine - theirs
    assert report.stale == ()
    listed = [row for batch in asked(figures, first, second).rows(1_000) for row in batch.to_pylist()]
    assert len(listed) == report.differing == mine + theirs
    by_reason = {key: n for key, n in parts(report).items() if key[0] != BOTH}
    assert {key: sum((r["counted_by"], r["reason"]) == key for r in listed) for key in by_reason} == by_reason


# --- declared


class TestDeclarations:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "policies").mkdir()
        return tmp_path

    def refused(self, folder: Path, text: str, message: str) -> None:
        (folder / "policies" / "own.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(DeclarationError, match=message):
            load_catalogue(folder)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (OWN.replace("most_a_day", "most_per_day"), r"own\.yaml:7: unknown key 'most_per_day'; did you mean 'most_a_day'"),
            (OWN.replace("version: 2", "version: two"), r"own\.yaml:3: version 'two'"),
            (OWN.replace("    version: 2\n", ""), r"own\.yaml:2: 'version' is missing"),
            (OWN.replace("name: own", "name: Our own"), r"own\.yaml:2: name 'Our own' is not a policy's name"),
            (OWN.replace("name: own", "name: own_adjusted"), r"own\.yaml:2: a policy may not be called 'own_adjusted'"),
            (OWN.replace("name: own", "name: spotify_30s"), r"own\.yaml:2: .*also declared in .*streams\.yaml:3.*spotify_30s_3"),
            (OWN.replace("minimum_seconds: 60", "minimum_seconds: -1"), r"own\.yaml:6: minimum_seconds -1"),
            (FEW.replace("repeated", "repeats"), r"own\.yaml:5: unknown key 'repeats'; did you mean 'repeated'"),
            (FEW.replace("5}", "0}"), r"own\.yaml:5: plays 0"),
        ],
    )
    def test_what_is_wrong_is_named_with_file_line_and_remedy(self, folder: Path, text: str, message: str) -> None:
        self.refused(folder, text, message)

    def test_two_sets_of_rules_of_ones_own_are_refused(self, folder: Path) -> None:
        (folder / "policies" / "more.yaml").write_text(FEW, encoding="utf-8")
        self.refused(folder, FEW, r"own\.yaml:1: artificial_plays is also declared in .*more\.yaml:1")

    def test_a_policys_metric_may_not_be_declared_twice(self, folder: Path) -> None:
        metric = "{name: streams_own, description: x, type: simple, type_params: {measure: plays}, unit: x, direction: neutral}"
        (folder / "metrics.yaml").write_text(f"metrics: [{metric}]\n", encoding="utf-8")
        self.refused(folder, OWN, r"own\.yaml:2: the metric 'streams_own' is also declared in .*metrics\.yaml:1")

    def test_the_step_is_of_plays_only(self, folder: Path) -> None:
        measure = "{name: n, agg: count, expr: name, description: x}"
        model = f"{{name: m, description: x, model: raw/metrics, step: counting, owner: x, measures: [{measure}]}}"
        (folder / "metrics.yaml").write_text(f"semantic_models: [{model}]\n", encoding="utf-8")
        self.refused(folder, OWN, r"metrics\.yaml:1: step counting is of plays; give model: raw/plays")

    def test_a_model_of_ones_own_may_measure_verdicts_by_other_dimensions(self, folder: Path, figures: Figures) -> None:
        (folder / "metrics.yaml").write_text(
            """\
semantic_models:
  - name: by_artist
    description: Streams by artist.
    model: raw/plays
    step: counting
    owner: content
    dimensions: [{name: artist, description: Artist.}]
    measures:
      - {name: own_artist_streams, agg: sum_boolean, expr: not_counted_own is null, description: Streams.}
      - {name: own_artist_listeners, agg: count_distinct, expr: listener_id, description: Listeners.}
metrics:
  - name: own_artist_listeners
    description: Listeners.
    type: simple
    type_params: {measure: own_artist_listeners}
    unit: listeners
    direction: neutral
  - name: own_artist_streams
    description: Streams.
    type: simple
    type_params: {measure: own_artist_streams}
    unit: streams
    direction: neutral
  - name: own_share
    description: Share of one count in another.
    type: ratio
    type_params: {numerator: streams_own, denominator: streams_spotify_30s}
    unit: ratio
    direction: neutral
""",
            encoding="utf-8",
        )
        (folder / "policies" / "own.yaml").write_text(OWN, encoding="utf-8")
        figures.catalogue = load_catalogue(folder)
        rows = [{"ts": "2026-01-31 10:00", "listener_id": "ann", "track_id": "t", "ms_played": 90_000} for _ in range(5)]
        figures.write("plays", [{**row, "artist": "A" if n < 2 else "B"} for n, row in enumerate(rows)])
        assert figures.ask("own_artist_streams", by=("artist",)) == [
            ("2026-01-31 00:00", "A", 2.0),
            ("2026-01-31 00:00", "B", 1.0),
        ]
        assert figures.value("own_artist_listeners") == 1
        assert figures.value("own_share") == 3 / 5


def test_the_examples_of_the_documentation_load(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "count-by-your-own-policy.md"
    examples = re.findall(r"^( *)```yaml\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "policies").mkdir()
    for number, (_, example) in enumerate(examples):
        (tmp_path / "policies" / f"{number}.yaml").write_text(textwrap.dedent(example), encoding="utf-8")
    counting = counting_of(load_catalogue(tmp_path))
    assert [policy.name for policy in counting.policies][2:] == ["contract_2026"]
    assert (counting.rules.version, counting.rules.farm) == (2, None)


def test_lineage_of_a_count_is_the_columns_that_its_verdict_reads(own: Catalogue) -> None:
    assert source_columns(own.metric("streams_spotify_30s"), own) == (
        "raw/plays.format", "raw/plays.ms_played", "raw/plays.ts",
    )  # fmt: skip
    capped = source_columns(own.metric("streams_own"), own)
    assert {"raw/plays.listener_id", "raw/plays.track_id", "raw/plays.play_id"} <= set(capped)
    assert "raw/plays.device" in source_columns(own.metric("artificial_plays"), own)


@pytest.mark.parametrize("format_", list(ExportFormat))
def test_counts_are_said_to_be_left_out_of_an_export(own: Catalogue, format_: ExportFormat) -> None:
    text = export_text(own, format_, {"stream_ms": STREAM_MS})
    assert (
        "# - metric streams_own: it reads the measure streams_own, and what it counts is worked out of more than one row" in text
    )


def test_another_policy_makes_stored_days_those_of_another_version(own: Catalogue) -> None:
    assert own.family("counting").version != load_catalogue().family("counting").version
