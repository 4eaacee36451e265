"""The shape of a file that declares counting, checked by pydantic before anything is resolved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Behind `streams_` and before `_adjusted` it still makes a metric's name, which may have 63 characters.
PolicyName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,45}$")]
Text = Annotated[str, Field(min_length=1)]
Hours = Annotated[float, Field(gt=0, le=240)]
Percent = Annotated[int, Field(ge=1, le=100)]
Plays = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PolicyForm(_Form):
    """One policy."""

    name: PolicyName
    version: Annotated[int, Field(ge=1)]
    description: Text
    source: Text
    minimum_seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    unknown_length: Literal["counts", "left_out"] = "counts"
    known_listener: bool = False
    most_a_day: Plays | None = None
    formats_left_out: list[Text] = []


class HoursForm(_Form):
    """A rule over hours of one day."""

    hours: Hours


class TooManyForm(_Form):
    """A rule over plays that are long enough to be streams."""

    streams: Plays


class RepeatedForm(_Form):
    """A rule over plays of one track."""

    plays: Plays


class JustOverForm(_Form):
    """A rule over plays that ended just after the stream threshold."""

    within_seconds: Seconds
    plays: Plays
    share_percent: Percent
    deviation_seconds: Seconds


class FarmForm(_Form):
    """A rule over listeners who do the same."""

    listeners: Annotated[int, Field(ge=2, le=1_000_000)]
    plays: Plays
    share_percent: Percent
    variation_percent: Annotated[int, Field(ge=0, le=100)]


class RulesForm(_Form):
    """The rules; one that is left out is off."""

    more_than_a_day: HoursForm | None = None
    overlapping: HoursForm | None = None
    too_many: TooManyForm | None = None
    repeated: RepeatedForm | None = None
    just_over_threshold: JustOverForm | None = None
    farm: FarmForm | None = None


class ArtificialForm(_Form):
    """The rules for artificial plays, as one versioned set."""

    version: Annotated[int, Field(ge=1)]
    description: Text
    source: Text
    rules: RulesForm


class CountingFileForm(_Form):
    """A whole file."""

    counting_policies: list[PolicyForm] = []
    artificial_plays: ArtificialForm | None = None


_FORMS = (
    CountingFileForm, PolicyForm, ArtificialForm, RulesForm, HoursForm, TooManyForm, RepeatedForm, JustOverForm, FarmForm,
)  # fmt: skip
KEYS = frozenset(key for form in _FORMS for key in form.model_fields)
"""Every key that some part of a file may have, to name the nearest one for a misspelt key."""
