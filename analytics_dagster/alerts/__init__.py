"""Who must know: alert rules, their state machine, the judge of published figures, the outbox and the channels.

Nothing here imports Dagster; sensors and ops call one function of this room each.
"""
