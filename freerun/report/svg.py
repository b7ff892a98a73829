"""Matplotlib plots as SVG text inside a page.

Plots are legible without colour (each line has its own dash and marker) and on a dark page (text and axes take the
page's colour).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Estimate
from freerun.errors import MissingExtraError

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as missing:
    raise MissingExtraError("matplotlib", "report", "drawing the report") from missing

__all__ = ["FREE", "OTHER", "STYLES", "TEACHER", "Axes", "Style", "as_svg", "label", "line", "plain", "whole_numbers"]

Style = dict[str, Any]
# of medium lightness, visible on white and on black
FREE: Style = {"color": "#d9731a", "linestyle": "-", "marker": "o"}
TEACHER: Style = {"color": "#3f8fc4", "linestyle": "--", "marker": "s"}
OTHER: Style = {"color": "#8a6fb8", "linestyle": ":", "marker": "^"}
STYLES: list[Style] = [
    {"color": color, "linestyle": dash, "marker": marker}
    for color, dash, marker in zip(
        ["#3f8fc4", "#d9731a", "#8a6fb8", "#4e9a51", "#c2577f", "#8c8c3a", "#5f7f95", "#a0683f"],
        ["--", "-", ":", "-.", "-", "--", ":", "-."],
        ["s", "o", "^", "D", "v", "P", "X", "*"],
        strict=True,
    )
]
"""For arms of a study, the control first."""


def line(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], style: Style, name: str) -> None:
    """Draw a line with its 95 % interval as a band; undefined values are gaps."""
    values, low, high = (_floats([each[end] for each in estimates]) for end in range(3))
    axes.plot(x, values, markersize=3.5, linewidth=1.4, label=name, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _floats(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def label(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    """Label the axes, and add a legend unless there is a single line."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def whole_numbers(axes: Axes) -> None:
    """Mark whole numbers only on the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plain(text: str) -> str:
    """Return text that matplotlib shows literally: ``$`` would begin a formula."""
    short = text if len(text) <= 24 else text[:23] + "…"
    return "".join(character if character.isprintable() else " " for character in short).replace("$", r"\$")


def as_svg(name: str, draw: Callable[[Axes], None], title: str, height: float = 3.0) -> str:
    """Return the drawing as an ``<svg>`` element that scales with the page; the bytes are deterministic."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with rc_context(settings), warnings.catch_warnings():
        # the browser has fonts for glyphs that matplotlib's font lacks; here it only measures
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", lambda tag: _own_tag(tag[0], name), text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _own_tag(tag: str, name: str) -> str:
    """Replace black by the page's colour, and make ids, which are global to the page, unique to this plot."""
    tag = tag.replace("#000000", "currentColor")
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", tag)
