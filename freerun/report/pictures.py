"""Pictures of the measures as SVG text to stand inside a page.

They can be read without colour (each line has its dash and its marker) and on a dark page (text and axes take the
page's colour).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.by_position import AtPosition, InBand
from freerun.diagnostics.estimate import Estimate
from freerun.diagnostics.excess_error import AtLength
from freerun.diagnostics.prefix_switch import Switch
from freerun.diagnostics.projection import Projection
from freerun.diagnostics.recovery import AtDistance
from freerun.diagnostics.road_exam import AtRate
from freerun.errors import MissingExtraError

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as missing:
    raise MissingExtraError("matplotlib", "report", "drawing the report") from missing

__all__ = [
    "contexts_picture",
    "excess_picture",
    "length_picture",
    "nll_picture",
    "position_picture",
    "recovered_picture",
    "recovery_picture",
    "road_picture",
    "states_picture",
    "switch_picture",
]

Style = dict[str, Any]
# of middling lightness, so that both are seen on white and on black
FREE: Style = {"color": "#d9731a", "linestyle": "-", "marker": "o"}
TEACHER: Style = {"color": "#3f8fc4", "linestyle": "--", "marker": "s"}
OTHER: Style = {"color": "#8a6fb8", "linestyle": ":", "marker": "^"}


def excess_picture(curve: Sequence[AtLength]) -> str:
    """Errors a step over the first l steps, fed in both ways."""
    steps = [each.steps for each in curve]

    def draw(axes: Axes) -> None:
        _line(axes, steps, [each.free for each in curve], FREE, "its own tokens")
        _line(axes, steps, [each.teacher for each in curve], TEACHER, "right tokens")
        _label(axes, "steps counted, from the first", "errors a step")

    return _svg("excess", draw, "Errors a step over the first steps, fed with own and with right tokens")


def position_picture(positions: Sequence[AtPosition]) -> str:
    """Errors at each position."""
    places = [each.position for each in positions]

    def draw(axes: Axes) -> None:
        _line(axes, places, [each.error_free for each in positions], FREE, "its own tokens")
        _line(axes, places, [each.error_teacher for each in positions], TEACHER, "right tokens")
        _label(axes, "position in the target", "errors a step")

    return _svg("position", draw, "Errors by position, fed with own and with right tokens")


def nll_picture(positions: Sequence[AtPosition]) -> str:
    """How sure the model is at each position."""
    places = [each.position for each in positions]

    def draw(axes: Axes) -> None:
        _line(axes, places, [each.surprise_free for each in positions], FREE, "what it wrote itself")
        _line(axes, places, [each.nll_teacher for each in positions], TEACHER, "the right token")
        _label(axes, "position in the target", "NLL, nats a token")

    return _svg("nll", draw, "Negative log-likelihood by position")


def recovery_picture(curve: Sequence[AtDistance]) -> str:
    """Errors after the first error, of the same sources fed in both ways."""
    curve = _reached(curve)
    distances = [each.k for each in curve]

    def draw(axes: Axes) -> None:
        _line(axes, distances, [each.free for each in curve], FREE, "its own tokens")
        _line(axes, distances, [each.teacher for each in curve], TEACHER, "right tokens, same sources")
        _label(axes, "steps after the first error", "errors a step")

    return _svg("recovery", draw, "Errors after the first error, fed with own and with right tokens")


def recovered_picture(curve: Sequence[AtDistance]) -> str:
    """How soon a token without regret is written again."""
    curve = _reached(curve)

    def draw(axes: Axes) -> None:
        _line(axes, [each.k for each in curve], [each.recovered for each in curve], FREE, "recovered")
        _label(axes, "steps after the first error", "share recovered within")
        axes.set_ylim(-0.03, 1.03)

    return _svg("recovered", draw, "Share of sources that recovered within a number of steps")


def switch_picture(switches: Sequence[Switch]) -> str:
    """Errors after right prefixes and after its own."""
    lengths = [each.length for each in switches]

    def draw(axes: Axes) -> None:
        _line(axes, lengths, [each.own for each in switches], FREE, "after its own prefix")
        _line(axes, lengths, [each.right for each in switches], TEACHER, "after the right prefix")
        _label(axes, "length of the prefix", "errors a step after it")

    return _svg("switch", draw, "Errors after prefixes of its own and right ones")


def road_picture(rates: Sequence[AtRate]) -> str:
    """Errors after corrupted prefixes."""

    def draw(axes: Axes) -> None:
        _line(axes, [each.rate for each in rates], [each.errors for each in rates], FREE, "after half a reference")
        _label(axes, "share of the prefix replaced", "errors a step after it")

    return _svg("road", draw, "Errors after prefixes that were corrupted")


def length_picture(bands: Sequence[InBand]) -> str:
    """Whole outputs that are right, and errors, by source length (Sutskever et al. 2014, figure 3)."""
    middles = [(band.shortest + band.longest) / 2 for band in bands]

    def draw(axes: Axes) -> None:
        _line(axes, middles, [band.sequence_accuracy_free for band in bands], OTHER, "outputs that are right")
        _line(axes, middles, [band.error_free for band in bands], FREE, "errors a step, its own tokens")
        _line(axes, middles, [band.error_teacher for band in bands], TEACHER, "errors a step, right tokens")
        _label(axes, "tokens of the source", "share")
        axes.set_ylim(bottom=0)

    return _svg("length", draw, "Figures by source length")


def states_picture(projection: Projection, num_teacher: int) -> str:
    """States after right tokens (the first ``num_teacher`` points) and after the model's own."""
    points = projection.points

    def draw(axes: Axes) -> None:
        for rows, style, name in (
            (points[num_teacher:], FREE, "its own tokens"),
            (points[:num_teacher], TEACHER, "right tokens"),
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
        _label(axes, *_components(projection))

    return _svg("states", draw, "The decoder's states after an error, in two dimensions")


def contexts_picture(projection: Projection, labels: Sequence[str]) -> str:
    """What the encoder makes of some sources (Sutskever et al. 2014, figure 2)."""

    def draw(axes: Axes) -> None:
        axes.plot(*projection.points.T, linestyle="none", marker="o", markersize=3, color=TEACHER["color"])
        for point, label in zip(projection.points, labels, strict=True):
            axes.annotate(_plain(label), point, xytext=(3, 2), textcoords="offset points", fontsize=7)
        _label(axes, *_components(projection), legend=False)
        axes.margins(x=0.15)

    return _svg("contexts", draw, "Contexts of some sources, in two dimensions", height=4.6)


def _components(projection: Projection) -> tuple[str, str]:
    first, second = (f"component ({100 * share:.0f} % of the variance)" for share in projection.shares)
    return f"first {first}", f"second {second}"


def _reached(curve: Sequence[AtDistance]) -> list[AtDistance]:
    return [each for each in curve if each.free.n]


def _line(axes: Axes, places: Sequence[float], estimates: Sequence[Estimate], style: Style, name: str) -> None:
    """A line with its 95 % interval as a band; gaps where it is undefined."""
    values, low, high = (_floats([each[end] for each in estimates]) for end in range(3))
    axes.plot(places, values, markersize=3.5, linewidth=1.4, label=name, **style)
    axes.fill_between(places, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _floats(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _label(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def _plain(text: str) -> str:
    """Text as matplotlib is to show it: ``$`` would begin a formula."""
    short = text if len(text) <= 24 else text[:23] + "…"
    return "".join(character if character.isprintable() else " " for character in short).replace("$", r"\$")


def _svg(name: str, draw: Callable[[Axes], None], title: str, height: float = 3.0) -> str:
    """The drawing as an ``<svg>`` element that scales with the page; the same bytes every time."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # the page's own colour in place of black, and its own size
    text = text.replace("#000000", "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # ids are for the whole page: another picture's must not be meant
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
