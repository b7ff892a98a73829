"""The bundle: a folder that is a whole model, in JSON and safetensors only.

    config.json                  what the model is, how text becomes ids, and the hash of every other file
    source_vocabulary.json       or source_vocabulary.model for SentencePiece
    target_vocabulary.json       or target_vocabulary.model
    model.safetensors            weights
    metrics.json                 figures on the development pairs
    README.md                    the model card
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from freerun.data.codec import Codec
from freerun.data.tokenizers import SentencePieceTokenizer, make_tokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError, MissingExtraError
from freerun.files import new_folder_beside, replace_folder, restore_folder, write_atomic
from freerun.runtime.card import model_card
from freerun.search.bound import LengthBound

__all__ = ["FORMAT", "VERSION", "Bundle", "BundleParts", "find_bundle", "read_bundle", "write_bundle"]

FORMAT = "freerun bundle"
VERSION = 1
_WEIGHTS = "model.safetensors"
Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is written from.

    ``model`` are the sizes of the network, ``training`` whatever the model card tells of how it was made;
    ``most_frequent_target`` is the trivial baseline's answer. ``weights`` are the bytes of a safetensors file.
    """

    source: Codec
    target: Codec
    bound: LengthBound
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    most_frequent_target: str
    weights: bytes
    metrics: Mapping[str, float | None]
    freerun_version: str


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

    def weights(self) -> Weights:
        """The weights by name, as arrays.

        Raises:
            BundleError: the file is not the one that config.json names.
        """
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ImportError:
            raise MissingExtraError("safetensors", "train", "reading a model's weights") from None
        path = self.folder / _WEIGHTS
        try:
            arrays: Weights = load(_checked_bytes(self.folder, _WEIGHTS, self.config))
        except (SafetensorError, ValueError) as error:
            raise _damaged(path, f"not a safetensors file ({error})") from None
        return arrays


# -- writing -------------------------------------------------------------------------------------------------------------


def write_bundle(folder: Path, parts: BundleParts) -> None:
    """Write a bundle whole, in the place of whatever was at ``folder`` before."""
    files: dict[str, bytes] = {_WEIGHTS: parts.weights}
    for side, codec in (("source", parts.source), ("target", parts.target)):
        name, content = _vocabulary_file(side, codec)
        files[name] = content
    config = {
        "format": FORMAT,
        "version": VERSION,
        "freerun": parts.freerun_version,
        "source": _codec_settings(parts.source),
        "target": _codec_settings(parts.target),
        "model": dict(parts.model),
        "length_bound": {
            "longest_target": parts.bound.longest_target,
            "largest_ratio": parts.bound.largest_ratio,
            "fixed": parts.bound.fixed,
        },
        "most_frequent_target": parts.most_frequent_target,
        "training": dict(parts.training),
        "files": {name: _hash(content) for name, content in sorted(files.items())},
    }
    files["config.json"] = _json(config)
    files["metrics.json"] = _json(dict(parts.metrics))
    files["README.md"] = model_card(config, parts.metrics).encode()
    new = new_folder_beside(folder)
    try:
        for name, content in files.items():
            write_atomic(new / name, content)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _vocabulary_file(side: str, codec: Codec) -> tuple[str, bytes]:
    if isinstance(codec.tokenizer, SentencePieceTokenizer):
        return f"{side}_vocabulary.model", codec.tokenizer.model
    return f"{side}_vocabulary.json", codec.vocabulary.to_json().encode()


def _codec_settings(codec: Codec) -> dict[str, Any]:
    return {
        "tokens": codec.tokenizer.spec,
        "normalisation": codec.normalisation,
        "case": codec.case,
        "reverse": codec.reverse,
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -- reading -------------------------------------------------------------------------------------------------------------


def find_bundle(model: Path) -> Path:
    """The bundle folder that ``model`` names: itself, or a run folder's best bundle.

    Raises:
        BundleError: there is none.
    """
    if not model.exists():
        raise BundleError(model, "no such folder", "Expected a bundle or a run folder", "Check the path")
    if not model.is_dir():
        raise BundleError(model, "this is a file", "Expected the folder of a bundle or of a run", "Name the folder")
    best = model / "best"
    if not (model / "config.json").exists():
        restore_folder(best)
        if (best / "config.json").exists():
            return best
        if (model / "config.toml").exists():
            raise BundleError(
                model,
                "this run has no best model yet",
                "Expected a run that was evaluated at least once",
                "Let it train on to its first evaluation",
            )
        raise BundleError(
            model, "there is no config.json in this folder", "Expected a bundle or a run folder", "Check the path"
        )
    return model


def read_bundle(model: Path) -> Bundle:
    """Read a bundle or a run folder's best bundle, all but the weights.

    Raises:
        BundleError: it is missing, incomplete, damaged, from a newer version, or a file belongs to another bundle.
    """
    folder = find_bundle(model)
    config = _read_config(folder)
    try:
        source, target = (_read_codec(folder, side, config) for side in ("source", "target"))
        bound = LengthBound(**config["length_bound"])
        config["model"], config["files"][_WEIGHTS]
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / "config.json", f"{type(error).__name__}: {error}") from None
    if not (folder / _WEIGHTS).exists():
        raise _missing(folder, _WEIGHTS)
    return Bundle(folder, config, source, target, bound, _read_metrics(folder))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = _read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleError(path, "this is not the config.json of a freerun bundle", f'Expected "format": "{FORMAT}"')
    version = config.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise BundleError(
            path,
            f"this bundle has version {version!r}",
            f"Expected {VERSION} at most, the newest that this freerun knows",
            "Install a newer freerun",
        )
    return config


def _read_codec(folder: Path, side: str, config: Mapping[str, Any]) -> Codec:
    settings = config[side]
    spec = settings["tokens"]
    if spec.startswith("sentencepiece"):
        model = _checked_bytes(folder, f"{side}_vocabulary.model", config)
        tokenizer, vocabulary = SentencePieceTokenizer(model, spec), Vocabulary.from_sentencepiece(model)
        return Codec(tokenizer, vocabulary, settings["normalisation"], settings["case"], settings["reverse"])
    name = f"{side}_vocabulary.json"
    text = _checked_bytes(folder, name, config).decode()
    vocabulary = Vocabulary.from_json(text, folder / name)
    return Codec(make_tokenizer(spec), vocabulary, settings["normalisation"], settings["case"], settings["reverse"])


def _read_metrics(folder: Path) -> dict[str, float | None]:
    if not (folder / "metrics.json").exists():
        raise _missing(folder, "metrics.json")
    metrics = _read_json(folder / "metrics.json")
    if not isinstance(metrics, dict):
        raise _damaged(folder / "metrics.json", "not a JSON object")
    return metrics


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(path, f"cannot be read ({error.strerror})", "Expected a file of a bundle") from None
    except ValueError as error:
        raise _damaged(path, f"not JSON ({error})") from None


def _checked_bytes(folder: Path, name: str, config: Mapping[str, Any]) -> bytes:
    """A file of the bundle, compared with the hash in config.json."""
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise _missing(folder, name) from None
    except OSError as error:
        raise BundleError(folder / name, f"cannot be read ({error.strerror})") from None
    expected = config["files"][name]
    if _hash(content) != expected:
        raise BundleError(
            folder / name,
            f"its SHA-256 is {_hash(content)[:12]}... and config.json names {str(expected)[:12]}...: truncated, changed, or "
            "of another bundle",
            "Expected the file that was written with this bundle",
            "Copy the whole bundle again",
        )
    return content


def _missing(folder: Path, name: str) -> BundleError:
    return BundleError(
        folder, f"{name} is missing", "Expected a complete bundle", "Copy the whole folder again, or train the model again"
    )


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(path, f"damaged: {what}", "Expected a file as freerun wrote it", "Copy the whole bundle again")

