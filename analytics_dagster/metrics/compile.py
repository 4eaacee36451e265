"""One fused query per family: all measures of one source table in one GROUP BY, and its merge from hours to days.

The SQL is text over two names, `source` (rows of the raw table) and `hours` (rows of the hour table), which `aggregate.py`
makes views of; so it is the same for every tenant and range, and is compiled once per process (`Family.queries`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.metrics import states
from analytics_dagster.metrics.declarations import Aggregation, Family, Grain

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCE = "source"
HOURS = "hours"


@dataclass(frozen=True)
class FamilyQueries:
    """SQL of one family. Both queries give exactly the columns of the family's tables, in the tables' order, unsorted.

    `parameters` are the named parameters that `build` takes (a subset of `expressions.PARAMETERS`).
    """

    build: str
    merge: str
    parameters: tuple[str, ...]


def compile_family(family: Family) -> FamilyQueries:
    """Write a family's SQL."""
    from analytics_dagster.metrics.expressions import PARAMETERS

    build = _build(family)
    merge = merge_by(family, [q(d.name) for d in family.dimensions], Grain.DAY, HOURS)
    return FamilyQueries(build, merge, tuple(p for p in PARAMETERS if f"${p}" in build))


def _build(family: Family) -> str:
    keys = [_bucket(Grain.HOUR), *(f"{d.expr} AS {q(d.name)}" for d in family.dimensions)]
    values = [
        f"{sql} AS {q(column.name)}"
        for measure in family.measures
        for sql, column in zip(states.build(measure), measure.columns, strict=True)
    ]
    by = ", ".join(str(n + 1) for n in range(len(keys)))
    return f"SELECT {', '.join(keys + values)} FROM {SOURCE} GROUP BY {by}"


def merge_by(family: Family, dimensions: list[str], grain: Grain, relation: str) -> str:
    """State rows of `relation` merged to a coarser grain, over all dimensions but `dimensions` (quoted)."""
    names = ["ts", *dimensions]
    keys = ", ".join(names)
    state = [q(c.name) for m in family.measures for c in m.columns]
    picked = f"SELECT {', '.join([_bucket(grain), *dimensions, *state])} FROM {relation}"
    folded = [m for m in family.measures if m.aggregation is not Aggregation.PERCENTILE]
    values = [
        f"{sql} AS {q(column.name)}"
        for measure in folded
        for sql, column in zip(states.merge(measure), measure.columns, strict=True)
    ]
    parts = {"picked": picked, "folded": f"SELECT {', '.join([keys, *values])} FROM picked GROUP BY {keys}"}
    for measure in family.measures:
        if measure.aggregation is Aggregation.PERCENTILE:
            parts[f"of_{measure.name}"] = states.merged_buckets(measure, keys, "picked")
    columns = [f"folded.{name}" for name in names] + state
    return with_joined(parts, "folded", names, columns)


def with_joined(parts: dict[str, str], first: str, keys: Iterable[str], columns: Iterable[str]) -> str:
    """`columns` of the common table `first`, joined by keys (null equals null) to every part named `of_...`."""
    ctes = ", ".join(f"{q(name)} AS ({sql})" for name, sql in parts.items())
    joins = "".join(
        f" LEFT JOIN {q(name)} ON " + " AND ".join(f"{q(name)}.{k} IS NOT DISTINCT FROM {first}.{k}" for k in keys)
        for name in parts
        if name.startswith("of_")
    )
    return f"WITH {ctes} SELECT {', '.join(columns)} FROM {first}{joins}"


def _bucket(grain: Grain) -> str:
    return f"date_trunc('{grain}', ts) AS ts"
