"""Damaged files of pairs and texts, and odd texts for a model: each gives a result or a DataError."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import torch

from freerun.data.arrow_files import COLUMNAR_SUFFIXES
from freerun.data.readers import ParallelFiles, read_pairs, read_texts
from freerun.errors import DataError
from freerun.loading import load
from freerun.search.methods import Beam, Sampling
from freerun.text import json_line, one_line
from tests.exported import write_model
from tests.fuzz.damage import ODD_VALUES, damaged_bytes
from tests.networks import network

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress}
LINES = [
    "a b\tv w",
    "\ufeffc\tx",
    "d\te\tf",
    "ä ö\tü",
    "e\u0301\tx\u0323\u0307",
    "a\u2028b\tc",
    "\u202ea\tb",
    "a\0b\tc",
    "\t",
    "a\t",
    "\tb",
    "",
    "a",
    "a" * 3000 + "\tb",
    '{"source": "a", "target": "b"}',
    '{"source": "a", "target": ["b", "c"]}',
    '{"source": 1}',
    '{"source": "\\ud800", "target": "b"}',
    "[" * 2000,
    "a\r\tb\r",
    "\x1b[2J\t\x9b",
]
SUFFIXES = [
    *(".tsv", ".tsv", ".jsonl", ".json", ".tsv.gz", ".jsonl.xz", ".txt"),
    *(".tsv.zst", ".parquet", ".arrow", ".feather"),
]


class Texts:
    """A case reads a damaged file in one of the formats, or predicts odd texts."""

    name = "texts"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        write_model(folder / "model", network(1, torch.float32, scale=1.5))
        self._predictor = load(folder / "model", max_length=10, threads=1)

    def __call__(self, number: int) -> str:
        """Read or predict; raises whatever is not a DataError."""
        draw = random.Random(number)
        try:
            return self._predict(draw) if draw.random() < 0.3 else self._read(draw)
        except DataError as error:
            text = str(error)
            assert 20 < len(text) < 2000, text
            text.encode()
            return "rejected"

    def _read(self, draw) -> str:
        paths = [self._file(draw, "one"), self._file(draw, "two")]
        match draw.randrange(4):
            case 0:
                columns = draw.choice([(1, 2), (2, 1), (1, 3), (9, 1)])
                found = list(read_pairs(paths[0], columns))
            case 1:
                found = list(read_pairs(ParallelFiles(*paths)))
            case 2:
                texts = list(read_texts(io.BytesIO(paths[0].read_bytes()), "standard input"))
                assert all("\t" not in text and "\n" not in text for text in texts)
                return "read texts"
            case _:
                found = list(read_pairs(paths[0]))
        for pair in found:
            for field in pair[:2]:
                field.encode()
                assert not set("\t\n\0") & set(field)
        return "read pairs"

    def _file(self, draw, name: str) -> Path:
        suffix = draw.choice(SUFFIXES)
        lines = [draw.choice(LINES) for _ in range(draw.choice([0, 1, 2, 5, 20]))]
        if draw.random() < 0.5:  # most lines would be refused: let whole files through, too
            lines = [line for line in lines if line.count("\t") == 1 and not set("\0\r") & set(line)]
        if "json" in suffix and draw.random() < 0.8:
            lines = [_json_line(draw) for _ in lines]
        content = draw.choice(["\n", "\n", "\r\n"]).join([*lines, ""]).encode("utf-8", "surrogatepass")
        if draw.random() < 0.6:
            content = damaged_bytes(draw, content, draw.randbytes(50))
        path = self._folder / f"{name}{suffix}"
        if suffix in COLUMNAR_SUFFIXES:
            content = _table(draw, path, lines)
        elif path.suffix in COMPRESS:
            content = COMPRESS[path.suffix](content)
        if path.suffix in (*COMPRESS, *COLUMNAR_SUFFIXES) and draw.random() < 0.5:
            content = damaged_bytes(draw, content)
        path.write_bytes(content)
        return path

    def _predict(self, draw) -> str:
        texts = ["".join(_character(draw) for _ in range(draw.choice([0, 1, 5, 40]))) for _ in range(3)]
        search = draw.choice([Beam(), Beam(3, 3), Sampling(2, seed=draw.randrange(2**31))])
        for prediction in self._predictor.predict_batch(texts, search):
            for hypothesis in prediction.hypotheses:
                assert len(one_line(hypothesis.text).splitlines()) <= 1
                json_line([hypothesis.text, hypothesis.score, list(prediction.unknown)])
        return "predicted"


def _json_line(draw) -> str:
    values = {key: draw.choice(["a b", "x", "", ["b", "c"], *ODD_VALUES]) for key in ("source", "target")}
    return json.dumps(values)


def _table(draw, path: Path, lines: list[str]) -> bytes:
    """A Parquet or Arrow file with the fields of these lines; targets may be lists."""
    texts = [line.encode("utf-8", "replace").decode() for line in lines]
    targets = [[text] for text in texts] if draw.random() < 0.3 else texts
    columns = {"source": texts, "target": targets, **({"features": texts} if draw.random() < 0.3 else {})}
    table = pa.table(columns, pa.schema([(key, pa.array(value or ["x"]).type) for key, value in columns.items()]))
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, compression=draw.choice(["none", "snappy"]))
    elif path.suffix == ".feather":
        pa.feather.write_feather(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    return path.read_bytes()


def _character(draw) -> str:
    code = draw.choice([draw.randrange(0x20, 0x7F), draw.randrange(0x500), draw.randrange(0x110000)])
    return chr(code) if not 0xD800 <= code < 0xE000 else " "


__all__ = ["Texts"]
