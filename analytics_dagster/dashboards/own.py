"""Boards that people of a tenant make: kept in the database as YAML, every version of them.

Whoever saves says which version was changed. Of two who changed the same one the second is told so; nothing of the first is lost.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from analytics_dagster.clock import Clock
from analytics_dagster.dashboards.boards import BUILT_IN, Board, LeaderboardForm, PanelForm, parse_board
from analytics_dagster.errors import ConflictError, DeclarationError, NotFoundError, UserError
from analytics_dagster.metrics.declarations import Catalogue, did_you_mean
from analytics_dagster.words import one_line

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

MOST_BOARDS = 200
"""Boards of one tenant."""
MOST_CHARACTERS = 50_000
RESERVED = frozenset({*(path.stem for path in BUILT_IN.glob("*.yaml")), "edit", "reports", "rows", "annotations", "metrics"})
"""Names that a board of one's own cannot have: the built-in ones, and parts of addresses."""


@dataclass(frozen=True)
class Saved:
    """One version of a board. `text` None: with this version it was removed."""

    name: str
    version: int
    text: str | None
    author: str
    saved_at: dt.datetime


class OwnBoards:
    """The boards of an installation's tenants."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def all(self, tenant: str) -> list[Saved]:
        """The newest version of each board that is not removed, by name."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import dashboards as table

        newest = (
            sa.select(table.c.name, sa.func.max(table.c.version).label("version"))
            .where(table.c.tenant == tenant)
            .group_by(table.c.name)
            .subquery()
        )
        same = sa.and_(table.c.name == newest.c.name, table.c.version == newest.c.version)
        mine = (table.c.tenant == tenant, table.c.text.is_not(None))
        query = sa.select(table).join(newest, same).where(*mine).order_by(table.c.name)
        with self._database.read() as connection:
            return [_saved(row) for row in connection.execute(query)]

    def get(self, tenant: str, name: str) -> Saved:
        """Raises NotFoundError with the nearest names."""
        found = self.all(tenant)
        for saved in found:
            if saved.name == name:
                return saved
        raise NotFoundError(f"no dashboard {name!r}{did_you_mean(name, [saved.name for saved in found])}")

    def versions(self, tenant: str, name: str) -> list[Saved]:
        """All versions of a board, newest first; also of one that was removed."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import dashboards as table

        query = sa.select(table).where(table.c.tenant == tenant, table.c.name == name).order_by(table.c.version.desc())
        with self._database.read() as connection:
            return [_saved(row) for row in connection.execute(query)]

    def save(self, tenant: str, board: Board, author: str, *, based_on: int) -> Saved:
        """Add a version. `based_on` is the one that was changed, 0 for a new board.

        Raises UserError for a name that is taken by a built-in board and for more than MOST_BOARDS, ConflictError when
        `based_on` is not the newest.
        """
        if board.name in RESERVED:
            raise UserError(f"a dashboard cannot be named {board.name!r}, which is a built-in one; take another name")
        text = board_text(board)
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"the dashboard has {len(text)} characters, {MOST_CHARACTERS} are allowed")
        if based_on == 0 and len(self.all(tenant)) >= MOST_BOARDS:
            raise UserError(f"there are {MOST_BOARDS} dashboards already; remove one first")
        return self._add(tenant, board.name, text, author, based_on)

    def remove(self, tenant: str, name: str, author: str, *, based_on: int) -> Saved:
        """Its versions stay; saving the name again goes on counting. Raises as `save`."""
        self.get(tenant, name)
        return self._add(tenant, name, None, author, based_on)

    def _add(self, tenant: str, name: str, text: str | None, author: str, based_on: int) -> Saved:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import dashboards as table

        now = self._clock.now()
        mine = sa.select(table).where(table.c.tenant == tenant, table.c.name == name).order_by(table.c.version.desc()).limit(1)

        def write(connection: sa.Connection) -> Saved:
            newest = connection.execute(mine).one_or_none()
            version = newest.version if newest is not None else 0
            # A name that was removed may be taken anew by somebody who never saw what it was.
            known = 0 if newest is None or (newest.text is None and based_on == 0) else version
            if based_on != known:
                raise _conflict(name, newest)
            made = Saved(name, version + 1, text, author, now)
            values = {"name": name, "version": made.version, "text": text, "author": author, "saved_at": now}
            connection.execute(table.insert().values(tenant=tenant, **values))
            return made

        try:
            return self._database.write(write)
        except sa.exc.IntegrityError:  # PostgreSQL lets two look at once; the primary key lets one of them write
            with self._database.read() as connection:
                raise _conflict(name, connection.execute(mine).one_or_none()) from None


def _conflict(name: str, newest: Any) -> ConflictError:
    who = f" by {newest.author} at {newest.saved_at:%Y-%m-%d %H:%M} UTC" if newest is not None else ""
    return ConflictError(f"the dashboard {name!r} was saved{who} meanwhile; load it again and repeat your change")


def _saved(row: Any) -> Saved:
    return Saved(row.name, row.version, row.text, row.author, row.saved_at)


def read_saved(saved: Saved, catalogue: Catalogue) -> Board:
    """The board of a version. Raises DeclarationError when a metric that it shows is no longer declared."""
    return _read(saved.text or "", f"{saved.name}.yaml", catalogue)


@lru_cache(maxsize=1_024)
def _read(text: str, name: str, catalogue: Catalogue) -> Board:
    return parse_board(text, name, catalogue)


# --- changing a board


def board_text(board: Board) -> str:
    """The board as YAML: what `parse_board` reads."""
    plain = board.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def with_panel(board: Board, panel: PanelForm) -> Board:
    """The panel at the end."""
    return board.model_copy(update={"panels": (*board.panels, panel)})


def without_panel(board: Board, place: int) -> Board:
    """Without the panel at a place (from 0). Raises UserError for the last one and for a place that there is not."""
    _require(board, place)
    if len(board.panels) == 1:
        raise UserError("a dashboard has at least one panel; add another before you remove this one")
    return board.model_copy(update={"panels": board.panels[:place] + board.panels[place + 1 :]})


def moved_panel(board: Board, place: int, by: int) -> Board:
    """The panel at a place, moved up (-1) or down (1); at an end it stays."""
    _require(board, place)
    there = max(0, min(len(board.panels) - 1, place + by))
    panels = list(board.panels)
    panels.insert(there, panels.pop(place))
    return board.model_copy(update={"panels": tuple(panels)})


def new_panel(kind: str, metrics: list[str], by: list[str], title: str) -> PanelForm:
    """A panel as a form's fields name it. Raises DeclarationError for what is missing, and for a title that is not one line."""
    named = title.strip() or None
    try:
        one_line(named or "")
    except ValueError as error:
        raise DeclarationError(f"title {title[:80]!r} {error}") from None
    if kind in ("figures", "trends"):
        if not metrics:
            raise DeclarationError("choose at least one metric")
        return PanelForm.model_validate({"title": named, kind: tuple(metrics)})
    if kind == "trend":
        if len(metrics) != 1:
            raise DeclarationError("choose one metric for a large chart")
        return PanelForm(title=named, trend=metrics[0])
    if kind == "leaderboards":
        if not metrics or not by:
            raise DeclarationError("choose a metric and a dimension to rank by")
        return PanelForm(title=named, leaderboards=tuple(LeaderboardForm(metric=m, by=b) for m in metrics for b in by))
    if kind in ("findings", "forecasts", "checks", "restatements", "alerts"):
        return PanelForm.model_validate({"title": named, "show": kind})
    raise DeclarationError(f"there is no panel {kind!r}")


def _require(board: Board, place: int) -> None:
    if not 0 <= place < len(board.panels):
        raise UserError(f"there is no panel {place + 1}; the dashboard has {len(board.panels)}")
