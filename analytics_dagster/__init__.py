"""analytics_dagster: figures, checks, forecasts and alerts for many tenants of a music service, on Dagster.

The public names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analytics_dagster.engine.engine import Engine
    from analytics_dagster.engine.environment import analytics_engine
    from analytics_dagster.engine.local import LocalEngine
    from analytics_dagster.engine.metric import AnalyticsMetric
    from analytics_dagster.engine.refusals import RefusedPointsError
    from analytics_dagster.engine.remote import RemoteEngine
    from analytics_dagster.ingest.points import MetricType

__all__ = [
    "AnalyticsMetric",
    "Engine",
    "LocalEngine",
    "MetricType",
    "RefusedPointsError",
    "RemoteEngine",
    "analytics_engine",
]

__version__ = _version("analytics-dagster")

_HOMES = {
    "AnalyticsMetric": "engine.metric",
    "Engine": "engine.engine",
    "LocalEngine": "engine.local",
    "MetricType": "ingest.points",
    "RefusedPointsError": "engine.refusals",
    "RemoteEngine": "engine.remote",
    "analytics_engine": "engine.environment",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
