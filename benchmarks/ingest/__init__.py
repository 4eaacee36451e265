"""What the ingest door bears, with the client on the same machine and VictoriaMetrics fed the same rows in the same run."""
