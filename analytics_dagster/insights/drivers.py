"""Where a change came from: the elements of a dimension that moved, and for ratios whether it was they or their mix.

Arithmetic of shares, not of causes: an element "makes up" part of a difference, nobody says that it caused it.

Sources: Bhagwan and others, "Adtributor: Revenue Debugging in Advertising Systems" (NSDI 2014), for explanatory power
and surprise; Li and others, "Generic and Robust Localization of Multi-Dimensional Root Causes" (Squeeze, ISSRE 2019), for
which elements account for a change best; the within/mix/cross split is the standard decomposition of a weighted mean
(Simpson's paradox).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

LEAST_POWER = 0.1
"""An element that makes up less of a difference is not named (Adtributor's T_EEP)."""
ENOUGH_POWER = 0.5
"""What the named elements make up together at least."""
MOST_NAMED = 4
BETTER = 0.15
"""By how much naming elements must fit the difference better than saying that all moved alike."""
PER_ELEMENT = 0.05
"""How much better the fit must get with each further element: few are easier to act on."""
NEARLY_BEST = 0.8
"""Other dimensions are named beside the best one when they fit nearly as well: a farm has a country, a device and an artist."""


@dataclass(frozen=True)
class Driver:
    """One element of a dimension within a change. power: its share of the difference (all sum to 1, single ones may be
    negative or above 1). surprise: how much its share of the total moved, in nats.

    actual, expected: the element's figures. shares: of a ratio, what part of its denominator the element has now and had.
    """

    dimension: str
    element: str
    actual: float
    expected: float
    power: float
    surprise: float
    shares: tuple[float, float] | None = None


@dataclass(frozen=True)
class Explained:
    """One dimension's account of a change: the elements named (none where all moved alike), and how well that fits, up to 1."""

    dimension: str
    named: tuple[Driver, ...]
    fit: float


@dataclass(frozen=True)
class MixChange:
    """A ratio's change over the elements of a dimension: `within` + `mix` + `cross` = `total`.

    within: the elements' own ratios moved; mix: the weights moved between them; cross: both at once.
    """

    dimension: str
    within: float
    mix: float
    cross: float
    total: float

    @property
    def beside(self) -> float:
        """The share of the total that is not the mix's."""
        return 1 - self.mix / self.total if self.total else 0.0

    @property
    def misleading(self) -> bool:
        """Whether the total says something else than the elements do: other sign, or more mix than movement."""
        return self.within * self.total < 0 or abs(self.mix) > abs(self.within)


def drivers(dimension: str, actual: Mapping[str, float], expected: Mapping[str, float]) -> tuple[Driver, ...]:
    """Every element's part in the difference of the totals, most surprising first.

    Values must not be negative (counts, sums). Empty where the totals do not differ.
    """
    elements = sorted(set(actual) | set(expected))
    now, then = math.fsum(actual.values()), math.fsum(expected.values())
    if not elements or now == then:
        return ()
    found = [
        Driver(
            dimension,
            element,
            a := actual.get(element, 0.0),
            f := expected.get(element, 0.0),
            (a - f) / (now - then),
            surprise(f / then if then else 0.0, a / now if now else 0.0),
        )
        for element in elements
    ]
    return tuple(sorted(found, key=lambda one: (-one.surprise, -abs(one.power), one.element)))


def surprise(before: float, after: float) -> float:
    """Jensen-Shannon term of one element's share of the total: 1/2 [p ln(2p/(p+q)) + q ln(2q/(p+q))]."""
    both = before + after
    return 0.5 * sum(share * math.log(2 * share / both) for share in (before, after) if share > 0)


def ratio_drivers(
    dimension: str, now: Mapping[str, tuple[float, float]], then: Mapping[str, tuple[float, float]]
) -> tuple[Driver, ...]:
    """Every element's part in a ratio's difference, largest first. `now` and `then`: element -> (ratio, weight).

    With s the element's share of the weight, r its ratio and R the total's before: s1 (r1 - R) - s0 (r0 - R), which sums to the
    total's difference, whether the elements moved or their mix did.
    """
    weight_now, weight_then = (math.fsum(weight for _, weight in side.values()) for side in (now, then))
    if weight_now <= 0 or weight_then <= 0:
        return ()
    before = math.fsum(ratio * weight for ratio, weight in then.values()) / weight_then
    parts = {}
    for element in sorted(set(now) | set(then)):
        (r1, w1), (r0, w0) = now.get(element, (before, 0.0)), then.get(element, (before, 0.0))
        parts[element] = (r1, r0, w1 / weight_now, w0 / weight_then)
    moved = {element: s1 * (r1 - before) - s0 * (r0 - before) for element, (r1, r0, s1, s0) in parts.items()}
    total = math.fsum(moved.values())
    if total == 0:
        return ()
    found = [
        Driver(dimension, element, r1, r0, moved[element] / total, surprise(s0, s1), (s1, s0))
        for element, (r1, r0, s1, s0) in parts.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.power, one.element)))


def explain(dimension: str, parts: Sequence[Driver], unnamed: Collection[str] = ()) -> Explained:
    """The few elements that account for the difference best, if they do so better than that all moved alike.

    Judged by Squeeze's generalized potential score (Li and others, ISSRE 2019): a set of elements is a good account when its
    elements moved in one proportion and the others stayed. unnamed: elements that are nobody (what is left over).
    """
    sizes = {one.element: one.shares[1] if one.shares else one.expected for one in parts}
    moved = {one.element: one.power for one in parts}
    alike = potential(moved, sizes, set(moved))
    able = [one for one in sorted(parts, key=lambda one: -one.power) if one.power >= LEAST_POWER and one.element not in unnamed]
    best: tuple[Driver, ...] = ()
    most = -math.inf
    for count in range(1, min(MOST_NAMED, len(able), len(parts) - 1) + 1):
        chosen = able[:count]
        if math.fsum(one.power for one in chosen) < ENOUGH_POWER:
            continue
        fit = potential(moved, sizes, {one.element for one in chosen}) - PER_ELEMENT * (count - 1)
        if fit > most:
            best, most = tuple(chosen), fit
    return Explained(dimension, best, most) if most >= alike + BETTER else Explained(dimension, (), alike)


def potential(moved: Mapping[str, float], sizes: Mapping[str, float], chosen: AbstractSet[str]) -> float:
    """Squeeze's generalized potential score of a set: 1 where the set moved in proportion to its sizes and nothing else moved.

    moved: by how much each element differs from what was expected. 0 for an empty set, less for a misleading one.
    """
    together, size = (math.fsum(side[element] for element in chosen) for side in (moved, sizes))
    off = math.fsum(
        abs(moved[element] - (together * (sizes[element] / size if size > 0 else 1 / len(chosen)) if element in chosen else 0.0))
        for element in moved
    )
    whole = math.fsum(abs(one) for one in moved.values())
    return 1 - off / whole if whole else 0.0


def across(accounts: Sequence[Explained]) -> tuple[Driver, ...]:
    """The best dimension's elements, then those of others that fit nearly as well; empty where all moved alike."""
    naming = sorted((one for one in accounts if one.named), key=lambda one: (-round(one.fit, 6), one.dimension))
    return tuple(driver for one in naming if one.fit >= NEARLY_BEST * naming[0].fit for driver in one.named)


def mix_change(
    dimension: str, now: Mapping[str, tuple[float, float]], then: Mapping[str, tuple[float, float]]
) -> MixChange | None:
    """Split a ratio's change. `now` and `then`: element -> (ratio, weight), weight being the denominator.

    An element that is there on one side only has the other side's ratio of its own, so that its coming or going counts
    as mix. None where a side has no weight at all.
    """
    weight_now, weight_then = (math.fsum(weight for _, weight in side.values()) for side in (now, then))
    if weight_now <= 0 or weight_then <= 0:
        return None
    overall_then = math.fsum(ratio * weight for ratio, weight in then.values()) / weight_then
    overall_now = math.fsum(ratio * weight for ratio, weight in now.values()) / weight_now
    within = mix = cross = 0.0
    for element in sorted(set(now) | set(then)):
        ratio1, share1 = now[element][0] if element in now else None, now.get(element, (0.0, 0.0))[1] / weight_now
        ratio0, share0 = then[element][0] if element in then else None, then.get(element, (0.0, 0.0))[1] / weight_then
        before = ratio0 if ratio0 is not None else ratio1 or 0.0
        after = ratio1 if ratio1 is not None else before
        within += share0 * (after - before)
        mix += (share1 - share0) * (before - overall_then)
        cross += (share1 - share0) * (after - before)
    return MixChange(dimension, within, mix, cross, overall_now - overall_then)
