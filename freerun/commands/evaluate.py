"""``freerun evaluate``: print a model's metrics on pairs, teacher-forced and free-running."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from freerun.api.model_evaluation import evaluate as evaluate_model
from freerun.commands.console import CountLine, shown_notices
from freerun.commands.tables import aligned, bands_table, metrics_table
from freerun.data.features import Features
from freerun.data.readers import Columns, PairsPart
from freerun.evaluation.by_length import Band
from freerun.evaluation.examples import Example
from freerun.evaluation.free_running_metrics import flat
from freerun.loading import Mean, Precision, Runtime
from freerun.metrics.defined import defined
from freerun.text import printable

__all__ = ["EvaluateRequest", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """The arguments of ``freerun evaluate``; without ``pairs``, the run's development pairs are evaluated."""

    model: Path
    pairs: PairsPart | None = None
    beam_size: int = 1
    length_penalty: float = 0.0
    early_stop: bool = False
    max_length: int | None = None
    ensemble: Sequence[Path] = ()
    mean: Mean = "arithmetic"
    threads: int = 0
    runtime: Runtime | None = None
    precision: Precision = "fp32"
    device: str = "cpu"
    random: int = 0
    worst: int = 0
    by_length: bool = False
    json: bool = False
    columns: Columns | None = None


def evaluate(request: EvaluateRequest) -> None:
    """Print the metrics, and what else was requested."""
    with shown_notices(), CountLine("evaluating", "sequences") as progress:
        result = evaluate_model(
            request.model,
            request.pairs,
            columns=request.columns,
            beam_size=request.beam_size,
            length_penalty=request.length_penalty,
            early_stop=request.early_stop,
            max_length=request.max_length,
            ensemble=request.ensemble,
            mean=request.mean,
            threads=request.threads,
            runtime=request.runtime,
            precision=request.precision,
            device=request.device,
            progress=progress,
        )
    bands = result.by_source_length() if request.by_length else []
    if request.json:
        print(json.dumps(result.metrics | defined(_flat(bands))))
        return
    print(metrics_table(result.metrics, result.baselines))
    free = result.evaluation.free
    print(f"BLEU: {free.bleu.signature}; chrF: {free.chrf.signature}")
    if result.metrics["bleu.free"] is None:
        print("BLEU is undefined because no output and no reference has four tokens; see chrF.")
    if bands:
        print("\n" + bands_table(bands))
    _print_examples("Random examples", result.random_examples(request.random))
    _print_examples("Worst examples", result.worst_examples(request.worst))


def _flat(bands: Sequence[Band]) -> dict[str, float]:
    """Return ``<metric>.length_<shortest>_<longest>``, its interval, and the number of sources of each band."""
    metrics: dict[str, float] = {}
    for band in bands:
        suffix = f"length_{band.shortest}_{band.longest}"
        metrics |= flat({f"{name}.{suffix}": interval for name, interval in band.metrics.items()})
        metrics[f"sources.{suffix}"] = band.sources
    return metrics


def _shown(features: Features) -> str:
    return features if isinstance(features, str) else " ".join(features)


def _print_examples(title: str, examples: Sequence[Example]) -> None:
    if not examples:
        return
    has_features = examples[0].features is not None
    rows = [["source", *(["features"] if has_features else []), "output", "edits", "references"]]
    for example in examples:
        output = example.prediction + (" (truncated)" if example.truncated else "")
        features = [_shown(example.features or "")] if has_features else []
        rows.append([example.source, *features, output, str(example.distance), " | ".join(example.references)])
    print(f"\n{title}")
    print("\n".join(aligned([[printable(cell) for cell in row] for row in rows], rule=False)))
