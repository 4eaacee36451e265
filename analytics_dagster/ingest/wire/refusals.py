"""How many rows of one body are refused one by one.

A row that cannot be taken may be two bytes long, and what is said about it is a few hundred: without a bound, a body within its
limit would fill the memory with reasons.
"""

from __future__ import annotations

from analytics_dagster.ingest.points import RowRefusal
from analytics_dagster.ingest.wire.bodies import UnreadableBodyError

MOST_REFUSED = 100_000


def check_refused(count: int, last: RowRefusal | None = None) -> None:
    """Raises UnreadableBodyError for more than MOST_REFUSED: then nothing of the body is taken."""
    if count > MOST_REFUSED:
        why = f"; the last is {last.field or 'row'} {last.value!r}: {last.reason}" if last else ""
        raise UnreadableBodyError(f"more than {MOST_REFUSED:,} rows of the body cannot be taken{why}")


def note(refused: list[RowRefusal], refusal: RowRefusal) -> None:
    """Add one. Raises UnreadableBodyError."""
    refused.append(refusal)
    check_refused(len(refused), refusal)
