"""The bundle: a directory with a complete model, in JSON and safetensors only.

| file | content |
|---|---|
| config.json | the architecture, how text is encoded, and the hash of every file that a prediction depends on |
| source_vocabulary.json | or source_vocabulary.model for SentencePiece |
| target_vocabulary.json | or target_vocabulary.model |
| feature_vocabulary.json | of a model with features |
| model.safetensors | weights; a bundle exported to another directory has none |
| encoder.onnx, step.onnx, greedy.onnx | after an export: graphs that run without torch, see ``graphs`` |
| greedy.npz | after an export of a model that the C library can run: its arrays |
| encoder.int8.onnx, ... | after an export with --quantize int8 |
| export.json | written with those: metrics in both precisions |
| metrics.json | metrics on the development pairs |
| README.md | the model card |

Over 350 lines, because every check of an untrusted file is next to the code that reads it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from freerun.architecture import Architecture
from freerun.data.codec import Codec
from freerun.errors import BundleError, MissingExtraError
from freerun.files import bytes_hash, readable_dir
from freerun.runtime.bundle_codecs import read_codecs
from freerun.runtime.limits import MAX_CONFIG, Limits
from freerun.runtime.schema import first_invalid_value
from freerun.runtime.shapes import Shapes
from freerun.runtime.snapshot import Identity, Snapshot, damaged, identity_of
from freerun.search.bound import LengthBound
from freerun.strict_json import parse
from freerun.text import shown

__all__ = [
    "EXPORTED",
    "FORMAT",
    "GRAPHS",
    "PRECISIONS",
    "VERSION",
    "WEIGHTS",
    "Bundle",
    "arrays_file",
    "bundle_identity",
    "find_bundle",
    "graph_file",
    "read_bundle",
]

FORMAT = "freerun bundle"
VERSION = 1
WEIGHTS: Final = "model.safetensors"
GRAPHS: Final = ("encoder", "step", "greedy")
PRECISIONS: Final = ("fp32", "int8")
Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read from disk.

    Attributes:
        directory: the bundle directory.
        config: the content of config.json.
        digest: SHA-256 of config.json, which names the hash of every file that a prediction depends on.
        metrics: the content of metrics.json.
        limits: the maximum size of each file.
    """

    directory: Path
    config: Mapping[str, Any]
    digest: str
    source: Codec
    target: Codec
    bound: LengthBound
    metrics: Mapping[str, float | None]
    files: Snapshot
    limits: Limits

    @property
    def model(self) -> Mapping[str, Any]:
        """Return the architecture as stored in config.json."""
        model: Mapping[str, Any] = self.config["model"]
        return model

    @property
    def has_weights(self) -> bool:
        """Return True if the bundle has weights for torch; one exported to another directory has none."""
        return WEIGHTS in self.config["files"]

    @property
    def weights_hash(self) -> str:
        """The SHA-256 of the weights, or of those that the graphs were exported from."""
        weights: str = self.config["files"].get(WEIGHTS) or (self.config.get("graphs") or {}).get("weights", "")
        return weights

    def has_graphs(self, precision: str = "fp32") -> bool:
        """Return True if the bundle was exported in this precision."""
        return all(graph_file(name, precision) in self.config["files"] for name in GRAPHS)

    def checked_bytes(self, name: str) -> bytes:
        """Return the content of one of the bundle's files.

        Raises:
            BundleError: the file is missing, too large for the model, or has another hash than in config.json.
        """
        return self.files.checked(name, self.limits.of(name), self.config["files"])

    def check_weights(self) -> None:
        """Check that the bundle has weights, so that torch can run it and training can start from it.

        Raises:
            BundleError: it was exported without weights.
        """
        if not self.has_weights and self.has_graphs():
            raise BundleError(
                self.directory,
                f"this bundle was exported without {WEIGHTS}, so torch cannot run it",
                "Expected a bundle with weights",
                "Use the run or bundle that it was exported from; to predict, omit --runtime torch",
            )

    def weights(self) -> Weights:
        """Return the weights by name, as finite float32 arrays of the architecture's shapes.

        Raises:
            BundleError: there are none, or the file has another hash than in config.json, or does not fit the model.
        """
        self.check_weights()
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ImportError:
            raise MissingExtraError("safetensors", "train", "reading a model's weights") from None
        path = self.directory / WEIGHTS
        content = self.checked_bytes(WEIGHTS)
        self._check_header(content)
        try:
            arrays: Weights = load(content)
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise damaged(path, f"not a safetensors file of numbers ({str(error)[:200]})") from None
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise BundleError(
                    path,
                    f"{name} has values that are not finite",
                    "Expected finite weights",
                    "Copy the whole bundle again, or train the model again",
                )
        return arrays

    def _check_header(self, content: bytes) -> None:
        """Check the names and shapes in the header of a weight file before arrays are created from it."""
        path = self.directory / WEIGHTS
        length = int.from_bytes(content[:8], "little")
        try:
            if not 0 < length <= len(content) - 8:
                raise ValueError(f"its header claims to have {length:,} bytes")
            shapes = _shapes_in(parse(content[8 : 8 + length]))
        except (ValueError, RecursionError) as error:
            raise damaged(path, f"not a safetensors file of this model's numbers ({str(error)[:200]})") from None
        difference = _first_difference(shapes, self.limits.shapes)
        if difference:
            raise BundleError(
                path,
                f"the weights do not fit the sizes in config.json ({difference})",
                "Expected the weights of this bundle",
                "Copy the whole bundle again",
            )


def _shapes_in(header: object) -> Shapes:
    """Return the shapes in the header of a safetensors file, which may only have float32 arrays."""
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    shapes: Shapes = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or any(type(size) is not int for size in shape):
            raise ValueError(f"{name} has no shape")
        if entry.get("dtype") != "F32":
            raise ValueError(f"{name} is not float32")
        shapes[name] = tuple(shape)
    return shapes


def _first_difference(actual: Shapes, expected: Shapes) -> str:
    """Describe the first weight whose shape is not the expected one; return "" if there is none."""
    for name in sorted(actual.keys() | expected.keys()):
        if actual.get(name) != expected.get(name):
            one, other = (str(shapes.get(name, "missing")) for shapes in (actual, expected))
            return f"{name} is {one}" + (f" and should be {other}" if name in expected else ", and the model has none")
    return ""


def graph_file(name: str, precision: str = "fp32") -> str:
    """Return the file name of a graph: ``greedy.onnx``, ``greedy.int8.onnx``."""
    return f"{name}.onnx" if precision == "fp32" else f"{name}.{precision}.onnx"


def arrays_file(precision: str) -> str:
    """Return the file name of the C library's arrays: ``greedy.npz``, ``greedy.int8.npz``."""
    return "greedy.npz" if precision == "fp32" else f"greedy.{precision}.npz"


EXPORTED: Final = tuple(
    name
    for precision in PRECISIONS
    for name in (*(graph_file(graph, precision) for graph in GRAPHS), arrays_file(precision))
)
"""The runnable files that an export may write, in the order in which they are reported."""


def find_bundle(model: Path) -> Path:
    """Return the bundle directory that ``model`` names: itself, or a run directory's best bundle.

    Raises:
        BundleError: there is none.
    """
    directory = readable_dir(model)
    if not directory.exists():
        raise BundleError(model, "no such directory", "Expected a bundle or a run directory", "Check the path")
    if not directory.is_dir():
        raise BundleError(
            model, "this is a file", "Expected the directory of a bundle or of a run", "Name the directory"
        )
    best = readable_dir(directory / "best")
    if (directory / "config.json").exists():
        return directory
    if (best / "config.json").exists():
        return best
    if (directory / "config.toml").exists():
        raise BundleError(
            model,
            "this run has no best model yet",
            "Expected a run that was evaluated at least once",
            "Continue its training to its first evaluation",
        )
    raise BundleError(
        model, "there is no config.json in this directory", "Expected a bundle or a run directory", "Check the path"
    )


def read_bundle(model: Path) -> Bundle:
    """Read a bundle or a run directory's best bundle, except the weights.

    Files are opened now and read when they are needed. If the bundle is replaced meanwhile, either all of them are from
    the old bundle or all are from the new one.

    Raises:
        BundleError: the bundle is missing, incomplete, damaged or from a newer version, or a file is from another one.
    """
    failures = 0
    for _ in range(_ATTEMPTS):
        before = bundle_identity(model)
        try:
            bundle = _read(find_bundle(model))
        except BundleError:
            # The bundle may have been replaced meanwhile, or be missing for a moment between two renames.
            if bundle_identity(model) == before:
                failures += 1
                if failures == _MAX_FAILURES:
                    raise
                time.sleep(0.002 * failures)
            continue
        if bundle.files.identity("config.json") == bundle_identity(model):
            return bundle
    raise BundleError(
        model, "the bundle keeps being replaced", "Expected a bundle that stays unchanged for a moment", "Try again"
    )


_ATTEMPTS: Final = 1000
_MAX_FAILURES: Final = 6
"""Failed attempts to read an unchanged bundle before the error is raised, after 30 ms in all."""


def bundle_identity(model: Path) -> Identity | None:
    """Return the identity of the bundle's current config.json, None if it has none."""
    try:
        return identity_of((find_bundle(model) / "config.json").stat())
    except (OSError, BundleError):
        return None


def _read(directory: Path) -> Bundle:
    files = Snapshot(directory)
    files.open(["config.json"])
    content = files.read("config.json", MAX_CONFIG)
    config = _checked_config(directory, content)
    named = config["files"]
    files.open(["metrics.json", *(name for name in (WEIGHTS, *EXPORTED) if name in named)])
    limits = Limits(Architecture.of(config["model"]))
    source, target = read_codecs(files, config, limits)
    bound = {key: config["length_bound"].get(key) for key in ("longest_target", "largest_ratio", "fixed")}
    metrics = _read_metrics(files)
    return Bundle(
        directory=directory,
        config=config,
        digest=bytes_hash(content),
        source=source,
        target=target,
        bound=LengthBound(**bound),
        metrics=metrics,
        files=files,
        limits=limits,
    )


def _checked_config(directory: Path, content: bytes) -> dict[str, Any]:
    path = directory / "config.json"
    config = _parsed(path, content)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleError(
            path,
            "this is not the config.json of a freerun bundle",
            f'Expected an object with "format": "{FORMAT}"',
            "Name another directory",
        )
    version = config.get("version")
    if type(version) is not int or version < 1:
        raise damaged(path, f"its version is {json.dumps(version)[:80]}")
    if version > VERSION:
        raise BundleError(
            path,
            f"this bundle has version {version}",
            f"Expected {VERSION} at most, the newest that this freerun can read",
            "Install a newer freerun",
        )
    invalid = first_invalid_value(config)
    if invalid is not None:
        what = f"damaged: {invalid.key}: {invalid.what}"
        raise BundleError(path, what, invalid.expected, "Copy the whole bundle again")
    return config


def _read_metrics(files: Snapshot) -> dict[str, float | None]:
    path = files.directory / "metrics.json"
    metrics = _parsed(path, files.read("metrics.json", MAX_CONFIG))
    if not isinstance(metrics, dict):
        raise damaged(path, "not a JSON object")
    for name, value in metrics.items():
        if type(value) not in (int, float, NoneType):
            raise damaged(path, f"{name} is {shown(value)}, not a number")
    return metrics


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return parse(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON ({error})") from None
