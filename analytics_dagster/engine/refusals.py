"""How an engine says which points it did not take, and why."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from analytics_dagster.errors import UserError
from analytics_dagster.ingest.points import MAX_REFUSALS_NAMED, RowRefusal


class RefusedPointsError(UserError):
    """Points of one call that are not allowed; nothing of the call was recorded.

    `refused` names the first 100 of them (index within the call, field, value, reason); `count` is how many there were, `total`
    how many points the call had. `recorded` is 0, but for a table that a remote engine sends in several requests.
    """

    def __init__(self, refused: Sequence[RowRefusal], total: int, *, count: int | None = None, recorded: int = 0) -> None:
        self.count = len(refused) if count is None else count
        self.total, self.recorded = total, recorded
        self.refused = tuple(refused[:MAX_REFUSALS_NAMED])
        rows = "\n".join(f"  point {row.index}: {_described(row)}" for row in self.refused)
        more = f"\n  and {self.count - len(self.refused):,} more" if self.count > len(self.refused) else ""
        kept = f"{recorded:,} were" if recorded else "nothing was"
        super().__init__(f"{self.count:,} of {total:,} points refused, {kept} recorded:\n{rows}{more}")

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), count=self.count, recorded=self.recorded), (self.refused, self.total)


def _described(row: RowRefusal) -> str:
    return f"{row.field} {row.value!r} {row.reason}" if row.field else row.reason
