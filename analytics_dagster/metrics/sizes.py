"""How large a metric is once all metrics in it are written out: those of metrics double with each step, and so would their SQL.

Counted from the sizes of what a metric is made of, so that counting does not grow like what is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analytics_dagster.metrics import forms
from analytics_dagster.metrics.expressions import occurrences

MOST_FIGURES, MOST_STEPS = 200, 20


@dataclass(frozen=True)
class Size:
    """`figures`: of a formula written out, a repeated one as often as it stands there; `steps`: how many metrics are made one
    from another.
    """

    figures: int = 1
    steps: int = 0

    def fault(self) -> str | None:
        """What is too much, or None; to be put behind the metric's name."""
        if self.figures > MOST_FIGURES:
            has = f"has {self.figures} figures with all metrics in it written out, {MOST_FIGURES} are allowed"
            return f"{has}; name fewer, or measure what it adds up"
        if self.steps > MOST_STEPS:
            return f"is made of metrics in {self.steps} steps, {MOST_STEPS} are allowed; name what they are made of"
        return None


def size_of(form: forms.MetricForm, known: Mapping[str, Size]) -> Size:
    """The size of a metric made of those that are `known`. Another name is a measure's: also its own, which means the measure in
    its own formula.
    """
    match form:
        case forms.DerivedForm():
            real = {one.alias: one.name for one in form.type_params.metrics or () if isinstance(one, forms.InputForm)}
            inner = [(real.get(name, name), times) for name, times in occurrences(form.type_params.expr).items()]
        case forms.RatioForm():
            inner = [(form.type_params.numerator, 1), (form.type_params.denominator, 1)]
        case forms.StandingForm():
            inner = [(form.type_params.metric, 1), (form.type_params.alike, 1)]
        case _:
            inner = []
    sizes = [(known.get(name, Size()), times) for name, times in inner]
    figures = sum(size.figures * times for size, times in sizes) or 1
    return Size(figures, 1 + max((size.steps for size, _ in sizes), default=0))
