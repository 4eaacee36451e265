"""Tenant ids: their grammar, and an id from any text. An id becomes part of paths, keys and labels, so the grammar is narrow."""

from __future__ import annotations

import re

from analytics_dagster.errors import InvalidNameError

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def validate_tenant_id(value: str) -> str:
    """`value` itself. Raises InvalidNameError unless it is lower-case letters, digits, `-` and `_`, 1 to 63 of them."""
    if not _ID.fullmatch(value):
        raise InvalidNameError(
            f"tenant {value!r} is not a tenant id; use 1 to 63 lower-case letters, digits, - and _, "
            "beginning with a letter or digit"
        )
    return value


def tenant_id_from(value: str) -> str:
    """An id from any text: lower case, every run of other characters to one `-` (`Studio Brussel` -> `studio-brussel`)."""
    made = re.sub(r"[^a-z0-9_]+", "-", value.lower()).strip("-_")[:63].rstrip("-_")
    if not made:
        raise InvalidNameError(f"no tenant id can be made from {value!r}; it has no letter or digit")
    return made
