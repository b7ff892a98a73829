"""``freerun.evaluate``: a model's metrics on pairs, teacher-forced and free-running."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from freerun.api.checks import AnyPath, Pairs, Progress, as_pairs, check_progress, reject_load_options
from freerun.arguments import as_path, as_paths, check_flag, check_int, check_number
from freerun.data.readers import Columns
from freerun.evaluation.predictor_evaluation import ModelEvaluation, evaluate_pairs
from freerun.experiment.pairs_for_model import read_for_models
from freerun.loading import Mean, Precision, Runtime, load_bundles, resolve_device
from freerun.runtime.predictor import Predictor

__all__ = ["evaluate"]


def evaluate(
    model: AnyPath | Predictor,
    pairs: Pairs | None = None,
    *,
    columns: Columns | None = None,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    ensemble: Sequence[AnyPath] = (),
    mean: Mean = "arithmetic",
    threads: int = 0,
    max_length: int | None = None,
    runtime: Runtime | None = None,
    precision: Precision = "fp32",
    device: str = "cpu",
    progress: Progress | None = None,
) -> ModelEvaluation:
    """Measure a model on pairs.

    Logs a warning if more than 1 % of the target tokens are not in the model's vocabulary.

    Args:
        model: a run directory, a bundle directory, or a Predictor.
        pairs: a file, or pairs in memory: an iterable of (source, target), or of objects with these attributes; for a
            model with features, of (source, target, features). Default: the development pairs of the model's run.
        columns: the source and target columns, and that of the features if the model has any: numbers from 1 in a TSV
            file, names in a Parquet or Arrow file. Default: those of the model's run.
        beam_size: hypotheses kept at each step; 1 is greedy search.
        length_penalty: rank by score / ((5 + n) / 6) ** length_penalty.
        early_stop: with a length penalty, end the search sooner; this may miss the best output.
        ensemble: further models, averaged with this one; like the next six arguments as in ``freerun.load``, and not
            for a Predictor.
        mean: of the ensemble's distributions.
        threads: for each call.
        max_length: the most tokens per output, instead of the bundle's bound.
        runtime: "onnx" or "torch".
        precision: "int8" for the quantized graphs.
        device: "cpu", "cuda", "cuda:N" or "auto".
        progress: called with the number of sequences done and of all.

    Returns:
        ``metrics`` by name, the trivial ``baselines``, the ``outputs``, and more.

    Raises:
        TypeError: an argument of another type.
        UserError: bad pairs, a setting out of range, or a bundle that cannot be used.
    """
    options = {
        "max_length": max_length is not None,
        "ensemble": ensemble,
        "mean": mean != "arithmetic",
        "threads": threads,
        "runtime": runtime is not None,
        "precision": precision != "fp32",
        "device": device != "cpu",
    }
    paths: list[Path] = []
    if isinstance(model, Predictor):
        reject_load_options(options)
    else:
        paths = [as_path("model", model), *as_paths("ensemble", ensemble)]
    check_int("beam_size", beam_size)
    check_number("length_penalty", length_penalty)
    check_flag("early_stop", early_stop)
    check_progress(progress)
    resolve_device(device, runtime, precision)  # before anything is read
    spec = as_pairs("pairs", pairs, columns, paths)
    most_frequent_target = None
    if isinstance(model, Predictor):
        predictor = model
    else:
        predictor, bundle = load_bundles(paths, mean, threads, max_length, runtime, precision, device)
        most_frequent_target = str(bundle.config["most_frequent_target"])
    evaluation = evaluate_pairs(
        predictor,
        read_for_models(spec, predictor.source),
        spec.description,
        model="the model" if isinstance(model, Predictor) else model,
        beam_size=beam_size,
        length_penalty=length_penalty,
        early_stop=early_stop,
        progress=progress,
    )
    return ModelEvaluation(evaluation, predictor.source, most_frequent_target)
