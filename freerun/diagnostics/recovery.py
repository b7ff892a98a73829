"""Recovery: errors after a model's first error.

``tau_i`` is the first error of source i's free run. At distance k, the errors at ``tau_i + k`` are compared with the
teacher-forced errors of the same sources at the same positions. Sources with errors are harder, so compared with all
sources even a model without exposure bias would look bad.
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
    """``k`` steps after the first error.

    Attributes:
        k: the distance.
        free: the free-running step error rate.
        teacher: the teacher-forced step error rate.
        ratio: ``free / teacher``.
        recovered: the fraction of sources with a correct step within k steps; an output that ends earlier is censored
            (Kaplan & Meier 1958).
    """

    k: int
    free: Estimate
    teacher: Estimate
    ratio: Estimate
    recovered: Estimate


class Recovery(NamedTuple):
    """``with_error``: sources with any error; ``at_their_end``: those whose first error is their last step."""

    with_error: int
    at_their_end: int
    curve: list[AtDistance]


def recovery(recorded: Recorded, distances: int = DISTANCES) -> Recovery:
    """Measure the sources with an error."""
    tau, steps = recorded.first_errors, recorded.free.errors.lengths
    has_error = tau < steps
    teacher = recorded.on_followed(recorded.forced.errors)
    ratios: dict[str, Columns] = {}
    recovered = np.zeros(len(tau), np.bool_)
    for k in range(1, distances + 1):
        free_errors, free_runs = recorded.free.errors.window(tau + k, tau + k + 1)
        teacher_errors, teacher_runs = teacher.window(tau + k, tau + k + 1)
        # a run without error has no steps after its first error
        both = (free_runs > 0) & (teacher_runs > 0)
        ratios[f"free {k}"] = free_errors * both, both
        ratios[f"teacher {k}"] = teacher_errors * both, both
        at_risk = ~recovered & (free_runs > 0)
        recovering = at_risk & (free_errors == 0)
        ratios[f"recovering {k}"] = recovering, at_risk
        recovered |= recovering
    resampled = Resampled(ratios)

    def within(*hazards: Floats) -> Floats:
        """Return Kaplan and Meier's estimate: 1 minus the product over k of the fractions that did not recover."""
        staying = np.ones_like(hazards[0])
        for hazard in hazards:
            # once all have recovered, none is at risk, and the estimate stays at 1
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
    return Recovery(int(has_error.sum()), int((has_error & (tau + 1 == steps)).sum()), curve)
