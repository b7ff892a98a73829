"""The steps of a preparation: choices, two passes over the files, groups of equal sources, and the manifest.

What is finished is in the scratch directory: the result of the first pass, and a line for each shard.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from freerun.data.codec_files import FEATURE_VOCABULARY, vocabulary_sizes
from freerun.data.corpus import FilterReport, no_pair_left
from freerun.data.decompression import COMPRESSED
from freerun.data.manifest import MANIFEST, PREPARATION, manifest_bytes
from freerun.data.prepared import DEV, GROUP_FILES
from freerun.data.readers import Pair, files_of, is_columnar, read_pairs
from freerun.data.shards import dtype_for, shard_name
from freerun.data.writers import write_pairs
from freerun.errors import DataError, RunError, UserError
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.experiment.data_source import MAX_HELD_OUT, held_out_notice
from freerun.experiment.pairs_spec import location_of
from freerun.experiment.run_columns import held_out_columns
from freerun.files import remove_leftovers, write_atomic
from freerun.log import log
from freerun.preparation.blocks import MAX_BLOCK_LINES, BadBlock, Block, blocks_of
from freerun.preparation.choices import Choices, PrepareRequest, choose, num_bytes, settings_of, state_of
from freerun.preparation.counting import HeldOutPairs, Tally, count_block
from freerun.preparation.encoding import Encoding, ShardRecord, encode_block, hashes_of_sources
from freerun.preparation.finishing import finished_manifest
from freerun.preparation.grouping import group_sources, runs_name, runs_size
from freerun.preparation.learned_codecs import Learned, learn_codecs, unknown_tokens
from freerun.preparation.workers import in_order

__all__ = ["HopelessError", "PreparationJob", "Progress"]

SCRATCH: Final = "scratch"
_COUNTED: Final = "counted.json"
_SHARDS: Final = "shards.jsonl"
Progress = Callable[[str, int, float | None], None]
"""Is called with the activity, the number of pairs that are done, and the fraction, None if it is not known."""


class HopelessError(Exception):
    """These pairs can never be prepared with these settings, so nothing is kept. ``reason`` is for the user."""

    def __init__(self, reason: UserError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextlib.contextmanager
def hopeless() -> Iterator[None]:
    """Within the block, a ``UserError`` is about what the pairs are, not about reading or writing them."""
    try:
        yield
    except UserError as error:
        raise HopelessError(error) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparationJob(Choices):
    """A preparation with all choices made, in a directory."""

    out: Path
    progress: Progress

    @classmethod
    def of(cls, request: PrepareRequest, progress: Progress) -> PreparationJob:
        """Make all choices for a request. Raises as ``choose`` does."""
        return cls(**vars(choose(request)), out=request.out, progress=progress)

    @property
    def scratch(self) -> Path:
        """The directory of what is finished while the preparation is not complete."""
        return self.out / SCRATCH

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within the block, let what a user can fix be a ``UserError``."""
        try:
            yield
        except BadBlock:
            with hopeless():
                self._check_unchanged()
                for _ in self.pairs.fields.read_training(location_of(self.data.train), self.pairs.name):
                    pass
            raise  # a mistake of this program: the readers accept what ``texts_of`` does not
        except OSError as error:
            raise RunError(
                self.out,
                f"the prepared pairs could not be written ({error.strerror or error}); what is finished is kept",
                "Expected enough disk space and permission to write",
                "Free disk space, and run the same command again, which continues",
            ) from error

    def run(self) -> None:
        """Prepare the pairs, from wherever an earlier process was interrupted."""
        self.scratch.mkdir(exist_ok=True)
        for directory in (self.out, self.scratch):
            remove_leftovers(directory, "*")
        learned = self._learned()
        encoding, development = self._encoding(learned)
        records = self._encoded(encoding, learned)
        with hopeless():
            self._check_unchanged()
            self._check_some_left(records)
        pairs = [record.shard.pairs for record in records]

        def progress(activity: str) -> Callable[[float], None]:
            return lambda fraction: self.progress(activity, round(fraction * sum(pairs)), fraction)

        grouped = group_sources(self.out, self.scratch, pairs, progress("grouping"))
        settings = settings_of(self.data)
        manifest = finished_manifest(
            self.out, records, grouped, encoding, development, settings, learned.unknown, progress("checking")
        )
        write_atomic(self.out / MANIFEST, manifest_bytes(manifest))
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _check_unchanged(self) -> None:
        """Check that the files of pairs are still those that were read first.

        Raises:
            DataError: they have changed in the meantime.
        """
        if state_of(self.data) != self.state:
            raise DataError(
                self.pairs.name,
                "the pairs changed while they were being prepared",
                "Expected files that nothing else writes to",
                "Run the command again when they are complete",
            )

    def _check_some_left(self, records: Sequence[ShardRecord]) -> None:
        """Check that some pairs were kept; raises ``DataError`` if not."""
        if any(record.shard.pairs for record in records):
            return
        report = FilterReport(
            read=sum(record.read for record in records),
            kept=0,
            too_long_source=sum(record.too_long_source for record in records),
            too_long_target=sum(record.too_long_target for record in records),
            same_as_held_out=sum(record.same_as_held_out for record in records),
            longest_source=0,
            longest_target=0,
        )
        raise no_pair_left(report, self.data.max_source_length, self.data.max_target_length, self.pairs.name)

    def discard(self) -> None:
        """Remove everything that a preparation writes."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        names = [DEV, FEATURE_VOCABULARY, *GROUP_FILES, MANIFEST, "*_vocabulary.json", "*_vocabulary.model"]
        for name in [*names, "shard-[0-9]*.npy", PREPARATION]:
            for path in self.out.glob(name):
                path.unlink(missing_ok=True)

    # -- the first pass -----------------------------------------------------------------------------------------------

    def _learned(self) -> Learned:
        """Return the result of the first pass."""
        path = self.scratch / _COUNTED
        if (found := Learned.read(path, self.out)) is not None:
            return found
        tally, blocks, held_out = self._counted(keeps_all=False)
        if self.reading.holds_out and held_out is None:
            tally, blocks, held_out = self._counted(keeps_all=True)
        if held_out is not None:
            pairs, places = held_out.pairs, held_out.places
            total = f"{held_out.total:,}" if held_out.is_exact else f"about {held_out.total:,}"
            log.info(held_out_notice(held_out.sources, total))
        else:
            pairs, places = list(self.pairs.dev()), {}
        write_pairs(self.out / DEV, pairs, self.reading.separator)
        if held_out is not None:
            tally.take_off(pairs, self.reading)
        given = None if self.bundle is None else (replace(self.bundle.source, reverse=False), self.bundle.target)
        with hopeless():
            codecs = given or learn_codecs(tally.counts, self.reading, self.data, places, self._each_block)
        unknown = unknown_tokens(tally.counts, *codecs)
        learned = Learned(source=codecs[0], target=codecs[1], places=places, blocks=blocks, unknown=unknown)
        learned.write(path, self.out)
        return learned

    def _counted(self, keeps_all: bool) -> tuple[Tally, int, HeldOutPairs | None]:
        """Count all blocks; return the counts, the number of blocks, and what is held out, see ``Tally``."""
        tally = Tally(self.data.held_out, MAX_HELD_OUT, keeps_all)
        blocks = self._count(tally)
        if not self.reading.holds_out:
            return tally, blocks, None
        with hopeless():
            return tally, blocks, tally.held_out(self.pairs.name)

    def _count(self, tally: Tally) -> int:
        """Count all blocks; return how many there are."""
        files, blocks = files_of(location_of(self.data.train)), 0
        # of other files it is not known how many bytes they will be
        is_plain = not any(is_columnar(file) or file.suffix.lower() in COMPRESSED for file in files)
        size = num_bytes(self.state) if is_plain else 0

        def tasks() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for block in self._blocks():
                yield block.num_bytes, (block, tally.bounds)

        done = 0
        for read, counts in in_order(count_block, tasks(), self.processes, self.reading):
            tally.add(blocks, counts)
            blocks, done = blocks + 1, done + read
            self.progress("reading", tally.pairs, done / size if size else None)
        return blocks

    def _blocks(self) -> Iterator[Block]:
        return blocks_of(location_of(self.data.train), self.reading.columns)

    def _each_block(
        self, function: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        blocks = enumerate(self._blocks())
        tasks = ((number, (block, *arguments(number))) for number, block in blocks)
        pairs = 0
        for number, result in in_order(function, tasks, self.processes, self.reading):
            yield number, result
            pairs += MAX_BLOCK_LINES
            self.progress("choosing texts for subwords", pairs, None)

    # -- the second pass ----------------------------------------------------------------------------------------------

    def _encoding(self, learned: Learned) -> tuple[Encoding, EvaluationSet]:
        """Return how blocks are encoded, and the development pairs."""
        columns = held_out_columns(self.data)
        dev: list[Pair] = list(read_pairs(self.out / DEV, columns))
        development = group_pairs(dev, learned.source, learned.target)
        sizes = vocabulary_sizes(learned.source, learned.target)
        encoding = Encoding(
            reading=self.reading,
            source=learned.source,
            target=learned.target,
            max_source_length=self.data.max_source_length,
            max_target_length=self.data.max_target_length,
            dtype=dtype_for(max(*sizes, self.data.max_source_length, self.data.max_target_length)),
            directory=self.out,
            scratch=self.scratch,
            development=np.zeros(0, np.uint64),
        )
        # of all spellings, which the model may not distinguish
        hashes = np.unique(hashes_of_sources([*dev], encoding))
        return replace(encoding, development=hashes), development

    def _encoded(self, encoding: Encoding, learned: Learned) -> list[ShardRecord]:
        """Encode all blocks that have no shard yet; return the records of all shards."""
        path = self.scratch / _SHARDS
        records = _finished(path, self.out, self.scratch)
        done = sum(record.read for record in records.values())

        def tasks() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for number, block in enumerate(self._blocks()):
                if number not in records:
                    yield number, (number, block, learned.places.get(number, []))

        with path.open("a", encoding="utf-8") as journal:
            for number, record in in_order(encode_block, tasks(), self.processes, encoding):
                journal.write(json.dumps({"number": number, **record.as_json()}) + "\n")
                journal.flush()
                records[number] = record
                done += record.read
                self.progress("encoding", done, len(records) / learned.blocks)
        return [records[number] for number in range(len(records))]


def _finished(path: Path, directory: Path, scratch: Path) -> dict[int, ShardRecord]:
    """Return the records of the shards that are finished, by their numbers; what a kill cut off is removed."""
    records: dict[int, ShardRecord] = {}
    good: dict[int, bytes] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            values = json.loads(line)
            number = values.pop("number")
            record = ShardRecord.from_json(values)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        file, runs = directory / shard_name(number), scratch / runs_name(number)
        if _size(file) == record.shard.bytes and _size(runs) == runs_size(runs):
            records[number], good[number] = record, line
    write_atomic(path, b"".join(line + b"\n" for line in good.values()))
    return records


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -2
