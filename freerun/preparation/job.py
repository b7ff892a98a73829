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

from freerun.config import DataConfig, shown
from freerun.data.codec import Codec, check_specs
from freerun.data.codec_files import FEATURE_VOCABULARY
from freerun.data.corpus import FilterReport, no_pair_left
from freerun.data.decompression import COMPRESSED
from freerun.data.manifest import MANIFEST, PREPARATION, manifest_bytes
from freerun.data.prepared import DEV, GROUP_FILES
from freerun.data.readers import Pair, files_of, is_columnar, read_pairs
from freerun.data.shards import dtype_for, shard_name
from freerun.data.writers import write_pairs
from freerun.errors import ConfigError, DataError, RunError, UserError
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.experiment.bundle_reading import as_bundle_reads, check_bundle_features
from freerun.experiment.data_source import MAX_HELD_OUT, DataSource, composed_form, held_out_notice
from freerun.experiment.dataset import choose_text
from freerun.experiment.pairs_spec import location_of
from freerun.experiment.run_columns import held_out_columns
from freerun.files import remove_leftovers, write_atomic
from freerun.log import log
from freerun.preparation.blocks import MAX_BLOCK_LINES, BadBlock, Block, blocks_of
from freerun.preparation.counting import HeldOutPairs, Reading, Tally, count_block
from freerun.preparation.encoding import Encoding, ShardRecord, encode_block, hashes_of_sources
from freerun.preparation.finishing import finished_manifest
from freerun.preparation.grouping import group_sources, runs_name, runs_size
from freerun.preparation.learned_codecs import Learned, learn_codecs, unknown_tokens
from freerun.preparation.workers import in_order
from freerun.runtime.bundle import Bundle, read_bundle
from freerun.version import VERSION

__all__ = ["HopelessError", "PreparationJob", "PrepareRequest", "Progress"]

SCRATCH: Final = "scratch"
_COUNTED: Final = "counted.json"
_SHARDS: Final = "shards.jsonl"
SAMPLE_PAIRS: Final = 1_000_000
"""Tokens and Unicode forms that are not set are chosen from so many of the first pairs."""
_SMALL: Final = 16_000_000
"""Bytes of pairs that one process reads in less time than others need to start."""

Progress = Callable[[str, int, float | None], None]
"""Is told the activity, how many pairs are done, and the fraction, None if it is not known."""


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


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """The arguments of ``freerun data prepare``.

    Attributes:
        data: the section [data] of a configuration.
        out: the directory for the prepared data.
        processes: how many processes work; None: one per core, but one for little data.
        cores: how many there are.
        init: the model whose vocabularies are taken, None to learn them.
    """

    data: DataConfig
    out: Path
    processes: int | None
    cores: int
    init: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparationJob:
    """A preparation with all choices made."""

    out: Path
    pairs: DataSource
    data: DataConfig
    reading: Reading
    processes: int
    progress: Progress
    bundle: Bundle | None
    state: Sequence[tuple[int, ...]]
    """Of the files of pairs, before they were read for the first time."""

    @classmethod
    def of(cls, request: PrepareRequest, progress: Progress) -> PreparationJob:
        """Make all choices for a request.

        Raises:
            UserError: the pairs cannot be read, or the settings contradict each other.
        """
        bundle = None if request.init is None else read_bundle(request.init)
        requested = request.data.model_copy(update={"window": None})  # that is a choice of each training
        reading_as = requested if bundle is None else _as_bundle_reads(requested, bundle)
        state = _state_of(requested)
        pairs = DataSource.open(reading_as, limit=SAMPLE_PAIRS)
        if pairs.prepared is not None:
            raise DataError(
                pairs.prepared.directory,
                "these pairs are prepared already",
                "Expected files of pairs",
                f"Train on them: freerun train {pairs.prepared.directory}",
            )
        if bundle is not None:
            check_bundle_features(bundle, pairs.name, pairs.feature_separator)
        forms = reading_as.model_copy(update={"normalisation": pairs.forms})
        chosen = {**pairs.fields.settings(), **choose_text(forms, pairs), "normalisation": pairs.forms.as_value()}
        data = DataConfig.model_validate({**reading_as.model_dump(), **chosen})
        check_specs(data.source_tokens, data.target_tokens, data.shared_vocabulary)
        reading = Reading(
            columns=pairs.fields.columns,
            separator=pairs.fields.separator,
            source_form=pairs.forms.source,
            target_form=pairs.forms.target,
            composed_form=composed_form(pairs.forms.source),
            source_case=data.source_case,
            source_tokens=data.source_tokens,
            target_tokens=data.target_tokens,
            holds_out=data.dev is None,
        )
        processes = request.processes or (1 if _num_bytes(data) < _SMALL else request.cores)
        return cls(
            out=request.out,
            pairs=pairs,
            data=data,
            reading=reading,
            processes=processes,
            progress=progress,
            bundle=bundle,
            state=state,
        )

    @property
    def scratch(self) -> Path:
        """The directory of what is finished while the preparation is not complete."""
        return self.out / SCRATCH

    def record(self) -> dict[str, Any]:
        """Return what identifies the preparation: the pairs, wherever they are, and the settings."""
        init = {} if self.bundle is None else {"init": self.bundle.digest}
        return {"freerun": VERSION, "pairs": self.pairs.hashes, **init, "data": settings_of(self.data)}

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
        if _state_of(self.data) != self.state:
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
        size = _num_bytes(self.data) if is_plain else 0

        def tasks() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for block in blocks_of(location_of(self.data.train), self.reading.columns):
                yield block.num_bytes, (block, self.reading, tally.bounds)

        done = 0
        for num_bytes, counts in in_order(count_block, tasks(), self.processes):
            tally.add(blocks, counts)
            blocks, done = blocks + 1, done + num_bytes
            self.progress("reading", tally.pairs, done / size if size else None)
        return blocks

    def _each_block(
        self, function: Callable[..., Any], arguments: Callable[[int, Block], tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        blocks = enumerate(blocks_of(location_of(self.data.train), self.reading.columns))
        tasks = ((number, (block, *arguments(number, block))) for number, block in blocks)
        pairs = 0
        for number, result in in_order(function, tasks, self.processes):
            yield number, result
            pairs += MAX_BLOCK_LINES
            self.progress("choosing texts for subwords", pairs, None)

    # -- the second pass ----------------------------------------------------------------------------------------------

    def _encoding(self, learned: Learned) -> tuple[Encoding, EvaluationSet]:
        """Return how blocks are encoded, and the development pairs."""
        columns = held_out_columns(self.data)
        dev: list[Pair] = list(read_pairs(self.out / DEV, columns))
        development = group_pairs(dev, learned.source, learned.target)
        most = max(len(learned.source.vocabulary), len(learned.target.vocabulary), _feature_ids(learned.source))
        encoding = Encoding(
            reading=self.reading,
            source=learned.source,
            target=learned.target,
            max_source_length=self.data.max_source_length,
            max_target_length=self.data.max_target_length,
            dtype=dtype_for(max(most, self.data.max_source_length, self.data.max_target_length)),
            directory=self.out,
            scratch=self.scratch,
            development=np.zeros(0, np.uint64),
        )
        # of all spellings, which the model may not distinguish
        hashes = np.unique(hashes_of_sources([*dev], encoding))
        return Encoding(**{**vars(encoding), "development": hashes}), development

    def _encoded(self, encoding: Encoding, learned: Learned) -> list[ShardRecord]:
        """Encode all blocks that have no shard yet; return the records of all shards."""
        path = self.scratch / _SHARDS
        records = _finished(path, self.out, self.scratch)
        done = sum(record.read for record in records.values())

        def tasks() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for number, block in enumerate(blocks_of(location_of(self.data.train), self.reading.columns)):
                if number not in records:
                    yield number, (number, block, learned.places.get(number, []), encoding)

        with path.open("a", encoding="utf-8") as journal:
            for number, record in in_order(encode_block, tasks(), self.processes):
                journal.write(json.dumps({"number": number, **record.as_json()}) + "\n")
                journal.flush()
                records[number] = record
                done += record.read
                self.progress("encoding", done, len(records) / learned.blocks)
        return [records[number] for number in range(len(records))]


def _as_bundle_reads(data: DataConfig, bundle: Bundle) -> DataConfig:
    """Return ``data`` with the tokens and the case of a bundle, too.

    Raises:
        ConfigError: the configuration sets others.
    """
    tokens = {"source_tokens": bundle.source.tokenizer.spec, "target_tokens": bundle.target.tokenizer.spec}
    for key, spec in tokens.items():
        if getattr(data, key) not in ("auto", spec):
            raise ConfigError.single(
                f"data.{key}",
                f"the value is {shown(getattr(data, key))}, and the model {bundle.directory} has {shown(spec)}",
                "Expected the tokens of the model whose vocabularies are taken",
                "Leave them out, or leave out --init",
            )
    return as_bundle_reads(data, bundle).model_copy(update={**tokens, "source_case": bundle.source.case})


def settings_of(data: DataConfig) -> dict[str, Any]:
    """Return the keys of [data] that a preparation fixes."""
    settings = data.model_dump(exclude_none=True, mode="json")
    others = ("train", "dev", "window", *(() if data.dev is None else ("held_out",)))
    return {key: value for key, value in settings.items() if key not in others}


def _state_of(data: DataConfig) -> list[tuple[int, ...]]:
    """Return size and time of the files of pairs; nothing of a file that cannot be read, which is reported later."""
    states: list[tuple[int, ...]] = []
    for file in files_of(location_of(data.train)):
        with contextlib.suppress(OSError):
            status = file.stat()
            states.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return states


def _num_bytes(data: DataConfig) -> int:
    return sum(file.stat().st_size for file in files_of(location_of(data.train)))


def _feature_ids(source: Codec) -> int:
    return 0 if source.features is None else len(source.features.vocabulary)


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
