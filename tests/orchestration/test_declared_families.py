"""Metrics of ANALYTICS_METRICS are as much part of the graph as the built-in ones.

In processes of their own, because the graph is built when the code is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DECLARED = """
semantic_models:
  - name: albums
    description: Long plays by album.
    model: raw/plays
    owner: content
    entities: [{name: track, type: foreign, expr: track_id, description: What was played.}]
    dimensions: [{name: album, description: Release.}]
    measures:
      - {name: album_plays, agg: count, expr: play_id, description: Plays.}
      - {name: album_long_plays, agg: sum_boolean, expr: ms_played >= 300000, description: Plays of five minutes or more.}
metrics:
  - name: album_long_play_rate
    description: Share of plays of five minutes or more.
    type: ratio
    type_params: {numerator: album_long_plays, denominator: album_plays}
    unit: ratio
    direction: neutral
"""
PLAYS = """ts,track,album,listener_id,ms_played,track_ms
2026-03-01T10:00:00Z,Long,One,ada,400000,400000
2026-03-01T10:10:00Z,Short,One,ada,100000,200000
2026-03-01T10:20:00Z,Short,Two,ada,100000,200000
"""


@pytest.fixture
def metrics(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("ANALYTICS_METRICS", str(folder))
    monkeypatch.setenv("ANALYTICS_HOME", str(home))
    return folder


def _analytics(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from analytics_dagster.cli.main import run; run()", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=240)


def test_a_declared_family_gets_its_table_and_its_figures(metrics: Path, tmp_path: Path) -> None:
    (metrics / "albums.yaml").write_text(DECLARED)
    (tmp_path / "plays.csv").write_text(PLAYS)
    assert _analytics("import", "plays", str(tmp_path / "plays.csv"), "--tenant", "acme").returncode == 0
    made = _analytics("materialize")
    assert made.returncode == 0, made.stderr
    asked = _analytics("query", "album_long_play_rate", "--tenant", "acme", "--by", "album", "--format", "json")
    assert [(row["album"], row["value"]) for row in json.loads(asked.stdout)] == [("One", 0.5), ("Two", 0.0)]


def test_a_declaration_that_is_wrong_is_told_with_its_line_and_nothing_runs(metrics: Path) -> None:
    (metrics / "albums.yaml").write_text(DECLARED.replace("numerator: album_long_plays", "numerator: album_longest_plays"))
    assert _analytics("tenant", "add", "acme").returncode == 0
    refused = _analytics("materialize")
    assert refused.returncode == 2
    assert "albums.yaml:" in refused.stderr
    assert "album_longest_plays" in refused.stderr
    assert refused.stderr.count("\n") == 1
