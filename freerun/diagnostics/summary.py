"""The measures in plain words."""

from __future__ import annotations

from freerun.diagnostics.estimate import Estimate
from freerun.diagnostics.excess_error import ExcessError
from freerun.diagnostics.identity import Identity
from freerun.diagnostics.measures import Measures
from freerun.diagnostics.prefix_switch import Switch
from freerun.diagnostics.recovery import Recovery
from freerun.diagnostics.road_exam import AtRate
from freerun.diagnostics.state_divergence import FEWEST_SOURCES, StateDivergence

__all__ = ["summary"]

WITHIN = 2
"""Steps after the first error that the summary looks at."""


def summary(measures: Measures) -> list[str]:
    """A sentence or two a measure; every number stands in the measures too."""
    return [
        _excess(measures.excess_error),
        _recovery(measures.recovery, measures.sources),
        _switch(measures.prefix_switch),
        _road(measures.road_exam),
        _states(measures.state_divergence),
        _identity(measures.identity),
    ]


def _excess(found: ExcessError) -> str:
    free, teacher, excess = found.free, found.teacher, found.excess
    if excess.value is None:
        return (
            f"Fed with right tokens the model makes no error in {teacher.n:,} sources, so there is nothing to compare "
            "its own prefixes with."
        )
    factor = Estimate(_factor(excess.value), _factor(excess.low), _factor(excess.high), excess.n)
    told = (
        f"Free running makes {_times(factor)} times the errors that right prefixes would: {_percent(free)} of the "
        f"steps on its own, {_percent(teacher)} when fed with right tokens."
    )
    if excess.low is not None and excess.high is not None and excess.low <= 0 <= excess.high:
        told += " These sources cannot tell that from no difference."
    return told


def _recovery(found: Recovery, sources: int) -> str:
    if not found.with_error:
        return f"It never erred on {sources:,} sources, so recovery cannot be seen."
    first, then = found.curve[0], found.curve[WITHIN - 1]
    told = f"{found.with_error:,} of {sources:,} outputs err somewhere."
    if then.recovered.value is not None:
        told += (
            f" After a first error the model recovers within {WITHIN} tokens in {_percent(then.recovered)} of cases."
        )
    if first.ratio.value is not None:
        told += (
            f" The next token errs {_times(first.ratio)} times as often as the same one of the same sources does "
            "after the right tokens."
        )
    return told


def _switch(found: list[Switch]) -> str:
    if not found:
        return "No output left its reference before the end, so prefixes of its own and right ones do not differ."
    most = max(found, key=lambda each: each.own.n)
    return (
        f"Given the right first {most.length} token{'s'[: most.length != 1]} in place of its own wrong ones, steps "
        f"after them err in {_percent(most.right)} of cases instead of {_percent(most.own)} ({most.own.n:,} sources)."
    )


def _road(found: list[AtRate]) -> str:
    if not found:
        return "There was nothing to corrupt: references have no first half, or the vocabulary no second token."
    base, worst = found[0], found[-1]
    told = f"After the first half of a reference {_percent(base.errors)} of the steps err"
    if worst.ratio.value is None:
        return told + "."
    return told + f"; with {100 * worst.rate:.0f} % of that half corrupted it is {_times(worst.ratio)} times that."


def _states(found: StateDivergence | None) -> str:
    if found is None:
        return f"Fewer than {FEWEST_SOURCES} sources have states after an error, so states were not compared."
    return (
        f"After an error, a linear classifier tells the decoder's states from those after right tokens in "
        f"{_percent(found.classifier_accuracy)} of cases (50 % is chance; {found.sources:,} sources); the "
        f"maximum mean discrepancy has p = {found.p_value:.3f}."
    )


def _identity(found: Identity) -> str:
    return (
        f"{found.right_free:,} of {found.sources:,} outputs equal a reference. That figure is no measure of exposure "
        f"bias: an output is right if and only if every forced prediction is, as it was here for {found.agree:,} of "
        f"{found.sources:,} sources. Exposure bias changes what follows a first error."
    )


def _factor(percent: float | None) -> float | None:
    return None if percent is None else 1 + percent / 100


def _percent(estimate: Estimate) -> str:
    """``4.1 % (3.9 to 4.3)``."""
    if estimate.value is None:
        return "an undefined share"
    return f"{100 * estimate.value:.1f} %{_interval(estimate, 100, 1)}"


def _times(estimate: Estimate) -> str:
    """``1.40 (1.20 to 1.60)``."""
    assert estimate.value is not None, "the caller has looked"
    return f"{estimate.value:.2f}{_interval(estimate, 1, 2)}"


def _interval(estimate: Estimate, scale: float, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f})"
