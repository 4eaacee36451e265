"""Where a verb finds its home, and that looking around never makes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.command import analytics

from analytics_dagster.cli.main import home_first

READING = (
    "materialize",
    "doctor",
    "tenant list",
    "tenant suspend acme",
    "rules list",
    "quarantine list --tenant acme",
    "query plays --tenant acme",
)


@pytest.mark.parametrize("verb", READING)
def test_a_verb_that_reads_never_makes_a_home(home: Path, verb: str) -> None:
    error = analytics(*verb.split(), "--home", home).error
    assert f"no installation at {home}" in error or "no rule file at" in error
    assert not home.exists()


def test_the_home_may_stand_anywhere_on_the_line(home: Path) -> None:
    assert analytics("--home", home, "tenant", "add", "first").status == 0
    assert analytics("tenant", "--home", home, "add", "second").status == 0
    assert analytics("tenant", "add", f"--home={home}", "third").status == 0
    listed = analytics("tenant", "list", "--home", home)
    assert [line.split("\t")[0] for line in listed.out.splitlines()] == ["first", "second", "third"]


def test_what_follows_a_double_dash_is_not_an_option() -> None:
    assert home_first(["query", "--", "--home", "x"]) == ["query", "--", "--home", "x"]


def test_a_home_without_a_value_is_told(home: Path) -> None:
    assert "--home needs the folder" in analytics("tenant", "list", "--home").error


def test_the_nearest_home_upward_is_found_as_git_finds_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert analytics("tenant", "add", "acme", "--home", home).status == 0
    below = home.parent / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert analytics("tenant", "list").out.startswith("acme\t")
    assert not (below / ".analytics").exists()


def test_the_environment_names_the_home_and_the_line_wins_over_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "other"))
    assert analytics("tenant", "add", "of-the-environment").status == 0
    assert analytics("tenant", "add", "of-the-line", "--home", home).status == 0
    assert "of-the-environment" in analytics("tenant", "list").out
    assert "of-the-line" in analytics("tenant", "list", "--home", home).out


def test_a_wrong_setting_is_refused_with_name_value_and_remedy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLEL_WORKERS", "many")
    error = analytics("tenant", "list", "--home", home).error
    assert "PARALLEL_WORKERS='many'" in error
    assert "see docs/reference/settings.md" in error


def test_the_version_is_printed(home: Path) -> None:
    from analytics_dagster import __version__

    assert analytics("--version").out == f"{__version__}\n"
