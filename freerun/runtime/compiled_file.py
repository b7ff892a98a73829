"""Reads greedy.npz, which ``freerun export`` writes: the arrays of a model as the C library needs them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from freerun.architecture import Architecture
from freerun.errors import BundleError
from freerun.runtime.bundle import Bundle, arrays_file
from freerun.runtime.compiled import Array
from freerun.runtime.graphs import check_metadata, metadata_of

__all__ = ["arrays_version", "damaged_arrays", "read_arrays"]


def arrays_version(sizes: Architecture) -> int:
    """Return the format version of greedy.npz: 3 with attention, else 2 with features, 1 without either."""
    if sizes.attention_spec.reads_memory:
        return 3
    return 2 if sizes.has_features else 1


def read_arrays(bundle: Bundle, precision: str) -> dict[str, Array]:
    """Return the arrays by name: numbers, finite ones; their shapes are not checked.

    Raises:
        BundleError: the file is missing, damaged, or was exported from another bundle.
    """
    path = bundle.directory / arrays_file(precision)
    content = bundle.checked_bytes(path.name)
    try:
        arrays = _arrays_in(content)
    except Exception as error:  # noqa: BLE001 (a damaged file can fail in a dozen ways)
        what = f"not an .npz file of numbers ({' '.join(str(error).split())[:200]})"
        raise damaged_arrays(path, what) from None
    for name, values in arrays.items():
        if values.dtype.kind not in "fiu":
            raise damaged_arrays(path, f"{name} is not an array of numbers")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise damaged_arrays(path, f"{name} has values that are not finite")
    version = str(arrays_version(Architecture.of(bundle.model)))
    metadata = _metadata(arrays.pop("metadata", np.empty(0, np.uint8)))
    check_metadata(path, metadata, {**metadata_of(bundle, "greedy", precision), "freerun.arrays": version})
    return arrays


def _metadata(content: Array) -> Mapping[str, str]:
    try:
        metadata = json.loads(content.tobytes())
    except (ValueError, RecursionError):
        metadata = {}
    metadata = metadata if isinstance(metadata, dict) else {}
    return {name: value for name, value in metadata.items() if isinstance(value, str)}


def damaged_arrays(path: Path, what: str) -> BundleError:
    """Return the error for a greedy.npz that freerun cannot have written in this form."""
    return BundleError(
        path,
        f"damaged: {what}",
        "Expected a file as freerun export wrote it",
        "Export again: freerun export MODEL",
    )


def _arrays_in(content: bytes) -> dict[str, Array]:
    """Return the arrays of an uncompressed .npz file: they take no more memory than the file has bytes.

    Raises:
        Exception: of many kinds, if it is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries = file.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("overlapping arrays")
        return {entry.filename.removesuffix(".npy"): _array_in(file.read(entry)) for entry in entries}


def _array_in(content: bytes) -> Array:
    """Return the array of an .npy file, whose header may name any shape."""
    file = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, by_columns, kind = read_header(file)
    numbers = np.frombuffer(content, kind, offset=file.tell())
    return numbers.reshape(shape, order="F" if by_columns else "C")
