"""The device that a model computes on: a CPU, or a GPU through CUDA.

A GPU computes while the program goes on, until the program asks it for a number: then it waits for everything before.
So a training asks once per update (``read_numbers``), and copies a batch without waiting (``to_device``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freerun.errors import ConfigError

__all__ = [
    "CPU",
    "Scalar",
    "choose_device",
    "deterministic",
    "device_label",
    "first_line",
    "is_asynchronous",
    "is_out_of_memory",
    "products_of_fp32",
    "read_numbers",
    "scalar",
    "to_device",
]

CPU = torch.device("cpu")

Scalar = float | Tensor
"""A number, or a tensor of one element on a GPU that was not waited for."""


def choose_device(name: str, location: str = "device", process: int = 0, processes: int = 1) -> torch.device:
    """Return the device ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` (the first GPU) or ``cuda:N``.

    Of several ``processes`` on this machine, each has a GPU of its own: ``process`` is its number.

    Raises:
        ConfigError: a GPU is requested that is not there, or several processes would share one.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise ConfigError.single(location, *_no_gpu(name))
    number = int(name.partition(":")[2] or process)
    count = torch.cuda.device_count()
    if processes > count or (":" in name and processes > 1):
        raise ConfigError.single(
            location,
            f"{name} is requested for {processes} processes on this machine, which has {count} "
            f"GPU{'' if count == 1 else 's'}",
            "Expected a GPU for each process",
            'Choose "cuda" with at most as many processes as there are GPUs, or "cpu"',
        )
    if number >= count:
        found = "1 GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise ConfigError.single(
            location,
            f"{name} is requested, and this machine has {found}",
            "Expected " + ("cuda:0" if count == 1 else f"a number below {count}"),
            'Choose one that is there, or "auto"',
        )
    # cuBLAS reads it when it is first used: without a workspace of its own, sums differ from run to run
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if processes > 1:
        torch.cuda.set_device(number)  # or each process would also open the first GPU, to copy from pinned memory
    return torch.device("cuda", number)


def _no_gpu(name: str) -> tuple[str, str, str]:
    """Return what is wrong, what was expected and how to fix it if there is no GPU."""
    expected = 'Expected "cpu" or "auto" here'
    if torch.version.cuda is None:
        what = f"{name} is requested, but the installed torch {torch.__version__} was built without CUDA"
        return what, expected, 'Install a build of torch with CUDA, or choose "cpu"'
    what = f"{name} is requested, but torch {torch.__version__} finds no GPU that it can use"
    return what, expected, 'Check the driver with nvidia-smi and the variable CUDA_VISIBLE_DEVICES, or choose "cpu"'


def device_label(device: torch.device) -> str:
    """Return the device as a message names it: ``cpu``, or ``cuda:0 (NVIDIA H200)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


_SYNCHRONOUS = frozenset({"cpu"})
"""Types of devices that have computed when an operation returns."""


def is_asynchronous(device: torch.device) -> bool:
    """Return True if the program runs ahead of the device, so that asking for a number means waiting."""
    return device.type not in _SYNCHRONOUS


_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return True if torch or NumPy found no memory, on a GPU or for a CPU."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in _NO_MEMORY)


def first_line(error: Exception) -> str:
    """Return the first line of torch's message, for a message of our own."""
    return str(error).partition("\n")[0].rstrip(".")


# -- without waiting ---------------------------------------------------------------------------------------------------


def to_device(arrays: Sequence[NDArray[Any]], device: torch.device | str) -> list[Tensor]:
    """Return arrays of integers as tensors on a device: in one copy, which the program does not wait for."""
    device = torch.device(device)
    if not is_asynchronous(device):
        return [torch.as_tensor(array, dtype=torch.int64) for array in arrays]
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]).astype(np.int64, copy=False))
    # only a copy from pinned memory leaves the program free to go on
    moved = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
    parts = torch.split(moved, [array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def scalar(value: Tensor) -> Scalar:
    """Return a tensor of one element as a number if that costs nothing, as it is on a GPU."""
    return value.detach() if is_asynchronous(value.device) else value.item()


def read_numbers(values: Sequence[Scalar]) -> list[float]:
    """Return numbers, waiting once for all of those that are still on a GPU."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    numbers = iter(torch.stack([each.double() for each in tensors]).tolist() if tensors else ())
    return [next(numbers) if isinstance(value, Tensor) else value for value in values]


# -- the same bytes again ----------------------------------------------------------------------------------------------


@contextmanager
def deterministic(device: torch.device, precision: str = "fp32") -> Iterator[None]:
    """Make CUDA compute the same bytes from the same values, inside the block; a CPU does anyway.

    Operations without a deterministic version warn. ``precision`` is that of a training; "bf16" rounds the operands of
    matmuls, to TF32 where there is no bf16.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    flags = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with products_of_fp32(device, "tf32" if precision == "bf16" else "ieee"):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        cudnn.deterministic, cudnn.benchmark = flags


@contextmanager
def products_of_fp32(device: torch.device, precision: str = "ieee") -> Iterator[None]:
    """Make a GPU multiply float32 as it is ("ieee") or rounded to TF32 ("tf32"), inside the block.

    torch rounds in cuDNN by default, and in cuBLAS if the program has asked for it.
    """
    if device.type != "cuda":
        yield
        return
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.rnn]
    before = [each.fp32_precision for each in backends]
    for each in backends:
        each.fp32_precision = precision
    try:
        yield
    finally:
        for each, value in zip(backends, before, strict=True):
            each.fp32_precision = value
