"""Specifications of pairs: files named by the user, a run's development pairs, or pairs in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from freerun.bounds import LENGTH
from freerun.config import FilePair
from freerun.data.header import is_named_header
from freerun.data.memory_pairs import PairsInMemory
from freerun.data.pair_files import find_files
from freerun.data.readers import (
    Columns,
    Pair,
    PairFiles,
    PairsLocation,
    PairsPart,
    ParallelFiles,
    describe,
    each_file,
    kind_of,
    read_parts,
)
from freerun.errors import ConfigError, UserError
from freerun.experiment.run_columns import columns_for, columns_of_runs, data_of_run, held_out_columns
from freerun.text import cut, shown

__all__ = [
    "COPIES",
    "MEMORY_FILES",
    "PairsSpec",
    "chosen_columns",
    "copies_in",
    "dev_pairs_of",
    "header_warning",
    "location_of",
    "may_have_header",
    "named_files",
    "one_location",
    "pairs_spec",
    "parse_columns",
    "training_files",
    "value_of",
]

COPIES: Final = "pairs"
"""The directory, inside a run directory, of pairs that could be read only once (see ``spool``)."""
MEMORY_FILES: Final = {"train": "train.jsonl", "dev": "dev.jsonl"}
"""The names, inside a run directory, of the files of pairs in memory, by their key in [data] (see ``memory_files``)."""


@dataclass(frozen=True)
class PairsSpec:
    """The location of pairs, and their columns: numbers for TSV files, names for Parquet and Arrow files."""

    location: PairsLocation | PairsInMemory
    columns: Columns | None = None

    @property
    def description(self) -> str:
        """The location, for messages."""
        return str(self.location) if isinstance(self.location, PairsInMemory) else describe(self.location)

    @property
    def name(self) -> str:
        """The names of the files without their directories."""
        if isinstance(self.location, PairsInMemory):
            return str(self.location)
        return describe(each_file(self.location, lambda file: Path(file.name)))

    def read(self) -> Iterator[Pair]:
        """Read the pairs once, so that a pipe will do.

        Logs a notice if a pipe has to be waited for, and a warning if the first line of a file looks like a header.
        """
        return chain.from_iterable(pairs for _, pairs in self.read_parts())

    def read_parts(self) -> Iterator[tuple[PairsPart | PairsInMemory, Iterator[Pair]]]:
        """Yield each file of a list (any other location as a whole) and its pairs, as ``read`` does."""
        if isinstance(self.location, PairsInMemory):
            yield self.location, iter(self.location.pairs)
            return
        for part, pairs in read_parts(self.location, self.columns, _notify):
            yield part, _with_header_warning(part, pairs)


def _with_header_warning(location: PairsPart, pairs: Iterator[Pair]) -> Iterator[Pair]:
    first = next(pairs)
    # By its words alone: a stream is not read ahead.
    if may_have_header(location) and is_named_header(first.source, first.target):
        _warn(header_warning(describe(location), first))
    yield first
    yield from pairs


def _notify(text: str) -> None:
    from freerun.log import (
        log,  # not above: scoring with an exported bundle imports this module, and rarely logs
    )

    log.info(text)


def _warn(text: str) -> None:
    from freerun.log import log

    log.warning(text)


def may_have_header(location: PairsPart) -> bool:
    """Return True for the formats in which a first line with names of columns would be read as a pair."""
    return kind_of(location) in ("TSV", "parallel files")


def header_warning(location: str, first: Pair) -> str:
    """Return the warning for a first pair that looks like the names of the columns."""
    named = f"{shown(first.source)} and {shown(first.target)}"
    return (
        f"{location}: the first line looks like a header ({named}), but it is read as a pair. If it is a header, "
        "remove it, for example with: tail -n +2"
    )


def location_of(value: str | FilePair | Sequence[str]) -> PairsLocation:
    """Return the location of the pairs that a configuration names; patterns are replaced by the files they match.

    Raises:
        DataError: a list names a file twice, or a pipe, or a pattern matches no file.
    """
    if isinstance(value, str):
        return Path(value)
    if isinstance(value, FilePair):
        return ParallelFiles(Path(value.source), Path(value.target))
    return PairFiles(find_files(value))


def value_of(location: PairsLocation) -> str | dict[str, str] | list[str]:
    """Return a location as a configuration names it."""
    match location:
        case ParallelFiles():
            return {"source": str(location.source), "target": str(location.target)}
        case PairFiles():
            return list(map(str, location.files))
    return str(location)


def copies_in(run: Path, location: PairsLocation) -> PairsLocation:
    """Return ``location``, with the copies in ``run`` in place of copies whose run directory has been moved."""

    def existing(file: Path) -> Path:
        is_copy = file.parent.name == COPIES
        own = run / COPIES / file.name if is_copy else run / file.name
        is_own = is_copy or file.name in MEMORY_FILES.values()
        return own if is_own and not file.exists() and own.exists() else file

    return each_file(location, existing)


# -- the command line -------------------------------------------------------------------------------------------------


def parse_columns(text: str) -> Columns:
    """Return the value of ``--columns``: the numbers or the names of two columns, or of three with features.

    Raises:
        ConfigError: the value is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    is_by_name = not any(part.lstrip("+-").isdigit() for part in parts)
    if len(parts) not in (2, 3) or not all(parts if is_by_name else map(_is_column, parts)):
        raise ConfigError.single(
            f"--columns {cut(text)}",
            "this does not name two or three columns",
            "Expected the numbers of the source's and of the target's column, and of the features' if there is one, "
            "counted from 1; or their names, in a Parquet or Arrow file",
            "Write for example --columns 1,3, --columns 1,2,3 or --columns source,target",
        )
    if is_by_name:
        return tuple(parts)
    return tuple(map(int, parts))


def _is_column(text: str) -> bool:
    """Return True for the number of a column that has few enough digits for Python to convert."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(LENGTH.high)) and int(text) in LENGTH


def chosen_columns(text: str | None) -> Columns | None:
    """Return the value of ``--columns``, None if it was not given. Raises as ``parse_columns`` does."""
    return None if text is None else parse_columns(text)


def named_files(files: Sequence[Path], command: str) -> PairsPart | None:
    """Return one file of pairs, or two parallel files; None if none was named.

    ``command`` names the command or option in messages.

    Raises:
        UserError: more than two, or a configuration among two.
    """
    if not files:
        return None
    if len(files) == 1:
        return files[0]
    if len(files) > 2:
        raise UserError(
            command,
            f"{len(files)} files: {', '.join(map(str, files))}",
            "Expected one file of pairs, or two parallel files: source and target",
            "Join files of pairs into one, for example with cat; or train from a list of files, data.train = [...]",
        )
    for file in files:
        if file.suffix == ".toml":
            raise UserError(
                command,
                f"the configuration {file} among two files",
                "Expected a configuration alone, or two parallel files: source and target",
                "Name the configuration alone; it names its data in data.train and data.dev",
            )
    return ParallelFiles(*files)


def one_location(files: Sequence[Path], command: str) -> PairsPart:
    """Return ``named_files`` of at least one file.

    Raises:
        UserError: there is none, or as for ``named_files``.
    """
    location = named_files(files, command)
    if location is None:
        raise UserError(command, "no pairs", "Expected PAIRS.tsv, or two parallel files", "Name them")
    return location


def training_files(
    files: Sequence[Path], dev: Sequence[Path], command: str = "freerun train"
) -> tuple[PairsPart | None, PairsPart | None]:
    """Return what ``freerun train FILES --dev DEV ...`` names: pairs or a configuration, and development pairs.

    Two positional files are source and target, and so are two development files. Training and development files have
    the same form, so that a forgotten or extra file is not mistaken for something else.

    Raises:
        UserError: the two have different forms.
    """
    training, development = named_files(files, command), named_files(dev, f"{command} --dev")
    if len(files) == 2 and len(dev) == 1:
        raise UserError(
            command,
            f"two parallel training files, and one development file: {dev[0]}",
            "Expected two development files as well: --dev DEV_SRC --dev DEV_TGT",
            f"Name both, or write --set data.dev={dev[0]} if it holds pairs (source<TAB>target)",
        )
    if len(files) == 1 and files[0].suffix != ".toml" and len(dev) == 2:
        raise UserError(
            command,
            f"one file of training pairs, and two development files: {dev[0]}, {dev[1]}",
            "Expected one development file: --dev DEV.tsv",
            "Join them into one, for example with cat; or name two parallel training files: SRC TGT",
        )
    return training, development


# -- a run ------------------------------------------------------------------------------------------------------------


def pairs_spec(
    models: Sequence[Path], location: PairsPart | PairsInMemory | None, columns: Columns | None
) -> PairsSpec:
    """Return the pairs at ``location``, or else the development pairs of the first of ``models``.

    Without ``columns``, a file is read by the columns that the models' runs were trained with, if it may have these.

    Raises:
        UserError: there are no pairs and the model is not a run, or the runs were trained with different columns.
    """
    if location is None:
        return dev_pairs_of(models[0])
    if isinstance(location, PairsInMemory):
        return PairsSpec(location)
    return PairsSpec(location, columns or columns_of_runs(models, location))


def dev_pairs_of(model: Path) -> PairsSpec:
    """Return the development pairs that a run was selected on.

    Raises:
        UserError: ``model`` is not a run directory.
    """
    path = model / "config.toml"
    if not path.exists():
        raise UserError(
            model,
            "no pairs were named, and this is not a run directory, which would have development pairs",
            "Expected MODEL and PAIRS.tsv",
            "Name a file of pairs",
        )
    data = data_of_run(model)
    if data.dev is not None:
        location = copies_in(model, location_of(data.dev))
        return PairsSpec(location, columns_for(location, data.columns, data.feature_separator))
    if not (model / "dev.tsv").exists():
        raise UserError(
            model / "dev.tsv", "no such file", "Expected the pairs held out by this run", "Name a file of pairs"
        )
    return PairsSpec(model / "dev.tsv", held_out_columns(data))
