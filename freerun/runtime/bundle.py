"""The bundle: a folder that is a whole model, in JSON and safetensors only.

| file | what |
|---|---|
| config.json | what the model is, how text becomes ids, and the hash of every file that a prediction depends on |
| source_vocabulary.json | or source_vocabulary.model for SentencePiece |
| target_vocabulary.json | or target_vocabulary.model |
| model.safetensors | weights |
| metrics.json | figures on the development pairs |
| README.md | the model card |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from freerun.config import check_values
from freerun.data.codec import Codec
from freerun.data.tokenizers import SentencePieceTokenizer, make_tokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError, ConfigError, MissingExtraError
from freerun.files import present_folder, replacing_folder, write_atomic
from freerun.runtime.card import model_card
from freerun.search.bound import LengthBound

__all__ = ["FORMAT", "VERSION", "Bundle", "BundleParts", "find_bundle", "read_bundle", "write_bundle"]

FORMAT = "freerun bundle"
VERSION = 1
_WEIGHTS = "model.safetensors"
Weights = dict[str, NDArray[Any]]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class _Checked(BaseModel):
    """A part of config.json; unknown keys are left to those who know them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class _Side(_Checked):
    tokens: Annotated[
        str,
        Field(
            pattern=r"\A(char|whitespace|sentencepiece:[0-9]+)\z",
            description='"char", "whitespace" or "sentencepiece:N"',
        ),
    ]
    normalisation: Literal["NFC", "NFD", "NFKC", "NFKD", "none"]
    case: Literal["keep", "lower"]
    reverse: bool


class _Sizes(_Checked):
    source_vocabulary: Size
    target_vocabulary: Size
    embedding_size: Size
    hidden_size: Size
    num_layers: Size
    cell: Literal["lstm", "gru", "rnn"]
    bidirectional: bool
    context: Literal["init", "every_step"]
    attention: Literal["none", "dot", "general", "concat", "bahdanau"]
    tied_output: bool
    input_feeding: bool = False


class _Bound(_Checked):
    longest_target: Count
    largest_ratio: Annotated[float, Field(ge=0.0)]
    fixed: Count | None = None


class _Config(_Checked):
    source: _Side
    target: _Side
    model: _Sizes
    length_bound: _Bound
    most_frequent_target: str
    training: dict[str, Any]
    files: dict[str, str]


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
            arrays: Weights = load(_checked_bytes(path, self.config))
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise _damaged(path, f"not a safetensors file of numbers ({error})") from None
        return arrays


# -- writing ----------------------------------------------------------------------------------------------------------


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
        "length_bound": asdict(parts.bound),
        "most_frequent_target": parts.most_frequent_target,
        "training": dict(parts.training),
        "files": {name: _hash(content) for name, content in sorted(files.items())},
    }
    files["config.json"] = _json(config)
    files["metrics.json"] = _json(dict(parts.metrics))
    files["README.md"] = model_card(config, parts.metrics).encode()
    with replacing_folder(folder) as new:
        for name, content in files.items():
            write_atomic(new / name, content)


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


# -- reading ----------------------------------------------------------------------------------------------------------


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
    if not (folder / _WEIGHTS).exists():
        raise _missing(folder, _WEIGHTS)
    return Bundle(folder, config, source, target, LengthBound(**bound), _read_metrics(folder))


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
    try:
        check_values(_Config, config, path)
    except ConfigError as error:
        key = error.where.removeprefix(f"{path}: ")
        what = f"damaged: {key}: {error.what}"
        raise BundleError(path, what, error.expected, "Copy the whole bundle again") from None
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
    found, expected = _hash(content), config["files"].get(path.name)
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
