"""The page of ``freerun tune``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from markupsafe import Markup

from freerun.config import HIGHER_IS_BETTER
from freerun.report.page import own_file, template
from freerun.report.svg import FREE, TEACHER, Axes, as_svg, label, whole_numbers
from freerun.studies.trials import Trial, ranked
from freerun.version import VERSION

__all__ = ["tuning_page"]

_LOG_SCALE: Final = {"training.learning_rate"}
_FEW: Final = 4
"""So few different values are marked one by one."""
_WIDE: Final = 4.0


def tuning_page(
    title: str,
    metric: str,
    trials: Sequence[Trial],
    statements: Sequence[str],
    start: Mapping[str, Any],
    importances: Mapping[str, float],
) -> str:
    """Return the page as HTML.

    Args:
        title: of the page.
        metric: the name of what was tuned.
        trials: all trials, in their order.
        statements: what was found, in sentences.
        start: the first trial's value of every setting that was tuned.
        importances: of each setting, the largest first; empty if unknown.
    """
    return template("tuning_page.html").render(
        title=title,
        metric=metric,
        trials=trials,
        version=VERSION,
        css=own_file("page.css"),
        statements=statements,
        names=[_short(key) for key in start],
        ranked=ranked(trials, metric in HIGHER_IS_BETTER),
        values={trial.number: [trial.settings.get(key, start[key]) for key in start] for trial in trials},
        plots=[(Markup(svg), caption) for svg, caption in _plots(metric, trials, start, importances)],
    )


def _plots(
    metric: str,
    trials: Sequence[Trial],
    start: Mapping[str, Any],
    importances: Mapping[str, float],
) -> list[tuple[str, str]]:
    """Return plots as SVG, with their captions."""
    plots = [(_progress(metric, trials), f"{metric} of each trial, and of the best one so far.")]
    if importances:
        caption = (
            "Importance: how much each setting decided whether a trial was among the best (PED-ANOVA). With few "
            "trials it is a hint, not a finding."
        )
        plots.insert(0, (_importances(importances), caption))
    for key, value in start.items():
        if len({trial.settings.get(key, value) for trial in trials}) > 1:
            caption = f"{metric} by {_short(key)}; each point is a trial, the filled one the best."
            plots.append((_scatter(metric, trials, key, value), caption))
    return plots


def _importances(importances: Mapping[str, float]) -> str:
    rows = list(importances.items())[::-1]

    def draw(axes: Axes) -> None:
        axes.barh([_short(key) for key, _ in rows], [share for _, share in rows], color=TEACHER["color"])
        label(axes, "importance", "", legend=False)

    return as_svg("importances", draw, "Importance of each setting", height=0.8 + 0.28 * len(rows))


def _progress(metric: str, trials: Sequence[Trial]) -> str:
    finished = [trial for trial in trials if trial.value is not None]
    values = [trial.value for trial in finished if trial.value is not None]
    better = max if metric in HIGHER_IS_BETTER else min
    best_so_far = list(accumulate(values, better))

    def draw(axes: Axes) -> None:
        numbers = [trial.number for trial in finished]
        axes.plot(numbers, values, linestyle="none", marker="o", markersize=4, color=TEACHER["color"], label="trial")
        axes.step(numbers, best_so_far, where="post", color=FREE["color"], label="best so far")
        whole_numbers(axes)
        _spread(axes, values)
        label(axes, "trial", metric)

    return as_svg("progress", draw, f"{metric} by trial")


def _scatter(metric: str, trials: Sequence[Trial], key: str, start: Any) -> str:
    best = ranked(trials, metric in HIGHER_IS_BETTER)[0]
    finished = [trial for trial in trials if trial.value is not None]
    points = [(trial.settings.get(key, start), trial.value or 0.0, trial is best) for trial in finished]
    tried = sorted({value for value, _, _ in points})

    def draw(axes: Axes) -> None:
        for value, result, is_best in sorted(points):
            axes.plot(
                [value],
                [result],
                marker="o",
                markersize=6,
                color=FREE["color"] if is_best else TEACHER["color"],
                fillstyle="full" if is_best else "none",
            )
        if key in _LOG_SCALE:
            axes.set_xscale("log")
        elif len(tried) <= _FEW and not isinstance(start, str):
            axes.set_xticks(tried)
        _spread(axes, [result for _, result, _ in points])
        label(axes, _short(key), metric, legend=False)

    return as_svg(f"scatter-{key.replace('.', '-')}", draw, f"{metric} by {_short(key)}", height=2.6)


def _spread(axes: Axes, values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic if a few bad trials would hide the differences among the others."""
    if min(values) > 0 and max(values) > _WIDE * min(values):
        axes.set_yscale("log")


def _short(key: str) -> str:
    return key.partition(".")[2].replace("_", " ")
