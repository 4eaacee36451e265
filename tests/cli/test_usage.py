"""What a mistyped command line gets: one line that names the mistake and where to look, and exit status 2."""

from __future__ import annotations

import pytest

from analytics_dagster.cli.main import run


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("frob", "analytics: No such command 'frob'; see `analytics --help`\n"),
        ("query plays", "analytics: Missing option '--tenant'; see `analytics query --help`\n"),
        ("tenant add", "analytics: Missing argument 'tenant'; see `analytics tenant add --help`\n"),
        ("simulate --days many", "analytics: Invalid value for '--days'"),
        ("up --port 70000", "analytics: Invalid value for '--port'"),
        ("query plays --tennant a", "analytics: No such option: --tennant"),
    ],
)
def test_a_mistyped_line_is_told_in_one_line(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(line.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(said)
    assert error.count("\n") == 1


@pytest.mark.parametrize("line", ["", "rules", "tenant"])
def test_a_line_without_a_verb_shows_what_there_is(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(line.split())
    assert ended.value.code == 2
    assert "Usage: " in capsys.readouterr().out
