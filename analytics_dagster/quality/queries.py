"""The SQL behind every measure, and behind the rows that failed it: the same condition builds both.

Pure text: `raw` and `arrivals` are relations as `Table.sql()` gives them, the present is `getvariable('now')`, and every
measuring query gives (day, fact) with one row per UTC day that has raw rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from analytics_dagster.lake.compute import identifier, literal
from analytics_dagster.lake.lake import duckdb_type
from analytics_dagster.lake.schemas import TableSchema
from analytics_dagster.quality.results import ROW_MEASURES, Expectation, Measure

_DAY = "CAST(ts AS DATE)"


def rows_per_day(raw: str) -> str:
    """(day, rows, how many of the day's whole hours, as far as they are over, have a row)."""
    over = "ts < date_trunc('hour', getvariable('now'))"
    return f"SELECT {_DAY}, count(*), bit_count(bit_or(1 << hour(ts)) FILTER (WHERE {over})) FROM {raw} GROUP BY 1"


def rows_arrived(arrivals: str) -> str:
    """(day, rows) of what landed: a day with no more of them than raw rows has lost none, and is not looked at closer."""
    return f"SELECT {_DAY}, count(*) FROM {arrivals} GROUP BY 1"


def keys_arrived(arrivals: str, key: str) -> str:
    """(day, different keys) of what landed."""
    return f"SELECT {_DAY}, count(DISTINCT {identifier(key)}) FROM {arrivals} GROUP BY 1"


def row_facts(checks: Sequence[Expectation], raw: str) -> str:
    """(day, one column per check), in the order of `checks`."""
    columns = ", ".join(_row_fact(check) for check in checks)
    return f"SELECT {_DAY}, {columns} FROM {raw} GROUP BY 1"


def group_facts(check: Expectation, raw: str) -> str:
    """(day, fact) of a measure over combinations of `check.group`. A row with an empty group value is in no group."""
    names = [f"_g{n}" for n in range(len(check.group))]
    grouped = ", ".join(f"{expression} AS {name}" for expression, name in zip(check.group, names, strict=True))
    present = " AND ".join(f"({expression}) IS NOT NULL" for expression in check.group)
    flag = f"({check.bad})" if check.measure is Measure.GROUPS else "NULL"
    keys = ", ".join(str(n) for n in range(1, len(names) + 2))
    groups = f"SELECT {_DAY} AS _day, {grouped}, count(*) AS _n, {flag} AS _bad FROM {raw} WHERE {present} GROUP BY {keys}"
    fact = {
        Measure.DUPLICATES: "sum(_n - 1)",
        Measure.LARGEST_SHARE: "max(_n) / sum(_n)",
        Measure.GROUPS: "count_if(_bad)",
    }[check.measure]
    enough = f"sum(_n) >= {check.at_least_rows} AND count(*) >= {check.at_least_groups}"
    return f"SELECT _day, CASE WHEN {enough} THEN CAST({fact} AS DOUBLE) END FROM ({groups}) GROUP BY _day"


def measuring(check: Expectation, table: TableSchema) -> str | None:
    """A check's own query over an empty table, to try its SQL; None where the check has none of its own."""
    empty = ", ".join(f"NULL::{duckdb_type(c.type)} AS {identifier(c.name)}" for c in table.columns)
    relation = f"(SELECT {empty} WHERE false)"
    if check.measure in ROW_MEASURES:
        return row_facts([check], relation)
    return group_facts(check, relation) if check.group else None


def failing(check: Expectation, table: TableSchema, raw: str, arrivals: str, limit: int) -> str | None:
    """The rows that a check counted, oldest first; None for a measure that is not about rows that are there."""
    columns = ", ".join(identifier(column.name) for column in table.columns)
    key = identifier(table.key)
    match check.measure:
        case Measure.SHARE | Measure.COUNT:
            # coalesce() keeps the condition whole: parts of it, compared with Parquet's min and max, would lose NaN.
            relation, condition = raw, f"coalesce({_among(check)} AND ({check.bad}), false){_formats_judged(check, raw)}"
        case Measure.DUPLICATES | Measure.LARGEST_SHARE | Measure.GROUPS:
            relation, condition = raw, f"hash({_tuple(check)}) IN ({_failing_groups(check, raw)})"
        case Measure.UNPROCESSED:
            relation, condition = arrivals, f"{key} NOT IN (SELECT {key} FROM {raw})"
        case Measure.VOLUME_RATIO | Measure.SILENT_HOURS:
            return None
    return f"SELECT {columns} FROM {relation} WHERE {condition} ORDER BY ts, {key} LIMIT {limit}"


def _row_fact(check: Expectation) -> str:
    always, if_any = _scopes(check)
    judged, bad = [f"count_if({always})"], [f"count_if({always} AND ({check.bad}))"]
    for scope in if_any:
        rows, wrong = f"count_if({scope})", f"count_if({scope} AND ({check.bad}))"
        judged.append(f"if({rows} > {wrong}, {rows}, 0)")
        bad.append(f"if({rows} > {wrong}, {wrong}, 0)")
    rows, wrong = " + ".join(judged), " + ".join(bad)
    fact = f"({wrong}) / ({rows})" if check.measure is Measure.SHARE else wrong
    return f"CASE WHEN {rows} >= {check.at_least_rows} THEN CAST({fact} AS DOUBLE) END AS {identifier(check.name)}"


def _among(check: Expectation) -> str:
    return f"({check.among})" if check.among else "true"


def _scopes(check: Expectation) -> tuple[str, list[str]]:
    """Conditions of the rows that are always judged, and of each format that is judged where it has the value at all."""
    among = _among(check)
    if not check.formats and not check.formats_if_any:
        return among, []
    always = f"({among} AND {_format_in(check.formats)})"
    return always, [f"({among} AND {_format_in((name,))})" for name in check.formats_if_any]


def _format_in(formats: Sequence[str]) -> str:
    return f"format IN ({', '.join(literal(f) for f in formats)})" if formats else "false"


def _formats_judged(check: Expectation, raw: str) -> str:
    if not check.formats and not check.formats_if_any:
        return ""
    if not check.formats_if_any:
        return f" AND {_format_in(check.formats)}"
    has_it = (
        f"SELECT format FROM {raw} WHERE {_among(check)} AND {_format_in(check.formats_if_any)} "
        f"GROUP BY format HAVING count(*) > count_if({check.bad})"
    )
    return f" AND ({_format_in(check.formats)} OR format IN ({has_it}))"


def _tuple(check: Expectation) -> str:
    return f"row({', '.join(check.group)})"


def _failing_groups(check: Expectation, raw: str) -> str:
    """Hashes of the combinations that make the fact what it is (a tuple with an empty part never equals itself)."""
    present = " AND ".join(f"({expression}) IS NOT NULL" for expression in check.group)
    match check.measure:
        case Measure.DUPLICATES:
            having = "count(*) > 1"
        case Measure.LARGEST_SHARE:
            having = f"count(*) > {check.maximum or 0} * (SELECT count(*) FROM {raw} WHERE {present})"
        case _:
            having = f"({check.bad})"
    return f"SELECT hash({_tuple(check)}) FROM {raw} WHERE {present} GROUP BY {', '.join(check.group)} HAVING {having}"
