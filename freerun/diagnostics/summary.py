"""The measures in words, and the step error rates as a table."""

from __future__ import annotations

from freerun.diagnostics.estimate import Estimate
from freerun.diagnostics.excess_error import ExcessError
from freerun.diagnostics.identity import Identity
from freerun.diagnostics.measures import Measures
from freerun.diagnostics.prefix_switch import Switch
from freerun.diagnostics.recovery import Recovery
from freerun.diagnostics.road_exam import AtRate
from freerun.diagnostics.state_divergence import MIN_SOURCES, StateDivergence

__all__ = ["cells", "error_rows", "summary"]

WITHIN = 2
"""Steps after the first error that the summary reports."""


def summary(measures: Measures) -> list[str]:
    """Return one or two sentences per measure; every number in them is one of the measures."""
    return [
        _excess(measures.excess_error),
        _recovery(measures.recovery, measures.sources),
        _switch(measures.prefix_switch),
        _road(measures.road_exam),
        _states(measures.state_divergence),
        _identity(measures.identity),
    ]


def error_rows(excess: ExcessError) -> list[list[str]]:
    """Return the two step error rates as rows of a table, the header first."""
    return [
        ["step error rate", "", "95 % interval", "sources"],
        ["free-running", *cells(excess.free)],
        ["teacher-forced", *cells(excess.teacher)],
    ]


def cells(estimate: Estimate) -> list[str]:
    """Return the value, the interval and the number of sources of an estimate as cells of a table."""
    if estimate.value is None:
        return ["undefined", "", f"{estimate.n:,}"]
    interval = "" if estimate.low is None else f"{estimate.low:.4f} to {estimate.high:.4f}"
    return [f"{estimate.value:.4f}", interval, f"{estimate.n:,}"]


def _excess(measure: ExcessError) -> str:
    free, teacher, excess = measure.free, measure.teacher, measure.excess
    if excess.value is None:
        return (
            f"Teacher-forced, the model makes no error on {teacher.n:,} sources, so its free-running errors cannot be "
            "compared."
        )
    factor = Estimate(_factor(excess.value), _factor(excess.low), _factor(excess.high), excess.n)
    text = (
        f"The free-running step error rate is {_times(factor)} times the teacher-forced one: {_percent(free)} against "
        f"{_percent(teacher)} of the steps."
    )
    if excess.low is not None and excess.high is not None and excess.low <= 0 <= excess.high:
        text += " The difference is not significant on these sources."
    return text


def _recovery(measure: Recovery, sources: int) -> str:
    if not measure.with_error:
        return f"No output has an error on {sources:,} sources, so recovery cannot be measured."
    first, later = measure.curve[0], measure.curve[WITHIN - 1]
    text = f"{measure.with_error:,} of {sources:,} outputs have an error."
    if later.recovered.value is not None:
        recovered = _percent(later.recovered)
        text += f" After its first error, the model recovers within {WITHIN} tokens in {recovered} of cases."
    if first.ratio.value is not None:
        text += (
            f" The next token is wrong {_times(first.ratio)} times as often as the same token of the same sources when "
            "teacher-forced."
        )
    return text


def _switch(switches: list[Switch]) -> str:
    if not switches:
        return "No output left its reference before the end, so its own prefixes and the reference prefixes are equal."
    largest = max(switches, key=lambda switch: switch.own.n)
    return (
        f"Given the first {largest.length} reference token{'s'[: largest.length != 1]} in place of its own wrong "
        f"prefix, {_percent(largest.right)} of the later steps are wrong instead of {_percent(largest.own)} "
        f"({largest.own.n:,} sources)."
    )


def _road(rates: list[AtRate]) -> str:
    if not rates:
        return "No prefix could be corrupted: the references have no first half, or the vocabulary no second token."
    base, worst = rates[0], rates[-1]
    text = f"After the first half of a reference, {_percent(base.errors)} of the steps are wrong"
    if worst.ratio.value is None:
        return text + "."
    return text + f"; with {100 * worst.rate:.0f} % of that half corrupted, {_times(worst.ratio)} times as many."


def _states(divergence: StateDivergence | None) -> str:
    if divergence is None:
        return f"Fewer than {MIN_SOURCES} sources have states after an error, so states were not compared."
    return (
        "After an error, a linear classifier distinguishes the decoder's free-running states from its teacher-forced "
        f"ones in {_percent(divergence.classifier_accuracy)} of cases (50 % is chance; {divergence.sources:,} "
        f"sources); the maximum mean discrepancy has p = {divergence.p_value:.3f}."
    )


def _identity(identity: Identity) -> str:
    return (
        f"{identity.right_free:,} of {identity.sources:,} outputs equal a reference. This number does not measure "
        "exposure bias: an output is correct if and only if every teacher-forced prediction is, which was confirmed on "
        f"{identity.agree:,} of {identity.sources:,} sources. Exposure bias changes what follows a first error."
    )


def _factor(percent: float | None) -> float | None:
    return None if percent is None else 1 + percent / 100


def _percent(estimate: Estimate) -> str:
    """Return for example ``4.1 % (3.9 to 4.3)``."""
    if estimate.value is None:
        return "an undefined fraction"
    return f"{100 * estimate.value:.1f} %{_interval(estimate, 100, 1)}"


def _times(estimate: Estimate) -> str:
    """Return for example ``1.40 (1.20 to 1.60)``."""
    assert estimate.value is not None, "the caller has checked it"
    return f"{estimate.value:.2f}{_interval(estimate, 1, 2)}"


def _interval(estimate: Estimate, scale: float, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f})"
