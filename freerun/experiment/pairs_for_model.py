"""Pairs for a model: one with features reads a third field of each pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from freerun.data.codec import Codec
from freerun.data.columns import COLUMNS_WITH_FEATURES, Columns, are_names, as_numbers, listed
from freerun.data.features import FeatureCodec
from freerun.data.known_features import known_features, missing_features
from freerun.data.memory_pairs import PairsInMemory
from freerun.data.readers import MissingColumnError, Pair, describe, has_columns, kind_of
from freerun.errors import ConfigError, DataError
from freerun.experiment.pairs_spec import PairsSpec

__all__ = ["read_for_models"]

_MEMORY = "memory"
_FIX = {
    "TSV": "Add the missing column, or choose others with --columns",
    "JSON Lines": 'Add the key "features", with "" for none',
    "Parquet": "Add the column features, or choose another with --columns source,target,NAME",
    "Arrow": "Add the column features, or choose another with --columns source,target,NAME",
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
    chosen = listed(columns)
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
        f"Choose them with, for example, --columns {chosen},{_third(columns)}",
    )


def _third(columns: Columns) -> int | str:
    """Return an example of a column of features."""
    return "features" if are_names(columns) else max(as_numbers(columns) or (0,)) + 1


def _pairs_with_features(spec: PairsSpec, codec: FeatureCodec) -> Iterator[Pair]:
    if not isinstance(spec.location, PairsInMemory) and has_columns(spec.location, by_name=False):
        spec = replace(spec, columns=spec.columns or COLUMNS_WITH_FEATURES)
    for part, pairs in spec.read_parts():
        kind = _MEMORY if isinstance(part, PairsInMemory) else kind_of(part)
        for pair in _tsv_pairs(pairs, spec.columns, codec) if kind == "TSV" else pairs:
            if pair.features is None:
                location = f"pair {pair.line}" if isinstance(part, PairsInMemory) else f"{describe(part)}:{pair.line}"
                raise missing_features(location, pair.source, codec, _FIX[kind])
            yield pair


def _tsv_pairs(pairs: Iterator[Pair], columns: Columns | None, codec: FeatureCodec) -> Iterator[Pair]:
    """Read the three columns of a TSV file; if one is missing, the message says what it would be."""
    try:
        yield from pairs
    except MissingColumnError as error:
        columns = as_numbers(columns) or COLUMNS_WITH_FEATURES
        expected = f"Expected source, target and features in columns {listed(columns)}, because the model "
        known = f"was trained with features: it has {known_features(codec)}"
        raise DataError(error.where, error.what, expected + known, _FIX["TSV"]) from None
