"""The manifest of prepared data: what its directory holds, with the hash of every file.

| file | content |
|---|---|
| manifest.json | this; its own SHA-256 identifies the data |
| shard-00000.npy, ... | the pairs as ids, see ``shards`` |
| groups.npy, group_starts.npy, group_members.npy | which pairs have equal sources, see ``prepared`` |
| source_vocabulary.json, ... | the vocabularies, as in a bundle |
| dev.tsv | the development pairs: held out, or a copy of those that were given |
| preparation.json | the hashes of the pairs, and the settings: not part of the manifest |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from freerun.config import DataConfig, check_values
from freerun.data.normalisation import Form
from freerun.errors import ConfigError, DataError
from freerun.files import bytes_hash
from freerun.strict_json import parse
from freerun.text import shown

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PREPARATION",
    "VERSION",
    "CodecSettings",
    "Codecs",
    "DataCounts",
    "Manifest",
    "ShardEntry",
    "Side",
    "is_prepared",
    "manifest_bytes",
    "read_manifest",
]

MANIFEST: Final = "manifest.json"
PREPARATION: Final = "preparation.json"
"""What was prepared: the hashes of the pairs, and the settings."""
FORMAT: Final = "freerun prepared data"
VERSION: Final = 1
_MAX_BYTES: Final = 2**28
"""Of a manifest: a shard takes about 200 bytes in it."""

Count = Annotated[int, Field(ge=0, le=2**48)]
Hash = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Side = Literal["source", "target", "features"]
Name = Annotated[str, Field(pattern=r"\A[a-z_]+\.(json|model|tsv|npy)\z")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ShardEntry(_Part):
    """A shard: its number of pairs, of tokens without EOS, and of bytes, and its SHA-256."""

    pairs: Count
    source_tokens: Count
    target_tokens: Count
    feature_tokens: Count
    bytes: Count
    sha256: Hash


class CodecSettings(_Part):
    """How a side is encoded, as in a bundle; sources are stored in reading order, so ``reverse`` is False."""

    tokens: Annotated[str, Field(pattern=r"\A(char|whitespace|sentencepiece:[0-9]{1,7})\z")]
    normalisation: Form
    case: Literal["keep", "lower"]
    reverse: Literal[False]
    written: Form = "none"


class Codecs(_Part):
    """How both sides are encoded."""

    source: CodecSettings
    target: CodecSettings


class DataCounts(_Part):
    """Numbers of pairs, tokens and sources; those of a ``FilterReport`` have their names there.

    ``source_tokens`` and ``target_tokens`` count EOS; ``unknown_...`` count the tokens without an id of their own.
    """

    read: Count
    kept: Annotated[int, Field(ge=1, le=2**48)]
    same_as_held_out: Count
    too_long_source: Count
    too_long_target: Count
    longest_source: Count
    longest_target: Count
    development_sources: Count
    sources: Count
    source_tokens: Count
    target_tokens: Count
    unknown_source_tokens: Count
    unknown_target_tokens: Count
    unknown_features: Count
    largest_ratio: Annotated[float, Field(ge=0.0)]


class Manifest(_Part):
    """The content of manifest.json.

    Attributes:
        format: ``FORMAT``.
        version: of the format.
        data: keys of [data] that the preparation fixed.
        codecs: how each side is encoded.
        holds_out: the development pairs were held out of the training pairs, not given.
        most_frequent_target: the output of the trivial baseline.
        counts: of pairs and tokens.
        unknown: the most frequent tokens that the vocabularies lack, with their counts, by side.
        dtype: of the numbers in shards.
        tokens_sha256: SHA-256 of all ids in their order, which does not depend on files' formats or on shards.
        files: SHA-256 of every file that is not a shard.
        shards: of each shard, in order.
    """

    format: Literal["freerun prepared data"]
    version: Literal[1]
    data: dict[str, Any]
    codecs: Codecs
    holds_out: bool
    most_frequent_target: str
    counts: DataCounts
    unknown: dict[Side, dict[str, Count]]
    dtype: Literal["uint16", "int32"]
    tokens_sha256: Hash
    files: dict[Name, Hash]
    shards: Annotated[list[ShardEntry], Field(min_length=1)]


def is_prepared(path: Path) -> bool:
    """Return True if a path is a directory with prepared data, complete or not."""
    return path.is_dir() and any((path / name).exists() for name in (MANIFEST, PREPARATION))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the content of manifest.json."""
    return (json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n").encode()


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """Return the manifest of a directory, and its SHA-256.

    Raises:
        DataError: it is missing, damaged, or of a newer version.
    """
    path = directory / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise _incomplete(directory) from None
    except OSError as error:
        raise DataError(
            path, f"the file cannot be read ({error.strerror})", "Expected a readable file", "Check its mode"
        ) from error
    if len(content) > _MAX_BYTES:
        raise _damaged(path, f"it has more than {_MAX_BYTES:,} bytes")
    try:
        values = parse(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"this is not JSON ({error})") from error
    _check_version(path, values)
    try:
        manifest = Manifest.model_validate(values)
        _check_keys(path, manifest.data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{place} is {shown(first['input'])}") from error
    return manifest, bytes_hash(content)


def _check_keys(path: Path, data: dict[str, Any]) -> None:
    """Check the keys of [data] in a manifest: those of each training are not among them."""
    if others := data.keys() & {"train", "dev", "window"}:
        raise _damaged(path, f"data has the key {shown(min(others))}")
    try:
        check_values(DataConfig, {**data, "train": "pairs"}, "data")
    except ConfigError as error:
        raise _damaged(path, f"{error.where}: {error.what}") from error


def _check_version(path: Path, values: Any) -> None:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _damaged(path, f"this is not the manifest of {FORMAT}")
    version = values.get("version")
    if type(version) is int and version > VERSION:
        raise DataError(
            path,
            f"version {version} of prepared data is too new",
            f"Expected at most version {VERSION}, which this freerun reads",
            "Update freerun, or prepare the pairs again",
        )


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        path, f"damaged: {what}", "Expected the manifest that freerun data prepare wrote", "Prepare the pairs again"
    )


def _incomplete(directory: Path) -> DataError:
    if is_prepared(directory):
        return DataError(
            directory,
            "the preparation of these pairs is not complete",
            f"Expected a {MANIFEST}",
            "Run the same freerun data prepare command again, which continues it",
        )
    return DataError(
        directory,
        f"this directory has no {MANIFEST}, so it is not prepared data",
        "Expected a file of pairs, or a directory that freerun data prepare wrote",
        "Check the path",
    )
