"""analytics_dagster: figures, checks, forecasts and alerts for many tenants of a music service, on Dagster."""

from importlib.metadata import version as _version

__version__ = _version("analytics-dagster")
