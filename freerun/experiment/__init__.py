"""A training run: planned, prepared, run."""
