"""Plots of the measures of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from freerun.diagnostics.by_position import AtPosition, InBand
from freerun.diagnostics.estimate import Estimate
from freerun.diagnostics.excess_error import AtLength
from freerun.diagnostics.prefix_switch import Switch
from freerun.diagnostics.projection import Projection
from freerun.diagnostics.recovery import AtDistance
from freerun.diagnostics.road_exam import AtRate
from freerun.report.svg import FREE, OTHER, TEACHER, Axes, Style, as_svg, label, line, plain

__all__ = [
    "contexts_plot",
    "excess_plot",
    "length_plot",
    "nll_plot",
    "position_plot",
    "recovered_plot",
    "recovery_plot",
    "road_plot",
    "states_plot",
    "switch_plot",
]

FREE_LABEL, TEACHER_LABEL = "free-running", "teacher-forced"
STEP_ERRORS = "step error rate"


class Line(NamedTuple):
    """A line of a plot."""

    name: str
    style: Style
    estimates: Sequence[Estimate]


def excess_plot(curve: Sequence[AtLength]) -> str:
    """Plot the step error rates over the first l steps."""
    lines = _both([each.free for each in curve], [each.teacher for each in curve])
    title = "Step error rates over the first steps, free-running and teacher-forced"
    return _line_plot("excess", title, [each.steps for each in curve], lines, ("number of first steps", STEP_ERRORS))


def position_plot(positions: Sequence[AtPosition]) -> str:
    """Plot the step error rates at each position."""
    lines = _both([each.error_free for each in positions], [each.error_teacher for each in positions])
    title = "Step error rates by position, free-running and teacher-forced"
    return _line_plot("position", title, _positions(positions), lines, ("position in the target", STEP_ERRORS))


def nll_plot(positions: Sequence[AtPosition]) -> str:
    """Plot the model's confidence at each position."""
    lines = [
        Line("its own predictions", FREE, [each.self_nll for each in positions]),
        Line("reference tokens", TEACHER, [each.nll_teacher for each in positions]),
    ]
    axes = ("position in the target", "NLL, nats per token")
    return _line_plot("nll", "Negative log-likelihood by position", _positions(positions), lines, axes)


def recovery_plot(curve: Sequence[AtDistance]) -> str:
    """Plot the step error rates after the first error, on the same sources."""
    curve = _defined(curve)
    lines = _both([each.free for each in curve], [each.teacher for each in curve])
    title = "Step error rates after the first error, free-running and teacher-forced"
    axes = ("steps after the first error", STEP_ERRORS)
    return _line_plot("recovery", title, [each.k for each in curve], lines, axes)


def recovered_plot(curve: Sequence[AtDistance]) -> str:
    """Plot the fraction of sources that have recovered."""
    curve = _defined(curve)
    lines = [Line("recovered", FREE, [each.recovered for each in curve])]
    title = "Fraction of sources that recovered within a number of steps"
    axes = ("steps after the first error", "fraction recovered")
    return _line_plot("recovered", title, [each.k for each in curve], lines, axes, bottom=-0.03, top=1.03)


def switch_plot(switches: Sequence[Switch]) -> str:
    """Plot the step error rates after reference prefixes and after the model's own."""
    lines = [
        Line("after its own prefix", FREE, [each.own for each in switches]),
        Line("after the reference prefix", TEACHER, [each.right for each in switches]),
    ]
    title = "Step error rates after the model's own prefixes and after reference prefixes"
    axes = ("length of the prefix", f"{STEP_ERRORS} after it")
    return _line_plot("switch", title, [each.length for each in switches], lines, axes)


def road_plot(rates: Sequence[AtRate]) -> str:
    """Plot the step error rate after corrupted prefixes."""
    lines = [Line("after half a reference", FREE, [each.errors for each in rates])]
    axes = ("fraction of the prefix replaced", f"{STEP_ERRORS} after it")
    return _line_plot("road", "Step error rate after corrupted prefixes", [each.rate for each in rates], lines, axes)


def length_plot(bands: Sequence[InBand]) -> str:
    """Plot sequence accuracy and step error rates by source length (Sutskever et al. 2014, figure 3)."""
    lines = [
        Line("sequence accuracy", OTHER, [band.sequence_accuracy_free for band in bands]),
        *_both([band.error_free for band in bands], [band.error_teacher for band in bands], f"{STEP_ERRORS}, "),
    ]
    middles = [(band.shortest + band.longest) / 2 for band in bands]
    return _line_plot("length", "Metrics by source length", middles, lines, ("source tokens", "fraction"), bottom=0)


def states_plot(projection: Projection, num_teacher: int) -> str:
    """Plot teacher-forced states (the first ``num_teacher`` points) and free-running ones."""
    points = projection.points

    def draw(axes: Axes) -> None:
        for rows, style, name in (
            (points[num_teacher:], FREE, FREE_LABEL),
            (points[:num_teacher], TEACHER, TEACHER_LABEL),
        ):
            filled = style is FREE
            axes.plot(
                *rows.T,
                linestyle="none",
                marker=style["marker"],
                markersize=3.5,
                color=style["color"],
                fillstyle="full" if filled else "none",
                alpha=0.75,
                label=name,
            )
        label(axes, *_components(projection))

    return as_svg("states", draw, "The decoder's states after an error, in two dimensions")


def contexts_plot(projection: Projection, labels: Sequence[str]) -> str:
    """Plot the contexts of some sources (Sutskever et al. 2014, figure 2)."""

    def draw(axes: Axes) -> None:
        axes.plot(*projection.points.T, linestyle="none", marker="o", markersize=3, color=TEACHER["color"])
        for point, text in zip(projection.points, labels, strict=True):
            axes.annotate(plain(text), point, xytext=(3, 2), textcoords="offset points", fontsize=7)
        label(axes, *_components(projection), legend=False)
        axes.margins(x=0.15)

    return as_svg("contexts", draw, "Contexts of some sources, in two dimensions", height=4.6)


def _line_plot(
    name: str,
    title: str,
    x: Sequence[float],
    lines: Sequence[Line],
    labels: tuple[str, str],
    *,
    bottom: float | None = None,
    top: float | None = None,
) -> str:
    def draw(axes: Axes) -> None:
        for each in lines:
            line(axes, x, each.estimates, each.style, each.name)
        label(axes, *labels)
        if bottom is not None or top is not None:
            axes.set_ylim(bottom, top)

    return as_svg(name, draw, title)


def _both(free: Sequence[Estimate], teacher: Sequence[Estimate], prefix: str = "") -> list[Line]:
    return [Line(prefix + FREE_LABEL, FREE, free), Line(prefix + TEACHER_LABEL, TEACHER, teacher)]


def _positions(positions: Sequence[AtPosition]) -> list[int]:
    return [each.position for each in positions]


def _components(projection: Projection) -> tuple[str, str]:
    first, second = (f"component ({100 * fraction:.0f} % of the variance)" for fraction in projection.explained)
    return f"first {first}", f"second {second}"


def _defined(curve: Sequence[AtDistance]) -> list[AtDistance]:
    return [each for each in curve if each.free.n]
