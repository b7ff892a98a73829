"""Loading of models: ``load`` returns a ``Predictor``, which runs a model in the compiled library if it can.

Otherwise an exported model runs in onnxruntime, any other in torch.

A runtime is imported only if it is used: what needs torch is in ``torch_model``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from freerun.arguments import as_path, as_paths, check_int, check_text
from freerun.bounds import MAX_LENGTH
from freerun.data.codec import Codec
from freerun.device_name import check_device_name
from freerun.errors import BundleError, ConfigError, MissingExtraError
from freerun.runtime.bundle import PRECISIONS, Bundle, graph_file, read_bundle
from freerun.runtime.compiled_beam import CompiledBeam
from freerun.runtime.compiled_greedy import CompiledGreedy, can_run
from freerun.runtime.compiled_model import CompiledModel
from freerun.runtime.compiled_stepper import CompiledStepper
from freerun.runtime.graphs import Graphs
from freerun.runtime.onnx_greedy import OnnxGreedy
from freerun.runtime.onnx_stepper import OnnxStepper
from freerun.runtime.predictor import Predictor
from freerun.search.ensemble import EnsembleStepper
from freerun.search.searcher import DirectSearcher, Searcher, StepperSearcher
from freerun.search.stepper import Stepper
from freerun.text import shown
from freerun.threads import check_threads, resolve_threads

__all__ = ["Mean", "Precision", "Runtime", "load", "load_bundles", "resolve_device"]

Mean = Literal["arithmetic", "geometric"]
Runtime = Literal["torch", "onnx"]
Precision = Literal["fp32", "int8"]

_ONNX_THREADS = 1
"""The default: a step of a small model is over before a second thread has started."""


def load(
    model: str | os.PathLike[str],
    *,
    ensemble: Sequence[str | os.PathLike[str]] = (),
    mean: Mean = "arithmetic",
    threads: int = 0,
    max_length: int | None = None,
    runtime: Runtime | None = None,
    precision: Precision = "fp32",
    device: str = "cpu",
    digest: str | None = None,
) -> Predictor:
    """Load a model, or several as an ensemble, for predictions. Several threads may use it at once.

    Args:
        model: a bundle directory, or a run directory (then its best bundle).
        ensemble: further models whose distributions are averaged with those of ``model``.
        mean: of probabilities ("arithmetic") or of log-probabilities ("geometric").
        threads: per call; 0 means one for the compiled library, which divides texts among them, and for onnxruntime,
            and for torch the threads that it has in this program. Any other number is set in torch during each
            prediction only, so that the program keeps its own. A forked child always has one thread for torch
            (docs/python.md).
        max_length: the maximum number of tokens per output, instead of the bundle's bound.
        runtime: "onnx" or "torch". Default: freerun's compiled library if it is installed and has the model's cell;
            else onnxruntime for a model that was exported, torch for any other.
        precision: "int8" runs the quantized weights of an export.
        device: "cpu", "cuda" or "cuda:N" for a GPU, which runs the model with torch, or "auto" for a GPU if there is
            one.
        digest: the digest that ``freerun inspect`` prints for the expected bundle. It covers every file that a
            prediction depends on, so a model that was replaced by another one is not loaded.

    Raises:
        TypeError: an argument of another type.
        BundleError: a bundle that cannot be used or has another digest, or models that do not fit together.
        ConfigError: an empty path, an unknown mean, runtime, precision or device, int8 with torch, a GPU with int8 or
            onnxruntime or one that is not there, or a maximum length or number of threads out of range.
    """
    models = [as_path("model", model), *as_paths("ensemble", ensemble)]
    return load_bundles(models, mean, threads, max_length, runtime, precision, device, digest)[0]


def load_bundles(
    models: Sequence[Path],
    mean: Mean = "arithmetic",
    threads: int = 0,
    max_length: int | None = None,
    runtime: Runtime | None = None,
    precision: Precision = "fp32",
    device: str = "cpu",
    digest: str | None = None,
) -> tuple[Predictor, Bundle]:
    """Return the predictor of one or several models, and the bundle of the first one."""
    check_threads(threads)
    _check_choice(runtime, precision, mean)
    _check_max_length(max_length)
    place = resolve_device(device, runtime, precision)
    bundles = [read_bundle(model) for model in models]
    first = bundles[0]
    if device == "auto" and not all(bundle.has_weights for bundle in bundles):
        place = "cpu"  # an export without weights for torch
    if digest is not None:
        _check_digest(first, digest)
    for other in bundles[1:]:
        _check_same_tokens(first, other)
    paths = tuple(os.path.abspath(model) for model in models)  # noqa: PTH100 (links stay links)
    loaded = _Loaded(
        paths=paths,
        digests=tuple(each.digest for each in bundles),
        mean=mean,
        threads=threads,
        max_length=max_length,
        runtime=runtime,
        precision=precision,
        device=place,
    )
    members = [_member(bundle, runtime, precision, threads, place) for bundle in bundles]
    predictor = Predictor(
        searcher=_searcher(members, mean),
        source=first.source,
        target=first.target,
        bound=first.bound if max_length is None else replace(first.bound, fixed=max_length),
        load_again=(_load_again, (loaded,)),
        bundle=first if len(bundles) == 1 else None,
        runtime=members[0].runtime,
    )
    return predictor, first


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """The arguments that a predictor was loaded with: its pickle holds nothing else.

    ``paths`` are absolute, because another process may have another working directory; ``digests`` are those of the
    bundles, because it may find another bundle at the same path.
    """

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    mean: Mean
    threads: int
    max_length: int | None
    runtime: Runtime | None
    precision: Precision
    device: str


def _load_again(loaded: _Loaded) -> Predictor:
    """Return the predictor of a pickle: a new object each time, as pickles are, but the model is loaded only once."""
    return copy(_loaded_again(loaded))


@lru_cache(maxsize=1)  # Pool.map sends its function, and the model that it belongs to, with every chunk of work
def _loaded_again(loaded: _Loaded) -> Predictor:
    models = [Path(path) for path in loaded.paths]
    for model, digest in zip(models, loaded.digests, strict=True):
        _check_digest(read_bundle(model), digest, "It was replaced after the Predictor was loaded: load it again")
    options = loaded.mean, loaded.threads, loaded.max_length, loaded.runtime, loaded.precision, loaded.device
    return load_bundles(models, *options, loaded.digests[0])[0]


def _searcher(members: Sequence[_Member], mean: Mean) -> Searcher:
    """Return the searcher of one model, or of an ensemble."""
    if len(members) > 1:
        return StepperSearcher(lambda: EnsembleStepper([member.new_stepper() for member in members], mean))
    return members[0].searcher


class _Member(NamedTuple):
    """How to run a bundle: steppers for an ensemble, the searcher of the model alone, and what runs both."""

    new_stepper: Callable[[], Stepper]
    searcher: Searcher
    runtime: str


def _member(bundle: Bundle, runtime: Runtime | None, precision: Precision, threads: int, device: str) -> _Member:
    """Choose how to run a bundle: by the compiled library if it can, else as it was exported, else in torch.

    A GPU runs it in torch.
    """
    on_cpu = device == "cpu"
    if on_cpu and runtime is None and can_run(bundle, precision):
        return _compiled(bundle, precision, threads)
    if not on_cpu or runtime == "torch" or (runtime is None and precision == "fp32" and not bundle.has_graphs()):
        new_stepper = _torch_steppers(bundle, threads, device)
        return _Member(new_stepper, StepperSearcher(new_stepper), "torch")
    if not bundle.has_graphs(precision):
        quantize = "" if precision == "fp32" else f" --quantize {precision}"
        raise BundleError(
            bundle.directory,
            f"no {graph_file('greedy', precision)} in this bundle",
            f"Expected a bundle with {precision} graphs",
            f"Write them with: freerun export {bundle.directory}{quantize}",
        )
    graphs = Graphs(bundle, precision, threads or _ONNX_THREADS)
    steppers = StepperSearcher(lambda: OnnxStepper(graphs))
    return _Member(lambda: OnnxStepper(graphs), DirectSearcher(OnnxGreedy(graphs), steppers), "onnxruntime")


def _compiled(bundle: Bundle, precision: Precision, threads: int) -> _Member:
    """Run a bundle in the compiled library; ``threads`` divide the sources of a call among them."""
    model = CompiledModel(bundle, precision)
    if not model.is_exported:
        model()  # its weights are read now, as torch would read them, so that a damaged file is reported here
    threads = resolve_threads(threads) or 1
    steppers = StepperSearcher(lambda: CompiledStepper(model))
    searcher = DirectSearcher(CompiledGreedy(model, threads), steppers, CompiledBeam(model, threads))
    return _Member(lambda: CompiledStepper(model), searcher, "compiled")


def _torch_steppers(bundle: Bundle, threads: int, device: str) -> Callable[[], Stepper]:
    if not bundle.has_weights:
        bundle.weights()  # raises an error that says why
    try:
        from freerun.loading.torch_model import load_steppers
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "train", "running this model with torch") from None
    return load_steppers(bundle, resolve_threads(threads), device)


def resolve_device(device: str, runtime: Runtime | None = None, precision: Precision = "fp32") -> str:
    """Return "cpu", or the name of a GPU that is there.

    Raises:
        TypeError: not a str.
        ConfigError: there is no such GPU, or what is requested besides does not run on one.
    """
    name = check_device_name(device)
    if name == "cpu":
        return name
    for option, value, other in (("runtime", runtime, "onnx"), ("precision", precision, "int8")):
        if value == other and name == "auto":
            return "cpu"
        if value == other:
            fix = f"Omit {option} or the device"
            raise ConfigError.single("device", f"{name} with {option} {value}", "Expected torch in fp32 on a GPU", fix)
    try:
        from freerun.models.device import choose_device
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        if name == "auto":
            return "cpu"
        raise MissingExtraError("torch", "train", f"running a model on {name}") from None
    return str(choose_device(name))


def _check_choice(runtime: str | None, precision: str, mean: str) -> None:
    choices = (
        ("mean", mean, get_args(Mean)),
        ("runtime", "torch" if runtime is None else runtime, get_args(Runtime)),
        ("precision", precision, PRECISIONS),
    )
    for name, value, valid in choices:
        if value not in valid:
            expected = "Expected " + " or ".join(map(repr, valid))
            raise ConfigError.single(name, f"unknown {name} {value!r}", expected, "Choose one of them")
    if runtime == "torch" and precision != "fp32":
        what = f"{precision} with torch"
        raise ConfigError.single("precision", what, "Expected fp32 with torch", "Omit one of the two")


def _check_max_length(max_length: int | None) -> None:
    if max_length is not None:
        check_int("max_length", max_length)
        MAX_LENGTH.check("max_length", max_length, "Choose another maximum length")


def _check_digest(
    bundle: Bundle, digest: str, fix: str = "Check where the bundle comes from; `freerun inspect` prints a digest"
) -> None:
    check_text("digest", digest)
    if bundle.digest != digest.lower():
        raise BundleError(
            bundle.directory,
            f"its digest is {bundle.digest}",
            f"Expected {shown(digest)}",
            fix,
        )


def _check_same_tokens(first: Bundle, other: Bundle) -> None:
    """Check that two members of an ensemble read the same source ids and write the same target ids."""
    for side, one, two in (("source", first.source, other.source), ("target", first.target, other.target)):
        differences = _differences(one, two)
        if differences:
            raise BundleError(
                other.directory,
                f"its {side} side differs from that of {first.directory}: {', '.join(differences)}",
                "Expected models of an ensemble to read and write the same ids",
                "Train them on the same data with the same [data] settings and reverse_source",
            )


def _differences(one: Codec, two: Codec) -> list[str]:
    pairs = {
        "tokens": (one.tokenizer.spec, two.tokenizer.spec),
        "vocabulary": (one.vocabulary.hash[:8], two.vocabulary.hash[:8]),
        "normalisation": (one.normalisation, two.normalisation),
        "case": (one.case, two.case),
        "reverse_source": (one.reverse, two.reverse),
        "features": (_features(one), _features(two)),
    }
    return [f"{name} {a!r} and {b!r}" for name, (a, b) in pairs.items() if a != b]


def _features(codec: Codec) -> str:
    """Return the vocabulary and the separator of the features, or "none"."""
    features = codec.features
    return "none" if features is None else f"{features.vocabulary.hash[:8]} separated by {features.separator}"
