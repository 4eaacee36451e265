"""Delimited files with a header: which column is which, and cells as numbers.

Formats name the headers that they know; this module finds them, and says what was expected where they are missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.sources.parsed import RefusedRecordError
from analytics_dagster.sources.records import Record
from analytics_dagster.sources.times import shown

Cells = list[str]
Reader = Callable[[Cells], str | None]
INT64_MAX = 2**63 - 1


class Header:
    """The columns of one file by name, blind to case, spaces and underscores."""

    def __init__(self, names: Sequence[str], file: str) -> None:
        self.names = list(names)
        self.file = file
        self._index = {plain(name): position for position, name in reversed(list(enumerate(names)))}

    def __len__(self) -> int:
        return len(self.names)

    def find(self, *aliases: str) -> str | None:
        """The file's own name of the first alias that it has."""
        for alias in aliases:
            position = self._index.get(plain(alias))
            if position is not None:
                return self.names[position]
        return None

    def position(self, name: str) -> int:
        return self._index[plain(name)]

    def reader(self, name: str | None) -> Reader:
        """Gives a record's cell of that column, stripped, None when blank; always None for a column that is not there."""
        if name is None:
            return lambda cells: None
        position = self.position(name)
        return lambda cells: cells[position].strip() or None

    def tenant_reader(self, column: str | None) -> Reader:
        """The reader of --tenant-column. Raises UnreadableFileError when the file lacks it."""
        if column is not None and self.find(column) is None:
            raise UnreadableFileError(f"{self.file}: has no column {column!r} for --tenant-column; its header is {self.shown()}")
        return self.reader(column)

    def shown(self) -> str:
        text = ", ".join(self.names) or "(empty)"
        return text if len(text) <= 300 else text[:297] + "..."


def plain(name: str) -> str:
    """A header as it is compared: `Track MBID` and `track_mbid` are one."""
    return "".join(character for character in name.casefold() if character not in " _-#")


def fitted(records: Iterable[Record], width: int) -> Iterator[Record]:
    """Records with exactly `width` cells: surplus blank ones are taken off, any other number of cells is a problem."""
    for record in records:
        cells = record.fields
        if cells is None or len(cells) == width:
            yield record
        elif len(cells) > width and not "".join(cells[width:]).strip():
            yield record._replace(fields=cells[:width])
        else:
            yield record._replace(fields=None, problem=f"has {len(cells)} fields where the header has {width}")


def whole_number(text: str, name: str, *, least: int = 0, scale: int = 1) -> int:
    """A count or duration, times `scale`. `22.0` is one. Raises RefusedRecordError."""
    try:
        number = int(text) * scale
    except ValueError:
        number = _from_float(text, name, scale)
    if not least <= number <= INT64_MAX:
        raise RefusedRecordError(name, f"{shown(text)} is out of range; it must be {least} or more and fit in 64 bits")
    return number


def _from_float(text: str, name: str, scale: int) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (scale == 1 and number != int(number)):
        raise RefusedRecordError(name, f"{shown(text)} is not a whole number")
    return round(number * scale)


def number(text: str, name: str) -> float:
    """A finite number. Raises RefusedRecordError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RefusedRecordError(name, f"{shown(text)} is not a finite number")
    return value
