"""Suites as people write them: what may be added and replaced, and how a mistake is told."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from analytics_dagster.errors import DeclarationError
from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.quality.suites import load_suites

if TYPE_CHECKING:
    from conftest import Warehouse

HEAD = "table: plays\nchecks:\n"
CHECK = """  - name: plays_have_an_album
    description: Most plays name a release.
    dimension: completeness
    severity: warning
    measure: share
    bad: album IS NULL
    max: 0.5
    remedy: Ask the source for releases.
"""


def read(folder: Path, text: str) -> None:
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    load_suites(folder)


def test_a_folder_adds_checks_and_replaces_built_in_ones_by_name(tmp_path: Path, warehouse: Warehouse) -> None:
    moved = CHECK.replace("plays_have_an_album", "keys_are_unique").replace("share", "count").replace("0.5", "7")
    (tmp_path / "own.yaml").write_text(HEAD + CHECK + moved, encoding="utf-8")

    suites = load_suites(tmp_path)

    names = [check.name for check in suites["plays"].checks]
    built_in = [check.name for check in load_suites()["plays"].checks]
    assert names == [*built_in, "plays_have_an_album"]
    replaced = suites["plays"].check("keys_are_unique")
    assert replaced is not None
    assert replaced.maximum == 7

    day = date(2026, 3, 2)
    warehouse.put("acme", PLAYS, warehouse.good(PLAYS, day, 30))
    now = datetime(2026, 3, 20, tzinfo=UTC)
    failed = [o for o in warehouse.judge(PLAYS, day, day, now=now, suites=suites, history=None) if not o.passed]
    assert [(o.check, o.observed, o.expected, o.finding) for o in failed] == [
        ("keys_are_unique", 30.0, "at most 7", "30, expected at most 7"),
        ("plays_have_an_album", 1.0, "at most 50 %", "100 %, expected at most 50 %"),
    ]


def test_a_set_of_values_is_judged_by_the_set_expectations(tmp_path: Path, warehouse: Warehouse) -> None:
    in_set = CHECK.replace("measure: share", "measure: count\n    expect: expect_column_values_to_be_in_set")
    (tmp_path / "own.yaml").write_text(HEAD + in_set.replace("max: 0.5", "values: [0, 30]"), encoding="utf-8")
    suites = load_suites(tmp_path)
    day = date(2026, 3, 2)
    warehouse.put("thirty", PLAYS, warehouse.good(PLAYS, day, 30))
    warehouse.put("forty", PLAYS, warehouse.good(PLAYS, day, 40))
    outcomes = warehouse.judge(PLAYS, day, day, suites=suites, history=None)
    judged = {o.tenant: (o.passed, o.expected) for o in outcomes if o.check == "plays_have_an_album"}
    assert judged == {"thirty": (True, "one of 0, 30"), "forty": (False, "one of 0, 30")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table: plays\nchecks: [", r"own\.yaml:2: is not YAML"),
        ("- a", r"own\.yaml:1: a suite is a mapping"),
        ("table: users\nchecks: []", r"own\.yaml:1: table 'users' is not an event table; use one of plays, metrics"),
        ("table: plays\nchecks: []", r"own\.yaml:1: checks must be a list of at least one check"),
        ("table: plays\ncheck: []", r"own\.yaml:1: unknown key 'check'"),
        (HEAD + CHECK.replace("max: 0.5", "max: lots"), r"own\.yaml:3: check 'plays_have_an_album': .*max"),
        (HEAD + CHECK.replace("max:", "maximum:"), r"own\.yaml:3: check 'plays_have_an_album': .*unknown field `maximum`"),
        (HEAD + CHECK.replace("severity: warning", "severity: bad"), r":3: .*Invalid enum value 'bad' - at `\$\.severity`"),
        (HEAD + CHECK.replace("    max: 0.5\n", ""), r"own\.yaml:3: .*give min, max or both"),
        (HEAD + CHECK.replace("max: 0.5", "min: 2\n    max: 1"), r"own\.yaml:3: .*min 2 is greater than max 1"),
        (HEAD + CHECK + CHECK, r"own\.yaml:11: check 'plays_have_an_album' is declared twice"),
        (HEAD + CHECK.replace("plays_have", "Plays-have"), r"own\.yaml:3: .*a name is 1 to 63 lower-case letters"),
        (HEAD + CHECK.replace("    bad: album IS NULL\n", ""), r"own\.yaml:3: .*measure share needs `bad`"),
        (HEAD + CHECK.replace("share", "duplicates"), r"own\.yaml:3: .*measure duplicates needs `group`"),
        (HEAD + CHECK.replace("album IS NULL", "albun IS NULL"), r"own\.yaml:3: .*its SQL does not run: .*albun"),
        (HEAD + CHECK.replace("max: 0.5", "max: 0.5\n    values: [1]"), r":3: .*values belong to expect_column"),
        (
            HEAD.replace("plays", "metrics") + CHECK.replace("max: 0.5", "max: 0.5\n    formats: [plays]"),
            r"own\.yaml:3: .*raw/metrics has no column format",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_line_and_remedy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=message):
        read(tmp_path, text)


def test_a_missing_folder_and_a_file_in_another_encoding_are_told(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="not a folder"):
        load_suites(tmp_path / "none")
    (tmp_path / "own.yaml").write_bytes(b"table: \xe9")
    with pytest.raises(DeclarationError, match="is not UTF-8"):
        load_suites(tmp_path)


def test_the_reference_lists_every_check_as_it_is_declared() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/quality.md").read_text(encoding="utf-8")
    checks = page.split("\n## ")[1]
    sections = {section.splitlines()[0]: section for section in checks.split("\n### ")}
    for suite in load_suites().values():
        listed = [line for line in sections[suite.table.path].splitlines() if line.startswith("| `")]
        assert listed == [
            f"| `{c.name}` | {c.description} | {c.expected} | {c.severity} | {c.dimension} |" for c in suite.checks
        ], suite.table.path
