"""The durable log: what was acknowledged is in it, on disk or in Kafka, until the lake has it."""
