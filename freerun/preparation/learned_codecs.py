"""The result of the first pass: the codecs that were learned from the training pairs, and what is held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun.config import DataConfig
from freerun.data.codec import Codec, check_target_tokens, form_to_write
from freerun.data.codec_files import codec_settings, codecs_of, vocabulary_files
from freerun.data.features import FeatureCodec
from freerun.data.manifest import Side
from freerun.data.prepared import DEV
from freerun.data.tokenizers import (
    MAX_TRAINING_TEXTS,
    SentencePieceTokenizer,
    Tokenizer,
    make_tokenizer,
    parse_tokens_spec,
    train_sentencepiece,
)
from freerun.data.unknown_tokens import MAX_NAMED
from freerun.data.vocabulary import Vocabulary
from freerun.files import file_hash, write_atomic
from freerun.preparation.counting import Reading, TokenCounts, lowest_texts

__all__ = ["Learned", "learn_codecs", "unknown_tokens"]

_ALL = 2**64 - 1
EachBlock = Callable[[Callable[..., Any], Callable[..., tuple[Any, ...]]], Iterator[tuple[int, Any]]]
"""Applies a function to every block, with further arguments by its number; yields numbers and results."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What the second pass needs.

    Attributes:
        source, target: the codecs; that of the sources does not reverse.
        places: number of a block -> numbers of the pairs in it that are held out.
        blocks: how many there are.
        unknown: see ``unknown_tokens``.
    """

    source: Codec
    target: Codec
    places: Mapping[int, list[int]]
    blocks: int
    unknown: Mapping[Side, dict[str, int]]

    def write(self, path: Path, directory: Path) -> None:
        """Write the vocabularies to a directory, then the rest to ``path``; the development pairs are there already."""
        files = vocabulary_files(self.source, self.target)
        for name, vocabulary in files.items():
            write_atomic(directory / name, vocabulary)
        features = self.source.features
        content = {
            "source": codec_settings(self.source),
            "target": codec_settings(self.target),
            "separator": None if features is None else features.separator,
            "places": {str(block): numbers for block, numbers in self.places.items()},
            "blocks": self.blocks,
            "unknown": dict(self.unknown),
            "files": {name: file_hash(directory / name) for name in (*files, DEV)},
        }
        write_atomic(path, json.dumps(content))

    @classmethod
    def read(cls, path: Path, directory: Path) -> Learned | None:
        """Read what ``write`` wrote; None if it is missing, or a file has changed since."""
        try:
            values = json.loads(path.read_bytes())
            if any(file_hash(directory / name) != sha256 for name, sha256 in values["files"].items()):
                return None
        except (OSError, ValueError):
            return None
        sides = {side: values[side] for side in ("source", "target")}
        source, target = codecs_of(sides, values["separator"], lambda name: (directory / name).read_bytes(), directory)
        return cls(
            source=source,
            target=target,
            places={int(block): numbers for block, numbers in values["places"].items()},
            blocks=values["blocks"],
            unknown=values["unknown"],
        )


def learn_codecs(
    counts: TokenCounts, reading: Reading, data: DataConfig, places: Mapping[int, list[int]], each_block: EachBlock
) -> tuple[Codec, Codec]:
    """Build the codecs from the counts of the training pairs: the same as ``build_codecs`` builds from the pairs.

    Args:
        counts: of the training pairs' tokens.
        reading: how texts are read.
        data: the section [data].
        places: of the held-out pairs, see ``Learned``.
        each_block: for the texts that subwords are learned from.

    Raises:
        UserError: as ``build_codecs``.
    """
    texts = _subword_texts(reading, places, each_block)
    if data.shared_vocabulary:
        both = counts.source + counts.target
        source = target = _side("target", reading.target_tokens, both, [*texts[0], *texts[1]], data)
    else:
        source = _side("source", reading.source_tokens, counts.source, texts[0], data)
        target = _side("target", reading.target_tokens, counts.target, texts[1], data)
    check_target_tokens(target[1], data.minimum_count)
    features = None
    if reading.separator is not None:
        vocabulary = Vocabulary.from_counts(counts.features, data.minimum_count)
        features = FeatureCodec(reading.separator, vocabulary)
    written = form_to_write(reading.target_form, lambda: not counts.decomposed)
    return (
        Codec(*source, normalisation=reading.source_form, case=reading.source_case, features=features),
        Codec(*target, normalisation=reading.target_form, written=written),
    )


def unknown_tokens(counts: TokenCounts, source: Codec, target: Codec) -> dict[Side, dict[str, int]]:
    """Return the most frequent tokens that the vocabularies lack, with their counts: of each side, and of features.

    Subwords are not counted, so those of a side with subwords are not known.
    """
    unknown: dict[Side, dict[str, int]] = {
        "source": _most_frequent_unknown(counts.source, source.vocabulary),
        "target": _most_frequent_unknown(counts.target, target.vocabulary),
    }
    if source.features is not None:
        unknown["features"] = _most_frequent_unknown(counts.features, source.features.vocabulary)
    return unknown


def _most_frequent_unknown(counts: Counter[str], vocabulary: Vocabulary) -> dict[str, int]:
    unknown = [token for token in counts if token not in vocabulary]
    return {token: counts[token] for token in sorted(unknown, key=lambda token: (-counts[token], token))[:MAX_NAMED]}


def _side(
    side: str, spec: str, counts: Mapping[str, int], texts: Sequence[str], data: DataConfig
) -> tuple[Tokenizer, Vocabulary]:
    kind, size = parse_tokens_spec(spec, f"data.{side}_tokens")
    if kind == "sentencepiece" and size is not None:
        model = train_sentencepiece(iter(texts), size, f"data.{side}_tokens")
        return SentencePieceTokenizer(model, spec), Vocabulary.from_sentencepiece(model)
    return make_tokenizer(spec), Vocabulary.from_counts(counts, data.minimum_count)


def _subword_texts(
    reading: Reading, places: Mapping[int, list[int]], each_block: EachBlock
) -> tuple[list[str], list[str]]:
    """Return the source texts and the target texts that subwords are learned from, none for a side without them."""
    found: tuple[dict[int, str], dict[int, str]] = ({}, {})
    if not any(spec.startswith("sentencepiece") for spec in (reading.source_tokens, reading.target_tokens)):
        return [], []
    bounds = [_ALL, _ALL]
    arguments = lambda number: (places.get(number, []), MAX_TRAINING_TEXTS, tuple(bounds))  # noqa: E731
    for _, sides in each_block(lowest_texts, arguments):
        for side, texts in enumerate(sides):
            for value, text in texts:
                found[side].setdefault(value, text)
            if len(found[side]) > 2 * MAX_TRAINING_TEXTS:
                bounds[side] = sorted(found[side])[MAX_TRAINING_TEXTS - 1]
                for value in [value for value in found[side] if value > bounds[side]]:
                    del found[side][value]
    return list(found[0].values()), list(found[1].values())
