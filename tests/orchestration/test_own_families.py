"""What a tenant declares for itself is computed with its source's other figures, for that tenant alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from small_home import FIRST, LAST, opened

from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.query import MetricQuery, run_query
from analytics_dagster.orchestration.build import Built, with_own_families
from analytics_dagster.orchestration.staleness import _without_figures, stale_tenant_days
from analytics_dagster.orchestration.tables import own_metrics, tenant_catalogue

MODEL = """
semantic_models:
  - name: long_ones
    description: Plays by how long they were.
    model: raw/plays
    owner: us
    dimensions:
      - {name: country, description: Country.}
    measures:
      - {name: own_plays, agg: count, expr: play_id, description: Plays.}
      - {name: own_listeners, agg: count_distinct, expr: listener_id, description: Listeners.}
metrics:
  - name: own_plays
    description: Plays.
    type: simple
    type_params: {measure: own_plays}
    unit: plays
    direction: down_is_bad
"""


def test_own_measures_are_stale_until_they_are_computed_and_then_say_what_the_built_in_ones_say(
    copied: Callable[[Path], Path], materialized_home: Path
) -> None:
    with opened(copied(materialized_home)) as home:
        installation = home.installation
        assert stale_tenant_days(installation, ["aurora", "borealis"]) == []
        own_metrics(installation).save("aurora", "own_plays", MODEL, "ann", based_on=0)
        [stale] = stale_tenant_days(installation, ["aurora", "borealis"])
        # Of days that are published: a closed gate keeps what it had.
        assert (stale.tenant, stale.table, len(stale.days)) == ("aurora", "plays", 15)
        log = logging.getLogger(__name__)
        others = Built("aggregates/listening", ("aurora", "borealis"), ())
        built = with_own_families(others, installation, PLAYS, ["aurora", "borealis"], FIRST, LAST, "run", log)
        assert built.failed == {}
        lake, declared = installation.lake.tenant("aurora"), tenant_catalogue(installation, "aurora")
        mine, theirs = (
            run_query(lake, declared, MetricQuery(name, LAST, LAST, by=("country",))).to_pylist()
            for name in ("own_plays", "plays")
        )
        assert mine == theirs
        assert {record.tenant for record in installation.publications.of(asset="aggregates/long_ones")} == {"aurora"}
        assert not installation.lake.tenant("borealis").table(declared.family("long_ones").table("day")).exists()
        # What is left to do is the page of insights, which has not seen these figures.
        again = stale_tenant_days(installation, ["borealis"])
        assert again == []


def test_what_one_tenant_declared_and_cannot_be_computed_stops_neither_its_others_nor_other_tenants(
    copied: Callable[[Path], Path], materialized_home: Path
) -> None:
    with opened(copied(materialized_home)) as home:
        installation, log = home.installation, logging.getLogger(__name__)
        broken = MODEL.replace(" own_", " broken_").replace("{own_", "{broken_").replace("long_ones", "broken_ones")
        # That a number is too large is found with the rows only.
        failing = broken.replace(
            "agg: count, expr: play_id", "agg: sum, expr: ms_played * 9000000000000000000 * 9000000000000000000"
        )
        for tenant, name, text in (
            ("aurora", "broken_plays", failing),
            ("aurora", "own_plays", MODEL),
            ("borealis", "own_plays", MODEL),
        ):
            own_metrics(installation).save(tenant, name, text, "ann", based_on=0)
        others = Built("aggregates/listening", ("aurora", "borealis"), (), failed={"aurora": "a reason"})
        built = with_own_families(others, installation, PLAYS, ["aurora", "borealis"], FIRST, LAST, "run", log)
        assert set(built.failed) == {"aurora"}
        assert built.failed["aurora"].startswith("a reason; own broken_ones: DeltaError: ")
        published = {record.tenant for record in installation.publications.of(asset="aggregates/long_ones")}
        assert published == {"aurora", "borealis"}


def test_a_changed_declaration_is_computed_anew_and_never_told_by_the_figures_of_before(
    copied: Callable[[Path], Path], materialized_home: Path
) -> None:
    with opened(copied(materialized_home)) as home:
        installation, log = home.installation, logging.getLogger(__name__)
        others = Built("aggregates/listening", ("aurora",), ())
        lake = installation.lake.tenant("aurora")

        def computed() -> None:
            built = with_own_families(others, installation, PLAYS, ["aurora"], FIRST, LAST, "run", log)
            assert built.failed == {}

        def told(name: str) -> list[float]:
            rows = run_query(lake, tenant_catalogue(installation, "aurora"), MetricQuery(name, LAST, LAST)).to_pylist()
            return [row["value"] for row in rows]

        def without_figures() -> int:
            [family] = own_metrics(installation).of("aurora").families
            own = [(family.source, family.asset)]
            return len(_without_figures(installation.database, own, ["aurora"], {family.asset: family.version}))

        own_metrics(installation).save("aurora", "own_plays", MODEL, "ann", based_on=0)
        computed()
        [plays], [listeners] = told("plays"), told("daily_active_listeners")
        assert (told("own_plays"), without_figures()) == ([plays], 0)
        # The same measure of another kind, whose column has another type.
        distinct = MODEL.replace("agg: count, expr: play_id", "agg: count_distinct, expr: listener_id")
        own_metrics(installation).save("aurora", "own_plays", distinct, "ann", based_on=1)
        assert (told("own_plays"), without_figures()) == ([], 15)
        [stale] = stale_tenant_days(installation, ["aurora"])
        assert (stale.table, len(stale.days)) == ("plays", 15)
        computed()
        assert (told("own_plays"), without_figures()) == ([listeners], 0)
