"""One fused query per family: all measures of one source table in one GROUP BY, and its merges from grain to grain.

The SQL is text over two names, `source` (rows of the raw table) and `finer` (rows of the next finer table), which `aggregate.py`
makes views of; so it is the same for every tenant and range, and is compiled once per process (`Family.queries`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics import sets, states
from analytics_dagster.metrics.declarations import Aggregation, Family, Grain, Measure
from analytics_dagster.metrics.sessions import session_rows

SOURCE = "source"
FINER = "finer"


@dataclass(frozen=True)
class FamilyQueries:
    """SQL of one family. `build` and `merges` give the columns of the family's tables, in the tables' order, unsorted.

    `build` makes the finest grain, `merges` each coarser one from the one before it, both without sets; `sets` selects the ids
    that each coarser one has beside (see `sets.py`), `plain_sets` the same for an engine that has not DuckDB's hash.
    `parameters` are the named parameters that `build` and `sets` take (a subset of `expressions.PARAMETERS`).
    """

    build: str
    merges: Mapping[Grain, str]
    sets: Mapping[Grain, tuple[str, ...]]
    plain_sets: Mapping[Grain, tuple[str, ...]]
    parameters: tuple[str, ...]


def compile_family(family: Family) -> FamilyQueries:
    """Write a family's SQL."""
    from analytics_dagster.metrics.expressions import PARAMETERS

    build = build_at(family, family.grains[0], family.measures)
    dimensions = [q(d.name) for d in family.dimensions]
    merges = {coarser: merge_by(family, dimensions, coarser, FINER) for _, coarser in itertools.pairwise(family.grains)}

    def ids_by(select: Callable[[Family, Measure, Grain, str], str]) -> dict[Grain, tuple[str, ...]]:
        relations = {measure: _relation(family, (measure,)) for measure in sets.sets_of(family)}
        return {grain: tuple(select(family, m, grain, rows) for m, rows in relations.items()) for grain in family.set_grains}

    ids, plain = ids_by(sets.seen), ids_by(sets.seen_plainly)
    written = "".join([build, *itertools.chain(*ids.values())])
    return FamilyQueries(build, merges, ids, plain, tuple(p for p in PARAMETERS if f"${p}" in written))


def build_at(family: Family, grain: Grain, measures: Iterable[Measure]) -> str:
    """State rows of any stored grain from the source rows in `source`, with the state of some measures: what merging up from the
    finest grain gives too. Sets are left out.
    """
    wanted = _without_sets(measures)
    keys = [sets.bucket(grain), *(f"({d.expr})" for d in family.dimensions)]
    relation = _relation(family, wanted)
    for measure in wanted:
        if measure.aggregation is Aggregation.INCREASE:
            relation = f"({states.stepped(measure, keys, relation)})"
    named = [f"{key} AS {name}" for key, name in zip(keys, ["ts", *(q(d.name) for d in family.dimensions)], strict=True)]
    values = _named(wanted, states.build)
    by = ", ".join(str(n + 1) for n in range(len(keys)))
    return f"SELECT {', '.join(named + values)} FROM {relation} GROUP BY {by}"


def merge_by(family: Family, dimensions: list[str], grain: Grain, relation: str) -> str:
    """State rows of `relation` merged to a coarser grain, over all dimensions but `dimensions` (quoted). Sets are left out."""
    measures = _without_sets(family.measures)
    names = ["ts", *dimensions]
    keys = ", ".join(names)
    state = [q(c.name) for m in measures for c in m.columns]
    for measure in measures:
        if measure.aggregation is Aggregation.INCREASE:
            relation = f"({states.joined(measure, [_bucket(grain), *(q(d.name) for d in family.dimensions)], relation)})"
    picked = f"SELECT {', '.join([f'{_bucket(grain)} AS ts', *dimensions, *state])} FROM {relation}"
    folded = _named(measures, states.merge, but=Aggregation.PERCENTILE)
    parts = {"picked": picked, "folded": f"SELECT {', '.join([keys, *folded])} FROM picked GROUP BY {keys}"}
    for measure in measures:
        if measure.aggregation is Aggregation.PERCENTILE:
            parts[f"of_{measure.name}"] = states.merged_buckets(measure, keys, "picked")
    columns = [f"folded.{name}" for name in names] + state
    return with_joined(parts, "folded", names, columns)


def _without_sets(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    return tuple(m for m in measures if m.aggregation is not Aggregation.COUNT_DISTINCT)


def _named(measures: Iterable[Measure], made: Callable[[Measure], list[str]], but: Aggregation | None = None) -> list[str]:
    """The expressions that `made` gives for each measure, under the names of its state columns."""
    return [
        f"{sql} AS {q(column.name)}"
        for measure in measures
        if measure.aggregation is not but
        for sql, column in zip(made(measure), measure.columns, strict=True)
    ]


def with_joined(parts: dict[str, str], first: str, keys: Iterable[str], columns: Iterable[str]) -> str:
    """`columns` of the common table `first`, joined by keys (null equals null) to every part named `of_...`."""
    ctes = ", ".join(f"{q(name)} AS ({sql})" for name, sql in parts.items())
    joins = "".join(
        f" LEFT JOIN {q(name)} ON " + " AND ".join(f"{q(name)}.{k} IS NOT DISTINCT FROM {first}.{k}" for k in keys)
        for name in parts
        if name.startswith("of_")
    )
    return f"WITH {ctes} SELECT {', '.join(columns)} FROM {first}{joins}"


def _relation(family: Family, measures: Iterable[Measure]) -> str:
    """What is measured: the source rows, with the columns of the family's step, or sessions of them."""
    if family.sessions:
        return f"({_sessions(family, measures)})"
    return f"({family.step.sql})" if family.step else SOURCE


def rows_of(family: Family) -> str:
    """What is measured, with every column that it has: a relation over SOURCE, which must hold whole days."""
    if family.sessions:
        source = MEASURED[family.source]
        return f"({session_rows(family.sessions, source, [column.name for column in source.columns], SOURCE)})"
    return _relation(family, ())


def _sessions(family: Family, measures: Iterable[Measure]) -> str:
    """The sessions in `source`, with the columns that the dimensions and these measures read."""
    from analytics_dagster.metrics.expressions import scalar

    assert family.sessions is not None
    snippets = [*(d.expr for d in family.dimensions), *(m.expr for m in measures)]
    columns = [name for snippet in snippets for name in scalar(snippet, family.rows).columns]
    return session_rows(family.sessions, MEASURED[family.source], columns, SOURCE)


def _bucket(grain: Grain) -> str:
    return f"date_trunc('{grain}', ts)"
