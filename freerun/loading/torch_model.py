"""The torch model of a bundle. Imports nothing of training, which a prediction would have to wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from freerun.architecture import Architecture
from freerun.errors import BundleError
from freerun.models.device import first_line
from freerun.models.seq2seq import Seq2Seq
from freerun.models.torch_stepper import TorchStepper
from freerun.runtime.bundle import Bundle

__all__ = ["load_model", "load_steppers", "load_weights", "sizes_of"]


def load_model(bundle: Bundle, device: str = "cpu") -> Seq2Seq:
    """Return the model of a bundle in evaluation mode (no dropout), on a device.

    Raises:
        BundleError: sizes and weights do not fit each other, or the model not on the device.
    """
    sizes = sizes_of(bundle)
    weights = bundle.weights()  # checks the sizes, which might need any amount of memory, before anything is built
    model = Seq2Seq(sizes)
    _fill(model, weights)
    try:
        return model.eval().to(device)
    except torch.OutOfMemoryError as error:
        raise BundleError(
            bundle.directory,
            f"no memory is left for it on {device} ({first_line(error)})",
            "Expected room for its weights",
            "Free memory, or choose another device",
        ) from None


def sizes_of(bundle: Bundle) -> Architecture:
    """Return the architecture of a bundle's model."""
    path = bundle.directory / "config.json"
    try:
        return Architecture(**bundle.model)
    except TypeError as error:
        raise BundleError(path, f"invalid model section: {error}", fix="Copy the bundle again") from None


def load_weights(model: Seq2Seq, bundle: Bundle) -> None:
    """Copy the weights of a bundle into ``model``, which has the bundle's sizes."""
    _fill(model, bundle.weights())


def _fill(model: Seq2Seq, weights: Mapping[str, NDArray[Any]]) -> None:
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})


def load_steppers(bundle: Bundle, threads: int = 0, device: str = "cpu") -> Callable[[], TorchStepper]:
    """Return a function that creates steppers, which share a bundle's model; ``threads`` as in ``TorchStepper``."""
    model = load_model(bundle, device)
    return lambda: TorchStepper(model, threads)
