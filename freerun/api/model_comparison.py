"""``freerun.compare``: a paired test of two models on the same pairs."""

from __future__ import annotations

from freerun.api.checks import AnyPath, Pairs, Progress, as_pairs, check_progress, reject_load_options
from freerun.arguments import as_path, check_int, wrong_type
from freerun.data.readers import Columns
from freerun.evaluation.comparison import Comparison
from freerun.evaluation.comparison import compare as compare_evaluations
from freerun.evaluation.predictor_evaluation import evaluate_pairs
from freerun.experiment.pairs_for_model import read_for_models
from freerun.loading import load, resolve_device
from freerun.runtime.predictor import Predictor

__all__ = ["compare"]


def compare(
    model: AnyPath | Predictor,
    other: AnyPath | Predictor,
    pairs: Pairs,
    *,
    columns: Columns | None = None,
    beam_size: int = 1,
    threads: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Comparison:
    """Evaluate two models on the same pairs, and test whether their differences could be chance.

    Args:
        model: a run directory, a bundle directory, or a Predictor: A.
        other: the same for the second model: B.
        pairs: as in ``freerun.evaluate``, at best pairs that neither was trained on.
        columns: the source and target columns, and that of the features if a model has any: numbers from 1 in a TSV
            file, names in a Parquet or Arrow file. Default: those of the models' runs.
        beam_size: hypotheses kept at each step; 1 is greedy search.
        threads: for each call, as in ``freerun.load``; does not apply to a Predictor.
        device: of both models, as in ``freerun.load``; does not apply to a Predictor.
        progress: called with the number of sequences done and of all, for one model after the other.

    Returns:
        The differences B - A by metric, each with its interval and p-value, and McNemar's test.

    Raises:
        TypeError: an argument of another type.
        UserError: bad pairs, models that distinguish different sources, or a bundle that cannot be used.
    """
    models = {"model": model, "other": other}
    paths = {name: as_path(name, each) for name, each in models.items() if not isinstance(each, Predictor)}
    if not paths:
        reject_load_options({"threads": threads, "device": device != "cpu"})
    check_int("beam_size", beam_size)
    check_progress(progress)
    resolve_device(device)  # before anything is read
    if pairs is None:
        raise wrong_type("pairs", pairs, "a path (str or os.PathLike) or pairs in memory")
    spec = as_pairs("pairs", pairs, columns, list(paths.values()))
    predictors = {
        name: each if isinstance(each, Predictor) else load(each, threads=threads, device=device)
        for name, each in models.items()
    }
    # read once for both: a pipe has nothing left for a second reader, and a file may change
    in_memory = list(read_for_models(spec, *(predictor.source for predictor in predictors.values())))
    evaluations = [
        evaluate_pairs(
            predictor,
            in_memory,
            spec.description,
            model=paths.get(name, "the model"),
            beam_size=beam_size,
            progress=progress,
        )
        for name, predictor in predictors.items()
    ]
    return compare_evaluations(*evaluations)
