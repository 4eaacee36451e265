"""The step `listeners`: gives each play the age band and the gender of its listener, as raw/users describes them now.

Both are of people, so a semantic model with this step must say in `small_cells` whom its figures rest on (`small_cells.py`).
A day keeps what was known when it was computed: who tells an age later is in a band on days that are materialized after that.
"""

from __future__ import annotations

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.lake.compute import literal
from analytics_dagster.lake.schemas import PLAYS, USERS, Column
from analytics_dagster.metrics.declarations import SourceStep

LISTENERS = "listeners"
"""Name of the step, and of the relation that holds the tenant's raw/users while its plays are measured."""

# Policy: bands as advertisers and Spotify for Artists cut them. Ages outside of 13 to 119 are typing errors, or no people.
YOUNGEST, OLDEST = 13, 119
AGE_BANDS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"), (65, "55-64"))
LAST_BAND = "65 and over"
_GENDERS = {"female": ("f", "female", "w", "woman"), "male": ("m", "male", "man")}


def listener_step() -> SourceStep:
    """The step: rows of plays with `age_band` and `gender`, null where the listener is not known or did not say."""
    raw = ", ".join(f"plays.{q(c.name)}" for c in PLAYS.columns)
    joined = f"source AS plays LEFT JOIN {LISTENERS} AS people ON people.user_id = plays.listener_id"
    columns = (
        Column("age_band", PLAYS.column("tier").type, "Age band of the listener, of the age last stated."),
        Column("gender", PLAYS.column("tier").type, "female, male or other, as last stated by the listener."),
    )
    # Said of the column in raw/plays by which the listener is found: lineage within a family is of its own source.
    reads = {column.name: ("listener_id",) for column in columns}
    sql = f"SELECT {raw}, {_age_band()} AS age_band, {_gender()} AS gender FROM {joined}"
    return SourceStep(sql, columns, reads, {LISTENERS: USERS}, in_duckdb=True)


def _age_band() -> str:
    cases = " ".join(f"WHEN people.age < {below} THEN {literal(band)}" for below, band in AGE_BANDS)
    known = f"people.age IS NULL OR people.age < {YOUNGEST} OR people.age > {OLDEST}"
    return f"CASE WHEN {known} THEN NULL {cases} ELSE {literal(LAST_BAND)} END"


def _gender() -> str:
    stated = "lower(trim(people.gender))"
    cases = " ".join(
        f"WHEN {stated} IN ({', '.join(map(literal, words))}) THEN {literal(gender)}" for gender, words in _GENDERS.items()
    )
    return f"CASE WHEN people.gender IS NULL OR {stated} = '' THEN NULL {cases} ELSE 'other' END"
