"""Loading models for use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from freerun.data.codec import Codec
from freerun.errors import BundleError
from freerun.restore import load_stepper, set_threads
from freerun.runtime.bundle import Bundle, read_bundle
from freerun.runtime.predictor import Predictor
from freerun.search.ensemble import EnsembleStepper

__all__ = ["load", "load_bundles"]

Mean = Literal["arithmetic", "geometric"]


def load(
    model: str | Path,
    ensemble: Sequence[str | Path] = (),
    mean: Mean = "arithmetic",
    threads: int = 0,
    max_length: int | None = None,
) -> Predictor:
    """A model, or several as one, ready to predict.

    Args:
        model: a bundle folder, or a run folder (then its best bundle).
        ensemble: further models whose distributions are averaged with it.
        mean: of probabilities ("arithmetic") or of log-probabilities ("geometric").
        threads: for torch; 0 takes every core.
        max_length: at most so many tokens an output instead of the bundle's bound.

    Raises:
        BundleError: a bundle that cannot be used, or models that do not fit together.
    """
    return load_bundles([Path(model), *map(Path, ensemble)], mean, threads, max_length)[0]


def load_bundles(
    models: Sequence[Path], mean: Mean = "arithmetic", threads: int = 0, max_length: int | None = None
) -> tuple[Predictor, Bundle]:
    """The predictor of one or several models, and the first one's bundle."""
    bundles = [read_bundle(model) for model in models]
    for other in bundles[1:]:
        _check_same_tokens(bundles[0], other)
    set_threads(threads)
    steppers = [load_stepper(bundle) for bundle in bundles]
    first = bundles[0]
    bound = first.bound if max_length is None else replace(first.bound, fixed=max_length)
    stepper = steppers[0] if len(steppers) == 1 else EnsembleStepper(steppers, mean)
    return Predictor(stepper, first.source, first.target, bound), first


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
