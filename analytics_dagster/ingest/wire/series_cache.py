"""Labels as they came, with the number of their series: what makes it enough to check each series' labels once.

A client repeats a series' labels byte for byte, so bytes that were checked before are not looked at again. One cache belongs to
one `SeriesTable` and goes with it; its memory is bounded by forgetting everything, which costs one slow body.

Any thread may use a cache. Looking up takes no lock: whatever another thread adds or forgets meanwhile, a number that is found
is right for its table for ever. What is kept is counted under a lock.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import numpy.typing as npt

from analytics_dagster.ingest.points import (
    MAX_LABEL_KEY,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    Admission,
    RefusedValueError,
    SeriesTable,
    WriteScope,
    canonical_labels,
    check_name,
)

MAX_CACHE_BYTES = 128 * 2**20
# An entry beside its label bytes: header of a bytes object, slot of a dictionary, number.
_ENTRY_BYTES = 160
# The most labels, the longest, every character a pair of escapes (12 bytes): not worth reading beyond.
_MAX_LABELS_BYTES = MAX_LABELS * (MAX_LABEL_KEY + MAX_LABEL_VALUE) * 12 + 2**16
# Bodies in a row that repeat none, after which looking for repeats is given up for nine times as many.
_TRIES = 200

Numbers = dict[bytes, int]
"""Series by the bytes of their labels: of one tenant, type and name."""

_UNKNOWN: Numbers = {}


class _Names(dict[str, Numbers]):
    """Numbers by name; those of a name that is not known are none, and asking for them adds nothing."""

    def __missing__(self, name: str) -> Numbers:
        return _UNKNOWN


class SeriesCache:
    """Numbers of series by what a body says of them."""

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._keeping = threading.Lock()
        self._names: dict[tuple[str, str], _Names] = {}
        self._columns: dict[tuple[str, ...], dict[tuple[Any, ...], int]] = {}
        self.bytes_kept = 0
        self.repeats = Repeats()

    def names(self, tenant: str, kind: str) -> dict[str, Numbers]:
        """What is known of one tenant's series of one type, by name; for a name that is not known, nothing."""
        known = self._names.get((tenant, kind))
        if known is None:
            known = self._names.setdefault((tenant, kind), _Names())
        return known

    def columns(self, label_columns: tuple[str, ...]) -> dict[tuple[Any, ...], int]:
        """Series that came as columns: by tenant, type, name and the text of each label column (None: no such label)."""
        return self._columns.setdefault(label_columns, {})

    def keep(self, tenant: str, kind: str, name: str, labels: bytes, number: int) -> None:
        """Remember a series whose labels were checked."""
        with self._keeping:
            self._count(len(labels))
            if name not in self.names(tenant, kind):
                self._count(4 * len(name))
            self.names(tenant, kind).setdefault(name, {})[labels] = number

    def keep_columns(self, label_columns: tuple[str, ...], key: tuple[str | None, ...], number: int) -> None:
        """Remember a series that came as columns."""
        with self._keeping:
            self._count(sum(map(len, filter(None, key))) + 60 * len(key))
            self.columns(label_columns)[key] = number

    def _count(self, size: int) -> None:
        self.bytes_kept += size + _ENTRY_BYTES
        if self.bytes_kept > self._max_bytes:
            self._names.clear()
            self._columns.clear()
            self.bytes_kept = size + _ENTRY_BYTES


class Repeats:
    """Whole bodies' series: a client that samples its series one after the other says the same of them in every body.

    What is kept is what the body says, of which a hash is not enough, so few bodies are kept, and they are forgotten together.
    """

    def __init__(self, max_bytes: int = 16 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._known: dict[tuple[Hashable, ...], npt.NDArray[np.int32]] = {}
        self._bytes = 0
        self._keeping = threading.Lock()
        # Guesses, which two threads may miscount.
        self._asked = 0
        self._missed = 0

    def are_likely(self) -> bool:
        """Whether looking is worth its hash: not for clients who never repeat themselves, who are tried now and then."""
        self._asked += 1
        return self._missed < _TRIES or self._asked % (10 * _TRIES) < _TRIES

    def find(self, said: tuple[Hashable, ...]) -> npt.NDArray[np.int32] | None:
        """The series of a body that said just this."""
        found = self._known.get(said)
        self._missed = self._missed + 1 if found is None else 0
        return found

    def keep(self, said: tuple[Hashable, ...], size: int, series: npt.NDArray[np.int32]) -> None:
        """Remember a body; `size` is about the bytes of `said`. The array is shared from now on, so it is closed to writing."""
        size += series.nbytes
        if size > self._max_bytes:
            return
        series.flags.writeable = False
        with self._keeping:
            self._bytes += size
            if self._bytes > self._max_bytes:
                self._known.clear()
                self._bytes = size
            self._known[said] = series


# The one state of these modules: nothing can be seen of it but speed, and each entry goes with its table.
_CACHES: WeakKeyDictionary[SeriesTable, SeriesCache] = WeakKeyDictionary()


def cache_of(table: SeriesTable) -> SeriesCache:
    """The cache that belongs to `table`."""
    found = _CACHES.get(table)
    if found is None:
        found = _CACHES.setdefault(table, SeriesCache())
    return found


def labels_of(raw: bytes) -> Mapping[str, object]:
    """Labels from their JSON; null is none. Raises RefusedValueError for what is no object and for a label given twice."""
    if len(raw) > _MAX_LABELS_BYTES:
        raise RefusedValueError("labels", f"{len(raw):,} bytes", f"are larger than {MAX_LABELS} labels can be")
    try:
        found = msgspec.json.decode(raw)
    except UnicodeDecodeError:
        raise RefusedValueError("labels", repr(raw), "are not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise RefusedValueError("labels", _text(raw), f"cannot be read: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RefusedValueError("labels", _text(raw), "are not an object")
    if raw.count(b":") != len(found):
        _refuse_twice(raw)
    return found


def series_number(
    admission: Admission, named: str | None, kind: str, name: object, labels: Mapping[str, object]
) -> tuple[int, str]:
    """Number and tenant of a series, everything about it checked here. Raises RefusedValueError and ForeignTenantError."""
    tenant = _tenant(admission.scope, named, labels.get("tenant_id"))
    checked = check_name(name)
    if "tenant_id" in labels:
        labels = {key: value for key, value in labels.items() if key != "tenant_id"}
    return admission.table.number(tenant, kind, checked, canonical_labels(labels)), tenant


def _tenant(scope: WriteScope, named: str | None, label: object) -> str:
    """The tenant of a row that names one in its field, in its labels, in both or in neither."""
    if label is None or label == "":
        return scope.resolve(named)
    if not isinstance(label, str):
        raise RefusedValueError("labels.tenant_id", label, "is not text")
    tenant = scope.resolve(label)
    if named and scope.resolve(named) != tenant:
        raise RefusedValueError("labels.tenant_id", label, f"is not the tenant_id that the row has beside its labels, {named!r}")
    return tenant


def _refuse_twice(raw: bytes) -> None:
    seen: set[str] = set()
    for key, _ in json.loads(raw, object_pairs_hook=list):
        if key in seen:
            raise RefusedValueError("labels", key, "is given twice")
        seen.add(key)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
