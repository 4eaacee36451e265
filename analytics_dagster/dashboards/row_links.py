"""Addresses that lead from a board's figures to the raw rows behind them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from analytics_dagster.dashboards.figures import Basis, Figure, Leaderboard, Shown, basis_of
from analytics_dagster.dashboards.view import Days, Filter, Operator
from analytics_dagster.metrics.declarations import Catalogue, Grain


@dataclass(frozen=True)
class RowLinks:
    """Addresses of the rows behind a board's figures, as they stand in its own pages (relative, since there are many)."""

    days: Days
    grain: Grain
    catalogue: Catalogue

    def figure(self, figure: Figure) -> str:
        """Behind the figure of the whole period; of what is told for its last day, behind that."""
        last = figure.basis is Basis.LAST_DAY
        return self._address(figure.shown, self.days.last if last else self.days.first, self.days.last)

    def bucket(self, shown: Shown, day: dt.date) -> str:
        """Behind one bucket of a chart, which a period may cut."""
        end = day + dt.timedelta(days=6 if self.grain is Grain.WEEK else 0)
        return self._address(shown, max(day, self.days.first), min(end, self.days.last))

    def element(self, board: Leaderboard, element: str | None) -> str:
        """Behind one row of a leaderboard."""
        first = self.days.last if basis_of(board.shown.metric, self.catalogue) is Basis.LAST_DAY else self.days.first
        mine = Filter(Operator.IS, board.dimension, (element or "",)).where()
        return self._address(board.shown, first, self.days.last, mine)

    @staticmethod
    def _address(shown: Shown, first: dt.date, last: dt.date, *more: str) -> str:
        where = dict.fromkeys((*shown.where, *more))
        pairs = [("metric", shown.metric.name), ("from", str(first)), ("to", str(last)), *(("where", one) for one in where)]
        return f"rows?{urlencode(pairs, quote_via=quote)}"
