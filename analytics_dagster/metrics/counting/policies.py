"""What is declared about counting, in memory: policies, the rules for artificial plays, and the counts that follow from both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from analytics_dagster.errors import NotFoundError
from analytics_dagster.metrics.declarations import Origin, did_you_mean

ADJUSTED = "_adjusted"
"""What the name of a count without artificial plays ends with. No policy's own name does."""


@dataclass(frozen=True)
class CountingPolicy:
    """When a play counts. Its name and version stand with every figure that is counted by it.

    `minimum_seconds` is None for ANALYTICS_STREAM_SECONDS. `most_a_day` caps the plays of one listener, track and UTC day;
    without a listener or a track there is nobody and nothing to cap.
    """

    name: str
    version: int
    description: str
    source: str
    minimum_seconds: float | None
    unknown_length_counts: bool
    known_listener: bool
    most_a_day: int | None
    formats_left_out: tuple[str, ...]
    origin: Origin

    def minimum_ms(self, stream_ms: int) -> int:
        """The shortest play that counts, in milliseconds, where ANALYTICS_STREAM_SECONDS is `stream_ms`."""
        return stream_ms if self.minimum_seconds is None else round(self.minimum_seconds * 1000)

    @property
    def minimum_text(self) -> str:
        """The same for people."""
        return "ANALYTICS_STREAM_SECONDS" if self.minimum_seconds is None else f"{self.minimum_seconds:g} s"


@dataclass(frozen=True)
class MoreThanADay:
    """A listener heard more than so many hours in one day."""

    hours: float


@dataclass(frozen=True)
class Overlapping:
    """A listener was heard in several places at once for more than so many hours of one day."""

    hours: float


@dataclass(frozen=True)
class TooMany:
    """A listener had more than so many plays of at least ANALYTICS_STREAM_SECONDS in one day."""

    streams: int


@dataclass(frozen=True)
class Repeated:
    """A listener played one track more than so many times in one day."""

    plays: int


@dataclass(frozen=True)
class JustOverThreshold:
    """Of a listener's plays of a day, at least `plays` and `share_percent` ended within so many seconds after the stream
    threshold, and their length varies by at most `deviation_seconds` (population standard deviation).
    """

    within_seconds: float
    plays: int
    share_percent: int
    deviation_seconds: float


@dataclass(frozen=True)
class Farm:
    """At least so many listeners, each with at least `plays` plays in a day of which `share_percent` are of one artist from one
    country and device, whose numbers of such plays vary by at most `variation_percent` (coefficient of variation).
    """

    listeners: int
    plays: int
    share_percent: int
    variation_percent: int


@dataclass(frozen=True)
class ArtificialRules:
    """Which plays are taken for artificial. A rule that is None is off; of several that match, the first here is told."""

    version: int
    description: str
    source: str
    more_than_a_day: MoreThanADay | None
    overlapping: Overlapping | None
    too_many: TooMany | None
    repeated: Repeated | None
    just_over_threshold: JustOverThreshold | None
    farm: Farm | None
    origin: Origin


@dataclass(frozen=True)
class Count:
    """One way to count: a policy, raw or without artificial plays."""

    policy: CountingPolicy
    adjusted: bool

    @property
    def name(self) -> str:
        """`luminate_50_a_day` or `luminate_50_a_day_adjusted`."""
        return self.policy.name + (ADJUSTED if self.adjusted else "")

    @property
    def metric(self) -> str:
        """The metric of the count, and its measure."""
        return f"streams_{self.name}"


@dataclass(frozen=True)
class Counting:
    """All that is declared about counting."""

    policies: tuple[CountingPolicy, ...]
    rules: ArtificialRules

    def counts(self) -> Iterator[Count]:
        """Every policy's two, policies in the order in which they were declared."""
        for policy in self.policies:
            yield Count(policy, adjusted=False)
            yield Count(policy, adjusted=True)

    def count(self, name: str) -> Count:
        """The count of a name, or of its metric's name. Raises NotFoundError with the nearest names."""
        known = {count.name: count for count in self.counts()}
        found = known.get(name) or known.get(name.removeprefix("streams_"))
        if found is None:
            near = did_you_mean(name, known)
            raise NotFoundError(f"no counting policy {name!r}{near}; there are {', '.join(known)}")
        return found
