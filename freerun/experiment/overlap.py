"""Overlap: the sources of a study's report that its runs were also trained or selected on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from freerun.config import DataConfig
from freerun.data.normalisation import collapse_whitespace
from freerun.data.opening import reject_read_once
from freerun.data.readers import Pair, files_of
from freerun.errors import DataError
from freerun.experiment.data_source import DataSource, source_reader
from freerun.experiment.pairs_spec import PairsSpec, location_of
from freerun.experiment.prepared_data import count_training_sources, prepared_keys
from freerun.experiment.run_columns import columns_for
from freerun.log import log

__all__ = ["Overlap", "checked_overlap", "pairs_of_study", "worst_overlap"]


@dataclass(frozen=True)
class Overlap:
    """The sources that a study reports on, and how many of them its runs have seen.

    Sources are compared as the models read them: normalised, case-folded if the configuration does that, and without
    differences in whitespace.

    Attributes:
        pairs: the name of the file, None for the development pairs.
        sources: number of distinct sources.
        training_sources: how many of them are in the training pairs.
        development_sources: how many are in the development pairs, by which each run's best model is chosen.
    """

    pairs: str | None
    sources: int
    training_sources: int
    development_sources: int

    @property
    def is_clean(self) -> bool:
        """Return True if no run was trained or selected on any of the sources."""
        return not self.training_sources and not self.development_sources

    def as_json(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return asdict(self)

    def __str__(self) -> str:
        if self.pairs is None:
            known = "the development pairs, which also chose each run's best model: give `pairs` for a stricter test"
            too = (
                f"; {self._part(self.training_sources, 'their')} training sources too" if self.training_sources else ""
            )
            return known + too
        if self.is_clean:
            return f"{self.pairs}, which no run was trained or selected on"
        parts = []
        if self.training_sources:
            parts.append(f"{self._part(self.training_sources)} training sources")
        if self.development_sources:
            known = "development sources, which chose each run's best model"
            parts.append(f"{self._part(self.development_sources)} {known}")
        return f"{self.pairs}: {', and '.join(parts)}. Metrics on new sources may be worse"

    def _part(self, count: int, whose: str = "its") -> str:
        return f"{count:,} of {whose} {self.sources:,} sources ({100 * count / self.sources:.1f} %) are"


def pairs_of_study(pairs: str, data: DataConfig) -> PairsSpec:
    """Return the pairs that a study names, with the columns of an arm."""
    return PairsSpec(Path(pairs), columns_for(Path(pairs), data.columns, data.feature_separator))


def checked_overlap(pairs: str | None, arms: Sequence[DataConfig]) -> Overlap:
    """Read all pairs of a study once, and warn if its runs are trained or selected on those that it reports on.

    Raises:
        DataError: some cannot be read, or only once.
    """
    locations = [location_of(value) for arm in arms for value in (arm.train, arm.dev) if value]
    for location in [*locations, *([Path(pairs)] if pairs else [])]:
        for file in files_of(location):
            reject_read_once(file)
    try:
        overlap = worst_overlap(pairs, arms)
    except DataError as error:  # this command has no such option
        fix = error.fix.replace("with --columns", "with data.columns in the configuration of the arms")
        raise DataError(error.where, error.what, error.expected, fix) from None
    if overlap.pairs is not None and not overlap.is_clean:
        log.warning(f"{overlap}.")
    return overlap


def worst_overlap(pairs: str | None, arms: Iterable[DataConfig]) -> Overlap:
    """Compare the pairs that a study reports on with the data of each arm; the arm with the largest overlap counts.

    Reads the data of each different [data] section once or twice; keeps the sources of the reported pairs in memory.
    """
    different = {arm.model_dump_json(): arm for arm in arms}
    return max(
        (_overlap(pairs, data) for data in different.values()),
        key=lambda overlap: (overlap.training_sources + overlap.development_sources) / overlap.sources,
    )


def _overlap(pairs: str | None, data: DataConfig) -> Overlap:
    source = DataSource.open(data, quiet=True)
    if source.prepared is not None:
        data = DataConfig.model_validate({**data.model_dump(), **prepared_keys(source.prepared)})
    compare = source_reader(data, source.feature_separator)

    def read_as(pair: Pair) -> str:
        return collapse_whitespace(compare(pair))

    chosen = data.model_copy(update=source.fields.settings())
    reported = source.dev() if pairs is None else pairs_of_study(pairs, chosen).read()
    sources = {read_as(pair): pair for pair in reported}
    if source.prepared is not None:
        training = count_training_sources(source.prepared, list(sources.values()))
    else:
        training = len(sources.keys() & map(read_as, source.train()))
    development = sources.keys() & map(read_as, source.dev())
    name = None if pairs is None else Path(pairs).name
    return Overlap(name, len(sources), training, len(development))
