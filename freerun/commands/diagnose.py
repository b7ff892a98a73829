"""``freerun diagnose``: how a model behaves on right prefixes and on its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from freerun.commands.console import CountLine, say
from freerun.commands.figures import aligned
from freerun.commands.output import open_output
from freerun.data.codec import Codec
from freerun.data.readers import Columns, PairsLocation, describe
from freerun.diagnostics.diagnosis import Diagnosis
from freerun.diagnostics.diagnosis import diagnose as diagnose_stepper
from freerun.diagnostics.estimate import Estimate
from freerun.diagnostics.measures import Measures
from freerun.diagnostics.projection import project
from freerun.diagnostics.summary import summary
from freerun.errors import DataError
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.experiment.pairs_spec import PairsToRead, pairs_to_read
from freerun.loading.torch_model import load_model
from freerun.models.state_reader import StateReader
from freerun.models.stepper import TorchStepper
from freerun.models.torch_threads import Threads
from freerun.randomness import numpy_generator
from freerun.runtime.bundle import Bundle, read_bundle
from freerun.search.batches import pad
from freerun.threads import check_threads, resolve_threads

__all__ = ["DiagnoseRequest", "diagnose", "diagnose_bundle", "items_of"]

_CONTEXT_CHARACTERS = 320
"""How much text is drawn beside contexts: more could not be read."""


@dataclass(frozen=True)
class DiagnoseRequest:
    """The arguments of ``freerun diagnose``; without ``pairs`` the run's own development pairs are taken."""

    model: Path
    pairs: PairsLocation | None = None
    html: Path | None = None
    threads: int = 0
    json: bool = False
    columns: Columns | None = None


def diagnose(request: DiagnoseRequest) -> Diagnosis:
    """Measure, and print the summary with tables, or the measures as JSON; with ``html``, write the page too.

    Raises:
        UserError: bad pairs, pairs of which the model knows no symbol, a bundle that cannot be used.
    """
    if request.html is not None:
        import freerun.report.diagnosis_page  # noqa: F401 (a missing extra is told before the work, not after it)
    pairs = pairs_to_read([request.model], request.pairs, request.columns)
    bundle = read_bundle(request.model)
    items = items_of(bundle, pairs)
    threads = resolve_threads(check_threads(request.threads))
    with open_output(request.html) as page, Threads(threads):
        found, reader = diagnose_bundle(bundle, items, describe(pairs.location))
        if request.html is not None:
            page.write(_page(found, reader, bundle, items, request.model.name, _name(pairs)))
    print(json.dumps(found.as_json()) if request.json else _as_text(found.measures))
    if request.html is not None:
        say(f"Wrote {request.html}: open it in a browser.")
    return found


def items_of(bundle: Bundle, pairs: PairsToRead) -> EvaluationSet:
    """The pairs as the model's tokens."""
    return group_pairs(pairs.read(), bundle.source, bundle.target)


def diagnose_bundle(bundle: Bundle, items: EvaluationSet, where: str) -> tuple[Diagnosis, StateReader]:
    """Run and measure; ``where`` the pairs stand, for a message.

    Raises:
        DataError: the model knows no symbol of the pairs.
    """
    _check_known(where, "source", bundle.source, items.sources)
    _check_known(where, "target", bundle.target, [text for each in items.reference_texts for text in each])
    model = load_model(bundle)
    reader = StateReader(model)
    with CountLine("diagnosing", "runs") as progress:
        found = diagnose_stepper(
            TorchStepper(model),
            items,
            bundle.source,
            bundle.target,
            bound=bundle.bound,
            states_of=reader.states,
            progress=progress,
        )
    return found, reader


def _check_known(where: str, side: str, codec: Codec, texts: list[str]) -> None:
    """A model that knows nothing of the pairs has errors everywhere, and they would say nothing about it."""
    tokens = 0
    for text in texts:
        unknown, every = len(codec.unknown(text)), len(codec.tokens(text))
        if every > unknown:
            return
        tokens += every
    if tokens:
        raise DataError(
            where,
            f"the model knows none of the {tokens:,} {side} tokens",
            "Expected pairs of the kind that it was trained on",
            f"Check that source and target are not swapped, and the {side}'s script and spelling",
        )


def _page(found: Diagnosis, reader: StateReader, bundle: Bundle, items: EvaluationSet, title: str, pairs: str) -> str:
    """The page, with pictures of states and contexts and some examples."""
    from freerun.report.aligned_examples import chosen_examples, examples
    from freerun.report.diagnosis_page import Clouds, diagnose_page

    subjects, states = found.recorded.subjects, found.states
    drawn = numpy_generator(0, "contexts").permutation(len(subjects))
    # a label is cut at 24 characters
    written = np.cumsum([min(24, len(items.items[row].source)) for row in drawn[:_CONTEXT_CHARACTERS]])
    rows = drawn[: max(1, int((written <= _CONTEXT_CHARACTERS).sum()))]
    contexts = reader.contexts(*pad([subjects.sources[row] for row in rows]))
    drifts = found.measures.state_divergence is not None and states is not None
    clouds = Clouds(
        project(np.concatenate([states.teacher_MH, states.free_MH])) if drifts and states else None,
        len(states.rows) if states else 0,
        project(contexts),
        [items.items[row].source for row in rows],
    )
    chosen = chosen_examples(found.recorded)
    attention_of = reader.attention if reader.attends else None
    shown = examples(found.recorded, items, bundle.source, bundle.target, chosen, attention_of)
    return diagnose_page(title, pairs, found.measures, clouds, shown)


def _name(pairs: PairsToRead) -> str:
    """The pairs' file, or files, without their folders."""
    place = pairs.location
    return place.name if isinstance(place, Path) else f"{place.source.name} and {place.target.name}"


def _as_text(measures: Measures) -> str:
    paragraphs = summary(measures)
    excess = measures.excess_error
    rows = [["errors a step", "", "95 % interval", "sources"]]
    rows += [_row(*each) for each in (("free running", excess.free), ("right tokens", excess.teacher))]
    paragraphs.append("\n".join(aligned(rows)))
    head = ["steps after the first error", "recovered", "95 % interval", "sources"]
    rows = [[*head, "errors / after right tokens", "95 % interval"]]
    for each in measures.recovery.curve:
        if each.free.n:
            rows.append([*_row(str(each.k), each.recovered)[:3], f"{each.free.n:,}", *_row("", each.ratio)[1:3]])
    if len(rows) > 1:
        paragraphs.append("\n".join(aligned(rows)))
    return "\n\n".join(paragraphs)


def _row(name: str, estimate: Estimate) -> list[str]:
    if estimate.value is None:
        return [name, "undefined", "", f"{estimate.n:,}"]
    interval = "" if estimate.low is None else f"{estimate.low:.4f} to {estimate.high:.4f}"
    return [name, f"{estimate.value:.4f}", interval, f"{estimate.n:,}"]
