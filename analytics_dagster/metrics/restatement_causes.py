"""Why a published figure changed, told from evidence: what it was computed with when it was published, and what is there now."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why; in the order in which several are joined by `+`."""

    LATE_ROWS = "late_rows"
    """The day has more rows than it had."""
    CORRECTION = "correction"
    """Rows came again with other content."""
    ERASURE = "erasure"
    """The day has fewer rows than it had."""
    POLICY = "policy"
    """The declaration of the family, or a parameter of it such as the stream threshold, is another."""
    RERUN = "rerun"
    """None of these: the same rows and declarations, computed by other code."""


@dataclass(frozen=True)
class Basis:
    """What a day's figures are computed with.

    `declaration` is the family's version, `stream_ms` the stream threshold, `session_gap_ms` the longest pause within a session,
    `note` the newest arrival note that the raw day contains, `rows` how many rows it has.
    """

    declaration: str
    stream_ms: int
    note: int
    rows: int
    session_gap_ms: int = 0

    def text(self) -> str:
        """As it is kept with the publication."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def policy(self) -> tuple[str, int, int]:
        """What is decided, and not counted."""
        return self.declaration, self.stream_ms, self.session_gap_ms

    @classmethod
    def of(cls, text: str) -> Basis:
        return cls(**json.loads(text))


def declared_as(version: str) -> str:
    """What the text of every basis of this version of a family has in it, and of no other: for a condition in the database."""
    return f'"declaration": {json.dumps(version)}'


def cause(before: Basis, now: Basis, arrived: int | None) -> str:
    """Why figures made with `before` and with `now` differ. `arrived` is how many rows of the day came in between; None: some
    did, uncounted.

    Rows that came and did not make the day longer took the place of others.
    """
    grown = now.rows - before.rows
    said = {
        Cause.LATE_ROWS: grown > 0,
        Cause.CORRECTION: (arrived is None and grown <= 0) or (arrived is not None and arrived > max(grown, 0)),
        Cause.ERASURE: grown < 0,
        Cause.POLICY: before.policy != now.policy,
    }
    found = [each.value for each, holds in said.items() if holds]
    return "+".join(found) or Cause.RERUN.value
