"""The columns and the separator of training pairs, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from freerun.config import DataConfig
from freerun.data.readers import PairFiles
from freerun.errors import DataError
from freerun.experiment.input_fields import InputFields, choose_fields
from tests.notices import logged_notices

TAGS = ["V;PST", "V;PRS", "N;SG", "N;PL", ""]
ROWS = [(f"w{number}", f"form{number * 7}", TAGS[number % 5]) for number in range(60)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def choose(rows, name="x.tsv", quiet=False, **data):
    """The fields of a file with these rows, and what is said."""
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(("source", "target", "features"), row, strict=False))) for row in rows]
    else:
        lines = ["\t".join(row) for row in rows]
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with logged_notices() as said:
        fields = choose_fields(DataConfig(train=name, **data), f"/{name}", quiet)
    return fields, said


def refusal(rows, **data):
    with pytest.raises(DataError) as error:
        choose(rows, **data)
    return str(error.value)


def test_three_columns_are_recognized():
    fields, said = choose(ROWS)
    assert fields == InputFields((1, 2, 3), ";")
    sentence = (
        "/x.tsv: its three columns are read as source, target and features (as with --columns 1,2,3), separated "
        'by ";"; data.feature_separator sets another separator.'
    )
    assert said == [sentence]
    assert fields.settings() == {"columns": [1, 2, 3], "feature_separator": ";"}
    # what a run records is repeated silently
    assert choose(ROWS, **fields.settings()) == (fields, [])
    assert choose(ROWS, quiet=True) == (fields, [])


def listed(*names, **data):
    """The fields of a list of files, and what is said."""
    with logged_notices() as said:
        fields = choose_fields(DataConfig(train=list(names), **data), "the list")
    return fields, said


def write_rows(name, rows):
    Path(name).write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def test_three_columns_of_a_list_are_recognized():
    write_rows("a.tsv", ROWS[:30])
    write_rows("b.tsv", ROWS[30:])
    fields, said = listed("a.tsv", "b.tsv")
    assert fields == InputFields((1, 2, 3), ";")
    assert said[0].startswith("the list: their three columns are read as source, target and features (as with")
    location = PairFiles((Path("a.tsv"), Path("b.tsv")))
    assert [(p.source, p.target, p.features) for p in fields.read_training(location, "the list")] == ROWS


def test_a_list_with_different_columns():
    write_rows("a.tsv", ROWS)
    write_rows("b.tsv", [row[:2] for row in ROWS])
    with pytest.raises(DataError, match=r"^b.tsv: 2 columns, and a.tsv has 3. Expected the same number"):
        listed("a.tsv", "b.tsv")
    assert listed("a.tsv", "b.tsv", columns=(1, 2)) == (InputFields((1, 2)), [])


def test_the_file_of_a_pair_without_features_is_named():
    write_rows("a.tsv", ROWS)
    Path("b.jsonl").write_text('{"source": "a", "target": "b", "features": "V"}\n{"source": "a", "target": "b"}\n')
    fields, _ = listed("a.tsv", "b.jsonl")
    location = PairFiles((Path("a.tsv"), Path("b.jsonl")))
    for read in (fields.read_training, lambda *pairs: fields.read_development(pairs[0], (1, 2, 3), pairs[1])):
        with pytest.raises(DataError, match=r"^b.jsonl:2: this pair has no features."):
            list(read(location, "the list"))
    write_rows("a.tsv", [row[:2] for row in ROWS])
    fields, _ = listed("a.tsv", "b.jsonl")
    with pytest.raises(DataError, match=r"^b.jsonl:1: this pair has features, and the first one has none."):
        list(fields.read_training(location, "the list"))
    assert len(list(fields.read_development(location, None, "the list"))) == 62


def test_features_of_parquet_are_said():
    columns = zip(("source", "target", "features"), zip(*ROWS, strict=True), strict=True)
    pa.parquet.write_table(pa.table(dict(columns)), "x.parquet")
    with logged_notices() as said:
        fields = choose_fields(DataConfig(train="x.parquet"), "x.parquet")
    assert fields == InputFields(None, ";")
    assert said[0].startswith('x.parquet: column features is read as features of the source, separated by ";"')
    chosen = choose_fields(DataConfig(train="x.parquet", columns=("source", "target")), "x.parquet")
    assert chosen == InputFields(("source", "target"))


def test_columns_that_are_chosen_are_not_examined():
    rows = [(source, tag, target) for source, target, tag in ROWS]
    fields, said = choose(rows, columns=(1, 3, 2))
    assert fields == InputFields((1, 3, 2), ";")
    sentence = (
        '/x.tsv: column 2 is read as features of the source, separated by ";"; data.feature_separator sets '
        "another separator."
    )
    assert said == [sentence]
    assert choose(rows, columns=(1, 2, 3))[0].columns == (1, 2, 3)
    assert choose(ROWS, columns=(1, 2)) == (InputFields((1, 2)), [])


def test_other_orders_and_contents_are_refused():
    assert refusal([(source, tag, target) for source, target, tag in ROWS]) == (
        "/x.tsv: column 2 of 3 looks like features, and column 3 does not: it has 60 different values on 60 lines, and "
        "60 of them occur once. Expected columns of source, target and features, in this order. Choose them with "
        "--columns, here 1,3,2."
    )
    assert refusal([(source, target, f"id{target}") for source, target, _ in ROWS]) == (
        "/x.tsv: 3 tab-separated columns, and column 3 does not look like features: it has 60 different values on 60 "
        "lines, and 60 of them occur once. Expected 2 columns, source and target, or features in the third. Choose two "
        "with --columns, for example 1,2; or 1,2,3 if the third does hold features."
    )


def test_a_separator_says_that_there_are_features():
    rows = [(source, target, f"id+{target}") for source, target, _ in ROWS]
    fields, said = choose(rows, feature_separator="+")
    assert fields == InputFields((1, 2, 3), "+") and said[0].endswith('separated by "+".')


def test_two_columns_and_parallel_files_have_no_features():
    rows = [row[:2] for row in ROWS]
    assert choose(rows) == (InputFields(), [])
    Path("one.txt").write_text("a\nb\n")
    data = DataConfig(train={"source": "one.txt", "target": "one.txt"})
    assert choose_fields(data, "one") == InputFields()
    assert InputFields().settings() == {}
    # whether a key about features is an error is decided later, for all such keys
    assert choose(rows, feature_separator=";")[0].separator is None


def test_features_of_json_lines_are_said():
    fields, said = choose(ROWS, "x.jsonl")
    assert fields == InputFields(None, ";") and fields.settings() == {"feature_separator": ";"}
    sentence = (
        '/x.jsonl: the key features is read as features of the source, separated by ";"; data.feature_separator '
        "sets another separator."
    )
    assert said == [sentence]
    lists = [(source, target, tag.split(";")) for source, target, tag in ROWS]
    assert choose(lists, "x.jsonl")[0].separator == ";"
    assert choose([(*lists[0][:2], ["a;b"])], "x.jsonl")[0].separator == "|"
    assert choose(lists, "x.jsonl", feature_separator="+") == (InputFields(None, "+"), [])


@pytest.mark.parametrize("rows", [[ROWS[0], ROWS[1][:2]], [ROWS[0][:2], ROWS[1]]])
def test_all_pairs_have_features_or_none(rows):
    fields, _ = choose(rows, "x.jsonl")
    with pytest.raises(DataError, match=r"/x\.jsonl:2: this pair has (no )?features"):
        list(fields.read_training(Path("x.jsonl"), "/x.jsonl"))


def test_four_columns_and_an_empty_file_are_what_they_were():
    assert "x.tsv:1: 4 tab-separated columns. Expected 2" in refusal([("a", "b", "c", "d")])
    assert "the file is empty" in refusal([])
    assert "x.tsv:1: 1 tab-separated column. " in refusal([("a",)])
