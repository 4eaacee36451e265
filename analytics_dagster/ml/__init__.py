"""What next: anomalies and forecasts of metric series, and the fitted models behind them.

Nothing here knows Dagster, a lake path or the clock: histories come in as Arrow tables (`ts`, `value`), verdicts and
forecasts go out the same way.
"""
