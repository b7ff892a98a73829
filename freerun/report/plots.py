"""Pictures of the measures of one model."""

from __future__ import annotations

from collections.abc import Sequence

from freerun.diagnostics.by_position import AtPosition, InBand
from freerun.diagnostics.excess_error import AtLength
from freerun.diagnostics.prefix_switch import Switch
from freerun.diagnostics.projection import Projection
from freerun.diagnostics.recovery import AtDistance
from freerun.diagnostics.road_exam import AtRate
from freerun.report.svg import FREE, OTHER, TEACHER, Axes, as_svg, label, line, plain

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


def excess_picture(curve: Sequence[AtLength]) -> str:
    """Errors a step over the first l steps, fed in both ways."""
    steps = [each.steps for each in curve]

    def draw(axes: Axes) -> None:
        line(axes, steps, [each.free for each in curve], FREE, "its own tokens")
        line(axes, steps, [each.teacher for each in curve], TEACHER, "right tokens")
        label(axes, "steps counted, from the first", "errors a step")

    return as_svg("excess", draw, "Errors a step over the first steps, fed with own and with right tokens")


def position_picture(positions: Sequence[AtPosition]) -> str:
    """Errors at each position."""
    places = [each.position for each in positions]

    def draw(axes: Axes) -> None:
        line(axes, places, [each.error_free for each in positions], FREE, "its own tokens")
        line(axes, places, [each.error_teacher for each in positions], TEACHER, "right tokens")
        label(axes, "position in the target", "errors a step")

    return as_svg("position", draw, "Errors by position, fed with own and with right tokens")


def nll_picture(positions: Sequence[AtPosition]) -> str:
    """How sure the model is at each position."""
    places = [each.position for each in positions]

    def draw(axes: Axes) -> None:
        line(axes, places, [each.surprise_free for each in positions], FREE, "what it wrote itself")
        line(axes, places, [each.nll_teacher for each in positions], TEACHER, "the right token")
        label(axes, "position in the target", "NLL, nats a token")

    return as_svg("nll", draw, "Negative log-likelihood by position")


def recovery_picture(curve: Sequence[AtDistance]) -> str:
    """Errors after the first error, of the same sources fed in both ways."""
    curve = _reached(curve)
    distances = [each.k for each in curve]

    def draw(axes: Axes) -> None:
        line(axes, distances, [each.free for each in curve], FREE, "its own tokens")
        line(axes, distances, [each.teacher for each in curve], TEACHER, "right tokens, same sources")
        label(axes, "steps after the first error", "errors a step")

    return as_svg("recovery", draw, "Errors after the first error, fed with own and with right tokens")


def recovered_picture(curve: Sequence[AtDistance]) -> str:
    """How soon a token without regret is written again."""
    curve = _reached(curve)

    def draw(axes: Axes) -> None:
        line(axes, [each.k for each in curve], [each.recovered for each in curve], FREE, "recovered")
        label(axes, "steps after the first error", "share recovered within")
        axes.set_ylim(-0.03, 1.03)

    return as_svg("recovered", draw, "Share of sources that recovered within a number of steps")


def switch_picture(switches: Sequence[Switch]) -> str:
    """Errors after right prefixes and after its own."""
    lengths = [each.length for each in switches]

    def draw(axes: Axes) -> None:
        line(axes, lengths, [each.own for each in switches], FREE, "after its own prefix")
        line(axes, lengths, [each.right for each in switches], TEACHER, "after the right prefix")
        label(axes, "length of the prefix", "errors a step after it")

    return as_svg("switch", draw, "Errors after prefixes of its own and right ones")


def road_picture(rates: Sequence[AtRate]) -> str:
    """Errors after corrupted prefixes."""

    def draw(axes: Axes) -> None:
        line(axes, [each.rate for each in rates], [each.errors for each in rates], FREE, "after half a reference")
        label(axes, "share of the prefix replaced", "errors a step after it")

    return as_svg("road", draw, "Errors after prefixes that were corrupted")


def length_picture(bands: Sequence[InBand]) -> str:
    """Whole outputs that are right, and errors, by source length (Sutskever et al. 2014, figure 3)."""
    middles = [(band.shortest + band.longest) / 2 for band in bands]

    def draw(axes: Axes) -> None:
        line(axes, middles, [band.sequence_accuracy_free for band in bands], OTHER, "outputs that are right")
        line(axes, middles, [band.error_free for band in bands], FREE, "errors a step, its own tokens")
        line(axes, middles, [band.error_teacher for band in bands], TEACHER, "errors a step, right tokens")
        label(axes, "tokens of the source", "share")
        axes.set_ylim(bottom=0)

    return as_svg("length", draw, "Figures by source length")


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
        label(axes, *_components(projection))

    return as_svg("states", draw, "The decoder's states after an error, in two dimensions")


def contexts_picture(projection: Projection, labels: Sequence[str]) -> str:
    """What the encoder makes of some sources (Sutskever et al. 2014, figure 2)."""

    def draw(axes: Axes) -> None:
        axes.plot(*projection.points.T, linestyle="none", marker="o", markersize=3, color=TEACHER["color"])
        for point, text in zip(projection.points, labels, strict=True):
            axes.annotate(plain(text), point, xytext=(3, 2), textcoords="offset points", fontsize=7)
        label(axes, *_components(projection), legend=False)
        axes.margins(x=0.15)

    return as_svg("contexts", draw, "Contexts of some sources, in two dimensions", height=4.6)


def _components(projection: Projection) -> tuple[str, str]:
    first, second = (f"component ({100 * share:.0f} % of the variance)" for share in projection.shares)
    return f"first {first}", f"second {second}"


def _reached(curve: Sequence[AtDistance]) -> list[AtDistance]:
    return [each for each in curve if each.free.n]
