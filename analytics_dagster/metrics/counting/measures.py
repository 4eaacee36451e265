"""The measures and metrics that follow from the counting policies, in the form in which files declare them."""

from __future__ import annotations

from collections.abc import Iterator

from analytics_dagster.metrics.counting.policies import ArtificialRules, Count, Counting, CountingPolicy
from analytics_dagster.metrics.counting.verdicts import ARTIFICIAL, verdict_column
from analytics_dagster.metrics.declarations import Aggregation, Direction, Origin
from analytics_dagster.metrics.documents import Document, Location
from analytics_dagster.metrics.forms import FileForm, MeasureForm, RatioForm, RatioParams, SimpleForm, SimpleParams

FAMILY = "counting"
"""The semantic model that holds every policy's counts."""


def with_measures(form: FileForm, counting: Counting) -> FileForm:
    """A file's form in which the semantic model `counting` has a measure for each count too."""
    if not any(model.name == FAMILY and model.step for model in form.semantic_models):
        return form
    counted = tuple(_measure(count, counting) for count in counting.counts())
    models = tuple(
        model.model_copy(update={"measures": (*model.measures, *counted)}) if model.name == FAMILY and model.step else model
        for model in form.semantic_models
    )
    return form.model_copy(update={"semantic_models": models})


def metrics_of_policies(counting: Counting) -> Iterator[tuple[Document, FileForm]]:
    """The metrics of each policy's two counts, and of artificial plays, with a document that says where they were declared."""
    for policy in counting.policies:
        yield _declared_at(policy.origin, [_metric(count, counting) for count in counting.counts() if count.policy is policy])
    yield _declared_at(counting.rules.origin, list(_artificial(counting.rules)))


def _declared_at(origin: Origin, metrics: list[SimpleForm | RatioForm]) -> tuple[Document, FileForm]:
    places: list[Location] = [(), ("metrics",), *(("metrics", n) for n in range(len(metrics)))]
    return Document(origin.file, None, dict.fromkeys(places, origin.line)), FileForm(metrics=tuple(metrics))


def _artificial(rules: ArtificialRules) -> Iterator[SimpleForm | RatioForm]:
    yield SimpleForm(
        name="artificial_plays",
        description=f"Plays of any length that the rules for artificial plays, version {rules.version}, mark.",
        type="simple",
        type_params=SimpleParams(measure="artificial_plays"),
        unit="plays",
        direction=Direction.UP_IS_BAD,
    )
    yield RatioForm(
        name="artificial_share",
        description=f"Share of plays that the rules for artificial plays, version {rules.version}, mark.",
        type="ratio",
        type_params=RatioParams(numerator="artificial_plays", denominator="judged_plays"),
        unit="ratio",
        direction=Direction.UP_IS_BAD,
    )


def policy_text(policy: CountingPolicy) -> str:
    """A policy's terms in words, version included."""
    parts = [f"at least {policy.minimum_text}"]
    parts.append("plays of unknown length count" if policy.unknown_length_counts else "plays of unknown length do not count")
    if policy.known_listener:
        parts.append("known listeners only")
    if policy.most_a_day is not None:
        parts.append(f"at most {policy.most_a_day} of one listener, track and day")
    if policy.formats_left_out:
        parts.append(f"without {', '.join(policy.formats_left_out)}")
    return f"policy {policy.name}, version {policy.version}: {'; '.join(parts)}"


def _measure(count: Count, counting: Counting) -> MeasureForm:
    expr = f"{verdict_column(count.policy)} is null"
    return MeasureForm(
        name=count.metric,
        agg=Aggregation.SUM_BOOLEAN,
        expr=f"{expr} and {ARTIFICIAL} is null" if count.adjusted else expr,
        description=f"Plays counted by {policy_text(count.policy)}; {_variant(count, counting)}.",
    )


def _metric(count: Count, counting: Counting) -> SimpleForm:
    return SimpleForm(
        name=count.metric,
        description=(
            f"Streams by policy {count.policy.name}, version {count.policy.version}; {_variant(count, counting)}. "
            f"{count.policy.description}"
        ),
        type="simple",
        type_params=SimpleParams(measure=count.metric),
        unit="streams",
        direction=Direction.DOWN_IS_BAD,
    )


def _variant(count: Count, counting: Counting) -> str:
    return f"without artificial plays (rules version {counting.rules.version})" if count.adjusted else "raw"
