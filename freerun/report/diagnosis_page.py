"""The page of ``freerun diagnose``: one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from freerun.data.codec import Codec
from freerun.diagnostics.diagnosis import Diagnosis
from freerun.diagnostics.measures import Measures
from freerun.diagnostics.projection import Projection, project
from freerun.diagnostics.summary import summary
from freerun.evaluation.items import EvaluationSet
from freerun.randomness import numpy_generator
from freerun.report import plots
from freerun.report.aligned_examples import chosen_examples, examples
from freerun.report.page import own_file, shown, template
from freerun.search.batches import pad_sources
from freerun.version import VERSION

__all__ = ["Clouds", "diagnosis_page", "embedded_json", "rendered_page"]


Ids = npt.NDArray[np.int64]
_CONTEXT_CHARACTERS = 320
"""Maximum number of characters in the labels of contexts: more would overlap."""


class Clouds(NamedTuple):
    """Two-dimensional points: states (``num_teacher`` teacher-forced ones, then free-running), labelled contexts."""

    states: Projection | None
    num_teacher: int
    contexts: Projection | None
    labels: Sequence[str]


class StateSource(Protocol):
    """A reader of a model's internal states; the arrays are those of ``freerun.models.state_reader``."""

    @property
    def attends(self) -> bool: ...

    def contexts(self, source_ids: Ids, lengths: Ids) -> npt.NDArray[np.float32]: ...

    def attention(self, source_ids: Ids, lengths: Ids, fed: Ids) -> npt.NDArray[np.float32]: ...


def diagnosis_page(
    diagnosis: Diagnosis,
    reader: StateSource,
    items: EvaluationSet,
    codecs: tuple[Codec, Codec],
    title: str,
    pairs: str,
) -> str:
    """Return the page of a diagnosis, with plots of states and contexts and some examples.

    Args:
        diagnosis: the measures and what they are computed from.
        reader: of the diagnosed model.
        items: the sources with their references.
        codecs: of sources and of targets.
        title: the model's name.
        pairs: the name of the pairs.
    """
    recorded, states = diagnosis.recorded, diagnosis.states
    sampled = numpy_generator(0, "contexts").permutation(len(recorded.pairs))
    # a label is truncated to 24 characters
    characters = np.cumsum([min(24, len(items.items[row].label)) for row in sampled[:_CONTEXT_CHARACTERS]])
    rows = sampled[: max(1, int((characters <= _CONTEXT_CHARACTERS).sum()))]
    contexts = reader.contexts(*pad_sources([recorded.pairs.sources[row] for row in rows]))
    compared = diagnosis.measures.state_divergence is not None and states is not None
    clouds = Clouds(
        project(np.concatenate([states.teacher_MH, states.free_MH])) if compared and states else None,
        len(states.rows) if states else 0,
        project(contexts),
        [items.items[row].label.replace("\t", " ") for row in rows],
    )
    attention_of = reader.attention if reader.attends else None
    shown_examples = examples(recorded, items, *codecs, chosen_examples(recorded), attention_of)
    return rendered_page(title, pairs, diagnosis.measures, clouds, shown_examples)


def rendered_page(
    title: str, pairs: str, measures: Measures, clouds: Clouds, examples: Sequence[dict[str, Any]]
) -> str:
    """Return the page as HTML. Everything that comes from the data is escaped."""
    return template("diagnosis_page.html").render(
        title=title,
        pairs=pairs,
        version=VERSION,
        measures=measures,
        summary=summary(measures),
        plots={name: Markup(svg) for name, svg in _plots(measures, clouds).items()},
        shown=shown,
        examples=embedded_json(examples),
        examples_count=len(examples),
        more=len(examples) < measures.sources,
        css=own_file("page.css"),
        script=own_file("diagnosis_page.js"),
    )


def embedded_json(value: object) -> Markup:
    """Return JSON that is safe inside a ``<script>`` element: no character can end it or begin another element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _plots(measures: Measures, clouds: Clouds) -> dict[str, str]:
    """Return the plots as SVG; an empty text if there is nothing to draw."""
    curve, states, contexts = measures.recovery.curve, clouds.states, clouds.contexts
    has_errors = bool(curve[0].free.n)
    return {
        "excess": plots.excess_plot(measures.excess_error.curve),
        "position": plots.position_plot(measures.by_position),
        "nll": plots.nll_plot(measures.by_position),
        "recovery": plots.recovery_plot(curve) if has_errors else "",
        "recovered": plots.recovered_plot(curve) if has_errors else "",
        "switch": plots.switch_plot(measures.prefix_switch) if measures.prefix_switch else "",
        "road": plots.road_plot(measures.road_exam) if measures.road_exam else "",
        "length": plots.length_plot(measures.by_source_length),
        "states": plots.states_plot(states, clouds.num_teacher) if states else "",
        "contexts": plots.contexts_plot(contexts, clouds.labels) if contexts else "",
    }
