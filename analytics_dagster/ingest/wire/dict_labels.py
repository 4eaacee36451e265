"""Labels as Python dicts, one a row (a DataFrame's column of objects), to a column of JSON texts for `points_from_table`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

_ENCODER = msgspec.json.Encoder()
_KEYS = {str}
# What JSON writes in one way only. A date, say, would be written as text, and could not be told from one.
_VALUES = {str, int, bool}
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_LABELS: dict[str, str] = {}


def labels_of_dicts(dicts: Sequence[object]) -> pa.DictionaryArray:
    """A dictionary-encoded column: row i's code, and each different labels' JSON once; a text is JSON already, None and NaN are
    null.

    Nothing is checked: labels that are not allowed are written so that `points_from_table` refuses their rows by name.
    """
    odd: dict[int, str | None] = {}
    if not _are_plain(dicts):
        odd = {row: _text(labels) for row, labels in enumerate(dicts) if not _is_plain(labels)}
        dicts = [_NO_LABELS if row in odd else labels for row, labels in enumerate(dicts)]
    try:
        column = _encoded(_ENCODER.encode_lines(dicts))
    except (UnicodeEncodeError, OverflowError):
        # A lone surrogate, or a number past 64 bits.
        return pa.array([_text(labels) for labels in dicts], pa.string()).dictionary_encode()
    return _with_odd(column, odd) if odd else column


def _are_plain(dicts: Sequence[Any]) -> bool:
    return (
        set(map(type, dicts)) <= {dict}
        and set(map(type, chain.from_iterable(dicts))) <= _KEYS
        and set(map(type, chain.from_iterable(map(dict.values, dicts)))) <= _VALUES
    )


def _is_plain(labels: object) -> bool:
    return type(labels) is dict and set(map(type, labels)) <= _KEYS and set(map(type, labels.values())) <= _VALUES


def _with_odd(column: pa.DictionaryArray, odd: dict[int, str | None]) -> pa.DictionaryArray:
    codes = column.indices.to_numpy().copy()
    codes[list(odd)] = np.arange(len(odd)) + len(column.dictionary)
    texts = pa.concat_arrays([column.dictionary, pa.array(list(odd.values()), pa.string())])
    return pa.DictionaryArray.from_arrays(pa.array(codes), texts)


def _encoded(lines: bytes) -> pa.DictionaryArray:
    """Lines as a column without an object for each: its texts end with their line's end, which JSON does not mind."""
    ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([np.zeros(1, np.int64), ends])
    texts = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(lines))
    encoded = texts.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string()))


def _text(row: object) -> str | None:
    if row is None or (isinstance(row, float) and row != row):
        return None
    if isinstance(row, str) and not _SURROGATE.search(row):
        return str(row)  # JSON already
    if not isinstance(row, Mapping):
        return json.dumps([repr(row)])
    # A key that is no text gets brackets, so that none passes for a label's name: None is not "None".
    return json.dumps({key if isinstance(key, str) else f"<{key!r}>": _value(value) for key, value in row.items()})


def _value(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    return [repr(value)]
