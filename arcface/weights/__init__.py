"""State dicts, what a run's output directory holds, and conversion of published weights."""
