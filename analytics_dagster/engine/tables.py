"""DataFrames and Arrow tables of any library to points, without copying what need not be copied."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from analytics_dagster.engine.metric_rows import moment_us
from analytics_dagster.errors import UserError
from analytics_dagster.ingest.points import Admission, Parsed
from analytics_dagster.ingest.wire.columns import points_from_table
from analytics_dagster.ingest.wire.dict_labels import labels_of_dicts
from analytics_dagster.ingest.wire.times import LOCAL
from analytics_dagster.lake.schemas import TIMESTAMP

if TYPE_CHECKING:
    import pandas as pd


def arrow_table(data: Any) -> pa.Table:
    """`data` as an Arrow table. A pandas column of dicts becomes JSON text, one of datetimes UTC. Raises UserError."""
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    try:
        if isinstance(data, pa.RecordBatchReader):
            return data.read_all()
        if _is_pandas(data):
            return _from_pandas(data)
        if hasattr(data, "__arrow_c_stream__"):
            return pa.table(data)
        return pa.Table.from_batches([pa.record_batch(data)])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"the {type(data).__name__} cannot be read as an Arrow table: {error}") from error


def points_of_table(table: pa.Table, admission: Admission, now_us: int) -> Parsed:
    """Points of a table's rows; a time without a zone is this machine's, a row without a time is of `now_us`."""
    return points_from_table(table, admission, now_us, naive_zone=LOCAL)


def _is_pandas(data: object) -> bool:
    """Told without importing pandas."""
    return any(kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas" for kind in type(data).__mro__)


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    """As pyarrow does it, but for what it would read otherwise than Python does: dicts and datetimes among objects."""
    arrays, names = [], []
    for place, name in enumerate(frame.columns):
        if not isinstance(name, str):
            raise UserError(f"column {name!r} of the DataFrame is not named by a text; give it a name")
        column = frame.iloc[:, place]
        names.append(name)
        if column.dtype == object:
            arrays.append(_objects(name, column.to_list()))
        elif isinstance(column.dtype, np.dtype) and column.dtype.kind == "f":
            arrays.append(pa.array(column.to_numpy()))  # NaN stays what it is, and nothing is copied
        else:
            arrays.append(pa.array(column))
    return pa.table(arrays, names=names)


def _objects(name: str, values: Sequence[object]) -> pa.Array:
    if name == "labels":
        return labels_of_dicts(values)
    if name == "timestamp" and all(value is None or isinstance(value, dt.datetime) for value in values):
        micros = [None if value is None or value != value else moment_us(value) for value in values]  # NaT is no time
        return pa.array(micros, pa.int64()).view(TIMESTAMP)
    try:
        return pa.array(values, from_pandas=True)
    except pa.ArrowException as error:
        raise UserError(f"column {name!r} holds values of several kinds: {error}") from None
