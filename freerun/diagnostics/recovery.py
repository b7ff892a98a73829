"""Recovery: what a model does after its first error.

tau_i is the first error of source i's free run. At distance k the errors at tau_i + k are compared with those of the
same sources at the same places when they are fed the reference: sources with errors are harder, so against all sources
even a model without exposure bias would look bad.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Columns, Estimate, Resampled
from freerun.diagnostics.record import Recorded

__all__ = ["AtDistance", "Recovery", "recovery"]

DISTANCES = 10
Floats = npt.NDArray[np.float64]


class AtDistance(NamedTuple):
    """``k`` steps after the first error: errors a step fed with own and with right tokens, the one by the other
    (``ratio``), and the share of sources that wrote a token without regret within k steps (``recovered``, Kaplan &
    Meier 1958: an output that ends before that tells nothing of what would have come).
    """

    k: int
    free: Estimate
    teacher: Estimate
    ratio: Estimate
    recovered: Estimate


class Recovery(NamedTuple):
    """``with_error``: sources that err at all; ``at_their_end``: of these, how many in the last step they wrote."""

    with_error: int
    at_their_end: int
    curve: list[AtDistance]


def recovery(recorded: Recorded, distances: int = DISTANCES) -> Recovery:
    """Follow the sources that err."""
    tau, steps = recorded.first_errors, recorded.free.errors.lengths
    erring = tau < steps
    teacher = recorded.on_followed(recorded.forced.errors)
    ratios: dict[str, Columns] = {}
    recovered = np.zeros(len(tau), np.bool_)
    for k in range(1, distances + 1):
        free_errors, free_runs = recorded.free.errors.window(tau + k, tau + k + 1)
        teacher_errors, teacher_runs = teacher.window(tau + k, tau + k + 1)
        # a run that never errs has no steps behind its first error
        both = (free_runs > 0) & (teacher_runs > 0)
        ratios[f"free {k}"] = free_errors * both, both
        ratios[f"teacher {k}"] = teacher_errors * both, both
        at_risk = ~recovered & (free_runs > 0)
        recovering = at_risk & (free_errors == 0)
        ratios[f"recovering {k}"] = recovering, at_risk
        recovered |= recovering
    resampled = Resampled(ratios)

    def within(*hazards: Floats) -> Floats:
        """Kaplan and Meier's estimate: 1 less the product over k of those who stayed in error."""
        staying = np.ones_like(hazards[0])
        for hazard in hazards:
            # once everyone has recovered, nobody is at risk, and it stays at that
            staying = np.where(staying == 0, 0.0, staying * (1 - hazard))
        return 1 - staying

    curve = [
        AtDistance(
            k,
            resampled.ratio(f"free {k}"),
            resampled.ratio(f"teacher {k}"),
            resampled.quotient(f"free {k}", f"teacher {k}"),
            resampled.of(within, *(f"recovering {j}" for j in range(1, k + 1))),
        )
        for k in range(1, distances + 1)
    ]
    return Recovery(int(erring.sum()), int((erring & (tau + 1 == steps)).sum()), curve)
