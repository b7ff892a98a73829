"""Loading models for use: through onnxruntime where a model was exported, else through torch.

Nothing is imported of the runtime that is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from freerun.data.codec import Codec
from freerun.errors import BundleError, ConfigError, MissingExtraError
from freerun.runtime.bundle import PRECISIONS, Bundle, graph_file, read_bundle
from freerun.runtime.compiled_greedy import CompiledGreedy, can_run
from freerun.runtime.graphs import Graphs
from freerun.runtime.onnx_greedy import OnnxGreedy
from freerun.runtime.onnx_stepper import OnnxStepper
from freerun.runtime.predictor import Predictor
from freerun.search.bound import MOST_TOKENS
from freerun.search.ensemble import EnsembleStepper
from freerun.search.stepper import Greedy, Stepper
from freerun.text import shown

__all__ = ["Mean", "Precision", "Runtime", "load", "load_bundles"]

Mean = Literal["arithmetic", "geometric"]
Runtime = Literal["torch", "onnx"]
Precision = Literal["fp32", "int8"]

_ONNX_THREADS = 1
"""Unless asked for more: a step of a small model is over before a second thread has begun."""


def load(
    model: str | Path,
    ensemble: Sequence[str | Path] = (),
    mean: Mean = "arithmetic",
    threads: int = 0,
    max_length: int | None = None,
    runtime: Runtime | None = None,
    precision: Precision = "fp32",
    digest: str | None = None,
) -> Predictor:
    """A model, or several as one, ready to predict. Several threads may use it at once.

    Args:
        model: a bundle folder, or a run folder (then its best bundle).
        ensemble: further models whose distributions are averaged with it.
        mean: of probabilities ("arithmetic") or of log-probabilities ("geometric").
        threads: for a call; 0 takes every core for torch, one for onnxruntime.
        max_length: at most so many tokens an output instead of the bundle's bound.
        runtime: "onnx" or "torch"; otherwise torch for a model that was not exported, and for one that was onnxruntime,
            or for plain greedy search freerun's compiled library where there is one.
        precision: "int8" takes the quantised graphs.
        digest: what ``freerun inspect`` prints of the bundle that ``model`` has to be. It stands for every file that a
            prediction depends on, so a model that was exchanged for another one is not loaded.

    Raises:
        BundleError: a bundle that cannot be used or is not the one of ``digest``, or models that do not fit together.
        ConfigError: an unknown runtime or precision, int8 with torch, or a maximum length out of range.
    """
    models = [Path(model), *map(Path, ensemble)]
    return load_bundles(models, mean, threads, max_length, runtime, precision, digest)[0]


def load_bundles(
    models: Sequence[Path],
    mean: Mean = "arithmetic",
    threads: int = 0,
    max_length: int | None = None,
    runtime: Runtime | None = None,
    precision: Precision = "fp32",
    digest: str | None = None,
) -> tuple[Predictor, Bundle]:
    """The predictor of one or several models, and the first one's bundle."""
    _check_choice(runtime, precision)
    _check_max_length(max_length)
    bundles = [read_bundle(model) for model in models]
    first = bundles[0]
    if digest is not None:
        _check_digest(first, digest)
    for other in bundles[1:]:
        _check_same_tokens(first, other)
    found = [_runnable(bundle, runtime, precision, threads) for bundle in bundles]
    members = [new_stepper for new_stepper, _ in found]
    bound = first.bound if max_length is None else replace(first.bound, fixed=max_length)
    if len(members) == 1:
        return Predictor(members[0], first.source, first.target, bound, greedy=found[0][1]), first
    return Predictor(lambda: _ensemble(members, mean), first.source, first.target, bound), first


def _ensemble(members: Sequence[Callable[[], Stepper]], mean: Mean) -> Stepper:
    return EnsembleStepper([new_stepper() for new_stepper in members], mean)


def _runnable(
    bundle: Bundle, runtime: Runtime | None, precision: Precision, threads: int
) -> tuple[Callable[[], Stepper], Greedy | None]:
    """How to make steppers of a bundle, and its greedy search if that is something of its own."""
    if runtime == "torch" or (runtime is None and precision == "fp32" and not bundle.has_graphs()):
        return _torch(bundle, threads), None
    if not bundle.has_graphs(precision):
        quantise = "" if precision == "fp32" else f" --quantize {precision}"
        raise BundleError(
            bundle.folder,
            f"it has no {graph_file('greedy', precision)}",
            f"Expected a bundle with {precision} graphs",
            f"Write them with: freerun export {bundle.folder}{quantise}",
        )
    graphs = Graphs(bundle, precision, threads or _ONNX_THREADS)
    compiled = runtime is None and can_run(bundle, precision)
    greedy = CompiledGreedy(bundle, precision, threads or _ONNX_THREADS) if compiled else OnnxGreedy(graphs)
    return lambda: OnnxStepper(graphs), greedy


def _torch(bundle: Bundle, threads: int) -> Callable[[], Stepper]:
    if not bundle.has_weights:
        bundle.weights()  # says why not
    try:
        from freerun.restore import load_steppers, set_threads
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "train", "running this model with torch") from None
    set_threads(threads)
    return load_steppers(bundle)


def _check_choice(runtime: str | None, precision: str) -> None:
    if runtime not in (None, "torch", "onnx"):
        raise ConfigError.single("runtime", f"it is {runtime!r}", "Expected 'torch' or 'onnx'", "Choose one of them")
    if precision not in PRECISIONS:
        raise ConfigError.single("precision", f"it is {precision!r}", "Expected 'fp32' or 'int8'", "Choose one of them")
    if runtime == "torch" and precision != "fp32":
        what = f"{precision} with torch"
        raise ConfigError.single("precision", what, "Expected fp32 with torch", "Leave one of the two out")


def _check_max_length(max_length: int | None) -> None:
    if max_length is not None and not 0 <= max_length <= MOST_TOKENS:
        what, fix = f"it is {max_length}", "Choose another maximum length"
        raise ConfigError.single("max_length", what, f"Expected 0 to {MOST_TOKENS:,} tokens", fix)


def _check_digest(bundle: Bundle, digest: str) -> None:
    if bundle.digest != digest.lower():
        raise BundleError(
            bundle.folder,
            f"its digest is {bundle.digest}",
            f"Expected {shown(digest)}",
            "Check where the bundle comes from; `freerun inspect` prints a digest",
        )


def _check_same_tokens(first: Bundle, other: Bundle) -> None:
    """Members of an ensemble read the same source ids and write the same target ids."""
    for side, one, two in (("source", first.source, other.source), ("target", first.target, other.target)):
        differences = _differences(one, two)
        if differences:
            raise BundleError(
                other.folder,
                f"its {side} side differs from that of {first.folder}: {', '.join(differences)}",
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
    }
    return [f"{name} {a!r} and {b!r}" for name, (a, b) in pairs.items() if a != b]
