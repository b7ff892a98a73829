"""The bundle: a directory with a whole model, in JSON and safetensors only.

| file | what |
|---|---|
| config.json | what the model is, how text becomes ids, and the hash of every file that a prediction depends on |
| source_vocabulary.json | or source_vocabulary.model for SentencePiece |
| target_vocabulary.json | or target_vocabulary.model |
| model.safetensors | weights; a bundle exported on its own has none |
| encoder.onnx, step.onnx, greedy.onnx | after an export: graphs that run without torch, see ``graphs`` |
| greedy.npz | after an export of a model without attention: what the compiled greedy search reads |
| encoder.int8.onnx, ... | after an export with --quantize int8 |
| export.json | with those: results in both precisions |
| metrics.json | metrics on the development pairs |
| README.md | the model card |

Over 350 lines, because every check of a file from a stranger is next to the code that reads it.
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
from freerun.data.tokenizers import SentencePieceTokenizer, Tokenizer, make_tokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError, MissingExtraError
from freerun.files import bytes_hash, readable_dir
from freerun.runtime.limits import MAX_CONFIG, Limits
from freerun.runtime.schema import first_fault
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
    """A bundle as read.

    Attributes:
        folder: where it was read from.
        config: the whole of config.json.
        digest: SHA-256 of config.json, which names the hash of every file that a prediction depends on.
        metrics: the whole of metrics.json.
        limits: how large its files may be.
    """

    folder: Path
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
        """Return the architecture, as config.json has it."""
        model: Mapping[str, Any] = self.config["model"]
        return model

    @property
    def has_weights(self) -> bool:
        """Return True if it has weights for torch; a bundle exported on its own has none."""
        return WEIGHTS in self.config["files"]

    @property
    def weights_hash(self) -> str:
        """SHA-256 of its weights, or of those that its graphs were made from."""
        found: str = self.config["files"].get(WEIGHTS) or (self.config.get("graphs") or {}).get("weights", "")
        return found

    def has_graphs(self, precision: str = "fp32") -> bool:
        """Return True if it was exported in this precision."""
        return all(graph_file(name, precision) in self.config["files"] for name in GRAPHS)

    def checked_bytes(self, name: str) -> bytes:
        """Return the content of one of its files.

        Raises:
            BundleError: it is not there, too large for the model, or not the one that config.json names.
        """
        return _checked_bytes(self.files, name, self.config, self.limits.of(name))

    def check_weights(self) -> None:
        """Check that this bundle was not exported without weights.

        Raises:
            BundleError: it was, so torch cannot run it, and no training can start from it.
        """
        if not self.has_weights and self.has_graphs():
            raise BundleError(
                self.folder,
                f"this bundle was exported without {WEIGHTS}, so torch cannot run it",
                "Expected a bundle with weights",
                "Use the run or bundle that it was exported from; to predict, leave out --runtime torch",
            )

    def weights(self) -> Weights:
        """Return the weights by name, as arrays: float32, finite, of the architecture's shapes.

        Raises:
            BundleError: there are none, or the file is not the one that config.json names, or not of this model.
        """
        self.check_weights()
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ImportError:
            raise MissingExtraError("safetensors", "train", "reading a model's weights") from None
        path = self.folder / WEIGHTS
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
                    f"{name} has numbers that are not finite",
                    "Expected finite weights",
                    "Copy the whole bundle again, or train the model again",
                )
        return arrays

    def _check_header(self, content: bytes) -> None:
        """Check that a weight file has the weights of this model, before arrays are made of them."""
        path = self.folder / WEIGHTS
        length = int.from_bytes(content[:8], "little")
        try:
            if not 0 < length <= len(content) - 8:
                raise ValueError(f"its header is said to have {length:,} bytes")
            found = _shapes_in(parse(content[8 : 8 + length]))
        except (ValueError, RecursionError) as error:
            raise damaged(path, f"not a safetensors file of this model's numbers ({str(error)[:200]})") from None
        fault = _first_difference(found, self.limits.shapes)
        if fault:
            raise BundleError(
                path,
                f"the weights do not fit the sizes in config.json ({fault})",
                "Expected the weights of this bundle",
                "Copy the whole bundle again",
            )


def _shapes_in(header: object) -> Shapes:
    """Return the shapes that the header of a safetensors file gives its float32 arrays."""
    if not isinstance(header, dict):
        raise ValueError("it is not a JSON object")
    shapes: Shapes = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or any(type(size) is not int for size in shape):
            raise ValueError(f"{name} has no shape")
        if entry.get("dtype") != "F32":
            raise ValueError(f"{name} is not of 32-bit floating-point numbers")
        shapes[name] = tuple(shape)
    return shapes


def _first_difference(found: Shapes, expected: Shapes) -> str:
    """Return the first weight that is not as expected, in words; empty if there is none."""
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            one, other = (str(shapes.get(name, "missing")) for shapes in (found, expected))
            return f"{name} is {one}" + (f" and should be {other}" if name in expected else ", and the model has none")
    return ""


def graph_file(name: str, precision: str = "fp32") -> str:
    """Return the file of a graph: ``greedy.onnx``, ``greedy.int8.onnx``."""
    return f"{name}.onnx" if precision == "fp32" else f"{name}.{precision}.onnx"


def arrays_file(precision: str) -> str:
    """Return the file that the compiled greedy search reads: ``greedy.npz``, ``greedy.int8.npz``."""
    return "greedy.npz" if precision == "fp32" else f"greedy.{precision}.npz"


EXPORTED: Final = tuple(
    name
    for precision in PRECISIONS
    for name in (*(graph_file(graph, precision) for graph in GRAPHS), arrays_file(precision))
)
"""Files that an export may write to be run, in the order in which they are reported."""


def find_bundle(model: Path) -> Path:
    """Return the bundle directory that ``model`` names: itself, or a run directory's best bundle.

    Raises:
        BundleError: there is none.
    """
    folder = readable_dir(model)
    if not folder.exists():
        raise BundleError(model, "no such directory", "Expected a bundle or a run directory", "Check the path")
    if not folder.is_dir():
        raise BundleError(
            model, "this is a file", "Expected the directory of a bundle or of a run", "Name the directory"
        )
    best = readable_dir(folder / "best")
    if (folder / "config.json").exists():
        return folder
    if (best / "config.json").exists():
        return best
    if (folder / "config.toml").exists():
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

    Files are opened now and read when they are asked for. If the bundle is replaced meanwhile, all of them are the old
    one's or all are the new one's.

    Raises:
        BundleError: it is missing, incomplete, damaged, from a newer version, or a file belongs to another bundle.
    """
    faults = 0
    for _ in range(_ATTEMPTS):
        before = _identity(model)
        try:
            bundle = _read(find_bundle(model))
        except BundleError:
            # It may have been replaced while it was read, or be missing for the moment between two renames.
            if _identity(model) == before:
                faults += 1
                if faults == _MAX_FAULTS:
                    raise
                time.sleep(0.002 * faults)
            continue
        if bundle.files.identity("config.json") == _identity(model):
            return bundle
    raise BundleError(
        model, "it is being replaced all the time", "Expected a bundle that stays unchanged for a moment", "Try again"
    )


_ATTEMPTS: Final = 1000
_MAX_FAULTS: Final = 6
"""Failed attempts to read an unchanged bundle before its error is raised: after 30 ms."""


def _identity(model: Path) -> Identity | None:
    """Return the identity of the bundle's present config.json, if it has one."""
    try:
        return identity_of((find_bundle(model) / "config.json").stat())
    except (OSError, BundleError):
        return None


def _read(folder: Path) -> Bundle:
    files = Snapshot(folder)
    files.open(["config.json"])
    content = files.read("config.json", MAX_CONFIG)
    config = _checked_config(folder, content)
    named = config["files"]
    files.open(["metrics.json", *(name for name in (WEIGHTS, *EXPORTED) if name in named)])
    limits = Limits(Architecture.of(config["model"]))
    source, target = (_read_codec(files, side, config, limits) for side in ("source", "target"))
    bound = {key: config["length_bound"].get(key) for key in ("longest_target", "largest_ratio", "fixed")}
    metrics = _read_metrics(files)
    return Bundle(
        folder=folder,
        config=config,
        digest=bytes_hash(content),
        source=source,
        target=target,
        bound=LengthBound(**bound),
        metrics=metrics,
        files=files,
        limits=limits,
    )


def _checked_config(folder: Path, content: bytes) -> dict[str, Any]:
    path = folder / "config.json"
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
            f"Expected {VERSION} at most, the newest that this freerun knows",
            "Install a newer freerun",
        )
    fault = first_fault(config)
    if fault is not None:
        what = f"damaged: {fault.key}: {fault.what}"
        raise BundleError(path, what, fault.expected, "Copy the whole bundle again")
    return config


def _read_codec(files: Snapshot, side: str, config: Mapping[str, Any], limits: Limits) -> Codec:
    settings = config[side]
    spec = settings["tokens"]
    subwords = spec.startswith("sentencepiece")
    name = f"{side}_vocabulary.{'model' if subwords else 'json'}"
    path = files.folder / name
    files.open([name])
    content = _checked_bytes(files, name, config, limits.of(name))
    if subwords:
        tokenizer: Tokenizer = SentencePieceTokenizer(content, spec, path)
        vocabulary = Vocabulary.from_sentencepiece(content, path)
    else:
        tokenizer, vocabulary = make_tokenizer(spec), Vocabulary.from_json(content, path)
    size = config["model"][f"{side}_vocabulary"]
    if len(vocabulary) != size:
        raise BundleError(
            files.folder / "config.json",
            f"damaged: model.{side}_vocabulary: it is {size}, and the {side} vocabulary has {len(vocabulary)} ids",
            "Expected the sizes of this bundle's model",
            "Copy the whole bundle again",
        )
    return Codec(tokenizer, vocabulary, settings["normalisation"], settings["case"], settings["reverse"])


def _read_metrics(files: Snapshot) -> dict[str, float | None]:
    path = files.folder / "metrics.json"
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


def _checked_bytes(files: Snapshot, name: str, config: Mapping[str, Any], most: int) -> bytes:
    """A file of the bundle, compared with the hash in config.json."""
    expected = config["files"].get(name)
    if expected is None:
        raise damaged(files.folder / "config.json", f"it names no hash of {name}")
    files.open([name])
    content = files.read(name, most)
    found = bytes_hash(content)
    if found != expected:
        raise BundleError(
            files.folder / name,
            f"its SHA-256 is {found[:12]}... and config.json names {expected[:12]}...: truncated, changed, or of "
            "another bundle",
            "Expected the file that was written with this bundle",
            "Copy the whole bundle again",
        )
    return content
