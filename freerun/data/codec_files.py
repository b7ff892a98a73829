"""The files that hold the codecs of a bundle, or of prepared data: a vocabulary for each side, and for features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec
from freerun.data.tokenizers import SentencePieceTokenizer, Tokenizer, make_tokenizer
from freerun.data.vocabulary import Vocabulary

__all__ = [
    "FEATURE_VOCABULARY",
    "codec_of",
    "codec_settings",
    "codecs_of",
    "vocabulary_files",
    "vocabulary_name",
    "vocabulary_sizes",
]

FEATURE_VOCABULARY: Final = "feature_vocabulary.json"
"""The file of sources with features, one more vocabulary."""


def vocabulary_files(source: Codec, target: Codec) -> dict[str, bytes]:
    """Return the content of each file, by its name."""
    files = {}
    for side, codec in (("source", source), ("target", target)):
        tokenizer = codec.tokenizer
        content = (
            tokenizer.model if isinstance(tokenizer, SentencePieceTokenizer) else codec.vocabulary.to_json().encode()
        )
        files[vocabulary_name(side, tokenizer.spec)] = content
    if source.features is not None:
        files[FEATURE_VOCABULARY] = source.features.vocabulary.to_json().encode()
    return files


def vocabulary_name(side: str, spec: str) -> str:
    """Return the name of the file of ``source`` or ``target``, by the side's tokens."""
    return f"{side}_vocabulary.{'model' if spec.startswith('sentencepiece') else 'json'}"


def codec_settings(codec: Codec) -> dict[str, Any]:
    """Return how a codec reads and writes text, as JSON."""
    return {
        "tokens": codec.tokenizer.spec,
        "normalisation": codec.normalisation,
        "case": codec.case,
        "reverse": codec.reverse,
        **({} if codec.written == "none" else {"written": codec.written}),
    }


def codec_of(settings: Mapping[str, Any], content: bytes, path: Path, features: FeatureCodec | None = None) -> Codec:
    """Return the codec with these settings and this content of its file.

    Raises:
        BundleError: the file, called ``path`` in messages, is damaged.
    """
    spec = settings["tokens"]
    if spec.startswith("sentencepiece"):
        tokenizer: Tokenizer = SentencePieceTokenizer(content, spec, path)
        vocabulary = Vocabulary.from_sentencepiece(content, path)
    else:
        tokenizer, vocabulary = make_tokenizer(spec), Vocabulary.from_json(content, path)
    return Codec(
        tokenizer,
        vocabulary,
        normalisation=settings["normalisation"],
        case=settings["case"],
        reverse=settings["reverse"],
        features=features,
        written=settings.get("written") or "none",
    )


def codecs_of(
    sides: Mapping[str, Mapping[str, Any]], separator: str | None, read: Callable[[str], bytes], directory: Path
) -> tuple[Codec, Codec]:
    """Return the codecs of the sources and of the targets.

    Args:
        sides: the settings of ``source`` and ``target``.
        separator: of features, None if there are none.
        read: returns the content of a file by its name.
        directory: of the files, for messages.

    Raises:
        BundleError: a file is damaged.
    """
    features = None
    if separator is not None:
        vocabulary = Vocabulary.from_json(read(FEATURE_VOCABULARY), directory / FEATURE_VOCABULARY)
        features = FeatureCodec(separator, vocabulary)
    names = {side: vocabulary_name(side, settings["tokens"]) for side, settings in sides.items()}
    codecs = {side: codec_of(sides[side], read(name), directory / name) for side, name in names.items()}
    return replace(codecs["source"], features=features), codecs["target"]


def vocabulary_sizes(source: Codec, target: Codec) -> list[int]:
    """Return the numbers of ids: of sources, of targets and, if there are some, of features."""
    features = [] if source.features is None else [len(source.features.vocabulary)]
    return [len(source.vocabulary), len(target.vocabulary), *features]
