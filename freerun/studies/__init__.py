"""Several strategies over several seeds: finished runs, and what can be said of their differences."""
