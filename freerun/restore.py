"""From a bundle to a model that is used. Imports nothing of training, so that a prediction need not wait for it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import torch

from freerun.errors import BundleError
from freerun.models.seq2seq import Seq2Seq, Sizes
from freerun.models.stepper import TorchStepper
from freerun.runtime.bundle import Bundle

__all__ = ["load_model", "load_steppers", "load_weights", "set_threads", "sizes_as_dict", "sizes_of"]


def set_threads(threads: int) -> int:
    """Let torch use so many threads (0: one a core that this process may run on); returns their number."""
    number = threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    torch.set_num_threads(number)
    return number


def load_model(bundle: Bundle) -> Seq2Seq:
    """The model of a bundle, for use (no dropout).

    Raises:
        BundleError: sizes and weights do not fit each other.
    """
    model = Seq2Seq(sizes_of(bundle))
    load_weights(model, bundle)
    return model.eval()


def sizes_of(bundle: Bundle) -> Sizes:
    """The sizes that a bundle names, checked against its vocabularies."""
    path = bundle.folder / "config.json"
    try:
        sizes = Sizes(**bundle.model)
    except TypeError as error:
        raise BundleError(path, f"its model section does not fit: {error}", fix="Copy the bundle again") from None
    found = len(bundle.source.vocabulary), len(bundle.target.vocabulary)
    if (sizes.source_vocabulary, sizes.target_vocabulary) != found:
        raise BundleError(
            path,
            f"the model has {sizes.source_vocabulary} source and {sizes.target_vocabulary} target ids, its "
            f"vocabularies {found[0]} and {found[1]}",
            "Expected vocabularies of the same bundle",
            "Copy the whole bundle again",
        )
    return sizes


def load_weights(model: Seq2Seq, bundle: Bundle) -> None:
    """Fill ``model`` with a bundle's weights.

    Raises:
        BundleError: names or shapes differ.
    """
    weights = {name: torch.from_numpy(array.copy()) for name, array in bundle.weights().items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(
            bundle.folder / "model.safetensors",
            f"the weights do not fit the sizes in config.json ({' '.join(str(error).split())[:300]})",
            "Expected the weights of this bundle",
            "Copy the whole bundle again",
        ) from None


def load_steppers(bundle: Bundle) -> Callable[[], TorchStepper]:
    """Makes steppers that share a bundle's model, each ready to be searched."""
    model = load_model(bundle)
    return lambda: TorchStepper(model)


def sizes_as_dict(sizes: Sizes) -> dict[str, object]:
    """Sizes as JSON values, for a bundle."""
    return dataclasses.asdict(sizes)
