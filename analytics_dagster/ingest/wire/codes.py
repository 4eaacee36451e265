"""Columns of texts as codes: a small number for each text, and how the codes of several columns become one.

A body of a million rows has some thousand series. Everything that needs Python is done for each of those, and the rows only
ever meet numpy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.ingest.points import MAX_LABELS

Codes = npt.NDArray[np.int32]

# Below this many combinations (or twice the rows), a slot for each is faster than hashing.
_SLOTS = 1 << 16
_MAX_SPACE = 2**62


@dataclass(frozen=True)
class Coded:
    """A column: row i has the text `texts[codes[i]]`, and code `len(texts)` is no text. No codes: every row has the one text."""

    codes: Codes | None
    texts: pa.Array

    @property
    def size(self) -> int:
        return 1 if self.codes is None else len(self.texts) + 1

    def at(self, rows: npt.NDArray[np.intp]) -> list[str | None]:
        """The texts of some rows."""
        texts: list[str | None]
        if self.codes is None:
            texts = self.texts.to_pylist()
            return texts * len(rows)
        codes = self.codes[rows]
        if len(self.texts) > 2 * len(rows):
            texts = self.texts.take(pa.array(codes, mask=codes == len(self.texts))).to_pylist()
            return texts
        texts = [*self.texts.to_pylist(), None]
        return [texts[code] for code in codes.tolist()]

    def said(self) -> tuple[bytes, ...] | None:
        """All that the column says, as bytes; None where those are not at hand."""
        texts = self.texts
        if self.codes is None and texts.null_count:
            return ()
        if texts.offset or texts.null_count or not len(texts):
            return None
        _, offsets, data = texts.buffers()
        ends = offsets.slice(0, 4 * (len(texts) + 1)).to_pybytes()
        size = int.from_bytes(ends[-4:], "little")
        return (b"" if self.codes is None else self.codes.tobytes(), ends, data.slice(0, size).to_pybytes() if data else b"")


def coded(column: pa.Array) -> Coded:
    """A column of strings, whole numbers, truths or any of them dictionary-encoded; numbers and truths become texts."""
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column, null_encoding="mask")
    texts = column.dictionary
    if not pa.types.is_string(texts.type):
        texts = pc.cast(texts, pa.string())
    if len(texts) == 1 and not column.null_count:
        return Coded(None, texts)
    indices = column.indices
    if indices.null_count:
        indices = pc.fill_null(indices.cast(pa.int64()), len(texts))
    return Coded(indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False), texts)


def of_maps(column: pa.Array) -> Coded:
    """A column of map<string, string> as JSON objects. A null value is left out; a key given twice stands there twice."""
    # The children of a slice are those of the whole, and its offsets point into them.
    keys, items = coded(column.keys), coded(column.items)
    pairs, first_pairs = combined([keys, items], len(column.keys))
    pair_texts = [_pair(key, item) for key, item in zip(keys.at(first_pairs), items.at(first_pairs), strict=True)]
    as_texts = pa.array(pair_texts, pa.string())
    offsets = column.offsets.to_numpy().astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    if column.null_count:
        lengths = np.where(column.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    codes = np.empty(len(column), np.int32)
    texts: list[str] = []
    # A row with too many is refused for their number, whatever they are; its one text says no more than that.
    too_many = lengths > MAX_LABELS
    if too_many.any():
        codes[too_many] = len(texts)
        texts.append("{" + ",".join(f'"l{number}":""' for number in range(MAX_LABELS + 1)) + "}")
    for length in np.unique(lengths[~too_many]).tolist():
        rows = np.flatnonzero(lengths == length)
        of_rows = pairs[starts[rows][:, np.newaxis] + np.arange(length)]
        which, first = combined([Coded(of_rows[:, place], as_texts) for place in range(length)], len(rows))
        codes[rows] = which + len(texts)
        texts += ["{" + ",".join(filter(None, map(pair_texts.__getitem__, row))) + "}" for row in of_rows[first].tolist()]
    return Coded(codes, pa.array(texts, pa.string()))


def combined(columns: Sequence[Coded], rows: int) -> tuple[Codes, npt.NDArray[np.intp]]:
    """Each row's number among the different combinations of texts, and for each combination a row that has it."""
    found: npt.NDArray[np.int64] | None = None
    space = 1
    for column in columns:
        if column.codes is None:
            continue
        if space * column.size > _MAX_SPACE and found is not None:
            which, first = distinct(found, space)
            found, space = which.astype(np.int64), len(first)
        found = column.codes.astype(np.int64) if found is None else found * column.size + column.codes
        space *= column.size
    if found is None:
        return np.zeros(rows, np.int32), np.zeros(min(rows, 1), np.intp)
    return distinct(found, space)


def distinct(numbers: npt.NDArray[np.int64], space: int = _MAX_SPACE) -> tuple[Codes, npt.NDArray[np.intp]]:
    """Each number's place among the different ones, and for each of those an index at which it stands; all are below `space`."""
    if space <= max(_SLOTS, 2 * len(numbers)):
        slots = np.full(space, -1, np.int32)
        slots[numbers] = np.arange(len(numbers), dtype=np.int32)
        used = np.flatnonzero(slots >= 0)
        first = slots[used].astype(np.intp)
        slots[used] = np.arange(len(used), dtype=np.int32)
        return slots[numbers], first
    encoded = pa.array(numbers).dictionary_encode()
    which: Codes = encoded.indices.to_numpy()
    first = np.empty(len(encoded.dictionary), np.intp)
    first[which] = np.arange(len(which))
    return which, first


def _pair(key: str | None, item: str | None) -> str:
    return "" if item is None else f"{json.dumps(key)}:{json.dumps(item)}"
