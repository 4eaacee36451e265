"""What is on a page: boards declared in YAML, the built-in ones in `built_in/`, checked against the catalogue when they are read.

A board is a list of panels; a panel says which metrics it shows and nothing of how. A tenant's own boards have the same form, so
a built-in board is also the example to begin from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from analytics_dagster.errors import DeclarationError, NotFoundError
from analytics_dagster.metrics.declarations import Catalogue, did_you_mean
from analytics_dagster.metrics.documents import Document, describe, parse_document, read_document, refuse_aliases
from analytics_dagster.words import one_line

BUILT_IN = Path(__file__).parent / "built_in"
MOST_PANELS = 40
MOST_SERIES = 24
"""Metrics of one panel."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Text = Annotated[str, Field(min_length=1, max_length=400)]
Title = Annotated[Text, AfterValidator(one_line)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LeaderboardForm(_Form):
    """The values of a dimension, ranked by a metric over the whole period."""

    metric: Metric
    by: Metric
    top: Annotated[int, Field(ge=1, le=50)] = 8
    title: Title | None = None


Section = Literal["findings", "forecasts", "checks", "restatements", "alerts"]


class PanelForm(_Form):
    """One panel: exactly one of the keys but `title`.

    `figures`: values with change and sparkline. `trend`: the large chart of one metric. `trends`: small charts, one a metric.
    `leaderboards`: ranked values of dimensions. `show`: what is not a metric (findings, forecasts, checks, restatements, alerts).
    """

    title: Title | None = None
    figures: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=MOST_SERIES)] | None = None
    trend: Metric | None = None
    trends: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=MOST_SERIES)] | None = None
    leaderboards: Annotated[tuple[LeaderboardForm, ...], Field(min_length=1, max_length=MOST_SERIES)] | None = None
    show: Section | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> PanelForm:
        if len(self.kinds) != 1:
            raise ValueError(f"a panel is one of {', '.join(KINDS)}; this one has {' and '.join(self.kinds) or 'none'}")
        return self

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if getattr(self, kind) is not None]


KINDS = ("figures", "trend", "trends", "leaderboards", "show")
_KEYS = ("name", "title", "description", "panels", "metric", "by", "top", *KINDS)
_NAMED = "a name; write lower-case letters, digits, _ and -, beginning with a letter (of a metric without -)"


class Board(_Form):
    """A page. `name` is its part of the address."""

    name: Name
    title: Title
    description: Text
    panels: Annotated[tuple[PanelForm, ...], Field(min_length=1, max_length=MOST_PANELS)]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that it shows, each once, in reading order."""
        return tuple(dict.fromkeys(metric for _, metric, _ in _named(self.panels)))


@dataclass(frozen=True)
class Boards:
    """The built-in boards, in the order of the page's navigation."""

    boards: tuple[Board, ...]

    def __iter__(self) -> Iterator[Board]:
        return iter(self.boards)

    def board(self, name: str) -> Board:
        """Raises NotFoundError with the nearest names."""
        for board in self.boards:
            if board.name == name:
                return board
        raise NotFoundError(f"no dashboard {name!r}{did_you_mean(name, [b.name for b in self.boards])}")


ORDER = ("overview", "engagement", "retention", "content", "revenue", "artists", "technical", "quality", "forecasts", "alerts")
"""How the navigation lists built-in boards."""


@lru_cache(maxsize=8)
def load_boards(catalogue: Catalogue) -> Boards:
    """The built-in boards. Raises DeclarationError with file and line."""
    found = {board.name: board for board in (read_board(path, catalogue) for path in sorted(BUILT_IN.glob("*.yaml")))}
    return Boards(tuple(found.pop(name) for name in ORDER if name in found) + tuple(found.values()))


def read_board(path: Path, catalogue: Catalogue) -> Board:
    """A board's file. Raises DeclarationError with file and line."""
    return _checked(read_document(path), catalogue)


def parse_board(text: str, name: str, catalogue: Catalogue) -> Board:
    """A board that somebody sent; `name` stands for the file. Raises DeclarationError with line."""
    refuse_aliases(text, name)
    return _checked(parse_document(text, name), catalogue)


def _checked(document: Document, catalogue: Catalogue) -> Board:
    try:
        board = Board.model_validate(document.data or {})
    except ValidationError as error:
        raise DeclarationError(describe(document, error, _KEYS, _NAMED)) from None
    for at, metric, dimension in _named(board.panels):
        where = f"{document.file}:{document.line(('panels', *at))}"
        declared = catalogue.find(metric)
        if declared is None:
            near = did_you_mean(metric, [m.name for m in catalogue.metrics])
            raise DeclarationError(f"{where}: no metric {metric!r}{near}; `analytics metrics list` shows all")
        dimensions = [d.name for d in catalogue.dimensions_of(declared)]
        if dimension is not None and dimension not in dimensions:
            near = did_you_mean(dimension, dimensions)
            raise DeclarationError(f"{where}: {metric} has no dimension {dimension!r}{near}; it has {', '.join(dimensions)}")
    return board


def _named(panels: Iterable[PanelForm]) -> Iterator[tuple[tuple[str | int, ...], str, str | None]]:
    """Where a metric is named, its name, and the dimension that it is split by."""
    for n, panel in enumerate(panels):
        if panel.trend is not None:
            yield (n, "trend"), panel.trend, None
        for kind in ("figures", "trends"):
            for i, metric in enumerate(getattr(panel, kind) or ()):
                yield (n, kind, i), metric, None
        for i, board in enumerate(panel.leaderboards or ()):
            yield (n, "leaderboards", i, "by"), board.metric, board.by
