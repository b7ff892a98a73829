"""The training loop and what it needs: schedules, optimizers, precision, checkpoints, journal."""
