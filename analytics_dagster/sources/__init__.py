"""Sources: importers of files that people have, and the simulated service. Parsing is here; storing is `ingest`'s."""
