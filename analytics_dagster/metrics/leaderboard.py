"""The first so many elements of a dimension, and all others as one: what a chart of artists or tracks asks for.

Elements are ranked by their figure over the whole range that is asked for, and the same ones are shown in each of its buckets.
The others are merged from their states as `Other`, so that counts sum to the total, and distinct counts and shares are what they
would be without the split, never sums or averages of parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.lake.compute import literal

if TYPE_CHECKING:
    import duckdb

OTHER = "Other"
MOST = 1_000
"""Elements of a board: each is a comparison for every row, and nobody reads more."""


@dataclass(frozen=True)
class Leaders:
    """The first elements of a dimension, best first (None: rows without a value), and what all others together are called."""

    elements: tuple[str | None, ...]
    other: str

    @classmethod
    def of(cls, elements: Sequence[str | None]) -> Leaders:
        """`Other`, in parentheses as often as an element has that very name."""
        other = OTHER
        while other in elements:
            other = f"({other})"
        return cls(tuple(elements), other)

    def grouped(self, expr: str) -> str:
        """SQL text: the element of a row whose dimension is `expr`, or the name of the others."""
        named = ", ".join(literal(element) for element in self.elements if element is not None)
        known = [f"{expr} IN ({named})"] if named else []
        known += [f"{expr} IS NULL"] if None in self.elements else []
        return f"CASE WHEN {' OR '.join(known)} THEN {expr} ELSE {literal(self.other)} END" if known else literal(self.other)

    def ranked(self, figures: pa.Table) -> pa.Table:
        """An answer, split by the dimension first, with the column `rank` before its value: 1 for the best, null for the others.
        In order of time, rank, and what else it is split by.
        """
        dimension = figures.column_names[1]
        places: dict[str | None, int | None] = {element: place for place, element in enumerate(self.elements, start=1)}
        rank = pa.array([places.get(element) for element in figures.column(dimension).to_pylist()], pa.int64())
        told = figures.add_column(figures.num_columns - 1, pa.field("rank", pa.int64()), rank)
        # Sorting is stable in none of Arrow's kernels' promises, so everything is named.
        order = [(name, "ascending") for name in ("ts", "rank", *figures.column_names[2:-1])]
        return told.sort_by(order)


def check_top(top: int, by: Sequence[str]) -> None:
    """Raises UserError for a board that cannot be made: without a dimension, or of too many elements."""
    if not 1 <= top <= MOST:
        raise UserError(f"top {top} is not allowed; give a number from 1 to {MOST:,}")
    if not by:
        raise UserError("top needs a dimension whose elements are ranked; split by one")
    if "rank" in by:
        raise UserError("cannot rank elements and split by 'rank': the answer already has a column of that name")


def leaders(connection: duckdb.DuckDBPyConnection, whole: str, parameters: Sequence[object], top: int) -> Leaders:
    """Rank elements by a query of one figure for each (ts, element, value).

    The greatest come first, whatever direction is bad: a board of error ratios shows the worst. Equal ones by name.
    """
    query = f"SELECT * EXCLUDE (ts) FROM ({whole}) ORDER BY 2 DESC, 1 NULLS LAST LIMIT {top}"
    return Leaders.of([row[0] for row in connection.execute(query, list(parameters)).fetchall()])
