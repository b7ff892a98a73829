"""The codecs of a bundle: its vocabularies, and how config.json says that text is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freerun.data.codec import Codec
from freerun.data.codec_files import FEATURE_VOCABULARY, codec_of, vocabulary_name
from freerun.data.features import FeatureCodec
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError
from freerun.runtime.limits import Limits
from freerun.runtime.snapshot import Snapshot

__all__ = ["read_codecs"]


def read_codecs(files: Snapshot, config: Mapping[str, Any], limits: Limits) -> tuple[Codec, Codec]:
    """Return the codecs of the sources, with that of their features if the model has any, and of the targets.

    Raises:
        BundleError: a vocabulary is missing, damaged, from another bundle, or not of the size in ``config``.
    """
    features = _read_features(files, config, limits)
    return _read_codec(files, "source", config, limits, features), _read_codec(files, "target", config, limits)


def _read_codec(
    files: Snapshot, side: str, config: Mapping[str, Any], limits: Limits, features: FeatureCodec | None = None
) -> Codec:
    name = vocabulary_name(side, config[side]["tokens"])
    content = files.checked(name, limits.of(name), config["files"])
    codec = codec_of(config[side], content, files.directory / name, features)
    _check_size(files, side, codec.vocabulary, config)
    return codec


def _read_features(files: Snapshot, config: Mapping[str, Any], limits: Limits) -> FeatureCodec | None:
    """Return the codec of the features, None if the model has none."""
    if not config["model"].get("feature_vocabulary"):
        return None
    content = files.checked(FEATURE_VOCABULARY, limits.of(FEATURE_VOCABULARY), config["files"])
    vocabulary = Vocabulary.from_json(content, files.directory / FEATURE_VOCABULARY)
    _check_size(files, "feature", vocabulary, config)
    return FeatureCodec(config["features"]["separator"], vocabulary)


def _check_size(files: Snapshot, side: str, vocabulary: Vocabulary, config: Mapping[str, Any]) -> None:
    size = config["model"][f"{side}_vocabulary"]
    if len(vocabulary) != size:
        raise BundleError(
            files.directory / "config.json",
            f"damaged: model.{side}_vocabulary is {size}, but the {side} vocabulary has {len(vocabulary)} ids",
            "Expected the sizes of this bundle's model",
            "Copy the whole bundle again",
        )
