"""The end of the log that is not consumed yet, in memory: each batch is read once, and forgotten when it has landed.

`TailCache` is for a process that asks often (the server). It holds at most MOST_ROWS rows; what is behind them is read again for
each question, which keeps of each batch only what it asks for, and no more than MOST_COLLECTED rows: a consumer that stands
still costs time and not memory. Texts stay numbers in dictionaries, which a log shares between its batches; only what is asked
for is looked up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.errors import AnalyticsError, RetryableError
from analytics_dagster.ingest.identity import place_of
from analytics_dagster.ingest.log.interface import POINTS, Batch, LogSource
from analytics_dagster.ingest.points import POINT_ROWS
from analytics_dagster.lake.schemas import TIMESTAMP

log = logging.getLogger(__name__)

MOST_ROWS = 4_000_000
"""32 bytes each: 128 MB, and 20 seconds of 200,000 points a second."""
MOST_COLLECTED = 4_000_000
"""Rows behind those that one question may collect, 44 bytes each: 176 MB. Beyond, it is refused."""
# Between two looks for writers that are new; what a known one wrote is looked for each time.
_LOOK_FOR_SOURCES_SECONDS = 0.25

_TEXTS = ("tenant", "name", "type", "labels")
_PLACE = (("source", pa.dictionary(pa.int32(), pa.string())), ("position", pa.int64()), ("row", pa.int64()))
TAIL_ROWS = pa.schema([*POINT_ROWS, *(pa.field(name, kind) for name, kind in _PLACE)])
"""POINT_ROWS, and where in the log a row is."""

Numbers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Block:
    """A batch of points of one source, as arrays."""

    position: int
    place: tuple[str, int]
    """What ids of observations are made from."""
    dictionaries: tuple[pa.StringArray, ...]
    codes: tuple[Codes, ...]
    ts: Numbers
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True)
class _Picked:
    """Rows of a block, copied: the block need not stay for them. `rows` are their places in the batch."""

    place: tuple[str, int]
    dictionaries: tuple[pa.StringArray, ...]
    codes: tuple[Codes, ...]
    ts: Numbers
    values: npt.NDArray[np.float64]
    rows: Numbers


@dataclass
class _Held:
    """One source's blocks, oldest first. Everything up to `through` was read."""

    source: LogSource
    through: int = 0
    blocks: deque[_Block] = field(default_factory=deque)


class TailCache:
    """Rows behind the consumed positions of all sources. Safe to use from several threads."""

    def __init__(
        self, sources: Callable[[], Sequence[LogSource]], most_rows: int = MOST_ROWS, most_collected: int = MOST_COLLECTED
    ) -> None:
        self._list_sources = sources
        self._most_rows = most_rows
        self._most_collected = most_collected
        self._sources: dict[str, _Held] = {}
        self._looked = float("-inf")
        self._places = _Places()
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """How many are held now."""
        return sum(len(block) for held in self._sources.values() for block in held.blocks)

    def find(
        self, tenant: str, name: str | None, consumed: Mapping[str, int], check: Callable[[], None] = lambda: None
    ) -> pa.Table:
        """A tenant's points of a name (None: of all) that are durable now and behind `consumed`, in TAIL_ROWS' columns.

        A source that cannot be read is passed over with a warning: its writer's damage must not keep the others' points away.
        Raises RetryableError when more than may be collected is not consumed, and what `check`, called now and then, raises.
        """
        with self._lock:
            left = self._read_on(consumed)
            blocks = [block for held in self._sources.values() for block in held.blocks]
        found = [(block, rows) for block in blocks if (rows := _chosen(self._places, block, tenant, name)) is not None]
        held = _joined(found)
        del blocks, found
        collected = _Collected(tenant, self._most_collected)
        # Places of its own: the cache's would keep the dictionaries of every segment that was read.
        places = _Places(most=8)
        for source, after in left:
            for block in _blocks(source, after, None):
                check()
                if block is not None and (rows := _chosen(places, block, tenant, name)) is not None:
                    collected.add(block, rows)
        return pa.concat_tables([held, *collected.tables()])

    def _read_on(self, consumed: Mapping[str, int]) -> list[tuple[LogSource, int]]:
        """Forget what is consumed and read what is new. Returns sources of which more is left than may be held."""
        if time.monotonic() - self._looked >= _LOOK_FOR_SOURCES_SECONDS:
            for source in self._list_sources():
                self._sources.setdefault(source.name, _Held(source))
            self._looked = time.monotonic()
        for held in self._sources.values():
            done = consumed.get(held.source.name, 0)
            while held.blocks and held.blocks[0].position <= done:
                held.blocks.popleft()
            held.through = max(held.through, done)
        room, left = self._most_rows - self.rows, []
        for held in self._sources.values():
            if room > 0:
                for block in _blocks(held.source, held.through, room, held):
                    if block is not None:
                        held.blocks.append(block)
                        room -= len(block)
            if room <= 0:
                left.append((held.source, held.through))
        return left


class _Collected:
    """Rows of batches that are read for one question: copies, with one segment's dictionaries at a time."""

    def __init__(self, tenant: str, most: int) -> None:
        self._tenant = tenant
        self._most = most
        self._count = 0
        self._tables: list[pa.Table] = []
        self._members: list[_Picked] = []

    def add(self, block: _Block, rows: Numbers) -> None:
        """Raises RetryableError when they are too many."""
        self._count += len(rows)
        if self._count > self._most:
            raise RetryableError(
                f"more than {self._most:,} points of tenant {self._tenant!r} wait in the log behind those in memory: its "
                "consumer is behind or stopped; ask again when it has caught up, or run `analytics materialize`"
            )
        if self._members and _identities(self._members[0]) != _identities(block):
            self._fold()
        self._members.append(_picked(block, rows))

    def tables(self) -> list[pa.Table]:
        self._fold()
        return self._tables

    def _fold(self) -> None:
        """Make a table of what uses the same dictionaries, of which only what occurs is kept."""
        if self._members:
            self._tables.append(_table(self._members))
            self._members = []


def _chosen(places: _Places, block: _Block, tenant: str, name: str | None) -> Numbers | None:
    """Which rows of a block are asked for; None for none."""
    whose = places.of(tenant, block.dictionaries[0])
    which = None if name is None else places.of(name, block.dictionaries[1])
    if whose < 0 or (which is not None and which < 0):
        return None
    chosen = block.codes[0] == whose
    if which is not None:
        chosen &= block.codes[1] == which
    rows = np.flatnonzero(chosen)
    return rows if len(rows) else None


class _Places:
    """Where a text is in a dictionary. Batches share dictionaries, so each is searched once for each text."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._known: dict[tuple[tuple[int, int], str], tuple[pa.Array, int]] = {}

    def of(self, text: str, dictionary: pa.Array) -> int:
        """The place of `text`, negative when it is not there."""
        key = (_identity(dictionary), text)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self._most:
                self._known.clear()
            # The dictionary is kept with its answer, so that its address is not given to another one.
            found = self._known[key] = (dictionary, pc.index(dictionary, text).as_py())
        return found[1]


def _identity(dictionary: pa.Array) -> tuple[int, int]:
    """Equal for arrays that share memory, whatever objects stand for them."""
    offsets = dictionary.buffers()[1]
    return (0 if offsets is None else offsets.address) + 4 * dictionary.offset, len(dictionary)


def _identities(of: _Block | _Picked) -> tuple[tuple[int, int], ...]:
    return tuple(_identity(dictionary) for dictionary in of.dictionaries)


def _picked(block: _Block, rows: Numbers) -> _Picked:
    codes = tuple(codes[rows] for codes in block.codes)
    return _Picked(block.place, block.dictionaries, codes, block.ts[rows], block.values[rows], rows)


def _blocks(source: LogSource, after: int, most_rows: int | None, held: _Held | None = None) -> Iterator[_Block | None]:
    """The batches of points behind `after`; None for one of something else. Notes in `held` how far it came."""
    try:
        for batch in source.read(after, 2**62 if most_rows is None else most_rows):
            if held is not None:
                held.through = batch.position
            yield _block(source.name, batch) if batch.table == POINTS and batch.rows.num_rows else None
    except AnalyticsError as error:
        log.warning("fresh figures lack what %s holds behind position %d: %s", source.name, after, error)


def _block(source: str, batch: Batch) -> _Block:
    rows = batch.rows.unify_dictionaries().combine_chunks()
    texts = [rows.column(name).chunk(0) for name in _TEXTS]
    return _Block(
        batch.position,
        place_of(source, batch.position, batch.origin),
        tuple(text.dictionary for text in texts),
        tuple(text.indices.to_numpy() for text in texts),
        rows.column("ts").chunk(0).cast(pa.int64()).to_numpy(),
        rows.column("value").chunk(0).to_numpy(zero_copy_only=False),
    )


def _joined(found: Sequence[tuple[_Block, Numbers]]) -> pa.Table:
    """The chosen rows of all blocks as one table, a chunk for each set of dictionaries: each chunk costs its reader as much as
    thousands of rows.
    """
    groups: dict[tuple[tuple[int, int], ...], list[tuple[_Block, Numbers]]] = defaultdict(list)
    for block, rows in found:
        groups[_identities(block)].append((block, rows))
    tables = [_table([_picked(block, rows) for block, rows in members]) for members in groups.values()]
    return pa.concat_tables(tables) if tables else TAIL_ROWS.empty_table()


def _table(members: Sequence[_Picked]) -> pa.Table:
    """Rows that share dictionaries as one chunk."""
    texts = []
    for place in range(len(_TEXTS)):
        # Of a dictionary that a whole segment shares only what occurs: readers convert all of it.
        used, codes = np.unique(np.concatenate([picked.codes[place] for picked in members]), return_inverse=True)
        dictionary = members[0].dictionaries[place].take(pa.array(used))
        texts.append(pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), dictionary))
    counts = [len(picked.rows) for picked in members]
    sources = pa.array([picked.place[0] for picked in members]).dictionary_encode()
    arrays = [
        *texts,
        pa.array(np.concatenate([picked.ts for picked in members])).cast(TIMESTAMP),
        pa.array(np.concatenate([picked.values for picked in members])),
        pa.DictionaryArray.from_arrays(pa.array(np.repeat(sources.indices.to_numpy(), counts)), sources.dictionary),
        pa.array(np.repeat(np.array([picked.place[1] for picked in members], np.int64), counts)),
        pa.array(np.concatenate([picked.rows for picked in members])),
    ]
    return pa.Table.from_arrays(arrays, schema=TAIL_ROWS)
