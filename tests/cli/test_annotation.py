"""`analytics annotation`: add, list and remove what is said of a tenant's days."""

from __future__ import annotations

import json
from pathlib import Path

from cli.command import analytics


def test_an_annotation_is_added_listed_and_removed(home: Path) -> None:
    assert analytics("tenant", "add", "acme", "--home", home).status == 0
    of = ("--tenant", "acme", "--home", home)
    made = analytics("annotation", "add", "Player 4.2", "--from", "2026-03-05", "--metric", "streams", *of, "--json")
    number = json.loads(made.out)["id"]
    [line] = analytics("annotation", "list", *of).out.splitlines()
    assert line.split("\t")[1:] == ["2026-03-05 00:00", "2026-03-05 23:59", "streams", "Player 4.2"]
    refused = analytics("annotation", "add", "x", "--from", "March", *of)
    assert (refused.status, "is neither a day nor a time" in refused.err) == (2, True)
    assert analytics("annotation", "remove", str(number), *of).status == 0
    assert analytics("annotation", "remove", str(number), *of).status == 2
    assert json.loads(analytics("annotation", "list", *of, "--json").out) == []
    assert [row.split("\t")[1] for row in analytics("audit", *of).out.splitlines()][-2:] == [
        "annotation.add",
        "annotation.remove",
    ]
