"""``freerun diagnose``: how a model behaves on right prefixes and on its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from freerun.build import load_model, set_threads
from freerun.data.codec import Codec
from freerun.data.readers import read_pairs
from freerun.diagnostics.diagnosis import Diagnosis
from freerun.diagnostics.diagnosis import diagnose as diagnose_stepper
from freerun.diagnostics.estimate import Estimate
from freerun.diagnostics.measures import Measures
from freerun.diagnostics.summary import summary
from freerun.errors import DataError
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.models.states import StateReader
from freerun.models.stepper import TorchStepper
from freerun.runs.console import CountLine
from freerun.runs.evaluate import PairsToRead, dev_pairs_of
from freerun.runs.figures import aligned
from freerun.runtime.bundle import Bundle, read_bundle

__all__ = ["DiagnoseRequest", "diagnose"]


@dataclass(frozen=True)
class DiagnoseRequest:
    """The arguments of ``freerun diagnose``; without ``pairs`` the run's own development pairs are taken."""

    model: Path
    pairs: Path | None = None
    threads: int = 0
    json: bool = False


def diagnose(request: DiagnoseRequest) -> Diagnosis:
    """Measure, and print the summary with tables, or the measures as JSON.

    Raises:
        UserError: bad pairs, pairs of which the model knows no symbol, a bundle that cannot be used.
    """
    pairs = PairsToRead(request.pairs) if request.pairs else dev_pairs_of(request.model)
    bundle = read_bundle(request.model)
    items = group_pairs(read_pairs(pairs.location, pairs.columns), bundle.source, bundle.target)
    for side, codec, texts in (
        ("source", bundle.source, items.sources),
        ("target", bundle.target, [text for each in items.reference_texts for text in each]),
    ):
        _check_known(pairs, side, codec, texts)
    set_threads(request.threads)
    found = _measured(bundle, items)
    print(json.dumps(found.as_json()) if request.json else _as_text(found.measures))
    return found


def _measured(bundle: Bundle, items: EvaluationSet) -> Diagnosis:
    model = load_model(bundle)
    with CountLine("diagnosing", "runs") as progress:
        return diagnose_stepper(
            TorchStepper(model),
            items,
            bundle.source,
            bundle.target,
            bound=bundle.bound,
            states_of=StateReader(model),
            progress=progress,
        )


def _check_known(pairs: PairsToRead, side: str, codec: Codec, texts: list[str]) -> None:
    """A model that knows nothing of the pairs has errors everywhere, and they would say nothing about it."""
    tokens = 0
    for text in texts:
        unknown, every = len(codec.unknown(text)), len(codec.tokens(text))
        if every > unknown:
            return
        tokens += every
    if tokens:
        raise DataError(
            str(pairs.location),
            f"the model knows none of the {tokens:,} {side} tokens",
            "Expected pairs of the kind that it was trained on",
            f"Check that source and target are not swapped (--columns), and the {side}'s script and spelling",
        )


def _as_text(measures: Measures) -> str:
    paragraphs = summary(measures)
    excess = measures.excess_error
    rows = [["errors a step", "", "95 % interval", "sources"]]
    rows += [_row(*each) for each in (("free running", excess.free), ("right tokens", excess.teacher))]
    paragraphs.append("\n".join(aligned(rows)))
    rows = [
        [
            "steps after the first error",
            "recovered",
            "95 % interval",
            "sources",
            "errors / after right tokens",
            "95 % interval",
        ]
    ]
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
