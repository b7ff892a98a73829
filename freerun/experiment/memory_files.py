"""Pairs in memory as files of a run: training reads them several times, and again when it is resumed.

They are written to a temporary directory inside the run directory, and move to ``train.jsonl`` and ``dev.jsonl`` once
the run has its ``config.toml``, which names them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from freerun.data.memory_pairs import PairsInMemory
from freerun.data.readers import Pair
from freerun.experiment.pairs_spec import MEMORY_FILES
from freerun.files import file_hash, new_sibling_dir, real_path, remove_leftovers, replacing_file, sync_dir

__all__ = [
    "MemoryFiles",
    "complete_memory_files",
    "digest_of",
    "is_memory_file",
    "restore_memory_files",
    "write_memory_files",
]

_NAME: Final = "memory"


class MemoryFiles:
    """The files of a new run, in a temporary directory until ``publish`` moves them to their names."""

    def __init__(self, directory: Path, temporary: Path, parts: Iterable[str]) -> None:
        self._directory, self._temporary, self._parts = directory, temporary, tuple(parts)

    @property
    def reading(self) -> dict[str, str]:
        """``train`` and ``dev`` of a configuration, as paths that can be read now."""
        return {part: str(self._temporary / MEMORY_FILES[part]) for part in self._parts}

    def publish(self) -> None:
        """Move the files to their place in the run directory."""
        for part in self._parts:
            os.replace(self._temporary / MEMORY_FILES[part], self._directory / MEMORY_FILES[part])
        self._temporary.rmdir()
        sync_dir(self._directory)

    def discard(self) -> None:
        """Remove what was not published."""
        shutil.rmtree(self._temporary, ignore_errors=True)


def write_memory_files(directory: Path, pairs: Mapping[str, PairsInMemory]) -> MemoryFiles:
    """Write the pairs of a new run, each file atomically.

    Raises:
        OSError: they cannot be written. Nothing is left behind.
    """
    remove_leftovers(directory, _NAME)
    temporary = new_sibling_dir(directory / _NAME)
    files = MemoryFiles(directory, temporary, pairs)
    try:
        for part, each in pairs.items():
            _write(temporary / MEMORY_FILES[part], each)
        sync_dir(temporary)
    except BaseException:
        files.discard()
        raise
    return files


def restore_memory_files(directory: Path, pairs: Mapping[str, PairsInMemory]) -> None:
    """Write the pairs of a resumed run, given again, to its files that are missing or damaged."""
    for part, each in pairs.items():
        path = directory / MEMORY_FILES[part]
        if not path.is_file() or file_hash(path) != digest_of(each):
            _write(path, each)


def complete_memory_files(directory: Path) -> None:
    """Before a run is resumed: repeat the moving of its files if a kill came between it and ``config.toml``."""
    unfinished = list(directory.glob(f".{_NAME}.*.tmp"))
    if len(unfinished) == 1:
        for name in MEMORY_FILES.values():
            if (unfinished[0] / name).is_file() and not (directory / name).exists():
                os.replace(unfinished[0] / name, directory / name)
    remove_leftovers(directory, _NAME)


def is_memory_file(location: object, directory: Path, part: str) -> bool:
    """Return True for a value of [data] that names pairs in memory of this run, which may have been moved since."""
    path = Path(location) if isinstance(location, str) else None
    if path is None or path.name != MEMORY_FILES[part]:
        return False
    return path.parent == real_path(directory) or not path.exists()


def digest_of(pairs: PairsInMemory) -> str:
    """Return the SHA-256 of the file that pairs are written to."""
    digest = hashlib.sha256()
    for line in _lines(pairs.pairs):
        digest.update(line)
    return digest.hexdigest()


def _write(path: Path, pairs: PairsInMemory) -> None:
    with replacing_file(path) as out:
        out.writelines(_lines(pairs.pairs))


def _lines(pairs: Iterable[Pair]) -> Iterator[bytes]:
    for pair in pairs:
        features = {} if pair.features is None else {"features": pair.features}
        content = {"source": pair.source, "target": pair.target, **features}
        yield json.dumps(content, ensure_ascii=False).encode() + b"\n"
