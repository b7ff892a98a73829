"""Which pairs a command reads: the files that were named, or a run's development pairs; and which of their columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from freerun.bounds import LENGTH
from freerun.commands.console import say
from freerun.config import DataConfig, FilePair, check_values, read_toml
from freerun.data.header import is_named_header
from freerun.data.readers import (
    Columns,
    Pair,
    PairsLocation,
    ParallelFiles,
    describe,
    each_file,
    kind_of,
    read_pairs,
)
from freerun.errors import ConfigError, UserError
from freerun.text import cut, shown

__all__ = [
    "COPIES",
    "PairsToRead",
    "chosen_columns",
    "copies_in",
    "dev_pairs_of",
    "header_warning",
    "location_of",
    "may_have_header",
    "named_files",
    "one_location",
    "only_tsv",
    "pairs_to_read",
    "parse_columns",
    "training_files",
    "value_of",
]

COPIES: Final = "pairs"
"""The directory, inside a run directory, of pairs that could be read only once (see ``spool``)."""


@dataclass(frozen=True)
class PairsToRead:
    """Where pairs are stored, and which columns of a TSV file are source and target."""

    location: PairsLocation
    columns: Columns | None = None

    def read(self) -> Iterator[Pair]:
        """The pairs, read once: a pipe will do, and is reported if it has to be waited for; warns of a header."""
        pairs = read_pairs(self.location, self.columns, say)
        first = next(pairs)
        # By its words alone: a stream is not read ahead.
        if may_have_header(self.location) and is_named_header(first.source, first.target):
            say(header_warning(describe(self.location), first))
        yield first
        yield from pairs


def may_have_header(location: PairsLocation) -> bool:
    """Return True for the formats in which a first line with names of columns would be read as a pair."""
    return kind_of(location) != "JSON Lines"


def header_warning(where: str, first: Pair) -> str:
    """The warning for a first pair that looks like the names of the columns."""
    named = f"{shown(first.source)} and {shown(first.target)}"
    return (
        f"warning: {where}: the first line looks like a header ({named}), but it is read as a pair. If it is a header, "
        "remove it, for example with: tail -n +2"
    )


def location_of(value: str | FilePair) -> PairsLocation:
    """Where the pairs of a configuration stand."""
    return Path(value) if isinstance(value, str) else ParallelFiles(Path(value.source), Path(value.target))


def value_of(location: PairsLocation) -> str | dict[str, str]:
    """A location as a configuration names it."""
    if isinstance(location, Path):
        return str(location)
    return {"source": str(location.source), "target": str(location.target)}


def copies_in(run: Path, location: PairsLocation) -> PairsLocation:
    """``location``; where it names copies of a run that was moved since, those in ``run``."""

    def present(file: Path) -> Path:
        own = run / COPIES / file.name
        return own if file.parent.name == COPIES and not file.exists() and own.exists() else file

    return each_file(location, present)


# -- what was typed ----------------------------------------------------------------------------------------------------


def parse_columns(text: str) -> Columns:
    """The value of ``--columns``: the numbers of two columns.

    Raises:
        ConfigError: it is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(map(_is_column, parts)):
        raise ConfigError.single(
            f"--columns {cut(text)}",
            "this does not name two columns",
            "Expected the numbers of the source's and of the target's column, counted from 1",
            "Write for example --columns 1,3",
        )
    return int(parts[0]), int(parts[1])


def _is_column(text: str) -> bool:
    """Return True for the number of a column; of so few digits that Python converts it."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(LENGTH.high)) and int(text) in LENGTH


def chosen_columns(text: str | None) -> Columns | None:
    """The value of ``--columns``, None where it was not given. Raises as ``parse_columns`` does."""
    return None if text is None else parse_columns(text)


def named_files(files: Sequence[Path], where: str) -> PairsLocation | None:
    """One file of pairs, or two parallel files; None if none was named. ``where`` they were named, for messages.

    Raises:
        UserError: more than two, or a configuration among two.
    """
    if not files:
        return None
    if len(files) == 1:
        return files[0]
    if len(files) > 2:
        raise UserError(
            where,
            f"{len(files)} files: {', '.join(map(str, files))}",
            "Expected one file of pairs, or two parallel files: source and target",
            "Join files of pairs into one, for example with cat",
        )
    for file in files:
        if file.suffix == ".toml":
            raise UserError(
                where,
                f"the configuration {file} among two files",
                "Expected a configuration alone, or two parallel files: source and target",
                "Name the configuration alone; it names its data in data.train and data.dev",
            )
    return ParallelFiles(*files)


def one_location(files: Sequence[Path], where: str) -> PairsLocation:
    """``named_files`` where at least one file has to be named.

    Raises:
        UserError: there is none, or as for ``named_files``.
    """
    location = named_files(files, where)
    if location is None:
        raise UserError(where, "no pairs", "Expected PAIRS.tsv, or two parallel files", "Name them")
    return location


def training_files(files: Sequence[Path], dev: Sequence[Path]) -> tuple[PairsLocation | None, PairsLocation | None]:
    """What ``freerun train FILES --dev DEV ...`` names: pairs or a configuration, and development pairs.

    Two positional files are source and target, and so are two development files. What is typed for training and for
    development has the same form, so that a file that was forgotten, or is one too many, is not read as another thing.

    Raises:
        UserError: the two do not go together.
    """
    where = "freerun train"
    subject, development = named_files(files, where), named_files(dev, f"{where} --dev")
    if len(files) == 2 and len(dev) == 1:
        raise UserError(
            where,
            f"two parallel training files, and one development file: {dev[0]}",
            "Expected two development files as well: --dev DEV_SRC --dev DEV_TGT",
            f"Name both, or write --set data.dev={dev[0]} if it holds pairs (source<TAB>target)",
        )
    if len(files) == 1 and files[0].suffix != ".toml" and len(dev) == 2:
        raise UserError(
            where,
            f"one file of training pairs, and two development files: {dev[0]}, {dev[1]}",
            "Expected one development file: --dev DEV.tsv",
            "Join them into one, for example with cat; or name two parallel training files: SRC TGT",
        )
    return subject, development


# -- what a run says ---------------------------------------------------------------------------------------------------


def pairs_to_read(models: Sequence[Path], location: PairsLocation | None, columns: Columns | None) -> PairsToRead:
    """The pairs at ``location``, else the development pairs of the first of ``models``.

    Without ``columns``, a TSV file is read by the columns that the models' runs were trained with.

    Raises:
        UserError: no pairs were named and the model is no run, or the runs were trained with different columns.
    """
    if location is None:
        return dev_pairs_of(models[0])
    return PairsToRead(location, columns or _columns_of_runs(models, location))


def only_tsv(location: PairsLocation, columns: Columns | None) -> Columns | None:
    """Columns that were chosen for other pairs, where they mean something for these: only TSV has columns."""
    return columns if kind_of(location) == "TSV" else None


def dev_pairs_of(model: Path) -> PairsToRead:
    """The development pairs that a run was selected on.

    Raises:
        UserError: ``model`` is not a run folder.
    """
    path = model / "config.toml"
    if not path.exists():
        raise UserError(
            model,
            "no pairs were named, and this is not a run folder, which would know its development pairs",
            "Expected MODEL and PAIRS.tsv",
            "Name a file of pairs",
        )
    data = _data_of(path)
    if data.dev is not None:
        return PairsToRead(copies_in(model, location_of(data.dev)), data.columns)
    if not (model / "dev.tsv").exists():
        raise UserError(
            model / "dev.tsv", "no such file", "Expected the pairs held out by this run", "Name a file of pairs"
        )
    return PairsToRead(model / "dev.tsv")


def _data_of(path: Path) -> DataConfig:
    # the rest of the configuration is training's, and may name a strategy of one's own that is not in reach here
    return check_values(DataConfig, read_toml(path).get("data", {}), path)


def _columns_of_runs(models: Sequence[Path], location: PairsLocation) -> Columns | None:
    """The columns that the runs among ``models`` were trained with; none for the pairs that one of them held out."""
    if isinstance(location, ParallelFiles):
        return None
    chosen: dict[Columns, Path] = {}
    for model in models:
        if not (model / "config.toml").is_file():
            continue
        data = _data_of(model / "config.toml")
        if data.dev is None and _same_file(location, model / "dev.tsv"):
            return None  # written by the run, so with two columns
        if columns := only_tsv(location, data.columns):
            chosen.setdefault(columns, model)
    if len(chosen) > 1:
        each = "; ".join(f"{model}: {one},{two}" for (one, two), model in chosen.items())
        raise ConfigError.single(
            describe(location),
            f"the runs were trained with different columns ({each})",
            "Expected one choice of columns for all models",
            "Choose them with --columns",
        )
    for columns, model in chosen.items():
        say(f"{location}: source and target are columns {columns[0]},{columns[1]}, as in {model}; see --columns.")
        return columns
    return None


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
