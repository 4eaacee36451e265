"""Is it right: suites of checks over raw tables, the gate they close, the score and what to do about it.

`suites.py` reads what is declared, `profile.py` measures it with DuckDB, `validate.py` lets Great Expectations judge the
measurements and fetches failing rows, `gate.py`, `score.py` and `scorecard.py` draw the conclusions. Nothing here knows
Dagster: `assets/` turns outcomes into asset checks.
"""
