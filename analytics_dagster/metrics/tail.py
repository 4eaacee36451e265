"""The end of the log that is not consumed yet, in memory: each batch is read once, and forgotten when it has landed.

`TailCache` is for a process that asks often (the server). It holds at most MOST_ROWS rows; what is behind them is read again for
each question, so that a consumer that stands still costs time and not memory. Texts stay numbers in dictionaries, which a log
shares between its batches; only what is asked for is looked up.
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

from analytics_dagster.errors import AnalyticsError
from analytics_dagster.ingest.identity import place_of
from analytics_dagster.ingest.log.interface import POINTS, Batch, LogSource
from analytics_dagster.ingest.points import POINT_ROWS
from analytics_dagster.lake.schemas import TIMESTAMP

log = logging.getLogger(__name__)

MOST_ROWS = 4_000_000
"""32 bytes each: 128 MB, and 20 seconds of 200,000 points a second."""
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


@dataclass
class _Held:
    """One source's blocks, oldest first. Everything up to `through` was read."""

    source: LogSource
    through: int = 0
    blocks: deque[_Block] = field(default_factory=deque)


class TailCache:
    """Rows behind the consumed positions of all sources. Safe to use from several threads."""

    def __init__(self, sources: Callable[[], Sequence[LogSource]], most_rows: int = MOST_ROWS) -> None:
        self._list_sources = sources
        self._most_rows = most_rows
        self._sources: dict[str, _Held] = {}
        self._looked = float("-inf")
        self._places = _Places()
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """How many are held now."""
        return sum(len(block) for held in self._sources.values() for block in held.blocks)

    def find(self, tenant: str, name: str | None, consumed: Mapping[str, int]) -> pa.Table:
        """A tenant's points of a name (None: of all) that are durable now and behind `consumed`, in TAIL_ROWS' columns.

        A source that cannot be read is passed over with a warning: its writer's damage must not keep the others' points away.
        """
        with self._lock:
            left = self._read_on(consumed)
            blocks = [block for held in self._sources.values() for block in held.blocks]
        found = [(block, chosen) for block in blocks if (chosen := self._chosen(block, tenant, name)) is not None]
        for source, after in left:
            for block in _blocks(source, after, None):
                if block is not None and (chosen := self._chosen(block, tenant, name)) is not None:
                    found.append((block, chosen))
        return _joined(found)

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

    def _chosen(self, block: _Block, tenant: str, name: str | None) -> Numbers | None:
        """Which rows of a block are asked for; None for none."""
        whose = self._places.of(tenant, block.dictionaries[0])
        which = None if name is None else self._places.of(name, block.dictionaries[1])
        if whose < 0 or (which is not None and which < 0):
            return None
        chosen = block.codes[0] == whose
        if which is not None:
            chosen &= block.codes[1] == which
        rows = np.flatnonzero(chosen)
        return rows if len(rows) else None


class _Places:
    """Where a text is in a dictionary. Batches share dictionaries, so each is searched once for each text."""

    _MOST = 10_000

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, int], str], tuple[pa.Array, int]] = {}

    def of(self, text: str, dictionary: pa.Array) -> int:
        """The place of `text`, negative when it is not there."""
        key = (_identity(dictionary), text)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self._MOST:
                self._known.clear()
            # The dictionary is kept with its answer, so that its address is not given to another one.
            found = self._known[key] = (dictionary, pc.index(dictionary, text).as_py())
        return found[1]


def _identity(dictionary: pa.Array) -> tuple[int, int]:
    """Equal for arrays that share memory, whatever objects stand for them."""
    offsets = dictionary.buffers()[1]
    return (0 if offsets is None else offsets.address) + 4 * dictionary.offset, len(dictionary)


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
        groups[tuple(_identity(d) for d in block.dictionaries)].append((block, rows))
    tables = [_table(members) for members in groups.values()]
    return pa.concat_tables(tables) if tables else TAIL_ROWS.empty_table()


def _table(members: Sequence[tuple[_Block, Numbers]]) -> pa.Table:
    texts = []
    for place in range(len(_TEXTS)):
        # Of a dictionary that a whole segment shares only what occurs: readers convert all of it.
        used, codes = np.unique(np.concatenate([block.codes[place][rows] for block, rows in members]), return_inverse=True)
        dictionary = members[0][0].dictionaries[place].take(pa.array(used))
        texts.append(pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), dictionary))
    counts = [len(rows) for _, rows in members]
    sources = pa.array([block.place[0] for block, _ in members]).dictionary_encode()
    arrays = [
        *texts,
        pa.array(np.concatenate([block.ts[rows] for block, rows in members])).cast(TIMESTAMP),
        pa.array(np.concatenate([block.values[rows] for block, rows in members])),
        pa.DictionaryArray.from_arrays(pa.array(np.repeat(sources.indices.to_numpy(), counts)), sources.dictionary),
        pa.array(np.repeat(np.array([block.place[1] for block, _ in members], np.int64), counts)),
        pa.array(np.concatenate([rows for _, rows in members])),
    ]
    return pa.Table.from_arrays(arrays, schema=TAIL_ROWS)
