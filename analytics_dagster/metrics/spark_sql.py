"""The compiled SQL of a family for Spark: DuckDB's text, parsed, typed, and written so that Spark gives the same rows.

There is one algebra (`states.py`), and this is its translation, not a second one: a new measure or aggregation needs nothing
here as long as it is made of what is known below. Where the engines differ there is a rule; what is neither known to be the
same nor has a rule is refused by name, so nothing is computed that no test has compared (`tests/metrics/test_spark*.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

from analytics_dagster.errors import UserError
from analytics_dagster.lake.lake import duckdb_type
from analytics_dagster.lake.spark import open_spark
from analytics_dagster.metrics.states import ONE_FRACTION

if TYPE_CHECKING:
    from analytics_dagster.lake.schemas import TableSchema

FUNCTIONS = (
    # DuckDB makes a decimal of a double by scaling it as a double and rounding half away from zero; Spark by way of its shortest
    # text. Whole numbers of nanos beyond 2^63 are made of two parts. TRY_CAST: Spark computes what a CASE passes by.
    """CREATE TEMPORARY FUNCTION _whole(a DOUBLE) RETURNS DOUBLE
    RETURN rint(a) + CASE WHEN a - rint(a) = 0.5D THEN 1D ELSE 0D END""",
    """CREATE TEMPORARY FUNCTION _of_parts(a DOUBLE, high BIGINT) RETURNS DECIMAL(29,9)
    RETURN TRY_CAST(CAST(high AS DECIMAL(11,0)) * 4611686018.427387904BD
      + CAST(TRY_CAST(a - CAST(high AS DOUBLE) * 4611686018427387904D AS BIGINT) AS DECIMAL(19,0)) * 0.000000001BD
      AS DECIMAL(29,9))""",
    """CREATE TEMPORARY FUNCTION _of_nanos(n DOUBLE) RETURNS DECIMAL(29,9)
    RETURN CASE WHEN abs(n) < 1e29D
      THEN _of_parts(_whole(abs(n)), TRY_CAST(_whole(abs(n)) / 4611686018427387904D AS BIGINT)) * CAST(sign(n) AS DECIMAL(1,0))
    END""",
    "CREATE TEMPORARY FUNCTION _fraction(v DOUBLE) RETURNS DECIMAL(29,9) RETURN _of_nanos(v * 1e9D)",
    # The second half of an MD5 as a number, its first byte the least, without the last bit.
    "CREATE TEMPORARY FUNCTION _second_half(h STRING) RETURNS BIGINT RETURN shiftrightunsigned(CAST(conv(concat("
    + ", ".join(f"substr(h, {at}, 2)" for at in range(31, 16, -2))
    + "), 16, -10) AS BIGINT), 1)",
    "CREATE TEMPORARY FUNCTION _id_hash(id STRING) RETURNS BIGINT RETURN _second_half(md5(id))",
)
"""Spark's definitions of what DuckDB has built in. Names begin with _, as no column or measure does."""


class NoSparkFormError(UserError):
    """A declaration uses SQL that is not known to give the same on Spark."""


class SparkStates:
    """Answers a family's queries on Spark. Opening one starts Spark where this process has not started it yet.

    Raises UserError where Spark is not installed.
    """

    def __init__(self) -> None:
        self._spark = open_spark()
        self._spark.define(FUNCTIONS)
        self._tables: dict[str, TableSchema] = {}

    def view(self, name: str, table: TableSchema, files: Sequence[str], condition: str) -> None:
        """Let queries call a table's rows in these files that meet `condition` by this name, until it is given anew."""
        self._tables[name] = table
        self._spark.view(name, table, files, condition)

    def rows(self, query: str, parameters: Mapping[str, int]) -> pa.Table:
        """All rows of a query in DuckDB's SQL over the views, unsorted.

        Raises NoSparkFormError, and SparkFailedError where Spark cannot run it.
        """
        return self._spark.answer(to_spark(query, self._tables), parameters)


def to_spark(query: str, relations: Mapping[str, TableSchema]) -> str:
    """Spark's SQL for a query in DuckDB's over `relations`; `$name` becomes `:name`. It calls FUNCTIONS.

    Raises NoSparkFormError, naming the expression.
    """
    schema: dict[str, object] = {name: {c.name: duckdb_type(c.type) for c in table.columns} for name, table in relations.items()}
    try:
        tree = qualify(sqlglot.parse_one(query, dialect="duckdb"), schema=schema, dialect="duckdb")
        for rewrite in (_write_windows_out, _count_apart):
            for select in list(tree.find_all(exp.Select)):
                rewrite(select)
        tree = annotate_types(_typed(tree), schema=schema, dialect="duckdb")
        _translate(tree)
        return tree.sql("spark", unsupported_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise NoSparkFormError(f"Spark has no form of {query!r}: {error}") from error


def _typed(tree: exp.Expr) -> exp.Expr:
    """Name what has no type of its own: parameters are whole numbers, and sqlglot does not know these functions as DuckDB's."""
    for parameter in list(tree.find_all(exp.Placeholder)):
        parameter.replace(exp.cast(parameter.copy(), "BIGINT"))
    for call in list(tree.find_all(exp.Anonymous)):
        if call.name.lower() == "epoch_us":
            call.replace(exp.UnixMicros(this=call.expressions[0]))
        elif call.name.lower() == "make_timestamptz" and len(call.expressions) == 1:
            call.replace(exp.UnixToTime(this=call.expressions[0], scale=exp.UnixToTime.MICROS))
    return tree


def _translate(tree: exp.Expr) -> None:
    """Apply the rules in place, from the leaves up; each sees the types that DuckDB gives to what is below it."""
    for node in reversed(list(tree.walk())):
        rule = _RULES.get(type(node))
        if rule is None:
            if not isinstance(node, _SAME):
                raise _refusal(node)
            continue
        made = rule(node)
        if made is not node:
            made.type = node.type
            node.replace(made)


def _refusal(node: exp.Expr, why: str = "") -> NoSparkFormError:
    text = node.sql("duckdb")
    return NoSparkFormError(
        f"{text if len(text) <= 200 else text[:197] + '...'}: not known to give the same on Spark{why}; "
        "declare it otherwise or set ANALYTICS_ENGINE=duckdb"
    )


def _write_windows_out(select: exp.Select) -> None:
    """Put the windows that a SELECT names at its end where they are used: Spark has none that add a frame to a named one."""
    named = {window.name: window for window in select.args.get("windows") or ()}
    for projection in select.expressions:
        for window in projection.find_all(exp.Window):
            if window.alias in named:
                known = named[window.alias].copy()
                window.set("alias", None)
                window.set("partition_by", known.args.get("partition_by"))
                window.set("order", known.args.get("order"))
    select.set("windows", None)


def _count_apart(select: exp.Select) -> None:
    """Give each `list_transform(map_entries(histogram(x)), e -> ...)` of a GROUP BY a relation of its own, joined by the keys.

    Spark has no aggregate that counts by value. Two GROUP BYs, one by value too, hold no row in memory as a list would.
    """
    counted = {p.alias: p.this for p in select.expressions if isinstance(p, exp.Alias) and _histogram(p.this) is not None}
    group = select.args.get("group")
    if not counted or group is None:
        return
    names = {p.this: p.alias for p in select.expressions if isinstance(p, exp.Alias)}
    keys = [(names[key], key) for key in group.expressions]
    rest = select.copy()
    rest.set("expressions", [p.copy() for p in select.expressions if p.alias not in counted])
    whole = exp.select().from_(rest.subquery("_rest"))
    for name, entries in counted.items():
        made = _counts(select, keys, name, entries)
        same = [exp.NullSafeEQ(this=exp.column(k, "_rest"), expression=exp.column(k, f"_of_{name}")) for k, _ in keys]
        whole = whole.join(made.subquery(f"_of_{name}"), on=exp.and_(*same), join_type="left")
    columns = [(p.alias, f"_of_{p.alias}" if p.alias in counted else "_rest") for p in select.expressions]
    whole = whole.select(*(exp.column(name, table).as_(name) for name, table in columns))
    for part in ("from_", "joins", "expressions"):
        select.set(part, whole.args[part])
    for part in ("group", "where"):
        select.set(part, None)


def _counts(select: exp.Select, keys: list[tuple[str, exp.Expr]], name: str, entries: exp.Expr) -> exp.Select:
    """A SELECT of the keys and the list of one value's counts, sorted by value."""
    value = _histogram(entries)
    assert value is not None
    counts = select.copy()
    projections = [*(key.copy().as_(k) for k, key in keys), value.copy().as_("_value"), exp.Count(this=exp.Star()).as_("_n")]
    counts.set("expressions", projections)
    counts.set("group", exp.Group(expressions=[*(key.copy() for _, key in keys), value.copy()]))
    counts = counts.where(value.copy().is_(exp.null()).not_())
    entry = entries.expression.this.copy()
    for dot in list(entry.find_all(exp.Dot)):
        dot.replace(exp.column({"key": "_value", "value": "_n"}[dot.name], "_counts"))
    order = exp.Ordered(this=entry.expressions[0].expression.copy())
    listed = exp.ArrayAgg(this=exp.Order(this=entry, expressions=[order])).as_(name)
    by = [exp.column(k, "_counts") for k, _ in keys]
    columns = [column.as_(k) for column, (k, _) in zip(by, keys, strict=True)]
    return exp.select(*columns, listed).from_(counts.subquery("_counts")).group_by(*(column.copy() for column in by))


def _histogram(node: exp.Expr) -> exp.Expr | None:
    """What is counted in `list_transform(map_entries(histogram(x)), ...)`."""
    for call in ("map_entries", "histogram"):
        node = node.this if isinstance(node, exp.Transform) else node
        if not (isinstance(node, exp.Anonymous) and node.name.lower() == call):
            return None
        (node,) = node.expressions
    return node


def _is(node: exp.Expr, *kinds: exp.DType) -> bool:
    return node.type is not None and node.type.is_type(*kinds)


_WHOLE = tuple(exp.DataType.INTEGER_TYPES)
_DOUBLE = tuple(exp.DataType.FLOAT_TYPES)
_DECIMAL = (exp.DType.DECIMAL,)
_TEXT = tuple(exp.DataType.TEXT_TYPES)
_TIME = (exp.DType.TIMESTAMPTZ, exp.DType.TIMESTAMP)


# DuckDB's whole numbers of 128 bits, as far as Spark has them.
_WIDE = exp.DataType.build("DECIMAL(38,0)")


def _cast(node: exp.Cast) -> exp.Expr:
    given, wanted = node.this, node.to
    if wanted.is_type(exp.DType.INT128) and _is(given, *_WHOLE):
        node.set("to", _WIDE.copy())
        return node
    if isinstance(given, exp.Anonymous) and given.name == "_id_hash":
        return given
    if isinstance(given, exp.Placeholder):
        return node
    if wanted.is_type(*_WHOLE):
        if _is(given, *_DOUBLE):  # to the nearest, halves to the even one; Spark would cut
            node.set("this", exp.Anonymous(this="rint", expressions=[given]))
            return node
        if _is(given, *_DECIMAL):  # halves away from zero; Spark would cut
            node.set("this", exp.Round(this=given, decimals=exp.Literal.number(0)))
            return node
    same = wanted == given.type
    known = (
        (wanted.is_type(*_WHOLE, *_DOUBLE, *_DECIMAL) and _is(given, *_WHOLE, exp.DType.BOOLEAN))
        or (wanted.is_type(*_DOUBLE, *_DECIMAL) and _is(given, *_DECIMAL))
        or (wanted.is_type(*_TEXT) and _is(given, *_TEXT, *_WHOLE, exp.DType.BOOLEAN, exp.DType.DATE))
        or (wanted.is_type(exp.DType.DATE) and _is(given, *_TIME))
        or isinstance(given, exp.Null)
    )
    if same or known:
        return node
    raise _refusal(node, f" ({given.type.sql('duckdb') if given.type else 'unknown'} to {wanted.sql('duckdb')})")


def _try_cast(node: exp.TryCast) -> exp.Expr:
    given, wanted = node.this, node.to
    if wanted == exp.DataType.build(ONE_FRACTION, dialect="duckdb") and _is(given, *_DOUBLE):
        return exp.Anonymous(this="_fraction", expressions=[given])
    whole = wanted.is_type(*_DECIMAL, *_WHOLE) and _is(given, *_WHOLE)
    if whole or (wanted.is_type(*_DECIMAL) and _is(given, *_DECIMAL)):
        return node
    raise _refusal(node)


def _division(node: exp.Div) -> exp.Expr:
    """Always of doubles in DuckDB, and infinite or no number where the divisor is 0; Spark raises."""
    over, under = exp.cast(node.this, "DOUBLE"), exp.cast(node.expression, "DOUBLE")
    quotient = exp.Div(this=over, expression=under, typed=True)
    if isinstance(node.expression, exp.Literal) and float(node.expression.name) != 0:
        return exp.paren(quotient)
    # No comparison tells -0.0 from 0.0, but the two quotients are at opposite ends.
    below = exp.EQ(this=exp.cast(under.copy(), "TEXT"), expression=exp.Literal.string("-0.0"))
    ends = exp.case().when(below, exp.Literal.string("-Infinity")).else_(exp.Literal.string("Infinity"))
    infinite = exp.Mul(this=over.copy(), expression=exp.cast(ends, "DOUBLE"))
    return exp.case().when(exp.EQ(this=under.copy(), expression=exp.Literal.number(0)), infinite).else_(quotient)


def _by_whole(node: exp.Mod | exp.IntDiv) -> exp.Expr:
    """Both cut towards zero; by 0 DuckDB gives null and Spark raises."""
    if _is(node.this, *_WHOLE) and isinstance(node.expression, exp.Literal) and node.expression.name.strip("0").isdigit():
        return node
    raise _refusal(node, ": only of whole numbers by one that is written out")


def _shift_up(node: exp.BitwiseLeftShift) -> exp.Expr:
    node.set("expression", exp.cast(node.expression, "INT"))
    return node


def _shift(node: exp.BitwiseRightShift) -> exp.Expr:
    call = node.this
    if isinstance(call, exp.Anonymous) and call.name.lower() == "md5_number_lower" and node.expression.name == "1":
        return exp.Anonymous(this="_id_hash", expressions=call.expressions)
    raise _refusal(node)


def _list(node: exp.ArrayAgg) -> exp.Expr:
    """Without rows DuckDB's list is null and Spark's is empty; with nulls DuckDB's has them. So of what is never null only."""
    value, filtered = node.this, node.parent if isinstance(node.parent, exp.Filter) else None
    ordered = value if isinstance(value, exp.Order) else None
    if ordered is not None:
        (by,), value = ordered.expressions, ordered.this
        first = value.expressions[0].expression if isinstance(value, exp.Struct) else value
        if by.this != first or by.args.get("desc"):
            raise _refusal(node, ": a list is ordered by itself or its first field")
        return exp.ArraySort(this=exp.ArrayAgg(this=value))
    kept = filtered.expression.this if filtered else None
    never_null = isinstance(value, exp.Struct) or kept == exp.Not(this=exp.Is(this=value.copy(), expression=exp.null()))
    if not never_null:
        raise _refusal(node, ": a list of what may be null")
    return node


def _filter(node: exp.Filter) -> exp.Expr:
    if isinstance(node.this, exp.ArrayAgg):
        return exp.Nullif(this=node.copy(), expression=exp.Array())
    return node


def _sum(node: exp.Sum) -> exp.Expr:
    if not _is(node.this, *_WHOLE, *_DECIMAL):
        raise _refusal(node, ": a sum of doubles depends on the order of rows")
    cut = isinstance(node.parent, exp.Cast) and node.parent.to.is_type(exp.DType.BIGINT)
    if _is(node.this, *_WHOLE) and not cut:  # a sum of DuckDB's has 128 bits
        node.set("this", exp.cast(node.this, _WIDE.copy()))
    return node


def _any(node: exp.AnyValue) -> exp.Expr:
    """Whichever of the values that are not null, so it may be the greatest."""
    return exp.Max(this=node.this)


def _without_nulls(node: exp.IgnoreNulls) -> exp.Expr:
    """Sqlglot puts it around DuckDB's any_value, which is the greatest by now."""
    if isinstance(node.this, exp.Max):
        return node.this
    raise _refusal(node)


def _plain_cte(node: exp.CTE) -> exp.Expr:
    """Whether it is computed once is Spark's choice."""
    node.set("materialized", None)
    return node


def _rounded(node: exp.Ceil | exp.Floor) -> exp.Expr:
    return exp.cast(node.copy(), "DOUBLE") if _is(node.this, *_DOUBLE) else node


def _test(node: exp.Is) -> exp.Expr:
    """Of a predicate: Spark's grammar asks for parentheses."""
    if isinstance(node.this, exp.Predicate | exp.Not):
        node.set("this", exp.paren(node.this))
    return node


_MICROSECOND = exp.Interval(this=exp.Literal.string("0.000001"), unit=exp.var("SECOND"))


def _called(node: exp.Anonymous) -> exp.Expr:
    if node.name.lower() == "md5_number_lower" and isinstance(node.parent, exp.BitwiseRightShift):
        return node
    if node.name.lower() == "to_microseconds":
        return exp.paren(exp.Mul(this=exp.paren(node.expressions[0]), expression=_MICROSECOND.copy()))
    raise _refusal(node)


_RULES: dict[type[exp.Expr], Callable[..., exp.Expr]] = {
    exp.Anonymous: _called,
    exp.AnyValue: _any,
    exp.ArrayAgg: _list,
    exp.BitwiseLeftShift: _shift_up,
    exp.BitwiseRightShift: _shift,
    exp.CTE: _plain_cte,
    exp.Cast: _cast,
    exp.Ceil: _rounded,
    exp.Div: _division,
    exp.Filter: _filter,
    exp.Floor: _rounded,
    exp.IgnoreNulls: _without_nulls,
    exp.IntDiv: _by_whole,
    exp.Is: _test,
    exp.Mod: _by_whole,
    exp.Sum: _sum,
    exp.TryCast: _try_cast,
}

_SAME = (
    # a query's own parts
    exp.Select, exp.From, exp.Where, exp.Group, exp.Having, exp.Join, exp.With, exp.Union, exp.Subquery, exp.Table,
    exp.TableAlias, exp.Alias, exp.Column, exp.Identifier, exp.Star, exp.Distinct, exp.Order, exp.Ordered, exp.Window,
    exp.Paren, exp.Var,
    exp.Literal, exp.Boolean, exp.Null, exp.Placeholder, exp.DataType, exp.DataTypeParam, exp.Interval,
    # logic and comparison: three-valued, NaN equal to itself and above all numbers, text by its bytes
    exp.And, exp.Or, exp.Not, exp.In, exp.Between, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE,
    exp.NullSafeEQ, exp.NullSafeNEQ, exp.Case, exp.If, exp.Coalesce, exp.Nullif, exp.Greatest, exp.Least,
    # arithmetic: whole numbers and decimals that do not fit raise
    exp.Add, exp.Sub, exp.Mul, exp.Neg, exp.Abs, exp.Ln,
    # times in UTC, text, structs and lists
    exp.TimestampTrunc, exp.UnixMicros, exp.UnixToTime,
    exp.Length, exp.DPipe, exp.StartsWith, exp.Struct, exp.PropertyEQ, exp.Dot, exp.Explode, exp.Flatten,
    exp.ArraySort, exp.ArrayDistinct,
    # aggregates and windows
    exp.Count, exp.Min, exp.Max, exp.BitwiseOrAgg, exp.Lag, exp.Lead, exp.RowNumber, exp.WindowSpec,
)  # fmt: skip
"""What means the same in both."""
