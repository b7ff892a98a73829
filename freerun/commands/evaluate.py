"""``freerun evaluate``: a model's figures on pairs, fed with the right tokens and with its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from freerun.commands.console import CountLine, say
from freerun.commands.figures import bands_table, defined, figures_table
from freerun.data.readers import Columns, Pair, PairsLocation, describe
from freerun.data.unknown_tokens import warn_of_unknown_targets
from freerun.evaluation.baseline import baselines
from freerun.evaluation.by_length import Band, by_source_length
from freerun.evaluation.evaluate import Evaluation
from freerun.evaluation.evaluate import evaluate as evaluate_stepper
from freerun.evaluation.examples import Example, random_examples, worst_examples
from freerun.evaluation.free_running import flat
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.experiment.pairs_spec import PairsToRead, dev_pairs_of, pairs_to_read
from freerun.loading import Mean, Precision, Runtime, load_bundles
from freerun.runtime.predictor import Predictor, check_score
from freerun.search.settings import Beam
from freerun.text import printable, shown

__all__ = [
    "EvaluateRequest",
    "PairsToRead",
    "dev_pairs_of",
    "evaluate",
    "evaluate_items",
    "evaluate_pairs",
    "evaluate_predictor",
]


@dataclass(frozen=True)
class EvaluateRequest:
    """The arguments of ``freerun evaluate``; without ``pairs`` the run's own development pairs are taken."""

    model: Path
    pairs: PairsLocation | None = None
    beam_size: int = 1
    length_penalty: float = 0.0
    early_stop: bool = False
    max_length: int | None = None
    ensemble: Sequence[Path] = ()
    mean: Mean = "arithmetic"
    threads: int = 0
    runtime: Runtime | None = None
    precision: Precision = "fp32"
    random: int = 0
    worst: int = 0
    by_length: bool = False
    json: bool = False
    columns: Columns | None = None


def evaluate(request: EvaluateRequest) -> dict[str, float | None]:
    """Print the figures, and examples where they were asked for; returns the figures."""
    models = [request.model, *request.ensemble]
    pairs = pairs_to_read(models, request.pairs, request.columns)
    predictor, bundle = load_bundles(
        models, request.mean, request.threads, request.max_length, request.runtime, request.precision
    )
    search = request.beam_size, request.length_penalty, request.early_stop
    evaluation = evaluate_predictor(predictor, pairs, *search, model=request.model)
    bands = _bands(evaluation, predictor) if request.by_length else []
    figures = defined(evaluation.metrics() | _flat(bands))
    if request.json:
        print(json.dumps(figures))
        return figures
    majority = str(bundle.config["most_frequent_target"])
    trivial = baselines(evaluation.items, predictor.target, majority)
    print(figures_table(figures, {name: defined(outputs.metrics()) for name, outputs in trivial.items()}))
    print(f"BLEU: {evaluation.free.bleu.signature}; chrF: {evaluation.free.chrf.signature}")
    if figures["bleu.free"] is None:
        print("BLEU is undefined because no output and no reference has four tokens; see chrF.")
    if bands:
        print("\n" + bands_table(bands))
    _print_examples("Random examples", random_examples(evaluation.free, request.random))
    _print_examples("Worst examples", worst_examples(evaluation.free, request.worst))
    return figures


def evaluate_predictor(
    predictor: Predictor,
    pairs: PairsToRead,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    model: object = "the model",
) -> Evaluation:
    """Evaluate on pairs, with a progress line on a terminal; warn if ``model`` lacks many of the target tokens."""
    where = describe(pairs.location)
    return evaluate_pairs(predictor, pairs.read(), where, beam_size, length_penalty, early_stop, model)


def evaluate_pairs(
    predictor: Predictor,
    pairs: Iterable[Pair],
    where: str,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    model: object = "the model",
) -> Evaluation:
    """The same on pairs that are being read, or were; ``where`` they are stored, for messages."""
    items = group_pairs(pairs, predictor.source, predictor.target)
    warn_of_unknown_targets(where, items, predictor.target, say, f"the vocabulary of {model}")
    return evaluate_items(predictor, items, beam_size, length_penalty, early_stop)


def evaluate_items(
    predictor: Predictor,
    items: EvaluationSet,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
) -> Evaluation:
    """The same on pairs that the model has read already."""
    with CountLine("evaluating", "sequences") as progress:
        found = evaluate_stepper(
            predictor.searcher,
            items,
            predictor.source,
            predictor.target,
            bound=predictor.bound,
            search=Beam(beam_size, length_penalty=length_penalty, early_stop=early_stop),
            progress=progress,
        )
    for item, hypothesis, nll in zip(items.items, found.hypotheses, found.teacher.nll.tolist(), strict=True):
        check_score(hypothesis.score + nll, f"source {shown(item.source)}")
    return found


def _bands(evaluation: Evaluation, predictor: Predictor) -> list[Band]:
    return by_source_length(evaluation, [len(predictor.source.tokens(text)) for text in evaluation.items.sources])


def _flat(bands: Sequence[Band]) -> dict[str, float]:
    """``<figure>.length_<shortest>_<longest>``, its interval, and the number of sources of each band."""
    figures: dict[str, float] = {}
    for band in bands:
        suffix = f"length_{band.shortest}_{band.longest}"
        figures |= flat({f"{name}.{suffix}": interval for name, interval in band.figures.items()})
        figures[f"sources.{suffix}"] = band.sources
    return figures


def _print_examples(title: str, examples: Sequence[Example]) -> None:
    if not examples:
        return
    rows = [("source", "output", "edits", "references")]
    for example in examples:
        cut = " (cut off)" if example.truncated else ""
        references = " | ".join(example.references)
        rows.append((example.source, example.prediction + cut, str(example.distance), references))
    table: list[Sequence[str]] = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    print(f"\n{title}")
    for row in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
