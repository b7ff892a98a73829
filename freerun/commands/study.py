"""``freerun study``: print which arms differ from the control."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from freerun.api.arm_study import study as run_study
from freerun.commands.console import CountLine, shown_notices
from freerun.commands.tables import aligned
from freerun.config import StudyConfig
from freerun.experiment.overlap import Overlap
from freerun.metrics.intervals import Interval
from freerun.studies.analysis import Analysis, ArmComparison, ArmResults

__all__ = ["StudyRequest", "study"]


@dataclass(frozen=True)
class StudyRequest:
    """The arguments of ``freerun study``."""

    config: Path
    out: Path | None = None
    json: bool = False
    device: str | None = None


def study(request: StudyRequest) -> None:
    """Run the study, and print its analysis."""
    with shown_notices(), CountLine("evaluating", "sequences") as line:

        def progress(done: int, total: int) -> None:
            line(done, total)
            if done == total:
                line.clear()  # notices follow

        result = run_study(request.config, request.out, device=request.device, progress=progress)
    if request.json:
        print(json.dumps(result.as_json()))
    else:
        print(as_text(result.analysis, result.settings, result.overlap))


def as_text(analysis: Analysis, settings: StudyConfig, overlap: Overlap) -> str:
    """Return the statements, and tables of arms and comparisons."""
    parts = ["\n".join(analysis.statements), f"Metrics on {analysis.sources:,} sources of {overlap}."]
    if arms := [arm for arm in analysis.arms if arm.figures]:
        parts.append("\n".join(aligned(_arm_rows(arms, settings.target_error))))
    if analysis.comparisons:
        head = [f"{analysis.metric}, minus {analysis.control}", "95 %, seeds and sources", "p (Holm)"]
        rows = [[*head, "95 %, t over seeds", "p (Holm)", "cost", "verdict"]]
        rows += [_comparison_row(each) for each in analysis.comparisons]
        parts.append("\n".join(aligned(rows)))
    return "\n\n".join(parts)


def _arm_rows(arms: list[ArmResults], target_error: float | None) -> list[list[str]]:
    head = ["", "seeds", "symbol error rate", "95 %, seeds and sources", "sequence accuracy", "NLL", "minutes"]
    if target_error is None:
        return [head, *(_arm_row(arm) for arm in arms)]
    return [[*head, f"updates to {target_error:g}"], *([*_arm_row(arm), _updates_to_target(arm)] for arm in arms)]


def _arm_row(arm: ArmResults) -> list[str]:
    error = arm.figures["symbol_error_rate.free"]
    others = [_number(arm.figures[name].value) for name in ("sequence_accuracy.free", "nll.teacher")]
    interval = "" if error.low is None else f"{error.low:.4f} to {error.high:.4f}"
    return [arm.name, str(len(arm.seeds)), _number(error.value), interval, *others, f"{arm.seconds / 60:.1f}"]


def _updates_to_target(arm: ArmResults) -> str:
    updates, reached = arm.updates_to_target
    return "never" if updates is None else f"{updates:,.0f} ({reached} of {len(arm.seeds)} seeds)"


def _comparison_row(each: ArmComparison) -> list[str]:
    start = [f"{each.name} {each.difference.value:+.4f}", _ends(each.difference), _p_value(each.p_value)]
    return [*start, _ends(each.over_seeds), _p_value(each.p_over_seeds), f"{each.cost:.2f} x", each.verdict]


def _ends(interval: Interval) -> str:
    return "" if np.isnan(interval.low) else f"{interval.low:+.4f} to {interval.high:+.4f}"


def _p_value(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
