"""SQL snippets in declarations: parsed and checked when they are loaded, so that a wrong one names its line, not a run.

MetricFlow's `expr` is SQL, and sqlglot is what ibis itself makes SQL with. An ibis expression would have to be made from the
snippet by sqlglot first (`ibis.expr.sql` takes only a small part of SQL), costs 0.7 s of import, and is then turned
into a sqlglot tree again. So the tree is kept: it is checked against the source's columns and types here, and written as
DuckDB's SQL; a family's whole queries are translated to Spark's (`spark_sql.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.lake.schemas import TableSchema
from analytics_dagster.metrics.declarations import did_you_mean

if TYPE_CHECKING:
    from sqlglot import exp

PARAMETERS = ("stream_ms", "session_gap_ms")
"""What a snippet may name with a dollar sign, both in milliseconds: the length from which a play is a stream, and the longest gap
within a session.
"""


class ExpressionError(ValueError):
    """What is wrong with a snippet, without its place; the loader adds file and line."""


@dataclass(frozen=True)
class Snippet:
    """A checked scalar expression: its SQL, its type and the columns that it reads."""

    sql: str
    type: pa.DataType
    columns: tuple[str, ...]


# Loading, lineage and export ask about the same snippets: parsing each once saves a quarter of loading Dagster's graph.
@lru_cache(maxsize=4096)
def scalar(text: str, source: TableSchema, dialect: str = "duckdb") -> Snippet:
    """Check a snippet over one row of `source` and write it in a dialect, every identifier quoted.

    Raises ExpressionError for anything but one deterministic scalar expression over known columns, functions and parameters.
    """
    types = {c.name: _SQL_TYPES[c.type] for c in source.columns}
    tree = _parse(text)
    _refuse(tree, text)
    columns = _columns(tree, types, f"{source.path}")
    return Snippet(tree.sql(dialect, identify=True), _type_of(tree, types, text), columns)


def require_plain(text: str) -> None:
    """Refuse all but arithmetic, comparison, conditions and functions of one value that are quick: for declarations of people who
    are not trusted. What is not known to be harmless is refused. Raises ExpressionError.
    """
    from sqlglot import exp

    tree = _parse(text)
    if len(text) > _LONGEST:
        raise ExpressionError(f"the expression has {len(text)} characters, {_LONGEST} are allowed")
    plain = tuple(getattr(exp, name) for name in _PLAIN)
    if (deep := _nesting(tree)) > MOST_NESTED:
        raise ExpressionError(f"the expression is nested {deep} deep, {MOST_NESTED} are allowed; take parentheses or calls out")
    for node in tree.walk():
        if not isinstance(node, plain) or isinstance(node, exp.Query | exp.Subquery | exp.Anonymous):
            shown = node.sql("duckdb") if not isinstance(node, exp.Anonymous) else f"{node.name}()"
            raise ExpressionError(
                f"{text!r}: {shown!r} is not taken in own declarations, only arithmetic, conditions and plain functions"
            )
        if isinstance(node, exp.Cast) and not isinstance(node, exp.TryCast) and not node.to.is_type(*exp.DataType.TEXT_TYPES):
            raise ExpressionError(f"{text!r}: a value that cannot be cast would stop the computation; write TRY_CAST")


def _nesting(tree: exp.Expr) -> int:
    """How many parentheses, calls, conditions and signs are within each other. A long sum is not deep."""
    from sqlglot import exp

    deepest, waiting = 0, [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        depth += isinstance(node, exp.Unary | exp.Func) and not isinstance(node, exp.Binary)
        deepest = max(deepest, depth)
        waiting += [(child, depth) for child in node.iter_expressions()]
    return deepest


_LONGEST = 2_000
MOST_NESTED = 20
"""sqlglot and DuckDB take a part of the stack for each level."""
_PLAIN = (
    "Column", "Identifier", "Literal", "Boolean", "Null", "Placeholder", "Paren", "Tuple",
    "Add", "Sub", "Mul", "Div", "IntDiv", "Mod", "Neg", "EQ", "NEQ", "GT", "GTE", "LT", "LTE", "NullSafeEQ", "NullSafeNEQ",
    "And", "Or", "Not", "Is", "In", "Between", "Like", "ILike", "Case", "If", "Coalesce", "Nullif", "Greatest", "Least",
    "Cast", "TryCast", "DataType", "DataTypeParam", "Interval", "Var", "Abs", "Round", "Floor", "Ceil", "Sqrt", "Ln", "Log",
    "Lower", "Upper", "Trim", "Substring", "Length", "Concat", "DPipe", "StartsWith", "Left", "Right",
    "TimestampTrunc", "DateTrunc", "Extract", "TimeToStr", "DateDiff", "Year", "Month", "Day",
    "DayOfWeek", "RegexpLike", "RegexpFullMatch", "RegexpExtract",
)  # fmt: skip
"""Names of sqlglot's expressions that cannot read anything but their arguments, nor grow beyond them."""


def arithmetic(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Check a derived metric's formula over `known` metrics and return those it names, in reading order, each once."""
    tree = _parse(text)
    _refuse(tree, text)
    found = _columns(tree, dict.fromkeys(known, "DOUBLE"), "the catalogue")
    if not found:
        raise ExpressionError(f"{text!r} names no metric")
    return found


def occurrences(text: str) -> Mapping[str, int]:
    """How often a formula names each metric."""
    from sqlglot import exp

    return Counter(column.name for column in _parse(text).find_all(exp.Column))


def substitute(text: str, values: dict[str, str]) -> str:
    """The formula in DuckDB's SQL with each metric's name replaced by its SQL; a division by 0 gives no value."""
    import sqlglot
    from sqlglot import exp

    root = exp.paren(_parse(text))
    for division in list(root.find_all(exp.Div)):
        divisor = exp.paren(division.expression.copy())
        division.set("expression", exp.Nullif(this=divisor, expression=exp.Literal.number(0)))
    for column in list(root.find_all(exp.Column)):
        column.replace(exp.paren(sqlglot.parse_one(values[column.name], dialect="duckdb")))
    return root.sql("duckdb", identify=True)


def _parse(text: str) -> exp.Expr:
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        trees = sqlglot.parse(text, dialect="duckdb")
    except SqlglotError as error:
        raise ExpressionError(f"{text!r} is not an SQL expression: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ExpressionError(
            f"an expression of {len(text)} characters is nested too deeply; take parentheses or calls out"
        ) from None
    if len(trees) != 1 or trees[0] is None:
        raise ExpressionError(f"{text!r} is not one SQL expression")
    return trees[0]


def _refuse(tree: exp.Expr, text: str) -> None:
    from sqlglot import exp

    unstable = (exp.Rand, exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Uuid)
    for node in tree.walk():
        if isinstance(node, exp.AggFunc | exp.Window):
            raise ExpressionError(f"{text!r} aggregates; say how with `agg` and give the value of one row here")
        if isinstance(node, exp.Anonymous):
            raise ExpressionError(f"{text!r} calls {node.name}(), which is not a function that DuckDB and Spark share")
        if isinstance(node, unstable):
            raise ExpressionError(f"{text!r} calls {node.sql('duckdb')}: equal rows must give equal figures")
        if isinstance(node, exp.Placeholder) and node.name not in PARAMETERS:
            known = ", ".join("$" + p for p in PARAMETERS)
            raise ExpressionError(f"{text!r} names the parameter {node.name!r}; known: {known}")
        if isinstance(node, exp.Query | exp.DDL | exp.DML | exp.Command | exp.Star | exp.Parameter | exp.Block):
            raise ExpressionError(f"{text!r} is not a scalar SQL expression")


def _columns(tree: exp.Expr, known: dict[str, str], where: str) -> tuple[str, ...]:
    from sqlglot import exp

    found: dict[str, None] = {}
    for column in tree.find_all(exp.Column, bfs=False):
        if column.table:
            raise ExpressionError(f"{column.sql('duckdb')!r}: columns are named without a table")
        if column.name not in known:
            raise ExpressionError(f"no {column.name!r} in {where}{did_you_mean(column.name, known)}")
        found[column.name] = None
    return tuple(found)


def _type_of(tree: exp.Expr, types: dict[str, str], text: str) -> pa.DataType:
    from sqlglot import exp
    from sqlglot.optimizer.annotate_types import annotate_types

    placed = tree.copy()
    for column in placed.find_all(exp.Column):
        column.set("table", exp.to_identifier("source"))
    for parameter in list(placed.find_all(exp.Placeholder)):
        parameter.replace(exp.cast(exp.Literal.number(0), "BIGINT"))
    query = annotate_types(exp.select(placed.as_("value")).from_("source"), schema={"source": types}, dialect="duckdb")
    kind = query.selects[0].type
    groups: list[tuple[set[exp.DType], pa.DataType]] = [
        (exp.DataType.INTEGER_TYPES, pa.int64()),
        (exp.DataType.REAL_TYPES, pa.float64()),
        ({exp.DType.BOOLEAN}, pa.bool_()),
        (exp.DataType.TEXT_TYPES, pa.string()),
    ]
    for group, arrow in groups:
        if kind is not None and kind.is_type(*group):
            return arrow
    raise ExpressionError(f"the type of {text!r} cannot be told; wrap it in CAST(... AS BIGINT), DOUBLE, BOOLEAN or VARCHAR")


_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}
