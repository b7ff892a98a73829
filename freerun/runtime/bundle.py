"""The bundle: a folder that is a whole model, in JSON and safetensors only.

| file | what |
|---|---|
| config.json | what the model is, how text becomes ids, and the hash of every file that a prediction depends on |
| source_vocabulary.json | or source_vocabulary.model for SentencePiece |
| target_vocabulary.json | or target_vocabulary.model |
| model.safetensors | weights; a bundle that was exported by itself has none |
| encoder.onnx, step.onnx, greedy.onnx | after an export: graphs that run without torch, see ``graphs`` |
| greedy.npz | after an export of a model without attention: what the compiled greedy search reads |
| encoder.int8.onnx, ... | after an export with --quantize int8 |
| export.json | with those: what was measured of both precisions |
| metrics.json | figures on the development pairs |
| README.md | the model card |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final

from numpy.typing import NDArray

from freerun.data.codec import Codec
from freerun.data.tokenizers import SentencePieceTokenizer, make_tokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError, MissingExtraError
from freerun.files import bytes_hash, present_folder
from freerun.runtime.schema import first_fault
from freerun.search.bound import LengthBound

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


@dataclass(frozen=True)
class Bundle:
    """A bundle as read. ``config`` is the whole of config.json."""

    folder: Path
    config: Mapping[str, Any]
    source: Codec
    target: Codec
    bound: LengthBound
    metrics: Mapping[str, float | None]

    @property
    def model(self) -> Mapping[str, Any]:
        """The sizes of the network."""
        sizes: Mapping[str, Any] = self.config["model"]
        return sizes

    @property
    def has_weights(self) -> bool:
        """Whether it has weights for torch; one that was exported by itself has none."""
        return WEIGHTS in self.config["files"]

    @property
    def weights_hash(self) -> str:
        """SHA-256 of its weights, or of those that its graphs were made from."""
        found: str = self.config["files"].get(WEIGHTS) or (self.config.get("graphs") or {}).get("weights", "")
        return found

    def has_graphs(self, precision: str = "fp32") -> bool:
        """Whether it was exported in this precision."""
        return all(graph_file(name, precision) in self.config["files"] for name in GRAPHS)

    def checked_bytes(self, name: str) -> bytes:
        """The content of one of its files.

        Raises:
            BundleError: it is not there, or not the one that config.json names.
        """
        return _checked_bytes(self.folder / name, self.config)

    def weights(self) -> Weights:
        """The weights by name, as arrays.

        Raises:
            BundleError: there are none, or the file is not the one that config.json names.
        """
        if not self.has_weights and self.has_graphs():
            raise BundleError(
                self.folder,
                f"this bundle was exported without {WEIGHTS}, so torch cannot run it",
                "Expected a bundle with weights",
                "Leave the runtime to freerun, or use the run or bundle that it was exported from",
            )
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ImportError:
            raise MissingExtraError("safetensors", "train", "reading a model's weights") from None
        path = self.folder / WEIGHTS
        try:
            arrays: Weights = load(self.checked_bytes(WEIGHTS))
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise _damaged(path, f"not a safetensors file of numbers ({error})") from None
        return arrays


def graph_file(name: str, precision: str = "fp32") -> str:
    """The file of a graph: ``greedy.onnx``, ``greedy.int8.onnx``."""
    return f"{name}.onnx" if precision == "fp32" else f"{name}.{precision}.onnx"


def arrays_file(precision: str) -> str:
    """The file of what the compiled greedy search reads: ``greedy.npz``, ``greedy.int8.npz``."""
    return "greedy.npz" if precision == "fp32" else f"greedy.{precision}.npz"


EXPORTED: Final = tuple(
    name
    for precision in PRECISIONS
    for name in (*(graph_file(graph, precision) for graph in GRAPHS), arrays_file(precision))
)
"""What an export may write to be run, in the order in which it is told."""


def find_bundle(model: Path) -> Path:
    """The bundle folder that ``model`` names: itself, or a run folder's best bundle.

    Raises:
        BundleError: there is none.
    """
    folder = present_folder(model)
    if not folder.exists():
        raise BundleError(model, "no such folder", "Expected a bundle or a run folder", "Check the path")
    if not folder.is_dir():
        raise BundleError(model, "this is a file", "Expected the folder of a bundle or of a run", "Name the folder")
    best = present_folder(folder / "best")
    if (folder / "config.json").exists():
        return folder
    if (best / "config.json").exists():
        return best
    if (folder / "config.toml").exists():
        raise BundleError(
            model,
            "this run has no best model yet",
            "Expected a run that was evaluated at least once",
            "Let it train on to its first evaluation",
        )
    raise BundleError(
        model, "there is no config.json in this folder", "Expected a bundle or a run folder", "Check the path"
    )


def read_bundle(model: Path) -> Bundle:
    """Read a bundle or a run folder's best bundle, all but the weights.

    Raises:
        BundleError: it is missing, incomplete, damaged, from a newer version, or a file belongs to another bundle.
    """
    folder = find_bundle(model)
    config = _read_config(folder)
    source, target = (_read_codec(folder, side, config) for side in ("source", "target"))
    bound = {key: config["length_bound"].get(key) for key in ("longest_target", "largest_ratio", "fixed")}
    bundle = Bundle(folder, config, source, target, LengthBound(**bound), _read_metrics(folder))
    for name in (WEIGHTS, *EXPORTED):
        if name in config["files"] and not (folder / name).exists():
            raise _missing(folder, name)
    return bundle


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = _read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleError(
            path,
            "this is not the config.json of a freerun bundle",
            f'Expected an object with "format": "{FORMAT}"',
            "Name another folder",
        )
    version = config.get("version")
    if type(version) is not int or version < 1:
        raise _damaged(path, f"its version is {json.dumps(version)}")
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


def _read_codec(folder: Path, side: str, config: Mapping[str, Any]) -> Codec:
    settings = config[side]
    spec = settings["tokens"]
    options = (settings["normalisation"], settings["case"], settings["reverse"])
    if spec.startswith("sentencepiece"):
        path = folder / f"{side}_vocabulary.model"
        model = _checked_bytes(path, config)
        return Codec(SentencePieceTokenizer(model, spec, path), Vocabulary.from_sentencepiece(model, path), *options)
    path = folder / f"{side}_vocabulary.json"
    try:
        text = _checked_bytes(path, config).decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, f"byte {error.start} is not UTF-8") from None
    return Codec(make_tokenizer(spec), Vocabulary.from_json(text, path), *options)


def _read_metrics(folder: Path) -> dict[str, float | None]:
    if not (folder / "metrics.json").exists():
        raise _missing(folder, "metrics.json")
    metrics = _read_json(folder / "metrics.json")
    if not isinstance(metrics, dict):
        raise _damaged(folder / "metrics.json", "not a JSON object")
    for name, value in metrics.items():
        if type(value) not in (int, float, NoneType):
            raise _damaged(folder / "metrics.json", f"{name} is {json.dumps(value)}, not a number")
    return metrics


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON ({error})") from None


def _checked_bytes(path: Path, config: Mapping[str, Any]) -> bytes:
    """A file of the bundle, compared with the hash in config.json."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _missing(path.parent, path.name) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    found, expected = bytes_hash(content), config["files"].get(path.name)
    if expected is None:
        raise _damaged(path.parent / "config.json", f"it names no hash of {path.name}")
    if found != expected:
        raise BundleError(
            path,
            f"its SHA-256 is {found[:12]}... and config.json names {expected[:12]}...: truncated, changed, or of "
            "another bundle",
            "Expected the file that was written with this bundle",
            "Copy the whole bundle again",
        )
    return content


def _missing(folder: Path, name: str) -> BundleError:
    return BundleError(
        folder,
        f"{name} is missing",
        "Expected a complete bundle",
        "Copy the whole folder again, or train the model again",
    )


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        path, f"it cannot be read ({error.strerror})", "Expected a readable file", "Mend that, or copy the bundle again"
    )


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(path, f"damaged: {what}", "Expected a file as freerun wrote it", "Copy the whole bundle again")
