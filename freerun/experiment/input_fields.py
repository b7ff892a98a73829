"""The fields of training pairs: the columns of a TSV file and the separator of features, chosen if they are not set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
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
    PairsLocation,
    column_count,
    kind_of,
    read_pairs,
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
        columns: of a TSV file, None for the usual two and for other formats.
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

    def checked(self, pairs: Iterator[Pair], location: str) -> Iterator[Pair]:
        """Yield the pairs; raise ``DataError`` for one that lacks features or has a separator within one."""
        return pairs if self.separator is None else with_features(pairs, location, self.separator)

    def read_training(self, location: PairsLocation, label: str) -> Iterator[Pair]:
        """Read training pairs, checked as by ``checked``; if the first one has no features, none may have any."""
        pairs = read_pairs(location, self.columns)
        if self.separator is None and kind_of(location) == "JSON Lines":
            return without_features(pairs, label)
        return self.checked(pairs, label)


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
        log.info(f"{label}: {_reading(fields, is_recognized)}, separated by {shown(separator)}{more}.")
    return fields


def _has_three_columns(location: PairsLocation) -> bool:
    if not isinstance(location, Path) or kind_of(location) != "TSV":
        return False
    return column_count(location) == len(COLUMNS_WITH_FEATURES)


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


def _reading(fields: InputFields, is_recognized: bool) -> str:
    """Return where the features are read from, as the beginning of a sentence."""
    if is_recognized:
        return "its three columns are read as source, target and features (as with --columns 1,2,3)"
    where = "the key features" if fields.columns is None else f"column {fields.columns[-1]}"
    return f"{where} is read as features of the source"
