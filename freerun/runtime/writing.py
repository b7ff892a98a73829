"""Writing a bundle. ``bundle`` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from freerun.data.codec import Codec
from freerun.data.codec_files import codec_settings, vocabulary_files
from freerun.files import bytes_hash, replacing_dir, write_atomic
from freerun.runtime.bundle import FORMAT, VERSION, WEIGHTS
from freerun.runtime.card import model_card
from freerun.search.bound import LengthBound

__all__ = ["BundleParts", "as_json", "write_bundle"]


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """The content of a bundle to be written.

    ``model`` is the architecture, ``training`` the metadata that the model card reports, ``most_frequent_target`` the
    output of the trivial baseline, and ``weights`` the bytes of a safetensors file.
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


def write_bundle(directory: Path, parts: BundleParts) -> str:
    """Write a bundle atomically, replacing ``directory``; return the SHA-256 of its weights."""
    files: dict[str, bytes] = {WEIGHTS: parts.weights, **vocabulary_files(parts.source, parts.target)}
    features = parts.source.features
    hashes = {name: bytes_hash(content) for name, content in sorted(files.items())}
    config = {
        "format": FORMAT,
        "version": VERSION,
        "freerun": parts.freerun_version,
        "source": codec_settings(parts.source),
        "target": codec_settings(parts.target),
        **({} if features is None else {"features": {"separator": features.separator}}),
        "model": dict(parts.model),
        "length_bound": asdict(parts.bound),
        "most_frequent_target": parts.most_frequent_target,
        "training": dict(parts.training),
        "files": hashes,
    }
    files["config.json"] = as_json(config)
    files["metrics.json"] = as_json(dict(parts.metrics))
    files["README.md"] = model_card(config, parts.metrics).encode()
    with replacing_dir(directory) as new:
        for name, content in files.items():
            write_atomic(new / name, content)
    return hashes[WEIGHTS]


def as_json(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON file in the form that bundles use."""
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
