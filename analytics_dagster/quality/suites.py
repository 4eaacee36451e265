"""Reads suites: `declared/<table>.yaml` of this package, and a folder of a team's own beside them.

A team's file may add checks to a table and replace a built-in one by its name (to move a threshold). What a check may say
is the class `_Check`; the SQL it holds is tried on an empty table when it is read, so that a typo fails with its line at
the start and not in the middle of a run. Nothing is measured or judged here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from analytics_dagster.errors import DeclarationError
from analytics_dagster.lake.schemas import BY_NAME, EVENT_TABLES, TableSchema
from analytics_dagster.quality import queries
from analytics_dagster.quality.results import (
    GROUP_MEASURES,
    ROW_MEASURES,
    Dimension,
    Expectation,
    ExpectationType,
    Measure,
    Severity,
    Suite,
)

BUILT_IN = Path(__file__).parent / "declared"
# Dagster's grammar of asset check names, without the capitals.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# Profile columns that are not checks.
_TAKEN = frozenset({"tenant", "day"})


class _Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of one check in YAML; see docs/reference/quality.md."""

    name: str
    description: str
    severity: Severity
    dimension: Dimension
    measure: Measure
    remedy: str
    expect: ExpectationType = ExpectationType.BETWEEN
    min: float | None = None
    max: float | None = None
    values: tuple[float, ...] = ()
    bad: str | None = None
    among: str | None = None
    formats: tuple[str, ...] = ()
    formats_if_any: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    at_least_rows: int = 1
    at_least_groups: int = 1


def load_suites(extra: Path | None = None) -> dict[str, Suite]:
    """Every event table's suite by the table's name, with the files `*.yaml` of the folder `extra` laid over the built-in ones.

    Raises DeclarationError naming file, line, field and value.
    """
    suites = {table.name: _load(BUILT_IN / f"{table.name}.yaml") for table in EVENT_TABLES}
    if extra is None:
        return suites
    if not extra.is_dir():
        raise DeclarationError(f"{extra}: not a folder; name the folder that holds your suites (*.yaml)")
    for path in sorted(extra.glob("*.yaml")):
        own = _load(path)
        for check in own.checks:
            _try_sql(own.table, check)
        suites[own.table.name] = _overlay(suites[own.table.name], own)
    return suites


def suite_of(table: TableSchema, suites: Mapping[str, Suite] | None = None) -> Suite:
    """The suite of one event table; the built-in one without `suites`."""
    if suites is not None:
        return suites[table.name]
    return _load(BUILT_IN / f"{table.name}.yaml")


def _overlay(base: Suite, own: Suite) -> Suite:
    replaced = {check.name: check for check in own.checks}
    kept = [replaced.pop(check.name, check) for check in base.checks]
    return Suite(base.table, own.description or base.description, (*kept, *replaced.values()))


def _load(path: Path) -> Suite:
    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        lines = _check_lines(yaml.compose(text, Loader=yaml.SafeLoader))
    except OSError as error:
        raise DeclarationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DeclarationError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise DeclarationError(f"{path}:{line}: is not YAML: {getattr(error, 'problem', error)}") from None
    table, entries = _head(path, document)
    checks = [_check(table, entry, f"{path}:{line}") for entry, line in zip(entries, lines, strict=True)]
    seen: set[str] = set()
    for check in checks:
        if check.name in seen:
            raise DeclarationError(f"{check.where}: check {check.name!r} is declared twice in this file; rename or remove one")
        seen.add(check.name)
    return Suite(table, str(document.get("description", "")), tuple(checks))


def _head(path: Path, document: Any) -> tuple[TableSchema, Sequence[Any]]:
    tables = ", ".join(table.name for table in EVENT_TABLES)
    if not isinstance(document, dict):
        raise DeclarationError(f"{path}:1: a suite is a mapping with the keys table and checks")
    if unknown := sorted(map(str, document.keys() - {"table", "description", "checks"})):
        raise DeclarationError(f"{path}:1: unknown key {unknown[0]!r}; a suite has table, description and checks")
    table = BY_NAME.get(str(document.get("table")))
    if table not in EVENT_TABLES or table is None:
        raise DeclarationError(f"{path}:1: table {document.get('table')!r} is not an event table; use one of {tables}")
    entries = document.get("checks")
    if not isinstance(entries, list) or not entries:
        raise DeclarationError(f"{path}:1: checks must be a list of at least one check")
    return table, entries


def _check_lines(root: Any) -> list[int]:
    """Line of each entry below `checks`, counted from 1."""
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if key.value == "checks" and isinstance(value, yaml.SequenceNode):
            return [entry.start_mark.line + 1 for entry in value.value]
    return []


def _check(table: TableSchema, entry: Any, where: str) -> Expectation:
    try:
        declared = msgspec.convert(entry, _Check)
    except msgspec.ValidationError as error:
        name = entry.get("name") if isinstance(entry, dict) else entry
        raise DeclarationError(f"{where}: check {name!r}: {error}; see docs/reference/quality.md") from None
    if problem := _problem(table, declared):
        raise DeclarationError(f"{where}: check {declared.name!r}: {problem}")
    return Expectation(
        name=declared.name,
        description=declared.description.strip(),
        severity=declared.severity,
        dimension=declared.dimension,
        measure=declared.measure,
        remedy=declared.remedy.strip(),
        expect=declared.expect,
        minimum=declared.min,
        maximum=declared.max,
        values=declared.values,
        bad=declared.bad,
        among=declared.among,
        formats=declared.formats,
        formats_if_any=declared.formats_if_any,
        group=declared.group,
        at_least_rows=declared.at_least_rows,
        at_least_groups=declared.at_least_groups,
        where=where,
    )


def _problem(table: TableSchema, check: _Check) -> str | None:
    """What contradicts itself in a check whose fields are all well formed."""
    columns = {column.name for column in table.columns}
    if not _NAME.fullmatch(check.name) or check.name in _TAKEN:
        return "a name is 1 to 63 lower-case letters, digits and underscores, begins with a letter, and is not tenant or day"
    if check.measure in ROW_MEASURES | {Measure.GROUPS} and not check.bad:
        return f"measure {check.measure} needs `bad`, the SQL condition that marks what is wrong"
    if check.measure in GROUP_MEASURES and not check.group:
        return f"measure {check.measure} needs `group`, a list of columns or SQL expressions"
    if (check.among or check.formats or check.formats_if_any) and check.measure not in ROW_MEASURES:
        return f"among, formats and formats_if_any are for the measures share and count, not {check.measure}"
    if (check.formats or check.formats_if_any) and "format" not in columns:
        return f"{table.path} has no column format; leave out formats and formats_if_any"
    if set(check.formats) & set(check.formats_if_any):
        return f"{sorted(set(check.formats) & set(check.formats_if_any))} stands in formats and in formats_if_any; keep one"
    return _problem_of_bounds(check)


def _problem_of_bounds(check: _Check) -> str | None:
    if check.expect is ExpectationType.BETWEEN:
        if check.values:
            return f"values belong to {ExpectationType.IN_SET} and {ExpectationType.NOT_IN_SET}; give min or max"
        if check.min is None and check.max is None:
            return "give min, max or both"
        if check.min is not None and check.max is not None and check.min > check.max:
            return f"min {check.min:g} is greater than max {check.max:g}"
    elif not check.values or check.min is not None or check.max is not None:
        return f"{check.expect} takes a list of values, and neither min nor max"
    if check.at_least_rows < 1 or check.at_least_groups < 1:
        return "at_least_rows and at_least_groups begin at 1"
    return None


def _try_sql(table: TableSchema, check: Expectation) -> None:
    """Have DuckDB bind a check's SQL to the table's columns."""
    import duckdb

    from analytics_dagster.lake.compute import connect
    from analytics_dagster.quality.profile import prepare

    sql = queries.measuring(check, table)
    if sql is None:
        return
    with connect(threads=1) as connection:
        prepare(connection, now=None)
        try:
            connection.execute(sql)
        except duckdb.Error as error:
            raise DeclarationError(f"{check.where}: check {check.name!r}: its SQL does not run: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
