"""The page of ``freerun study``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from freerun.metrics.intervals import Interval
from freerun.report.page import number, own_file, shown, template
from freerun.report.svg import STYLES, Axes, Style, as_svg, label
from freerun.studies.analysis import METRICS, Analysis
from freerun.studies.results import Result
from freerun.version import VERSION

__all__ = ["study_page"]

CAPTIONS = [
    (
        "curves",
        "Symbol error rate on the development pairs by update: the mean over seeds, and each seed as a thin line.",
    ),
    ("nll", "Negative log-likelihood of the reference tokens, teacher-forced, in the same way."),
    ("differences", "Difference from the control with 95 % intervals over seeds and sources; each tick is a seed."),
    ("cost", "Training time and final metric; each point is a seed."),
]
_ALWAYS = {"loss", "pairs", "target_tokens", "learning_rate", "gradient_norm"}


def study_page(
    title: str, analysis: Analysis, results: Sequence[Result], reported_on: str, target_error: float | None = None
) -> str:
    """Return the page as HTML; arm names and everything else that a user chose are escaped."""
    arms = [arm for arm in analysis.arms if arm.figures]
    return template("study_page.html").render(
        title=title,
        analysis=analysis,
        reported_on=reported_on,
        version=VERSION,
        css=own_file("page.css"),
        names=METRICS,
        score_names=sorted(set().union(*(arm.scores for arm in arms))) if arms else [],
        journal_names=sorted(set().union(*(arm.journal for arm in arms)) - _ALWAYS) if arms else [],
        has_target=target_error is not None,
        shown=shown,
        number=number,
        ends=_ends,
        score=_score,
        captions=CAPTIONS,
        plots=_plots(analysis, [each for each in results if each.failed is None]),
    )


def _score(scores: Mapping[str, float], name: str) -> str:
    """Return a score of 0 to 100 as text; the empty string if an arm has none."""
    if name not in scores:
        return ""
    return "undefined" if math.isnan(scores[name]) else f"{scores[name]:.2f}"


def _ends(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"{interval.low:+.4f} to {interval.high:+.4f}"


def _plots(analysis: Analysis, results: Sequence[Result]) -> dict[str, Markup]:
    """Return the plots as SVG; an empty text if there is nothing to draw."""
    names = [analysis.control, *(arm.name for arm in analysis.arms if arm.name != analysis.control)]
    styles = {name: STYLES[number % len(STYLES)] for number, name in enumerate(names)}
    svgs = {"curves": "", "nll": "", "differences": "", "cost": ""}
    if any(each.curve for each in results):
        svgs["curves"] = _curves(results, styles, "symbol_error_rate.free", "symbol error rate")
        svgs["nll"] = _curves(results, styles, "nll.teacher", "NLL, nats per token")
    if analysis.comparisons:
        svgs["differences"] = _differences(analysis, styles)
    if results:
        svgs["cost"] = _cost(results, analysis.metric, styles)
    return {name: Markup(svg) for name, svg in svgs.items()}


def _curves(results: Sequence[Result], styles: dict[str, Style], metric: str, name: str) -> str:
    def draw(axes: Axes) -> None:
        for arm, style in styles.items():
            runs = [{u: f[metric] for u, f in each.curve if metric in f} for each in results if each.arm == arm]
            for run in runs:
                axes.plot([*run], [*run.values()], color=style["color"], linewidth=0.6, alpha=0.4)
            shared = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
            if shared:
                means = [float(np.mean([run[update] for run in runs])) for update in shared]
                axes.plot(shared, means, markersize=3, linewidth=1.4, label=arm, **style)
        if any(f.get(metric, 0) > 0 for each in results for _, f in each.curve):
            axes.set_yscale("log")
        label(axes, "update", name)

    return as_svg(f"curve-{metric.split('.')[0]}", draw, f"{name} by update, one line per arm", height=3.6)


def _differences(analysis: Analysis, styles: dict[str, Style]) -> str:
    rows = list(reversed(analysis.comparisons))
    by_name = {arm.name: arm.by_seed for arm in analysis.arms}
    control = by_name[analysis.control]

    def draw(axes: Axes) -> None:
        for y, each in enumerate(rows):
            style, interval = styles[each.name], each.difference
            axes.plot([interval.low, interval.high], [y, y], color=style["color"], linewidth=2)
            axes.plot([interval.value], [y], color=style["color"], marker=style["marker"], markersize=6)
            seeds = [by_name[each.name][seed] - control[seed] for seed in each.seeds]
            axes.plot(seeds, [y - 0.22] * len(seeds), linestyle="none", marker="|", color=style["color"])
        axes.axvline(0, color="#000000", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [each.name.replace("$", r"\$") for each in rows])
        label(axes, f"{analysis.metric}, minus {analysis.control}".replace("$", r"\$"), "", legend=False)

    return as_svg("differences", draw, "Differences from the control", height=1.2 + 0.4 * len(rows))


def _cost(results: Sequence[Result], metric: str, styles: dict[str, Style]) -> str:
    def draw(axes: Axes) -> None:
        for arm, style in styles.items():
            runs = [each for each in results if each.arm == arm]
            minutes = [each.seconds / 60 for each in runs]
            values = [each.value(metric) for each in runs]
            axes.plot(minutes, values, linestyle="none", marker=style["marker"], color=style["color"], label=arm)
        label(axes, "minutes per run", metric)

    return as_svg("cost", draw, "Training time and quality of each run", height=3.6)
