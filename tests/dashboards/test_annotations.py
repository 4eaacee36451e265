"""What may be said of days, and which of it touches a period."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from analytics_dagster.dashboards.annotations import written
from analytics_dagster.errors import UserError

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Catalogue


@pytest.mark.parametrize("unseen", ["\n", "\x01", "\u2028"])
def test_an_annotation_is_one_line_of_what_can_be_seen(catalogue: Catalogue, unseen: str) -> None:
    with pytest.raises(UserError, match=rf"text .* has U\+{ord(unseen):04X} as character 4; write one line"):
        written(catalogue, f"Cam{unseen}paign", "2026-03-04")
    assert written(catalogue, " Käse 👩\u200d🎤 ", "2026-03-04").text == "Käse 👩\u200d🎤"
