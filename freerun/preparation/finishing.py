"""The last step of a preparation: everything that the manifest says of the whole data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from freerun.data.codec_files import codec_settings, vocabulary_files, vocabulary_sizes
from freerun.data.manifest import FORMAT, VERSION, Codecs, CodecSettings, DataCounts, Manifest, Side
from freerun.data.prepared import DEV
from freerun.data.shards import TARGET, Shard, open_shard, shard_name
from freerun.errors import DataError, RunError
from freerun.evaluation.items import EvaluationSet
from freerun.files import file_hash
from freerun.preparation.encoding import Encoding, ShardRecord, hashes_of_sources
from freerun.preparation.grouping import Grouped
from freerun.symbols import EOS

__all__ = ["finished_manifest"]


def finished_manifest(
    directory: Path,
    records: Sequence[ShardRecord],
    grouped: Grouped,
    encoding: Encoding,
    development: EvaluationSet,
    settings: Mapping[str, Any],
    unknown: Mapping[Side, dict[str, int]],
    progress: Callable[[float], None],
) -> Manifest:
    """Return the manifest of a directory whose other files are complete; all shards are read and checked.

    Raises:
        RunError: a shard is not as it was written; it has been removed.
    """
    sizes = vocabulary_sizes(encoding.source, encoding.target)
    digests = [hashlib.sha256() for _ in range(2 * len(sizes))]
    left, most_frequent = grouped.most_frequent_target, ""
    for number, record in enumerate(records):
        shard = _checked_shard(directory / shard_name(number), record, encoding, sizes)
        for digest, array in zip(digests, [*shard.lengths, *shard.tokens], strict=True):
            digest.update(np.ascontiguousarray(array).data)
        if 0 <= left < record.shard.pairs:
            ids = [*shard.row(TARGET, left).tolist(), EOS]
            most_frequent = encoding.target.text(encoding.target.decode(ids))
        left -= record.shard.pairs
        progress((number + 1) / len(records))
    names = [DEV, *vocabulary_files(encoding.source, encoding.target)]
    together = hashlib.sha256(encoding.dtype.encode() + b"".join(digest.digest() for digest in digests))
    return Manifest(
        format=FORMAT,
        version=VERSION,
        data=dict(settings),
        codecs=Codecs(
            source=CodecSettings(**codec_settings(encoding.source)),
            target=CodecSettings(**codec_settings(encoding.target)),
        ),
        holds_out=encoding.reading.holds_out,
        most_frequent_target=most_frequent,
        counts=_counts(records, grouped, encoding, development),
        unknown=dict(unknown),
        dtype=encoding.dtype,
        tokens_sha256=together.hexdigest(),
        files={**{name: file_hash(directory / name) for name in names}, **grouped.files},
        shards=[record.shard for record in records],
    )


def _checked_shard(path: Path, record: ShardRecord, encoding: Encoding, sizes: Sequence[int]) -> Shard:
    try:
        return open_shard(path, record.shard, encoding.dtype, sizes)
    except DataError as error:
        path.unlink(missing_ok=True)  # it is made again
        raise RunError(
            path,
            f"{error.what}, while the others were being prepared",
            "Expected files that nothing else writes to",
            "Check the disk, and run the same command again, which continues",
        ) from error


def _counts(
    records: Sequence[ShardRecord], grouped: Grouped, encoding: Encoding, development: EvaluationSet
) -> DataCounts:
    def total(name: str) -> int:
        return sum(getattr(record, name) for record in records)

    kept = sum(record.shard.pairs for record in records)
    return DataCounts(
        read=total("read"),
        kept=kept,
        same_as_held_out=total("same_as_held_out"),
        too_long_source=total("too_long_source"),
        too_long_target=total("too_long_target"),
        longest_source=max(record.longest_source for record in records),
        longest_target=max(record.longest_target for record in records),
        development_sources=_development_sources(records, encoding, development),
        sources=grouped.sources,
        source_tokens=kept + sum(record.shard.source_tokens for record in records),
        target_tokens=kept + sum(record.shard.target_tokens for record in records),
        unknown_source_tokens=total("unknown_source_tokens"),
        unknown_target_tokens=total("unknown_target_tokens"),
        unknown_features=total("unknown_features"),
        largest_ratio=max(record.largest_ratio for record in records),
    )


def _development_sources(records: Sequence[ShardRecord], encoding: Encoding, development: EvaluationSet) -> int:
    """Return how many development sources are training sources, too."""
    found = np.array(sorted({value for record in records for value in record.development}), np.uint64)
    return int(np.isin(hashes_of_sources([*development.items], encoding), found).sum())
