"""What is measured: metrics declared once in YAML, compiled to aggregates and to queries."""
