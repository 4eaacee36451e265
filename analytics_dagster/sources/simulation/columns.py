"""From arrays of indices and codes to Arrow columns, a whole column at a time.

Text is taken from small dictionaries; ids of fixed width are written straight into a string column's buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.lake.schemas import TIMESTAMP, TableSchema
from analytics_dagster.sources.simulation.randomness import Codes, Flags, Indices, Ints

FORMAT = "simulation"
Column: TypeAlias = Any  # pa.Array | pa.ChunkedArray; pyarrow ships no stubs
_FOUR_DIGITS = np.frombuffer("".join(f"{number:04d}" for number in range(10_000)).encode(), dtype=np.uint32)


def text(choices: Sequence[str | None], codes: Codes | Indices | Ints, missing: Flags | None = None) -> Column:
    """The text of each code; null where the choice is None, the code is negative or the row is marked missing."""
    return chosen(pa.array(choices, pa.string()), codes, missing)


def chosen(dictionary: Column, codes: Codes | Indices | Ints, missing: Flags | None = None) -> Column:
    """As `text`, from an Arrow array."""
    absent = codes < 0 if missing is None else missing | (codes < 0)
    mask = absent if bool(absent.any()) else None
    return dictionary.take(pa.array(np.where(absent, 0, codes) if mask is not None else codes, pa.int32(), mask=mask))


def numbers(values: Indices | Ints, missing: Flags | None = None) -> Column:
    """Integers, null where the row is marked missing."""
    return pa.array(values.astype(np.int64), pa.int64(), mask=missing)


def constant(value: str, count: int) -> Column:
    """The same text in each row."""
    return pa.repeat(pa.scalar(value, pa.string()), count)


def moments(day: date, ms: Indices | Ints) -> Column:
    """Timestamps from milliseconds since a day's UTC midnight."""
    midnight = int(np.datetime64(day, "us").astype(np.int64))
    return pa.array(ms.astype(np.int64) * 1_000 + midnight, pa.int64()).cast(TIMESTAMP)


def identities(kind: str, day: date, count: int, first: int = 0) -> Column:
    """Ids `<kind><yyyymmdd>-<8 digits>`: rows of one table and day, counted from `first`."""
    prefix = f"{kind}{day:%Y%m%d}-".encode()
    width = len(prefix) + 8
    index = np.arange(first, first + count, dtype=np.int64)
    characters = np.empty((count, width), dtype=np.uint8)
    characters[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    digits = np.stack([_FOUR_DIGITS[index // 10_000], _FOUR_DIGITS[index % 10_000]], axis=1)
    characters[:, len(prefix) :] = digits.view(np.uint8).reshape(count, 8)
    ends = np.arange(count + 1, dtype=np.int32) * width
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends.tobytes()), pa.py_buffer(characters.tobytes()))


def table(schema: TableSchema, columns: Mapping[str, Column]) -> pa.Table:
    """A table with exactly the schema's columns, in its order."""
    return pa.table([columns[c.name] for c in schema.columns], schema=schema.arrow)


def sorted_by_time(rows: pa.Table) -> pa.Table:
    """The rows in order of `ts`."""
    return rows.take(pc.sort_indices(rows, [("ts", "ascending")]))
