"""Points as an Arrow IPC stream. The bytes are a stranger's: sizes are checked before anything is allocated for them, and every
batch is validated in full before a value of it is read.
"""

from __future__ import annotations

import pyarrow as pa

from analytics_dagster.ingest.points import Admission, Parsed
from analytics_dagster.ingest.wire.arrow_messages import check_message
from analytics_dagster.ingest.wire.bodies import BodyTooLargeError, UnreadableBodyError
from analytics_dagster.ingest.wire.columns import check_columns, points_from_table

MAX_ROWS = 5_000_000
"""Rows of one Arrow body."""
MAX_MESSAGES = 10_000
"""Batches of one Arrow body, dictionaries counted: each costs some µs, however small."""
MAX_BYTES = 64 * 2**20

_FILE_MAGIC = b"ARROW1"


def parse_arrow(body: bytes, admission: Admission, now_us: int, *, limit: int = MAX_BYTES) -> Parsed:
    """Points of an Arrow IPC stream, whose columns are as in `points_from_table`; times need a zone.

    `limit` bounds what its compressed buffers inflate to, together. Raises UnreadableBodyError for what is no Arrow stream, is
    damaged, or has columns that cannot be points; BodyTooLargeError; ForeignTenantError. What is wrong with single rows is a
    RowRefusal.
    """
    if body.startswith(_FILE_MAGIC):
        raise UnreadableBodyError("the body is an Arrow file (Feather); send the stream format, as pyarrow.ipc.new_stream writes")
    try:
        table = _table(body, limit)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise UnreadableBodyError(f"the body is not an Arrow IPC stream, or is damaged: {first}") from None
    return points_from_table(table, admission, now_us)


def _table(body: bytes, limit: int) -> pa.Table:
    _check_sizes(body, limit)
    batches: list[pa.RecordBatch] = []
    rows = 0
    with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
        check_columns(reader.schema)
        for batch in reader:
            batch.validate(full=True)
            rows += batch.num_rows
            if rows > MAX_ROWS:
                raise BodyTooLargeError(MAX_ROWS, "rows")
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema)


def _check_sizes(body: bytes, limit: int) -> None:
    """Look at every message's metadata, which Arrow verifies as it is read, before any batch is made of one."""
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(body))
    inflated = 0
    for _ in range(MAX_MESSAGES):
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        inflated += check_message(message.metadata, message.body, message.type)
        if inflated > limit:
            raise BodyTooLargeError(limit)
    raise BodyTooLargeError(MAX_MESSAGES, "batches")
