"""The training loop and what it needs: schedules, optimisers, precision, checkpoints, journal."""
