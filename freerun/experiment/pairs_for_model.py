"""Pairs for a model: one with features reads a third field of each pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec
from freerun.data.known_features import known_features, missing_features
from freerun.data.memory_pairs import PairsInMemory
from freerun.data.readers import COLUMNS_WITH_FEATURES, MissingColumnError, Pair, kind_of
from freerun.errors import ConfigError, DataError
from freerun.experiment.pairs_spec import PairsSpec

__all__ = ["read_for_models"]

_MEMORY = "memory"
_FIX = {
    "TSV": "Add the missing column, or choose others with --columns",
    "JSON Lines": 'Add the key "features", with "" for none',
    "parallel files": "Join the files into one with lines of source<TAB>target<TAB>features",
    _MEMORY: 'Pass (source, target, features), with "" for none',
}


def read_for_models(spec: PairsSpec, *sources: Codec) -> Iterator[Pair]:
    """Read pairs for models with these source codecs: if one has features, all pairs need them.

    Raises:
        ConfigError: a column of features for models that read none, or none for a model that does.
        DataError: the pairs cannot be read, or one of them has no features.
    """
    codec = next((source.features for source in sources if source.features is not None), None)
    _check_columns(spec, codec)
    return spec.read() if codec is None else _pairs_with_features(spec, codec)


def _check_columns(spec: PairsSpec, codec: FeatureCodec | None) -> None:
    columns = spec.columns
    if columns is None or (len(columns) == 3) == (codec is not None):
        return
    chosen = ",".join(map(str, columns))
    if codec is None:
        raise ConfigError.single(
            spec.description,
            f"columns {chosen} were chosen, but the model has no features",
            "Expected two columns: source and target",
            f"Choose them with --columns {columns[0]},{columns[1]}",
        )
    raise ConfigError.single(
        spec.description,
        f"columns {chosen} were chosen, but the model also reads features",
        "Expected three columns: source, target and features",
        f"Choose them with, for example, --columns {columns[0]},{columns[1]},{max(columns) + 1}",
    )


def _pairs_with_features(spec: PairsSpec, codec: FeatureCodec) -> Iterator[Pair]:
    kind = _MEMORY if isinstance(spec.location, PairsInMemory) else kind_of(spec.location)
    for pair in _tsv_pairs(spec, codec) if kind == "TSV" else spec.read():
        if pair.features is None:
            location = f"pair {pair.line}" if kind == _MEMORY else f"{spec.description}:{pair.line}"
            raise missing_features(location, pair.source, codec, _FIX[kind])
        yield pair


def _tsv_pairs(spec: PairsSpec, codec: FeatureCodec) -> Iterator[Pair]:
    """Read the three columns of a TSV file; if one is missing, the message says what it would be."""
    columns = spec.columns or COLUMNS_WITH_FEATURES
    try:
        yield from replace(spec, columns=columns).read()
    except MissingColumnError as error:
        expected = f"Expected source, target and features in columns {','.join(map(str, columns))}, because the model "
        known = f"was trained with features: it has {known_features(codec)}"
        raise DataError(error.where, error.what, expected + known, _FIX["TSV"]) from None
