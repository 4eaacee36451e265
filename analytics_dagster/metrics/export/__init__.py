"""The catalogue as other tools read it: one module a format, each a pure function from the catalogue to YAML.

What a format cannot say is left out and told (`left_out.py`), never written as something near it. SQL snippets are written
for other engines by `dialects.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from analytics_dagster.metrics.declarations import Catalogue


class ExportFormat(StrEnum):
    """What a catalogue can be written as."""

    METRICFLOW = "metricflow"
    OSI = "osi"


def export_text(catalogue: Catalogue, format_: ExportFormat, parameters: Mapping[str, int]) -> str:
    """The whole catalogue as YAML. `parameters` are the values of `expressions.PARAMETERS`, which other tools do not know.

    Raises UserError for a name that the format does not take.
    """
    from analytics_dagster.metrics.export import metricflow, osi

    match format_:
        case ExportFormat.METRICFLOW:
            return metricflow.text(catalogue, parameters)
        case ExportFormat.OSI:
            return osi.text(catalogue, parameters)
