from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from freerun.data.readers import read_pairs, read_texts
from freerun.data.writers import tsv

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


@given(st.lists(fields, max_size=6).filter(lambda rows: not rows or rows[0][:1] != "\ufeff"))
def test_one_line_in_is_one_text_out(rows):
    assert list(read_texts(io.BytesIO("".join(f"{row}\n" for row in rows).encode()), "input")) == rows
