"""Loading models for use: through onnxruntime where a model was exported, else through torch.

Nothing is imported of the runtime that is not used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, get_args

from freerun.arguments import as_path, as_paths, check_int, check_text
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
from freerun.threads import check_threads, resolve_threads

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
        threads: for a call; 0 takes the threads that torch has in this program, one for onnxruntime. Another number is
            torch's during each prediction only, so that it stays the program's own. A forked child has one thread for
            torch in any case (docs/python.md).
        max_length: at most so many tokens an output instead of the bundle's bound.
        runtime: "onnx" or "torch"; otherwise torch for a model that was not exported, and for one that was onnxruntime,
            or for plain greedy search freerun's compiled library where there is one.
        precision: "int8" takes the quantised graphs.
        digest: what ``freerun inspect`` prints of the bundle that ``model`` has to be. It stands for every file that a
            prediction depends on, so a model that was exchanged for another one is not loaded.

    Raises:
        TypeError: an argument of another type.
        BundleError: a bundle that cannot be used or is not the one of ``digest``, or models that do not fit together.
        ConfigError: an unknown mean, runtime or precision, int8 with torch, or a maximum length or number of threads
            out of range.
    """
    models = [as_path("model", model), *as_paths("ensemble", ensemble)]
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
    check_threads(threads)
    _check_choice(runtime, precision, mean)
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
    paths = tuple(os.path.abspath(model) for model in models)  # noqa: PTH100 (links stay links)
    loaded = _Loaded(paths, tuple(each.digest for each in bundles), mean, threads, max_length, runtime, precision)
    greedy = found[0][1] if len(members) == 1 else None
    new_stepper = members[0] if len(members) == 1 else partial(_ensemble, members, mean)
    predictor = Predictor(
        new_stepper, first.source, first.target, bound, greedy=greedy, load_again=(_load_again, (loaded,))
    )
    return predictor, first


@dataclass(frozen=True)
class _Loaded:
    """How a predictor was loaded: all that its pickle holds. ``paths`` are absolute, ``digests`` those of the bundles.

    Another process may have another working directory, and find another bundle at the same path.
    """

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    mean: Mean
    threads: int
    max_length: int | None
    runtime: Runtime | None
    precision: Precision


def _load_again(loaded: _Loaded) -> Predictor:
    """The predictor of a pickle: another object each time, as pickles are, but the model is loaded once."""
    return copy(_loaded_again(loaded))


@lru_cache(maxsize=1)  # Pool.map sends its function, and the model that it belongs to, with every chunk of its work
def _loaded_again(loaded: _Loaded) -> Predictor:
    models = [Path(path) for path in loaded.paths]
    for model, digest in zip(models, loaded.digests, strict=True):
        _check_digest(read_bundle(model), digest, "It was replaced after the Predictor was loaded: load it again")
    options = loaded.mean, loaded.threads, loaded.max_length, loaded.runtime, loaded.precision
    return load_bundles(models, *options, loaded.digests[0])[0]


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
        from freerun.restore import load_steppers
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "train", "running this model with torch") from None
    return load_steppers(bundle, resolve_threads(threads))


def _check_choice(runtime: str | None, precision: str, mean: str) -> None:
    if mean not in get_args(Mean):
        expected = "Expected 'arithmetic' or 'geometric'"
        raise ConfigError.single("mean", f"it is {mean!r}", expected, "Choose one of them")
    if runtime not in (None, "torch", "onnx"):
        raise ConfigError.single("runtime", f"it is {runtime!r}", "Expected 'torch' or 'onnx'", "Choose one of them")
    if precision not in PRECISIONS:
        raise ConfigError.single("precision", f"it is {precision!r}", "Expected 'fp32' or 'int8'", "Choose one of them")
    if runtime == "torch" and precision != "fp32":
        what = f"{precision} with torch"
        raise ConfigError.single("precision", what, "Expected fp32 with torch", "Leave one of the two out")


def _check_max_length(max_length: int | None) -> None:
    if max_length is not None:
        check_int("max_length", max_length)
    if max_length is not None and not 0 <= max_length <= MOST_TOKENS:
        what, fix = f"it is {max_length}", "Choose another maximum length"
        raise ConfigError.single("max_length", what, f"Expected 0 to {MOST_TOKENS:,} tokens", fix)


def _check_digest(
    bundle: Bundle, digest: str, fix: str = "Check where the bundle comes from; `freerun inspect` prints a digest"
) -> None:
    check_text("digest", digest)
    if bundle.digest != digest.lower():
        raise BundleError(
            bundle.folder,
            f"its digest is {bundle.digest}",
            f"Expected {shown(digest)}",
            fix,
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
