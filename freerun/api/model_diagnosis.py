"""``freerun.diagnose``: a model's exposure bias, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from freerun.api.checks import AnyPath, Pairs, Progress, as_pairs, check_progress, optional_path, reject_load_options
from freerun.arguments import as_path
from freerun.data.codec import Codec
from freerun.data.readers import Columns
from freerun.diagnostics.diagnosis import Diagnosis
from freerun.diagnostics.diagnosis import diagnose as diagnose_stepper
from freerun.errors import DataError, UserError
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.evaluation.unknown_features import warn_of_unknown_features
from freerun.experiment.pairs_for_model import read_for_models
from freerun.experiment.pairs_spec import PairsSpec
from freerun.files import open_text_file
from freerun.loading import resolve_device
from freerun.loading.torch_model import load_model
from freerun.models.seq2seq import Seq2Seq
from freerun.models.state_reader import StateReader
from freerun.models.torch_stepper import TorchStepper
from freerun.models.torch_threads import Threads
from freerun.runtime.bundle import read_bundle
from freerun.runtime.predictor import Predictor
from freerun.search.bound import LengthBound
from freerun.search.searcher import StepperSearcher
from freerun.threads import check_threads, resolve_threads

__all__ = ["diagnose"]


@dataclass(frozen=True)
class _Subject:
    """The model to diagnose; ``network`` loads it."""

    name: str
    source: Codec
    target: Codec
    bound: LengthBound
    network: Callable[[], Seq2Seq]


def diagnose(
    model: AnyPath | Predictor,
    pairs: Pairs | None = None,
    *,
    columns: Columns | None = None,
    html: AnyPath | None = None,
    threads: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Diagnosis:
    """Compare a model's free-running behaviour with its teacher-forced one.

    Args:
        model: a run directory, a bundle directory with weights, or a Predictor that runs with torch.
        pairs: as in ``freerun.evaluate``. Default: the development pairs of the model's run.
        columns: the source and target columns, and that of the features if the model has any: numbers from 1 in a TSV
            file, names in a Parquet or Arrow file. Default: those of the model's run.
        html: a file to write the page to that ``freerun diagnose --html`` writes.
        threads: torch's number of threads; 0 leaves it unchanged. Does not apply to a Predictor.
        device: as in ``freerun.load``. Does not apply to a Predictor.
        progress: called with the number of runs done and the expected number of all.

    Returns:
        ``summary`` in words, the ``measures``, ``as_json()``, and the recorded runs.

    Raises:
        TypeError: an argument of another type.
        UserError: bad pairs, pairs whose tokens are all unknown, a bundle that cannot be used, or a Predictor that does
            not run one model with torch.
    """
    page = optional_path("html", html)
    check_progress(progress)
    paths: list[Path] = []
    if isinstance(model, Predictor):
        reject_load_options({"threads": threads, "device": device != "cpu"})
    else:
        paths = [as_path("model", model)]
    if page is not None:
        import freerun.report.diagnosis_page  # noqa: F401 (a missing extra is an error before the work, not after it)
    number = resolve_threads(check_threads(threads))
    place = resolve_device(device)
    spec = as_pairs("pairs", pairs, columns, paths)
    subject = _of_predictor(model) if isinstance(model, Predictor) else _of_bundle(paths[0], place)
    items = group_pairs(read_for_models(spec, subject.source), subject.source, subject.target)
    with ExitStack() as stack:
        out = None if page is None else stack.enter_context(open_text_file(page))
        stack.enter_context(Threads(number))
        _check_known(spec.description, "source", subject.source, items.sources)
        references = [text for texts in items.reference_texts for text in texts]
        _check_known(spec.description, "target", subject.target, references)
        warn_of_unknown_features(spec.description, items, subject.source)
        network = subject.network()
        diagnosis = _diagnosis(subject, network, items, progress)
        if out is not None:
            out.write(_page(diagnosis, network, items, subject, spec))
    return diagnosis


def _of_bundle(path: Path, device: str) -> _Subject:
    bundle = read_bundle(path)
    return _Subject(path.name, bundle.source, bundle.target, bundle.bound, lambda: load_model(bundle, device))


def _of_predictor(predictor: Predictor) -> _Subject:
    searcher = predictor.searcher
    stepper, bundle = searcher.stepper if isinstance(searcher, StepperSearcher) else None, predictor.bundle
    if not isinstance(stepper, TorchStepper) and (bundle is None or not bundle.has_weights):
        raise UserError(
            "model",
            "this Predictor has several models, or one without weights for torch, so no decoder states can be read",
            "Expected a Predictor of one model with weights, or the path of such a model",
            "Use the run or bundle that it was exported from",
        )

    def network() -> Seq2Seq:
        if isinstance(stepper, TorchStepper):
            return stepper.model
        assert bundle is not None
        return load_model(bundle)

    return _Subject("model", predictor.source, predictor.target, predictor.bound, network)


def _diagnosis(subject: _Subject, network: Seq2Seq, items: EvaluationSet, progress: Progress | None) -> Diagnosis:
    return diagnose_stepper(
        TorchStepper(network),
        items,
        subject.source,
        subject.target,
        bound=subject.bound,
        states_of=StateReader(network).states,
        progress=progress or (lambda done, total: None),
    )


def _page(diagnosis: Diagnosis, network: Seq2Seq, items: EvaluationSet, subject: _Subject, spec: PairsSpec) -> str:
    from freerun.report.diagnosis_page import diagnosis_page

    codecs = subject.source, subject.target
    return diagnosis_page(diagnosis, StateReader(network), items, codecs, subject.name, spec.name)


def _check_known(location: str, side: str, codec: Codec, texts: Sequence[str]) -> None:
    """Check that the vocabulary has any of the tokens: otherwise every step is wrong, whatever the model."""
    tokens = 0
    for text in texts:
        unknown, total = len(codec.unknown(text)), len(codec.tokens(text))
        if total > unknown:
            return
        tokens += total
    if tokens:
        raise DataError(
            location,
            f"none of the {tokens:,} {side} tokens is in the model's vocabulary",
            "Expected pairs like those that the model was trained on",
            f"Check that source and target are not swapped, and the {side}'s script and spelling",
        )
