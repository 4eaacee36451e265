"""Where a change came from: the elements of a dimension that moved, and for ratios whether it was they or their mix.

Arithmetic of shares, not of causes: an element "makes up" part of a difference, nobody says that it caused it.

Sources: Bhagwan and others, "Adtributor: Revenue Debugging in Advertising Systems" (NSDI 2014), for explanatory power
and surprise; the within/mix/cross split is the standard decomposition of a weighted mean (Simpson's paradox).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_POWER = 0.1
"""An element that makes up less of a difference is not named (Adtributor's T_EEP)."""
ENOUGH_POWER = 0.67
"""Elements are named until they make up this much together (Adtributor's T_EP)."""
EVEN = 0.002
"""Total surprise (nats) below which a dimension moved evenly, so that naming its largest element would mislead."""


@dataclass(frozen=True)
class Driver:
    """One element of a dimension within a change. power: its share of the difference (all sum to 1, single ones may be
    negative or above 1). surprise: how much its share of the total moved, in nats.
    """

    dimension: str
    element: str
    actual: float
    expected: float
    power: float
    surprise: float


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


def named(found: Sequence[Driver]) -> tuple[Driver, ...]:
    """The few elements worth naming: at least LEAST_POWER each, until ENOUGH_POWER is made up; largest part first."""
    chosen: list[Driver] = []
    for one in found:
        if one.power >= LEAST_POWER:
            chosen.append(one)
            if math.fsum(driver.power for driver in chosen) >= ENOUGH_POWER:
                break
    return tuple(sorted(chosen, key=lambda one: -one.power))


def best_dimension(candidates: Sequence[tuple[Driver, ...]]) -> tuple[Driver, ...]:
    """The dimension whose named elements are the most surprising, and those elements; empty where all moved evenly."""
    scored = [(math.fsum(one.surprise for one in named(found)), found) for found in candidates if named(found)]
    if not scored:
        return ()
    most, found = max(scored, key=lambda pair: (pair[0], pair[1][0].dimension))
    return named(found) if most >= EVEN else ()


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
