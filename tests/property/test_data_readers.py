from __future__ import annotations

import gzip
import io
import json
import lzma
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.config import Config
from freerun.data.readers import Pair, PairFiles, read_pairs, read_texts
from freerun.data.writers import tsv
from freerun.errors import UserError
from freerun.experiment.dataset import DataSource, load_data

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SCHEMA = pa.schema({"source": pa.string(), "target": pa.string()})

# What may stand in a field: any text without tab, line ends and NUL.
fields = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0"), max_size=8)
pairs = st.lists(st.tuples(fields, fields), min_size=1, max_size=6).filter(lambda rows: rows[0][0][:1] != "\ufeff")


def read(name: str, content: bytes) -> list[tuple[str, str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return [tuple(pair)[:3] for pair in read_pairs(path)]


@given(pairs, st.booleans(), st.booleans())
def test_tsv_round_trip(rows, bom, windows):
    text = tsv(rows).replace("\n", "\r\n") if windows else tsv(rows)
    expected = [(*row, line) for line, row in enumerate(rows, 1)]
    assert read("x.tsv", ("\ufeff" if bom else "").encode() + text.encode()) == expected


@given(pairs, st.booleans())
def test_json_lines_round_trip(rows, escape):
    lines = [json.dumps({"source": s, "target": t}, ensure_ascii=escape) for s, t in rows]
    assert read("x.jsonl", "\n".join(lines).encode()) == [(*row, line) for line, row in enumerate(rows, 1)]


def files_with(rows: list[tuple[str, str]], folder: Path) -> list[Path]:
    """Files of all formats with these pairs."""
    lines = tsv(rows).encode()
    objects = "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows).encode()
    table = pa.table({"source": [s for s, _ in rows], "target": [t for _, t in rows]}, SCHEMA)
    contents = {
        "x.tsv": lines,
        "x.tsv.gz": gzip.compress(lines),
        "x.tsv.xz": lzma.compress(lines),
        "x.tsv.zst": zstd.compress(lines),
        "x.jsonl": objects,
        "x.jsonl.zst": zstd.compress(objects),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    pa.parquet.write_table(table, folder / "x.parquet")
    pa.feather.write_feather(table, folder / "x.feather")
    with pa.ipc.new_stream(folder / "x.arrow", SCHEMA) as writer:
        writer.write_table(table)
    return [*(folder / name for name in contents), *(folder / f"x.{end}" for end in ("parquet", "feather", "arrow"))]


@given(pairs)
def test_all_formats_hold_the_same_pairs(rows):
    with tempfile.TemporaryDirectory() as folder:
        files = files_with(rows, Path(folder))
        expected = [Pair(*row, line) for line, row in enumerate(rows, 1)]
        for file in files:
            assert list(read_pairs(file)) == expected
        assert list(read_pairs(PairFiles(tuple(files)))) == expected * len(files)


@given(pairs.filter(lambda rows: len({source for source, _ in rows}) > 3))
@settings(max_examples=20, deadline=None)
def test_all_formats_give_the_same_corpus(rows):
    with tempfile.TemporaryDirectory() as folder:
        corpora = [encoded(file) for file in files_with(rows, Path(folder))]
        assert all(corpus == corpora[0] for corpus in corpora)


def encoded(file: Path) -> list[list[int]] | str:
    """The ids of all pairs, or why there are none, without the name of the file."""
    tokens = {"source_tokens": "char", "target_tokens": "char"}
    config = Config.model_validate({"data": {"train": str(file), "dev": str(file), **tokens}})
    try:
        corpus = load_data(config, DataSource.open(config.data, quiet=True)).corpus
    except UserError as error:
        return str(error).replace(str(file), "")
    return [array.tolist() for array in (corpus.sources.tokens, corpus.targets.tokens)]


@given(st.lists(fields, max_size=6).filter(lambda rows: not rows or rows[0][:1] != "\ufeff"))
def test_one_line_in_is_one_text_out(rows):
    assert list(read_texts(io.BytesIO("".join(f"{row}\n" for row in rows).encode()), "input")) == rows
