"""What makes a recorded point itself: its `point_id`, as SQL that the consumer of the log and queries of its tail share.

A gauge or counter says what held at a moment: the same series with the same time and value is one point, however often and by
whichever way it comes. A point of a histogram or timer is an observation, and two equal ones are two: its id is its place in the
log (source, position of the batch, row in it), which does not change when a batch is read again; or its place in the request
that it came with, where that may be sent again (`Points.origin`).

Ids must be the same for ever, on any engine: MD5, microseconds and IEEE 754 bits, nothing of an engine's own.
"""

from __future__ import annotations

OBSERVED = ("histogram", "timer")
"""Types whose points are observations."""

SERIES_ID_SQL = "md5(concat_ws(chr(31), type, name, labels))"
"""32 hexadecimal digits for (type, name, canonical labels). Never of the tenant: ids are looked for within one tenant's table."""


def point_id_sql(series_id: str = SERIES_ID_SQL) -> str:
    """SQL for the id of a row that has POINT_ROWS' columns and source, position, row.

    `series_id` names a column that holds SERIES_ID_SQL's result already, for who computes it once a series and not once a row.
    """
    observed = ", ".join(f"'{kind}'" for kind in OBSERVED)
    return (
        f"CASE WHEN type IN ({observed}) THEN concat_ws('-', source, position, row) "
        f"ELSE concat_ws('-', {series_id}, lower(hex(epoch_us(ts))), lower(hex(value::BIT::UBIGINT))) END"
    )


def place_of(source: str, position: int, origin: str | None) -> tuple[str, int]:
    """The source and position that ids of a batch's observations are made from.

    Of a request that may have been sent again its own name, wherever in the log it came to stand.
    """
    return (source, position) if origin is None else (f"request/{origin}", 0)
