"""Random streams that depend on names, never on the order in which they are asked for.

Each stream is keyed by (seed, tenant, what, which): a day's plays come out the same whether the day is simulated alone,
within a range, or months later. numpy promises a bit generator's stream for good, a distribution's only within a
version (NEP 19), so equal output is promised for equal numpy versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Indices: TypeAlias = npt.NDArray[np.int32]
Codes: TypeAlias = npt.NDArray[np.int8]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Flags: TypeAlias = npt.NDArray[np.bool_]


def stream(seed: int, tenant: str, what: str, which: int = 0) -> np.random.Generator:
    """The generator of one purpose: equal arguments give equal numbers, different ones independent numbers."""
    name = hashlib.sha256(f"{tenant}\0{what}".encode()).digest()
    words = [int.from_bytes(name[at : at + 4], "little") for at in range(0, 16, 4)]
    # SeedSequence takes no negative numbers; days before the first one are negative.
    sequence = np.random.SeedSequence([seed, *words, abs(which), int(which < 0)])
    return np.random.Generator(np.random.SFC64(sequence))


def pick(rng: np.random.Generator, weights: Sequence[float] | Floats, size: int) -> Codes:
    """`size` indices of `weights`, each with the probability of its weight. For short lists."""
    cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
    return np.searchsorted(cumulative[:-1] / cumulative[-1], rng.random(size, dtype=np.float32), side="right").astype(np.int8)
