"""Parts of preparation: shards from strangers, the writer of development pairs, and reports of overlap."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.config import DataConfig
from freerun.data.manifest import ShardEntry
from freerun.data.readers import Pair, read_pairs
from freerun.data.shards import open_shard, shard_bytes
from freerun.data.writers import write_pairs
from freerun.errors import DataError
from freerun.experiment.overlap import worst_overlap
from freerun.files import bytes_hash
from freerun.log import log
from tests.prepared_pairs import prepared, training_data, write_rows


def shard(path, lengths, tokens, dtype="int32"):
    """Write a shard of two columns, with the entry that a manifest would have."""
    content = shard_bytes([np.array(each) for each in lengths], [np.array(each) for each in tokens], dtype)
    path.write_bytes(content)
    return ShardEntry(
        pairs=len(lengths[0]),
        source_tokens=len(tokens[0]),
        target_tokens=len(tokens[1]),
        feature_tokens=0,
        bytes=len(content),
        sha256=bytes_hash(content),
    )


def test_a_shard_is_what_was_written(tmp_path):
    entry = shard(tmp_path / "x.npy", [[2, 0], [1, 2]], [[4, 5], [6, 3, 4]])
    found = open_shard(tmp_path / "x.npy", entry, "int32", [6, 7])
    assert [found.row(column, row).tolist() for column in (0, 1) for row in (0, 1)] == [[4, 5], [], [6], [3, 4]]


@pytest.mark.parametrize(
    ("lengths", "tokens"),
    [
        ([[2, 0], [1, 2]], [[4, 6], [6, 3, 4]]),  # no such id
        ([[2, 0], [1, 2]], [[4, 2], [6, 3, 4]]),  # EOS within a row
        ([[2, 0], [1, 2]], [[4, 0], [6, 3, 4]]),  # padding within a row
        ([[3, -1], [1, 2]], [[4, 5], [6, 3, 4]]),  # a negative length
        ([[2, 1], [1, 2]], [[4, 5], [6, 3, 4]]),  # lengths of more ids
    ],
)
def test_a_shard_that_no_preparation_writes_is_rejected(tmp_path, lengths, tokens):
    entry = shard(tmp_path / "x.npy", lengths, tokens)
    with pytest.raises(DataError, match="its ids do not fit the vocabularies"):
        open_shard(tmp_path / "x.npy", entry, "int32", [6, 7])


def test_another_kind_of_array_is_rejected(tmp_path):
    entry = shard(tmp_path / "x.npy", [[1], [1]], [[4], [4]])
    with pytest.raises(DataError, match=r"it holds int32 \(4,\), and not uint16 \(4,\)"):
        open_shard(tmp_path / "x.npy", entry, "uint16", [6, 7])
    content = b"x" * entry.bytes
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match="it is not an array"):
        open_shard(tmp_path / "x.npy", entry.model_copy(update={"sha256": bytes_hash(content)}), "int32", [6, 7])


@pytest.mark.parametrize("row", [("a", "b\r"), ("\ufeffa", "b"), ("\r", "\r"), ("a", "b")])
def test_written_pairs_are_read_back_unchanged(tmp_path, row):
    write_pairs(tmp_path / "dev.tsv", [Pair(*row, 1), Pair(*row, 2)])
    assert [(pair.source, pair.target) for pair in read_pairs(tmp_path / "dev.tsv")] == [row, row]


@pytest.mark.parametrize("settings", [{}, {"source_case": "lower"}, {"minimum_count": 2}, {"normalisation": "NFKC"}])
@pytest.mark.parametrize("features", [False, True])
def test_the_overlap_with_prepared_pairs(tmp_path, settings, features):
    more = [("P;Q",), ("Q",), ("",)] if features else [(), (), ()]
    rows = [(f"W{number} ﬁx", "t u", *more[number % 3]) for number in range(40)]
    path = write_rows(tmp_path / "train.tsv", rows)
    dev = write_rows(tmp_path / "dev.tsv", [*rows[:7], ("new", "t", *more[0]), ("w0 ﬁx", "t", *more[0])])
    fixed = {"source_tokens": "whitespace", "target_tokens": "char", "normalisation": "NFC", **settings}
    fixed |= {"columns": [1, 2, 3], "feature_separator": ";"} if features else {}
    changes = [f"data.{key}={value if isinstance(value, int | list) else repr(value)}" for key, value in fixed.items()]
    out = prepared([path], tmp_path / "out", *changes, dev=[dev]).directory
    own = fixed if not features else {**fixed, "columns": (1, 2, 3)}
    one = worst_overlap(
        None, [DataConfig(train=str(out), dev=str(dev), **({"columns": (1, 2, 3)} if features else {}))]
    )
    other = worst_overlap(None, [DataConfig(train=str(path), dev=str(dev), **own)])
    if "minimum_count" not in settings:
        assert one == other
    assert one.training_sources >= other.training_sources == 7


def test_unknown_tokens_are_named(tmp_path, caplog):
    log.propagate = True
    rows = [(f"s{number}", f"common rare{number}") for number in range(30)]
    path = write_rows(tmp_path / "pairs.tsv", rows)
    options = {"source_tokens": "char", "target_tokens": "whitespace"}
    out = prepared([path], tmp_path / "out", "data.minimum_count=2", "data.normalisation=NFC", **options)
    with caplog.at_level("WARNING", logger=log.name):
        training_data({"train": str(out.directory)})
    assert any("'rare0' (1)" in message and "<unk>" not in message for message in caplog.messages)
    assert len(out.manifest.unknown["target"]) == 10
