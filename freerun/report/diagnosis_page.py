"""The page of ``freerun diagnose``: one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from freerun.diagnostics.measures import Measures
from freerun.diagnostics.projection import Projection
from freerun.diagnostics.summary import summary
from freerun.report.page import own_file, shown, template
from freerun.report.plots import (
    contexts_picture,
    excess_picture,
    length_picture,
    nll_picture,
    position_picture,
    recovered_picture,
    recovery_picture,
    road_picture,
    states_picture,
    switch_picture,
)
from freerun.version import VERSION

__all__ = ["Clouds", "diagnose_page", "embedded_json"]


class Clouds(NamedTuple):
    """Points in two dimensions: states (``num_teacher`` after right tokens, then the others), contexts with labels."""

    states: Projection | None
    num_teacher: int
    contexts: Projection | None
    labels: Sequence[str]


def diagnose_page(
    title: str, pairs: str, measures: Measures, clouds: Clouds, examples: Sequence[dict[str, Any]]
) -> str:
    """The page as HTML. Everything that comes from the data is escaped."""
    return template("diagnosis_page.html").render(
        title=title,
        pairs=pairs,
        version=VERSION,
        measures=measures,
        summary=summary(measures),
        pictures={name: Markup(svg) for name, svg in _pictures(measures, clouds).items()},
        shown=shown,
        examples=embedded_json(examples),
        examples_count=len(examples),
        more=len(examples) < measures.sources,
        css=own_file("page.css"),
        script=own_file("diagnosis_page.js"),
    )


def embedded_json(value: object) -> Markup:
    """JSON that may stand in a ``<script>`` element: no character of it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _pictures(measures: Measures, clouds: Clouds) -> dict[str, str]:
    """Those that can be drawn; an empty text for the others."""
    curve, states, contexts = measures.recovery.curve, clouds.states, clouds.contexts
    recovers = bool(curve[0].free.n)
    return {
        "excess": excess_picture(measures.excess_error.curve),
        "position": position_picture(measures.by_position),
        "nll": nll_picture(measures.by_position),
        "recovery": recovery_picture(curve) if recovers else "",
        "recovered": recovered_picture(curve) if recovers else "",
        "switch": switch_picture(measures.prefix_switch) if measures.prefix_switch else "",
        "road": road_picture(measures.road_exam) if measures.road_exam else "",
        "length": length_picture(measures.by_source_length),
        "states": states_picture(states, clouds.num_teacher) if states else "",
        "contexts": contexts_picture(contexts, clouds.labels) if contexts else "",
    }
