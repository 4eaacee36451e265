"""Figures that look at the days after their own: what `conversion.py` and `retention.py` share.

Such a figure belongs to the day on which something began, as MetricFlow tells conversions, and is known only when the days
that it looks at are there: until then it is absent, since a share that can only grow reads like a bad day. What is there ends
with the newest day that the table has. Everything is SQL over two common tables of day states: `every`, all of them in reach,
and `reaching`, those that meet a question's conditions, with the keys that it splits by. So conditions and splits are about
where something began, as in MetricFlow, and what follows counts wherever it happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.metrics.declarations import Family, Grain
from analytics_dagster.metrics.formulas import Ahead, Conversion, Formula, MeasureFigure, Retention, figures
from analytics_dagster.metrics.ranges import Range

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake

EVERY, REACHING = "every", "reaching"


@dataclass(frozen=True)
class Asked:
    """What is asked of a figure: the buckets of its days (SQL over `ts`), the columns of `reaching` that it is split by, and the
    range of its days. `newest` is SQL for the newest day that the table has.
    """

    grain: Grain
    bucket: str
    keys: tuple[str, ...]
    range: Range
    newest: str

    def ended(self, bucket: str, day: str, days: str) -> str:
        """A condition: so many days (SQL) after the last of `bucket`'s days in the range (SQL, as is `day`, one of them) are
        there. In total those days count for which they are.
        """
        end = f"{day} + INTERVAL 1 DAY" if self.grain is Grain.TOTAL else f"{bucket} + INTERVAL 1 {self.grain}"
        if self.range.end is not None:
            end = f"least({end}, TIMESTAMPTZ '{self.range.end.isoformat()}')"
        return f"{end} + to_days(CAST({days} AS INTEGER)) <= {self.newest} + INTERVAL 1 DAY"


def newest_day(tenant: TenantLake, family: Family, wanted: Range) -> str:
    """SQL for the newest day that a family's table has, if it is not before `wanted`."""
    table = tenant.table(family.table(Grain.DAY))
    rows = table.sql() if wanted.begin is None else table.sql(*Range(wanted.begin).days)
    return f"(SELECT max(ts) FROM {rows})"


def ahead_of(formula: Formula) -> tuple[Ahead, ...]:
    """The figures of a formula that look ahead, each once."""
    return tuple(dict.fromkeys(leaf for leaf in figures(formula) if isinstance(leaf, Conversion | Retention)))


def days_before(formula: Formula) -> int:
    """How many days before its own a formula looks at."""
    return max((_before(leaf) for leaf in figures(formula)), default=0)


def days_after(formula: Formula) -> int:
    """How many days after its own a formula looks at."""
    return max((_after(leaf) for leaf in ahead_of(formula)), default=0)


def _before(leaf: MeasureFigure | Ahead) -> int:
    match leaf:
        case MeasureFigure():
            return (leaf.window or 1) - 1 + leaf.offset
        case Retention():
            return leaf.new_after
        case Conversion():
            return 0


def _after(leaf: Ahead) -> int:
    match leaf:
        case Conversion():
            return leaf.window - 1
        case Retention():
            return 0 if leaf.period is None else (leaf.period + 1) * leaf.length - 1
