"""The verbs as a user calls them."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analytics_dagster.cli.importing import FORMAT_NAMES
from analytics_dagster.cli.main import run
from analytics_dagster.sources.formats import FORMATS

CONTENT = b'played_at,title,artist\n2018-01-01 10:00,T,X\n2018-01-01 10:01,"T,\xe9\nnever,"A ""b"", c",X\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_bytes(CONTENT)
    return tmp_path


def analytics(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from analytics_dagster.cli.main import run; run()", *arguments]
    environment = {**os.environ, "ANALYTICS_HOME": str(folder / "home")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_import_prints_its_counts_and_says_that_it_made_the_tenant(folder: Path) -> None:
    arguments = ("import", "radio-log", "log.csv", "--tenant", "me", "--time-zone", "Europe/Brussels", "--json")
    first, again = analytics(folder, *arguments), analytics(folder, *arguments)
    assert first.returncode == again.returncode == 0, first.stderr
    assert json.loads(first.stdout) == {"read": 3, "kept": 1, "duplicate": 0, "quarantined": 2}
    assert json.loads(again.stdout) == {"read": 3, "kept": 0, "duplicate": 1, "quarantined": 2}
    assert "created tenant me" in first.stderr
    assert "created" not in again.stderr
    listed = analytics(folder, "quarantine", "list", "--tenant", "me", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(listed.stdout)))
    assert [(row["file"], row["line"], row["field"]) for row in rows] == [("log.csv", "3", ""), ("log.csv", "4", "played_at")]
    assert rows[0]["original"] == '2018-01-01 10:01,"T,\\xe9'
    assert rows[1]["original"] == 'never,"A ""b"", c",X'
    assert "never" in analytics(folder, "quarantine", "list", "--tenant", "me").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("import", "radio-log", "none.csv", "--tenant", "me"), "no such file"),
        (("import", "radio-log", "log.csv"), "--tenant-column"),
        (("import", "radio-log", "log.csv", "--tenant", "me", "--time-zone", "Mars/Base"), "IANA"),
        (("import", "lastfm", "log.csv", "--tenant", "Me!"), "tenant id"),
        (("import", "itunes", "log.csv", "--tenant", "me"), "spotify-history"),
        (("import", "users", "log.csv", "--tenant", "me"), "lacks user_id"),
        (("quarantine", "list", "--tenant", "nobody"), "no installation"),
    ],
)
def test_what_cannot_be_imported_ends_in_one_line_and_status_2(
    folder: Path, arguments: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        run(["--home", str(folder / "home"), *arguments])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert says in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert told.out == ""


def test_the_help_names_every_format() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


def test_the_reference_has_every_format() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text()
    assert [name for name in FORMATS if f"`{name}`" not in reference] == []
