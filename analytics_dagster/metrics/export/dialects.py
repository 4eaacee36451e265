"""Snippets of declarations as SQL for other engines: parameters given their values, and division written out.

Declarations are DuckDB's SQL, where `/` gives a fraction and a division by 0 gives nothing. In other engines `1 / 2` may be 0
and `1 / 0` an error, so both are said in the SQL itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot import exp

NO_NAMES: Mapping[str, exp.Expr] = {}


def rewritten(text: str, parameters: Mapping[str, int], names: Mapping[str, exp.Expr] = NO_NAMES) -> exp.Expr:
    """The tree of a checked snippet or formula, with `$parameters` as numbers and columns in `names` replaced.

    Names that need no quotes lose them: engines differ in what a quote is and in what case a quoted name has.
    """
    import sqlglot
    from sqlglot import exp

    # The parenthesis is there for the nodes to have a parent; it is taken off again.
    root = exp.paren(sqlglot.parse_one(text, dialect="duckdb"))
    for parameter in list(root.find_all(exp.Placeholder)):
        parameter.replace(exp.Literal.number(parameters[parameter.name]))
    # The innermost first: an outer one is given a copy of what is in it.
    for division in reversed(list(root.find_all(exp.Div))):
        division.set("this", exp.cast(division.this.copy(), exp.DType.DOUBLE))
        division.set("expression", _nonzero(division.expression.copy()))
    for column in list(root.find_all(exp.Column)):
        if column.name in names:
            column.replace(names[column.name].copy())
    for name in root.find_all(exp.Identifier):
        name.set("quoted", not _plain(name.name))
    inner: exp.Expr = root.this
    return inner


def quotient(numerator: exp.Expr, denominator: exp.Expr) -> exp.Expr:
    """One tree divided by another; nothing where the denominator is 0."""
    from sqlglot import exp

    fraction = exp.cast(numerator.copy(), exp.DType.DOUBLE)
    return exp.Div(this=fraction, expression=_nonzero(denominator.copy()), typed=False, safe=False)


def duckdb_sql(tree: exp.Expr) -> str:
    """A tree in DuckDB's SQL."""
    return tree.sql("duckdb")


def ansi_sql(tree: exp.Expr) -> str | None:
    """A tree in standard SQL (SQL:2003), or None where it calls what the standard does not have."""
    from sqlglot import exp

    known = tuple(getattr(exp, name) for name in _STANDARD)
    if not all(isinstance(node, known) and not isinstance(node, exp.TryCast) for node in tree.walk()):
        return None
    standard = tree.copy()
    for type_ in list(standard.find_all(exp.DataType)):
        if type_.this is exp.DType.TEXT:
            type_.set("this", exp.DType.VARCHAR)  # DuckDB has one type for both, the standard only this one
    # sqlglot writes no dialect that is the standard's; of what `_STANDARD` lists, PostgreSQL's spelling is.
    return standard.sql("postgres")


def databricks_sql(tree: exp.Expr) -> str:
    """A tree in Databricks' SQL; declarations call only functions that DuckDB and Spark share."""
    return tree.sql("databricks")


def _nonzero(divisor: exp.Expr) -> exp.Expr:
    from sqlglot import exp

    if isinstance(divisor, exp.Literal) and float(divisor.name) != 0:
        return divisor
    return exp.Nullif(this=divisor, expression=exp.Literal.number(0))


@functools.cache
def _plain(name: str) -> bool:
    """Whether a name means itself without quotes, in every engine that folds case or does not."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return False
    try:
        return isinstance(sqlglot.parse_one(name, dialect="duckdb"), exp.Column)
    except SqlglotError:
        return False


_STANDARD = (
    "Column", "Identifier", "Literal", "Boolean", "Null", "Paren", "Var",
    "Add", "Sub", "Mul", "Div", "Mod", "Neg", "EQ", "NEQ", "GT", "GTE", "LT", "LTE",
    "And", "Or", "Not", "Is", "In", "Between", "Like", "Case", "If", "Cast", "DataType", "DataTypeParam",
    "Coalesce", "Nullif", "Lower", "Upper", "Trim", "Substring", "DPipe", "Abs", "Floor", "Ceil", "Extract",
    "Count", "Sum", "Avg", "Min", "Max", "Distinct", "PercentileDisc", "WithinGroup", "Order", "Ordered",
)  # fmt: skip
"""Kinds of sqlglot's nodes that the standard has."""
