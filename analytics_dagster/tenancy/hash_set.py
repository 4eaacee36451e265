"""A set of 64-bit hashes that takes 8 bytes each and answers for whole arrays: a sorted array, and a small set of the newest."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]

# Large enough that merging is rare, small enough that asking the set does not show.
_MOST_RECENT = 8_192


class HashSet:
    """Hashes, each once."""

    def __init__(self) -> None:
        self._sorted: Hashes = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def has(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """For each of `hashes` whether it is in the set."""
        found = np.zeros(len(hashes), np.bool_)
        if len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
            found = self._sorted[places] == hashes
        if self._recent:
            recent = self._recent
            found |= np.fromiter((value in recent for value in hashes.tolist()), np.bool_, len(hashes))
        return found

    def missing_from(self, other: HashSet) -> int:
        """How many of these `other` does not have."""
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        return int(np.count_nonzero(~other.has(self._sorted)) + np.count_nonzero(~other.has(recent)))

    def add(self, hashes: Hashes) -> None:
        """Put them in; those that are there already change nothing."""
        self._recent.update(hashes[~self.has(hashes)].tolist())
        if len(self._recent) > _MOST_RECENT:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate((self._sorted, recent)), kind="stable")
            self._recent = set()
