"""The fields of training pairs: the columns of a TSV file and the separator of features, chosen if they are not set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from freerun.config import DataConfig
from freerun.data.column_recognition import FeatureColumn
from freerun.data.features import likely_separator, with_features, without_features
from freerun.data.header import SAMPLE_PAIRS
from freerun.data.readers import (
    COLUMNS_WITH_FEATURES,
    Columns,
    Pair,
    PairFiles,
    PairsLocation,
    check_column_counts,
    column_count,
    is_columnar,
    kind_of,
    kinds_of,
    label_of,
    parts_of,
    read_pairs,
    read_parts,
)
from freerun.errors import DataError
from freerun.experiment.pairs_spec import location_of
from freerun.log import log
from freerun.text import shown

__all__ = ["InputFields", "choose_fields"]


@dataclass(frozen=True)
class InputFields:
    """The fields of pairs.

    Attributes:
        columns: numbers for TSV files or names for Parquet and Arrow files, None for the usual ones.
        separator: between the features of a source, None if the pairs have no features.
    """

    columns: Columns | None = None
    separator: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the keys of [data] that repeat the choice; none for pairs without features."""
        if self.separator is None:
            return {}
        columns = {} if self.columns is None else {"columns": list(self.columns)}
        return {**columns, "feature_separator": self.separator}

    def read_training(self, location: PairsLocation, label: str) -> Iterator[Pair]:
        """Read training pairs; if the first one has no features, none may have any, and else all need some.

        ``label`` is what messages call the pairs. Raises ``DataError`` for a pair that lacks features, has unexpected
        ones, or one with a separator in it.
        """
        if self.separator is None and not kinds_of(location) <= {"TSV", "parallel files"}:
            parts = read_parts(location, self.columns)
            return chain.from_iterable(
                without_features(pairs, label_of(part, location, label)) for part, pairs in parts
            )
        return self.read_development(location, self.columns, label)

    def read_development(self, location: PairsLocation, columns: Columns | None, label: str) -> Iterator[Pair]:
        """Read pairs for the same model; if it has no features, those of the pairs do not matter."""
        if self.separator is None:
            return read_pairs(location, columns)
        parts = read_parts(location, columns)
        return chain.from_iterable(
            with_features(pairs, label_of(part, location, label), self.separator) for part, pairs in parts
        )


def choose_fields(config: DataConfig, label: str, quiet: bool = False) -> InputFields:
    """Return the fields of the training pairs; what was chosen is logged unless ``quiet``.

    A TSV file with three columns is recognized if the third one looks like features, or if ``data.feature_separator``
    says that there are some. ``label`` is what messages call the pairs.

    Raises:
        DataError: a pair cannot be read, or the third of three columns is not one of features.
    """
    location = location_of(config.train)
    is_recognized = config.columns is None and _has_three_columns(location)
    columns = COLUMNS_WITH_FEATURES if is_recognized else config.columns
    pairs = list(islice(read_pairs(location, columns), SAMPLE_PAIRS))
    if is_recognized and config.feature_separator is None:
        _check_features(pairs, label)
    if pairs[0].features is None:
        return InputFields(columns)
    separator = config.feature_separator or likely_separator(pair.features or "" for pair in pairs)
    fields = InputFields(columns, separator)
    if not quiet and (is_recognized or config.feature_separator is None):
        more = "" if config.feature_separator else "; data.feature_separator sets another separator"
        reading = _reading(fields, is_recognized, location)
        log.info(f"{label}: {reading}, separated by {shown(separator)}{more}.")
    return fields


def _has_three_columns(location: PairsLocation) -> bool:
    """Return True if TSV files have three columns. Raises ``DataError`` for a list with different numbers of them."""
    if isinstance(location, PairFiles):
        check_column_counts(location)
    files = [part for part in parts_of(location) if isinstance(part, Path) and kind_of(part) == "TSV"]
    return any(column_count(file) == len(COLUMNS_WITH_FEATURES) for file in files[:1])


def _check_features(pairs: list[Pair], label: str) -> None:
    """Check that the third column of ``pairs`` looks like features.

    Raises:
        DataError: it does not, with the advice that suits the second column.
    """
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    features = [str(pair.features) for pair in pairs]
    objection = FeatureColumn.measure(features, [sources, targets]).objection()
    if not objection:
        return
    if not FeatureColumn.measure(targets, [sources, features]).objection():
        raise DataError(
            label,
            f"column 2 of 3 looks like features, and column 3 does not: it {objection}",
            "Expected columns of source, target and features, in this order",
            "Choose them with --columns, here 1,3,2",
        )
    raise DataError(
        label,
        f"3 tab-separated columns, and column 3 does not look like features: it {objection}",
        "Expected 2 columns, source and target, or features in the third",
        "Choose two with --columns, for example 1,2; or 1,2,3 if the third does hold features",
    )


def _reading(fields: InputFields, is_recognized: bool, location: PairsLocation) -> str:
    """Return where the features are read from, as the beginning of a sentence."""
    if is_recognized:
        whose = "their" if isinstance(location, PairFiles) else "its"
        return f"{whose} three columns are read as source, target and features (as with --columns 1,2,3)"
    field = "column features" if is_columnar(location) else "the key features"
    where = field if fields.columns is None else f"column {fields.columns[-1]}"
    return f"{where} is read as features of the source"
