"""Learning-rate schedules: a factor for the learning rate as a pure function of the update.

All begin with a linear warm-up: update u of a warm-up of w has the factor u / w times what the schedule gives there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "halving", "inverse_sqrt"]

Schedule = Callable[[int], float]
"""Update (from 1) -> factor of the learning rate, in [0, 1]."""


def constant(warmup: int = 0) -> Schedule:
    """Return a schedule of 1 after the warm-up."""
    return lambda update: _warm(update, warmup)


def inverse_sqrt(warmup: int) -> Schedule:
    """Return ``sqrt(warmup / update)`` after the warm-up (Vaswani et al. 2017, equation 3, scaled to 1 at its peak)."""
    return lambda update: min(_warm(update, warmup), math.sqrt(warmup / update))


def cosine(updates: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Return half a cosine from 1 at the end of the warm-up to ``final`` at the last update.

    Loshchilov & Hutter 2017, equation 5. ``final`` is in [0, 1].
    """

    def factor(update: int) -> float:
        progress = min(1.0, max(0.0, (update - warmup) / max(1, updates - warmup)))
        return _warm(update, warmup) * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))

    return factor


def halving(updates_per_epoch: float, start_epoch: float = 5.0, every_epochs: float = 0.5, warmup: int = 0) -> Schedule:
    """Return 1, halved at the end of every ``every_epochs`` after ``start_epoch`` epochs.

    Sutskever et al. 2014, section 3.4. The first halving comes ``every_epochs`` after ``start_epoch``.
    """

    def factor(update: int) -> float:
        epochs_done = (update - 1) / updates_per_epoch
        # slightly more than a whole number of halvings counts as whole: the division above is not exact
        halvings = math.floor(min(1000.0, max(0.0, epochs_done - start_epoch) / every_epochs + 1e-9))
        return _warm(update, warmup) * math.pow(0.5, halvings)

    return factor


def _warm(update: int, warmup: int) -> float:
    return min(1.0, update / warmup) if warmup else 1.0
