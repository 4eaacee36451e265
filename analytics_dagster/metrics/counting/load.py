"""From YAML files to a checked `Counting`: what can be wrong is found here, with file, line and remedy.

The built-in policies are the folder `policies/` beside this package; the folder `policies` within ANALYTICS_METRICS has more. A
set of rules for artificial plays that is declared there takes the place of the built-in one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from analytics_dagster.errors import DeclarationError
from analytics_dagster.metrics.counting import forms
from analytics_dagster.metrics.counting.policies import (
    ADJUSTED,
    ArtificialRules,
    Counting,
    CountingPolicy,
    Farm,
    JustOverThreshold,
    MoreThanADay,
    Overlapping,
    Repeated,
    TooMany,
)
from analytics_dagster.metrics.declarations import Origin
from analytics_dagster.metrics.documents import Document, describe, read_document

T = TypeVar("T")

BUILT_IN = Path(__file__).parents[1] / "policies"
FOLDER = "policies"
_NAME = "a policy's name; write at most 46 lower-case letters, digits and _, beginning with a letter"
"""Where a folder of metric declarations has those of counting."""


def load_counting(extra: Path | None = None) -> Counting:
    """The built-in policies and rules, and those of the folder `extra` (*.yaml, *.yml), which need not exist.

    Raises DeclarationError naming file and line: a bad shape, a name taken twice, two sets of rules.
    """
    policies: dict[str, CountingPolicy] = {}
    own = _files(extra) if extra is not None and extra.is_dir() else []
    rules: list[tuple[bool, ArtificialRules]] = []
    for path in [*_files(BUILT_IN), *own]:
        document = read_document(path)
        form = _form(document)
        for index, declared in enumerate(form.counting_policies):
            policy = _policy(document, index, declared)
            if policy.name in policies:
                there = policies[policy.name].origin
                raise DeclarationError(
                    f"{policy.origin}: the counting policy {policy.name!r} is also declared in {there}; give one of them another "
                    f"name, for example {policy.name}_{policy.version + 1}"
                )
            policies[policy.name] = policy
        if form.artificial_plays is not None:
            rules.append((path in own, _rules(document, form.artificial_plays)))
    mine = [one for is_own, one in rules if is_own]
    if len(mine) > 1:
        raise DeclarationError(f"{mine[1].origin}: artificial_plays is also declared in {mine[0].origin}; keep one set of rules")
    return Counting(tuple(policies.values()), (mine or [one for _, one in rules])[0])


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))


def _form(document: Document) -> forms.CountingFileForm:
    try:
        return forms.CountingFileForm.model_validate(document.data or {})
    except ValidationError as error:
        raise DeclarationError(describe(document, error, forms.KEYS, _NAME)) from None


def _policy(document: Document, index: int, form: forms.PolicyForm) -> CountingPolicy:
    origin = Origin(document.file, document.line(("counting_policies", index, "name")))
    if form.name.endswith(ADJUSTED):
        raise DeclarationError(
            f"{origin}: a policy may not be called {form.name!r}: what ends with {ADJUSTED} is a policy's count without "
            "artificial plays"
        )
    return CountingPolicy(
        name=form.name,
        version=form.version,
        description=form.description.strip(),
        source=form.source.strip(),
        minimum_seconds=form.minimum_seconds,
        unknown_length_counts=form.unknown_length == "counts",
        known_listener=form.known_listener,
        most_a_day=form.most_a_day,
        formats_left_out=tuple(dict.fromkeys(form.formats_left_out)),
        origin=origin,
    )


def _made(rule: Callable[..., T], form: BaseModel | None) -> T | None:
    """The rule that a form with its fields declares, or None where it is off."""
    return None if form is None else rule(**form.model_dump())


def _rules(document: Document, form: forms.ArtificialForm) -> ArtificialRules:
    rules = form.rules
    return ArtificialRules(
        version=form.version,
        description=form.description.strip(),
        source=form.source.strip(),
        more_than_a_day=_made(MoreThanADay, rules.more_than_a_day),
        overlapping=_made(Overlapping, rules.overlapping),
        too_many=_made(TooMany, rules.too_many),
        repeated=_made(Repeated, rules.repeated),
        just_over_threshold=_made(JustOverThreshold, rules.just_over_threshold),
        farm=_made(Farm, rules.farm),
        origin=Origin(document.file, document.line(("artificial_plays",))),
    )
