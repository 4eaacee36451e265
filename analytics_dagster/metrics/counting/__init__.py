"""Counting policies side by side: which plays each counts, why it leaves the others out, and why two counts differ.

A *policy* and the *rules for artificial plays* are declared in YAML (`../policies/`, read by `load.py`). `verdicts.py` writes
them as SQL over a day's plays; `measures.py` makes the measures and metrics of the family `counting` from them; `reconcile.py`
explains the difference of two counts play by play. The one idea: a verdict is a column of a play, so every count is a filter over
the same plays.
"""
