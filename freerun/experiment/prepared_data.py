"""Prepared pairs as training data: what their preparation fixed, and what a configuration may not contradict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from freerun.config import DataConfig, shown
from freerun.data.codec import Codec
from freerun.data.columns import COLUMN_NAMES
from freerun.data.features import SourceText
from freerun.data.manifest import is_prepared
from freerun.data.prepared import DEFAULT_WINDOW, Prepared, PreparedPairs, open_prepared
from freerun.data.readers import describe, files_of
from freerun.data.row_hashes import encoded_rows, source_hashes
from freerun.data.shards import FEATURES, SOURCE
from freerun.errors import ConfigError
from freerun.experiment.pairs_spec import location_of
from freerun.runtime.bundle import Bundle

__all__ = [
    "check_initial_codecs",
    "check_prepared_keys",
    "check_window",
    "count_training_sources",
    "names_prepared",
    "pairs_of",
    "prepared_data",
    "prepared_keys",
]


def names_prepared(train: object) -> bool:
    """Return True if a value of ``data.train`` names a directory of prepared pairs."""
    return isinstance(train, str) and is_prepared(Path(train))


def prepared_data(config: DataConfig) -> Prepared | None:
    """Return the prepared pairs that a configuration names, None for files of pairs.

    Raises:
        DataError: they are not complete, or their manifest is damaged or too new.
    """
    return open_prepared(Path(str(config.train))) if names_prepared(config.train) else None


def prepared_keys(prepared: Prepared) -> dict[str, Any]:
    """Return the keys of [data] that the preparation fixed, with their values."""
    return dict(prepared.manifest.data)


def check_prepared_keys(raw: Mapping[str, Any], prepared: Prepared, location: object) -> None:
    """Check that the keys that were set, ``raw``, do not contradict the preparation; messages name ``location``.

    Raises:
        ConfigError: some do.
    """
    fixed = prepared_keys(prepared)
    section = {key: value for key, value in raw.get("data", {}).items() if key not in ("train", "dev", "window")}
    if not prepared.manifest.holds_out:
        section.pop("held_out", None)  # nothing was, so no value contradicts
    here, there = (_compared({**fixed, **changes}) for changes in (section, {}))
    contradictions = [
        f"data.{key} is {shown(value)} here and {shown(fixed.get(key))} there"
        for key, value in section.items()
        if value != "auto" and here[key] != there[key]
    ]
    if contradictions:
        raise ConfigError.single(
            location,
            f"the configuration contradicts the prepared pairs in {prepared.directory}: {'; '.join(contradictions)}",
            "Expected the settings that the pairs were prepared with",
            "Leave these keys out, or prepare the pairs again with these settings, into another directory",
        )


def _compared(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys of [data] in a form in which equal meanings are equal."""
    data = DataConfig.model_validate({**section, "train": "pairs"})
    columns = None if data.columns in ((1, 2), COLUMN_NAMES[:2]) else data.columns
    return {**data.model_dump(), "normalisation": data.forms.model_dump(), "columns": columns}


def check_initial_codecs(bundle: Bundle, prepared: Prepared) -> None:
    """Check that the model that training starts from reads and writes the ids of prepared pairs.

    Raises:
        ConfigError: it has other vocabularies.
    """
    source, target = prepared.codecs(reverse_source=bundle.source.reverse)
    sides = [("source", bundle.source, source), ("target", bundle.target, target)]
    others = [side for side, one, other in sides if _identity(one) != _identity(other)]
    if others:
        raise ConfigError.single(
            "training.init",
            f"the {' and the '.join(others)} vocabulary of {bundle.directory} differs from that of the prepared pairs "
            f"in {prepared.directory}",
            "Expected pairs that were prepared with the vocabularies of this model",
            f"Prepare them with: freerun data prepare ... --init {bundle.directory}",
        )


def _identity(codec: Codec) -> tuple[object, ...]:
    features = None if codec.features is None else (codec.features.separator, codec.features.vocabulary)
    return codec.tokenizer.spec, codec.vocabulary, codec.normalisation, codec.case, features


def pairs_of(prepared: Prepared, source: Codec, target: Codec, config: DataConfig) -> PreparedPairs:
    """Return the training pairs of prepared data."""
    return PreparedPairs(prepared, source, target, config.window or DEFAULT_WINDOW)


def count_training_sources(prepared: Prepared, sources: Sequence[SourceText]) -> int:
    """Return how many of the sources are training sources, as a model reads them; all shards are read."""
    source, target = prepared.codecs(reverse_source=False)
    rows = [source.encode_tokens(source.tokens(each.source))[:-1] for each in sources]
    features = None
    if source.features is not None:
        features = encoded_rows([source.features.encode(each.features or "") for each in sources])
    hashes = source_hashes(encoded_rows(rows), features)
    pairs, found = PreparedPairs(prepared, source, target), np.zeros(len(sources), np.bool_)
    for number in range(len(prepared.manifest.shards)):
        shard = pairs.shard(number)
        sides = zip(shard.tokens, shard.lengths, strict=True)
        own = [(ids.astype(np.int32), lengths.astype(np.int64)) for ids, lengths in sides]
        found |= np.isin(hashes, source_hashes(own[SOURCE], None if features is None else own[FEATURES]))
    return int(found.sum())


def check_window(config: DataConfig) -> None:
    """Check that ``data.window`` is not set for files of pairs, all of which are shuffled together.

    Raises:
        ConfigError: it is.
    """
    if config.window is not None and all(file.exists() for file in files_of(location_of(config.train))):
        raise ConfigError.single(
            "data.window",
            f"the value is {config.window:,}, but {describe(location_of(config.train))} is not a directory of prepared "
            "pairs",
            "Expected no window: pairs from files are shuffled all together",
            "Remove the key, or prepare the pairs with: freerun data prepare",
        )
