"""Which pairs a command reads: files that are named, columns, and what a run says about them."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import threading
from pathlib import Path

import pytest

from freerun.config import DataConfig
from freerun.data.readers import PairFiles, ParallelFiles
from freerun.errors import UserError
from freerun.experiment import spool as spooling
from freerun.experiment.overlap import Overlap, pairs_of_study, worst_overlap
from freerun.experiment.pairs_spec import (
    PairsSpec,
    chosen_columns,
    copies_in,
    dev_pairs_of,
    location_of,
    named_files,
    pairs_spec,
    parse_columns,
    training_files,
    value_of,
)
from freerun.experiment.spool import complete_spool, existing_spool, spool_pairs, with_copies
from freerun.text import cut
from tests.notices import logged_notices

A, B, C = Path("a"), Path("b"), Path("c")
CONFIG = Path("c.toml")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def notices(caplog):
    """What was logged since the last call."""
    caplog.set_level("INFO", "freerun")

    def new():
        messages = caplog.messages[:]
        caplog.clear()
        return messages

    return new


def message(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


# -- what is typed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("1,3", (1, 3)),
        ("1,3,2", (1, 3, 2)),
        (" 2 , 1 ", (2, 1)),
        ("1000000,1", (10**6, 1)),
        ("a,b", ("a", "b")),
        ("src, x2 ,Ä", ("src", "x2", "Ä")),
    ],
)
def test_columns(text, columns):
    assert parse_columns(text) == chosen_columns(text) == columns


@pytest.mark.parametrize(
    "text", ["", "1", "1,2,3,4", "1,2,x", "0,1", "-1,2", "1.5,2", "a,", ",b,c", "²,1", "1000001,1", f"1,{'9' * 5000}"]
)
def test_columns_that_are_none(text):
    assert message(chosen_columns, text) == (
        f"--columns {cut(text)}: this does not name two or three columns. Expected the numbers of the source's "
        "and of the target's column, and of the features' if there is one, counted from 1; or their names, in a "
        "Parquet or Arrow file. Write for example --columns 1,3, --columns 1,2,3 or --columns source,target."
    )


def test_no_columns():
    assert chosen_columns(None) is None


def test_files_that_are_named():
    assert named_files([], "x") is None
    assert named_files([A], "x") == A
    assert named_files([A, B], "x") == ParallelFiles(A, B)
    assert "x: 3 files: a, b, c. Expected one file of pairs, or two" in message(named_files, [A, B, C], "x")
    for files in ([A, CONFIG], [CONFIG, A]):
        found = message(named_files, files, "x")
        assert found.startswith("x: the configuration c.toml among two files. Expected a configuration alone, or two")


def test_training_files():
    both = ParallelFiles(A, B)
    assert training_files([], []) == (None, None)
    assert training_files([A], [B]) == (A, B)
    assert training_files([A, B], [A, B]) == (both, both)
    assert training_files([A, B], []) == (both, None)
    assert training_files([CONFIG], [A, B]) == (CONFIG, both)
    assert training_files([], [A, B]) == (None, both)


def test_training_and_development_files_have_one_form():
    assert message(training_files, [A, B], [C]) == (
        "freerun train: two parallel training files, and one development file: c. Expected two development files as "
        "well: --dev DEV_SRC --dev DEV_TGT. Name both, or write --set data.dev=c if it holds pairs (source<TAB>target)."
    )
    assert "one file of training pairs, and two development files: b, c" in message(training_files, [A], [B, C])


@pytest.mark.parametrize(
    "location", [Path("/x"), ParallelFiles(Path("/x"), Path("/y")), PairFiles((Path("/y"), Path("/x")))]
)
def test_a_location_and_its_value_in_a_configuration(location):
    data = DataConfig(train=value_of(location))
    assert location_of(data.train) == location


# -- what a run says ---------------------------------------------------------------------------------------------------


def run(name, **data):
    folder = Path(name)
    folder.mkdir()
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in {"train": "/x", **data}.items()]
    (folder / "config.toml").write_text("[data]\n" + "".join(lines))
    return folder


def test_the_columns_of_the_run_are_those_of_other_pairs():
    model = run("m", columns=[1, 3])
    with logged_notices() as said:
        assert pairs_spec([model], A, None) == PairsSpec(A, (1, 3))
    assert said == ["a: source and target are columns 1,3, as in m; see --columns."]
    with logged_notices() as said:
        assert pairs_spec([model], A, (2, 1)) == PairsSpec(A, (2, 1))
    assert said == []


@pytest.mark.parametrize("location", [Path("a.jsonl"), Path("a.json.gz"), ParallelFiles(A, B)])
def test_only_tsv_has_columns(location):
    assert pairs_spec([run("m", columns=[1, 3])], location, None) == PairsSpec(location, None)


def test_names_of_columns_are_those_of_other_columnar_files():
    model = run("m", columns=["src", "tgt"])
    with logged_notices() as said:
        assert pairs_spec([model], Path("a.parquet"), None).columns == ("src", "tgt")
    assert said == ["a.parquet: source and target are columns src,tgt, as in m; see --columns."]
    assert pairs_spec([model], A, None).columns is None
    assert pairs_spec([run("n", columns=[1, 3])], Path("a.arrow"), None).columns is None
    features = run("f", columns=["src", "tgt", "f"], feature_separator=";")
    assert pairs_spec([features], A, None).columns == (1, 2, 3)
    assert pairs_spec([features], Path("a.feather"), None).columns == ("src", "tgt", "f")
    assert pairs_spec([run("g", columns=[1, 3, 2], feature_separator=";")], Path("a.parquet"), None).columns is None


def test_a_list_as_development_pairs():
    for name in ("b.tsv", "a.tsv"):
        Path(name).write_text(f"{name}\tx\n")
    spec = dev_pairs_of(run("m", dev=["/missing", str(Path("*.tsv").absolute())], columns=[2, 1]))
    assert spec == PairsSpec(
        PairFiles((Path("/missing"), A.absolute().with_name("a.tsv"), B.absolute().with_name("b.tsv"))), (2, 1)
    )
    assert spec.name == "missing and 2 other files"
    spec = dev_pairs_of(run("n", dev=[str(Path("*.tsv").absolute())]))
    assert [pair.source for pair in spec.read()] == ["a.tsv", "b.tsv"]
    assert spec.name == "a.tsv and b.tsv"
    assert "no file matches this pattern" in message(dev_pairs_of, run("o", dev=["/missing/*.tsv"]))


def test_a_model_without_columns_says_nothing():
    assert pairs_spec([Path("bundle"), run("m"), run("n", columns=[1, 3])], A, None).columns == (1, 3)
    assert pairs_spec([Path("bundle"), Path("m")], A, None).columns is None


def test_runs_with_different_columns_need_a_choice():
    models = [run("m", columns=[1, 3]), run("n", columns=[2, 3])]
    assert message(pairs_spec, models, A, None) == (
        "a: the runs were trained with different columns (m: 1,3; n: 2,3). Expected one choice of columns for all "
        "models. Choose them with --columns."
    )
    assert pairs_spec(models, A, (1, 2)).columns == (1, 2)


def test_held_out_pairs_have_two_columns_whatever_the_run_reads():
    model = run("m", columns=[1, 3])
    (model / "dev.tsv").write_text("a\tb\n")
    Path("link.tsv").symlink_to("m/dev.tsv")
    for path in (model / "dev.tsv", Path("m/../m/dev.tsv").resolve(), Path("link.tsv")):
        assert pairs_spec([model], path, None).columns is None
    assert dev_pairs_of(model) == PairsSpec(model / "dev.tsv")
    other = run("n", columns=[1, 3], dev="/d")
    (other / "dev.tsv").write_text("a\tb\n")  # not the run's
    assert pairs_spec([other], other / "dev.tsv", None).columns == (1, 3)


def test_the_development_pairs_of_a_run():
    assert dev_pairs_of(run("m", dev="/d", columns=[2, 1])) == PairsSpec(Path("/d"), (2, 1))
    Path("n").mkdir()
    Path("n/config.toml").write_text('[data]\ntrain = "/x"\ndev = { source = "/s", target = "/t" }\n')
    assert dev_pairs_of(Path("n")).location == ParallelFiles(Path("/s"), Path("/t"))
    assert "m2/dev.tsv: no such file" in message(dev_pairs_of, run("m2"))
    assert "this is not a run directory" in message(dev_pairs_of, Path("none"))


def test_a_header_is_said_as_pairs_are_read():
    A.write_text("source\ttarget\na\tb\n")
    with logged_notices() as said:
        assert len(list(PairsSpec(A).read())) == 2
    assert said[0].startswith('warning: a: the first line looks like a header ("source" and "target")')
    Path("a.jsonl").write_text('{"source": "source", "target": "target"}\n')
    A.write_text("a\tb\nsource\ttarget\n")
    with logged_notices() as said:
        assert len(list(PairsSpec(Path("a.jsonl")).read())) == 1
        assert len(list(PairsSpec(A).read())) == 2
    assert said == []


def test_a_header_of_each_file_of_a_list():
    for name in ("a.tsv", "b.tsv", "c.tsv"):
        Path(name).write_text(("source\ttarget\n" if name != "b.tsv" else "") + "a\tb\n")
    with logged_notices() as said:
        assert len(list(PairsSpec(PairFiles((Path("a.tsv"), Path("b.tsv"), Path("c.tsv")))).read())) == 5
    assert [text.partition(": the first line")[0] for text in said] == ["warning: a.tsv", "warning: c.tsv"]


# -- pairs that are read once ------------------------------------------------------------------------------------------


def fifo(name, content):
    os.mkfifo(name)
    threading.Thread(target=lambda: Path(name).write_bytes(content), daemon=True).start()
    return Path(name).absolute()


def test_pairs_that_can_be_read_again_are_not_copied():
    A.write_text("a\tb\n")
    data = DataConfig(train=str(A.absolute()), dev=str(A.absolute()))
    spool = spool_pairs(Path("run"), data)
    assert (spool.reading, spool.copies, dict(spool.recorded)) == (data, None, {})
    assert not Path("run").exists()


def test_a_list_is_not_copied_and_has_no_pipes():
    A.write_text("a\tb\n")
    data = DataConfig(train=[str(A.absolute())], dev=str(fifo("ff.tsv", b"c\td\n")))
    spool = spool_pairs(Path("run"), data)
    assert spool.reading.train == (str(A.absolute()),)
    assert list(spool.recorded) == ["dev"]
    assert existing_spool(Path("run"), data).reading.train == (str(A.absolute()),)
    with_pipe = DataConfig(train=[str(A.absolute()), "/dev/stdin"])
    assert "this is a pipe, or an open file of one process, in a list" in message(spool_pairs, Path("run"), with_pipe)


def test_a_copy_is_read_now_and_named_later():
    train, dev = fifo("ff.tsv", b"a\tb\tc\n"), fifo("gg.tsv", b"d\te\tf\n")
    with logged_notices() as said:
        spool = spool_pairs(Path("run"), DataConfig(train=str(train), dev=str(dev), columns=(1, 3)))
    final = Path("run/pairs").resolve()
    assert spool.recorded == {"train": str(final / "train.tsv"), "dev": str(final / "dev.tsv")}
    assert spool.reading.columns == (1, 3)
    assert Path(str(spool.reading.train)).read_bytes() == b"a\tb\tc\n"
    assert spool.name == str(train)
    assert said == [
        f"{train}: can be read only once, so it is copied to {final / 'train.tsv'}.",
        f"{dev}: can be read only once, so it is copied to {final / 'dev.tsv'}.",
    ]
    spool.publish()
    assert (final / "train.tsv").read_bytes() == b"a\tb\tc\n" and (final / "dev.tsv").read_bytes() == b"d\te\tf\n"
    assert [path.name for path in Path("run").iterdir()] == ["pairs"]
    spool.discard()
    assert final.is_dir()


def test_copies_that_are_not_published_go_away():
    spool = spool_pairs(Path("run"), DataConfig(train=str(fifo("ff", b"a\tb\n"))))
    spool.discard()
    assert list(Path("run").iterdir()) == []


def test_the_format_survives():
    line = b'{"source": "a", "target": "b"}\n'
    spool = spool_pairs(Path("run"), DataConfig(train=str(fifo("ff.jsonl.gz", gzip.compress(line)))))
    assert str(spool.recorded["train"]).endswith("/pairs/train.jsonl")
    assert Path(str(spool.reading.train)).read_bytes() == line


def test_of_parallel_files_only_the_pipe_is_copied():
    B.write_text("x\n")
    data = DataConfig(train={"source": str(fifo("ff", b"y\n")), "target": str(B.absolute())})
    spool = spool_pairs(Path("run"), data)
    final = Path("run/pairs").resolve()
    assert spool.recorded["train"] == {"source": str(final / "train.source.txt"), "target": str(B.absolute())}


def test_bad_pairs_leave_nothing_and_are_named_as_typed():
    train = fifo("ff", b"a\tb\nc\n")
    found = message(spool_pairs, Path("run"), DataConfig(train=str(train)))
    assert found.startswith(f"{train}:2: 1 tab-separated column.")
    assert list(Path("run").iterdir()) == []


def test_a_full_disk_is_said_of_the_copy(monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spooling, "replacing_file", lambda path: contextlib.nullcontext(Full()))
    train = fifo("ff", b"a\tb\n")
    assert message(spool_pairs, Path("run"), DataConfig(train=str(train))) == (
        f"{train}: the copy of these pairs cannot be written (No space left on device). Expected enough disk space "
        "for the pairs, which can be read only once. Free disk space, or choose another directory with --out."
    )
    assert list(Path("run").iterdir()) == []


def test_a_descriptor_is_named_as_typed():
    ends = os.pipe()
    os.write(ends[1], b"a\tb\n")
    os.close(ends[1])
    data = DataConfig(train=f"/proc/{os.getpid()}/fd/{ends[0]}")
    with logged_notices() as said:
        spool = spool_pairs(Path("run"), data)
    os.close(ends[0])
    assert spool.name == f"/dev/fd/{ends[0]}" and said[0].startswith(f"/dev/fd/{ends[0]}: can be read only once")


def test_a_kill_between_configuration_and_renaming_is_repaired():
    spool = spool_pairs(Path("run"), DataConfig(train=str(fifo("ff", b"a\tb\n"))))
    complete_spool(Path("run"))
    assert Path("run/pairs/train.tsv").read_bytes() == b"a\tb\n"
    # what is published is never replaced
    spool = spool_pairs(Path("run"), DataConfig(train=str(fifo("gg", b"c\td\n"))))
    assert spool.copies is not None
    complete_spool(Path("run"))
    assert Path("run/pairs/train.tsv").read_bytes() == b"a\tb\n"
    assert [path.name for path in Path("run").iterdir()] == ["pairs"]


def resumed(typed, content=b"a\tb\n", copy=None):
    """What a pipe becomes when a run with a copy is resumed."""
    Path("run/pairs").mkdir(parents=True)
    Path("run/pairs/train.tsv").write_bytes(content)
    before = {"data": {"train": copy or str(Path("run/pairs/train.tsv").absolute())}}
    return with_copies({"data": {"train": str(typed)}}, before, Path("run"))["data"]["train"]


def test_a_pipe_with_the_same_pairs_is_the_copy_of_the_run(here):
    assert resumed(fifo("ff", b"a\tb\n")) == str(here / "run/pairs/train.tsv")


def test_a_pipe_with_other_pairs_is_refused(here):
    train = fifo("ff", b"a\tc\n")
    with pytest.raises(UserError) as caught:
        resumed(train)
    assert str(caught.value) == (
        f"run: {train} has other pairs than those that this run copied to {here / 'run/pairs/train.tsv'}. Expected "
        "the same pairs. Leave the pairs out to resume, or train into another directory with --out."
    )


def test_a_pipe_in_place_of_a_file_is_a_change():
    train = fifo("ff", b"a\tb\n")
    assert resumed(train, copy="/elsewhere/train.tsv") == str(train)


def test_copies_move_with_their_run(here):
    Path("new/pairs").mkdir(parents=True)
    Path("new/pairs/dev.tsv").write_text("a\tb\n")
    old = Path("/old/pairs/dev.tsv")
    assert copies_in(Path("new"), old) == Path("new/pairs/dev.tsv")
    assert copies_in(Path("new"), Path("/old/dev.tsv")) == Path("/old/dev.tsv")
    assert copies_in(Path("new"), Path("/old/pairs/x.tsv")) == Path("/old/pairs/x.tsv")
    Path("old/pairs").mkdir(parents=True)
    Path("old/pairs/dev.tsv").write_text("a\tb\n")
    assert copies_in(Path("new"), Path("old/pairs/dev.tsv")) == Path("old/pairs/dev.tsv")
    spool = existing_spool(Path("new"), DataConfig(train=str(old), dev=str(old)))
    assert (spool.reading.train, spool.reading.dev) == ("new/pairs/dev.tsv", "new/pairs/dev.tsv")
    assert spool.copies is None and spool.recorded == {}


# -- what a study reports on -------------------------------------------------------------------------------------------


def data(train, dev=None, **options):
    Path("train.tsv").write_text("".join(f"{source}\ty\n" for source in train))
    if dev is not None:
        Path("dev.tsv").write_text("".join(f"{source}\ty\n" for source in dev))
        options["dev"] = "dev.tsv"
    return DataConfig(train="train.tsv", **options)


def test_sources_are_compared_as_the_models_read_them():
    Path("x.tsv").write_text("Ab\ty\nc  d\ty\nef\ty\nef\tz\ngh\ty\n")
    arm = data(["ab", "c d", "zz"], ["ef", "ab"])
    assert worst_overlap("x.tsv", [arm]) == Overlap("x.tsv", 4, 1, 1)
    folded = arm.model_copy(update={"source_case": "lower"})
    assert worst_overlap("x.tsv", [folded]) == Overlap("x.tsv", 4, 2, 2)
    # the arm that has seen most of them counts
    assert worst_overlap("x.tsv", [arm, folded, arm]) == Overlap("x.tsv", 4, 2, 2)


def test_without_development_pairs_the_held_out_ones_choose_the_model():
    sources = [f"w{n}" for n in range(40)]
    arm = data(sources)
    found = worst_overlap("train.tsv", [arm])
    assert (found.sources, found.training_sources, found.development_sources) == (40, 38, 2)
    assert worst_overlap(None, [arm]) == Overlap(None, 2, 0, 2)


def test_development_pairs_that_are_trained_on():
    assert worst_overlap(None, [data(["a", "b"], ["b", "c"])]) == Overlap(None, 2, 1, 2)


def test_only_tsv_pairs_of_a_study_have_the_columns_of_an_arm():
    arm = data(["a"], columns=(1, 2))
    assert pairs_of_study("x.tsv", arm).columns == (1, 2)
    assert pairs_of_study("x.jsonl", arm).columns is None


TRAINED = "x: 2 of its 8 sources (25.0 %) are training sources"
CHOSE = "1 of its 8 sources (12.5 %) are development sources, which chose each run's best model"
WORSE = "Metrics on new sources may be worse"
STRICTER = "the development pairs, which also chose each run's best model: give `pairs` for a stricter test"


@pytest.mark.parametrize(
    ("overlap", "text"),
    [
        (Overlap("x", 9, 0, 0), "x, which no run was trained or selected on"),
        (Overlap("x", 8, 2, 0), f"{TRAINED}. {WORSE}"),
        (Overlap("x", 8, 2, 1), f"{TRAINED}, and {CHOSE}. {WORSE}"),
        (Overlap("x", 8, 0, 1), f"x: {CHOSE}. {WORSE}"),
        (Overlap(None, 8, 0, 8), STRICTER),
        (Overlap(None, 8, 2, 8), f"{STRICTER}; 2 of their 8 sources (25.0 %) are training sources too"),
    ],
)
def test_a_claim_is_made_only_where_it_is_true(overlap, text):
    assert str(overlap) == text
    assert overlap.is_clean == ("which no run" in text)
    assert overlap.as_json()["training_sources"] == overlap.training_sources
