"""The second pass: encodes blocks, each into a shard, and sorts the hashes of its sources and targets for grouping.

Shape suffixes: N pairs of a block, K kept ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from freerun.data.codec import Codec
from freerun.data.features import Features, SourceText
from freerun.data.manifest import ShardEntry
from freerun.data.row_hashes import Encoded, row_hashes, source_hashes
from freerun.data.shards import shard_bytes, shard_name
from freerun.files import bytes_hash, write_atomic
from freerun.preparation.blocks import Block
from freerun.preparation.counting import Reading
from freerun.preparation.grouping import runs_bytes, runs_name
from freerun.preparation.sides import encode_texts, normalised
from freerun.symbols import UNK

__all__ = ["Encoding", "ShardRecord", "encode_block", "hashes_of_sources"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """How blocks are encoded.

    Attributes:
        reading: how their texts are read.
        source, target: the codecs; that of the sources does not reverse.
        max_source_length, max_target_length: pairs with more tokens are left out.
        dtype: of the numbers in shards.
        directory: of the shards; scratch: of the sorted hashes.
        development: the distinct hashes of the development sources, sorted.
    """

    reading: Reading
    source: Codec
    target: Codec
    max_source_length: int
    max_target_length: int
    dtype: Literal["uint16", "int32"]
    directory: Path
    scratch: Path
    development: npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What became of a block: the numbers of its shard, of pairs left out, and the hashes of development sources."""

    shard: ShardEntry
    read: int
    same_as_held_out: int
    too_long_source: int
    too_long_target: int
    longest_source: int
    longest_target: int
    unknown_source_tokens: int
    unknown_target_tokens: int
    unknown_features: int
    largest_ratio: float
    development: list[int]

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON."""
        return {**asdict(self), "shard": self.shard.model_dump()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ShardRecord:
        """Return the record that ``as_json`` describes."""
        return cls(**{**values, "shard": ShardEntry.model_validate(values["shard"])})


def encode_block(number: int, block: Block, excluded: list[int], encoding: Encoding) -> ShardRecord:
    """Encode a block into shard ``number``, without the ``excluded`` pairs, which are held out.

    Raises:
        BadBlock: it cannot be read.
        OSError: the shard cannot be written.
    """
    reading = encoding.reading
    texts = reading.texts(block)
    sources = encode_texts(normalised(texts.sources, reading.source_form, reading.source_case), encoding.source)
    targets = encode_texts(normalised(texts.targets, reading.target_form, "keep"), encoding.target)
    features = None if texts.features is None else encode_features(texts.features, encoding.source)
    hashes_N = source_hashes(sources, features)

    left_N = np.ones(len(texts), np.bool_)
    left_N[excluded] = False
    is_development_N = np.isin(hashes_N, encoding.development)
    same_N = left_N & is_development_N if reading.holds_out else np.zeros_like(left_N)
    long_source_N = left_N & ~same_N & (sources[1] > encoding.max_source_length)
    long_target_N = left_N & ~same_N & ~long_source_N & (targets[1] > encoding.max_target_length)
    kept_N = left_N & ~same_N & ~long_source_N & ~long_target_N

    columns = [_kept(column, kept_N) for column in (sources, targets, features) if column is not None]
    content = shard_bytes([lengths for _, lengths in columns], [ids for ids, _ in columns], encoding.dtype)
    write_atomic(encoding.directory / shard_name(number), content)
    runs = runs_bytes(hashes_N[kept_N], row_hashes(columns[1]))
    write_atomic(encoding.scratch / runs_name(number), runs)

    unknown = [int(np.count_nonzero(ids == UNK)) for ids, _ in columns]
    lengths = [lengths_K for _, lengths_K in columns]
    ratio_K = lengths[1] / np.maximum(lengths[0], 1)
    return ShardRecord(
        shard=ShardEntry(
            pairs=int(kept_N.sum()),
            source_tokens=len(columns[0][0]),
            target_tokens=len(columns[1][0]),
            feature_tokens=len(columns[2][0]) if len(columns) > 2 else 0,
            bytes=len(content),
            sha256=bytes_hash(content),
        ),
        read=int(left_N.sum()),
        same_as_held_out=int(same_N.sum()),
        too_long_source=int(long_source_N.sum()),
        too_long_target=int(long_target_N.sum()),
        longest_source=int(lengths[0].max(initial=0)),
        longest_target=int(lengths[1].max(initial=0)),
        unknown_source_tokens=unknown[0],
        unknown_target_tokens=unknown[1],
        unknown_features=unknown[2] if len(unknown) > 2 else 0,
        largest_ratio=float(ratio_K.max(initial=0.0)),
        development=np.unique(hashes_N[kept_N & is_development_N]).tolist(),
    )


def hashes_of_sources(sources: list[SourceText], encoding: Encoding) -> npt.NDArray[np.uint64]:
    """Return the hash of each source, by which it is compared with those of the training pairs."""
    reading = encoding.reading
    texts = normalised([each.source for each in sources], reading.source_form, reading.source_case)
    features = None
    if encoding.source.features is not None:
        features = encode_features([each.features or "" for each in sources], encoding.source)
    return source_hashes(encode_texts(texts, encoding.source), features)


def encode_features(features: list[Features], codec: Codec) -> Encoded:
    assert codec.features is not None
    known = {each: np.array(codec.features.encode(each), np.int32) for each in set(features)}
    rows = [known[each] for each in features]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.concatenate([np.zeros(0, np.int32), *rows]), lengths


def _kept(column: Encoded, kept_N: npt.NDArray[np.bool_]) -> Encoded:
    ids, lengths = column
    if kept_N.all():
        return column
    return ids[np.repeat(kept_N, lengths)], lengths[kept_N]
