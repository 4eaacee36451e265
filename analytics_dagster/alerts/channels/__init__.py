"""Ways to reach people and machines. A channel makes its own message from the outbox's payload and sends it, once a call.

`base` says what a channel is and which errors mean what; one module for each kind. Retrying, cooldown and order are the
outbox's.
"""
