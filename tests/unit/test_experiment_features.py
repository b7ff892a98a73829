"""Runs of pairs with features: what they record, resume, start from and evaluate on."""

from __future__ import annotations

import json
import os
import threading
import tomllib
from pathlib import Path

import pytest

from freerun.commands import train as command
from freerun.config import DataConfig, parse_config
from freerun.data.memory_pairs import pairs_in_memory
from freerun.data.readers import ParallelFiles, read_pairs
from freerun.errors import ConfigError, DataError, RunError
from freerun.experiment import run as runs
from freerun.experiment.data_source import DataSource
from freerun.experiment.dataset import load_data, write_held_out
from freerun.experiment.overlap import Overlap, pairs_of_study, worst_overlap
from freerun.experiment.pairs_spec import PairsSpec, dev_pairs_of, pairs_spec
from freerun.experiment.request import TrainRequest
from freerun.forcing.registry import settings_of
from freerun.runtime.bundle import read_bundle
from freerun.training.journal import read_journal
from tests.notices import logged_notices

TAGS = ["V;PST", "V;PRS", "N;SG", "N;PL"]
ROWS = [(f"{a}{b}", f"{b}{a}", TAGS[(n + 3 * m) % 4]) for n, a in enumerate("abcd") for m, b in enumerate("efghi")]
CONFIG = """
[model]
embedding_size = 4
hidden_size = 5
num_layers = 1
[training]
updates = 4
batch_size = 4
threads = 1
precision = "fp32"
checkpoint_every = 2
[evaluation]
every = 2
"""


def tsv(rows):
    return "".join("\t".join(row) + "\n" for row in rows)


def jsonl(rows):
    return "".join(json.dumps(dict(zip(("source", "target", "features"), row, strict=False))) + "\n" for row in rows)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    Path("x.tsv").write_text(tsv(ROWS))
    Path("two.tsv").write_text(tsv(row[:2] for row in ROWS))
    Path("x.jsonl").write_text(jsonl(ROWS))
    Path("c.toml").write_text(CONFIG)


def train(source="x.tsv", out="run", settings=(), **options):
    request = TrainRequest(source=source if not isinstance(source, str) else Path(source), out=Path(out), **options)
    request = TrainRequest(
        **{
            **vars(request),
            "config": Path("c.toml"),
            "settings": ("data.source_tokens=char", "data.target_tokens=char", *settings),
        }
    )
    return command.train(request)


def config_of(run="run"):
    return tomllib.loads(Path(run, "config.toml").read_text())


def contents(run="run"):
    files = [path for part in ("best", "last") for path in sorted(Path(run, part).iterdir())]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def cut_journal(run="run"):
    """Make a run look as if it was killed after its last checkpoint."""
    path = Path(run, "journal.jsonl")
    path.write_text("".join(json.dumps(event) + "\n" for event in read_journal(path)[:-1]))


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_a_run_with_attention_records_that_it_reads_features_too():
    settings = ["model.attention=luong"]
    train(settings=settings)
    assert config_of()["model"]["feature_encoder"] == read_bundle(Path("run/best")).model["feature_encoder"] == "both"
    before = contents()
    train(settings=settings, resume=True)
    assert contents() == before
    train(out="tuned", settings=settings, init=Path("run"))
    assert config_of("tuned")["model"]["feature_encoder"] == "both"
    with pytest.raises(ConfigError, match=r'model\.feature_encoder is "summary" here and "both" there'):
        train(out="other", settings=[*settings, "model.feature_encoder=summary"], init=Path("run"))


def test_a_run_records_what_was_chosen_and_other_runs_nothing():
    train()
    assert config_of()["data"]["columns"] == [1, 2, 3]
    assert config_of()["data"]["feature_separator"] == ";"
    assert config_of()["model"]["feature_encoder"] == "summary"
    assert all(line.count("\t") == 2 for line in Path("run/dev.tsv").read_text().splitlines())
    train("x.jsonl", "json")
    assert "columns" not in config_of("json")["data"] and config_of("json")["data"]["feature_separator"] == ";"
    assert Path("json/dev.tsv").read_bytes() == Path("run/dev.tsv").read_bytes()
    train("two.tsv", "two")
    train("x.tsv", "chosen", columns="1,2")
    for run in ("two", "chosen"):
        assert "feature" not in Path(run, "config.toml").read_text()
        assert "feature" not in Path(run, "best/config.json").read_text()
        assert not Path(run, "best/feature_vocabulary.json").exists()


def test_the_format_of_the_pairs_changes_no_weight():
    train()
    expected = read_bundle(Path("run")).weights_hash
    train("x.jsonl", "json")
    Path("lists.jsonl").write_text(jsonl((*row[:2], row[2].split(";")[::-1]) for row in ROWS))
    train("lists.jsonl", "lists")
    train(pairs_in_memory("pairs", ROWS), "memory")
    Path("plus.tsv").write_text(tsv((*row[:2], row[2].replace(";", " + ")) for row in ROWS))
    train("plus.tsv", "plus")
    Path("order.tsv").write_text(tsv((row[2], row[1], row[0]) for row in ROWS))
    train("order.tsv", "order", columns="3,2,1")
    for run in ("json", "lists", "memory", "plus", "order"):
        assert read_bundle(Path(run)).weights_hash == expected
    assert Path("memory/train.jsonl").read_text().splitlines()[0] == (
        '{"source": "ae", "target": "ea", "features": "V;PST"}'
    )


@pytest.mark.parametrize(
    "setting", ["data.feature_separator=;", 'model.feature_encoder="summary"', "model.feature_encoder=sequence"]
)
def test_a_key_about_features_needs_features(setting):
    key, _, value = setting.partition("=")
    with pytest.raises(ConfigError) as error:
        train("two.tsv", settings=[setting, 'model.attention="luong"'])
    path = Path("two.tsv").absolute()
    assert str(error.value) == (
        f'{key}: the value is "{value.strip(chr(34))}", but {path} has no features. Expected pairs '
        "with features: a third column, or the key features in JSON Lines. Remove this key, or choose the columns with "
        "--columns, for example 1,2,3."
    )
    assert not Path("run").exists()


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["x.tsv", "x.jsonl"])
def test_a_run_is_resumed_byte_for_byte(source):
    train(source)
    expected, config = contents(), Path("run/config.toml").read_bytes()
    for request in (
        lambda: train(source, resume=True),
        lambda: command.train(TrainRequest(out=Path("run"), resume=True)),
    ):
        cut_journal()
        for path in Path("run/checkpoints").glob("*4*"):
            path.unlink() if path.is_file() else [file.unlink() for file in path.iterdir()] and path.rmdir()
        request()
        assert contents() == expected and Path("run/config.toml").read_bytes() == config


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("data.feature_separator=+", 'data.feature_separator was ";"'),
        ("data.columns=[1, 2]", "data.columns was [1, 2, 3]"),
        ("data.columns=[2, 1, 3]", "data.columns was [1, 2, 3]"),
    ],
)
def test_other_fields_are_another_run(setting, change):
    train()
    cut_journal()
    with pytest.raises(RunError, match="Expected the configuration that this run was started with") as error:
        train(settings=[setting], resume=True)
    assert change in str(error.value)


def test_columns_that_were_set_have_to_be_set_again():
    train(columns="2,1,3")
    cut_journal()
    with pytest.raises(RunError, match=r"data\.columns was \[2, 1, 3\]"):
        train(resume=True)
    train(columns="2,1,3", resume=True)


def test_pairs_in_memory_are_resumed_with_the_same_features_only():
    train(pairs_in_memory("pairs", ROWS))
    cut_journal()
    with pytest.raises(RunError, match="the training pairs"):
        train(pairs_in_memory("pairs", [(*row[:2], "V") for row in ROWS]), resume=True)
    train(pairs_in_memory("pairs", ROWS), resume=True)


def fifo(name, content):
    os.mkfifo(name)
    threading.Thread(target=lambda: Path(name).write_text(content), daemon=True).start()
    return name


def test_a_pipe_is_recognized_and_copied():
    train()
    with logged_notices() as said:
        train(fifo("pipe.tsv", tsv(ROWS)), "piped")
    assert any("pipe.tsv: its three columns are read as source, target and features" in text for text in said)
    assert config_of("piped")["data"]["columns"] == [1, 2, 3]
    assert contents("piped").keys() == contents().keys()
    assert read_bundle(Path("piped")).weights_hash == read_bundle(Path("run")).weights_hash
    cut_journal("piped")
    train(fifo("again.tsv", tsv(ROWS)), "piped", resume=True)
    with pytest.raises(DataError, match=r"ids\.tsv: 3 tab-separated columns, and column 3 does not look like features"):
        train(fifo("ids.tsv", tsv((*row[:2], f"id{n}") for n, row in enumerate(ROWS))), "ids")
    assert not Path("ids").exists() or not list(Path("ids").iterdir())


# -- initial models ----------------------------------------------------------------------------------------------------


def test_a_model_with_features_is_trained_further():
    train()
    plus = tsv((*row[:2], row[2].replace(";", "+")) for row in ROWS)
    Path("few.tsv").write_text(tsv([("ae", "ea", "V;PST"), ("bf", "fb", "X;Y"), ("cg", "gc", "N")]))
    with logged_notices() as said:
        train("few.tsv", "tuned", init=Path("run"))  # too few lines to recognize features
    assert config_of("tuned")["data"]["columns"] == [1, 2, 3]
    assert read_bundle(Path("tuned")).source.features == read_bundle(Path("run")).source.features
    assert any(
        "feature" in text and "/run and were mapped to UNK: 'X' (1), 'Y' (1). Features are" in text for text in said
    )
    Path("plus.tsv").write_text(plus)
    with pytest.raises(ConfigError) as error:
        train("plus.tsv", "other", ["data.feature_separator=+"], init=Path("run"))
    assert 'data.feature_separator is "+" here and ";" there' in str(error.value)
    with pytest.raises(ConfigError, match=r'model\.feature_encoder is "sequence" here and "summary" there'):
        train("x.tsv", "other", ['model.feature_encoder="sequence"', 'model.attention="luong"'], init=Path("run"))


def test_pairs_and_initial_model_both_have_features_or_neither():
    train()
    train("two.tsv", "two")
    messages = []
    for pairs, init in (("two", "run"), ("x", "two")):
        with pytest.raises(ConfigError) as error:
            train(f"{pairs}.tsv", "other", init=Path(init))
        messages.append(str(error.value).replace(f"{Path.cwd()}/", ""))
    assert messages[0] == (
        "training.init: two.tsv has no features, and the model run/best that training starts from has some. Expected "
        "pairs with features. Add the features: a third column, chosen with --columns, or the key features in JSON "
        "Lines; or start without --init."
    )
    assert messages[1] == (
        "training.init: x.tsv has features, and the model two/best that training starts from has none. Expected pairs "
        "without features. Leave the features out, for example with --columns 1,2; or start without --init."
    )
    train("x.tsv", "other", init=Path("two"), columns="1,2")


# -- development pairs -------------------------------------------------------------------------------------------------


def source_of(dev=None, **data):
    dev = {} if dev is None else {"dev": dev}
    config = parse_config(
        {"data": {"train": "x.tsv", "source_tokens": "char", "target_tokens": "char", **dev, **data}}, "t", settings_of
    )
    return config, DataSource.open(config.data)


def test_development_pairs_have_the_fields_of_the_training_pairs():
    Path("dev.tsv").write_text(tsv(ROWS[:3]))
    Path("dev.jsonl").write_text(jsonl(ROWS[:3]))
    for dev in ("dev.tsv", "dev.jsonl"):
        for train_file in ("x.tsv", "x.jsonl"):
            _, pairs = source_of(dev, train=train_file)
            assert [pair.features for pair in pairs.dev()] == [row[2] for row in ROWS[:3]]


def test_development_pairs_without_features_are_refused_with_their_line():
    Path("dev.tsv").write_text(tsv([ROWS[0], ROWS[1][:2]]))
    Path("dev.jsonl").write_text(jsonl([ROWS[0], ROWS[1][:2]]))
    with pytest.raises(DataError, match=r"dev\.tsv:2: 2 tab-separated columns, so there is no column 3 of features\."):
        list(source_of("dev.tsv")[1].dev())
    with pytest.raises(DataError, match=r"dev\.jsonl:2: this pair has no features\."):
        list(source_of("dev.jsonl")[1].dev())


def test_a_source_is_held_out_with_its_features():
    rows = [(source, f"{target}{tag}", tag) for source, target, _ in ROWS for tag in ["A;B", "B; A", "C", "A"]]
    Path("x.tsv").write_text(tsv(rows))
    config, pairs = source_of(held_out=0.3, columns=[1, 2, 3])
    held_out = {(pair.source, frozenset(map(str.strip, str(pair.features).split(";")))) for pair in pairs.dev()}
    trained = {(pair.source, frozenset(map(str.strip, str(pair.features).split(";")))) for pair in pairs.train()}
    assert len(held_out) == 18 and not held_out & trained and len(held_out | trained) == 60
    assert {source for source, _ in held_out} & {source for source, _ in trained}
    data = load_data(config, pairs)
    assert len(data.dev) == 18 and data.report.same_as_held_out == 0
    write_held_out(config.data, pairs, Path())
    assert [pair[:2] for pair in read_pairs(Path("dev.tsv"), (1, 2, 3))] == [pair[:2] for pair in pairs.dev()]


@pytest.mark.parametrize("minimum_count", [1, 2])
def test_unknown_features_are_reported(minimum_count):
    Path("x.tsv").write_text(tsv([*ROWS, ("ae", "ea", "V;RARE")]))
    Path("dev.tsv").write_text(tsv([("ae", "ea", "V;DUAL"), ("ai", "ia", "V;RARE;DUAL")]))
    config, pairs = source_of("dev.tsv", minimum_count=minimum_count)
    with logged_notices() as said:
        data = load_data(config, pairs)
    known = ", ".join(
        f"'{token}'" for token in data.source.features.vocabulary.tokens(range(4, len(data.source.features.vocabulary)))
    )
    rest = (
        f' Features are separated by ";"; the model has {known}. Train on data with these features, lower '
        "data.minimum_count, or give the features the training data's spelling."
    )
    warnings = [text for text in said if "features" in text and text.startswith("warning")]
    unknown = "not in the vocabulary and were mapped to UNK"
    if minimum_count == 1:
        assert warnings == [f"warning: development pairs: 2 of 5 features (40.0 %) are {unknown}: 'DUAL' (2).{rest}"]
        assert any("11 feature ids (40.00 % of the development sources' features are unknown)" in text for text in said)
    else:
        one = "1 of 42 features (2.4 %) is not in the vocabulary and was mapped to UNK: 'RARE' (1)."
        both = f"3 of 5 features (60.0 %) are {unknown}: 'DUAL' (2), 'RARE' (1)."
        assert warnings == [
            f"warning: training pairs of x.tsv: {one}{rest}",
            f"warning: development pairs: {both}{rest}",
        ]


# -- pairs of runs and studies -----------------------------------------------------------------------------------------


def test_pairs_are_read_with_the_fields_of_a_run():
    train()
    train("x.jsonl", "json")
    train("x.tsv", "order", columns="2,1,3")
    train("two.tsv", "two")
    run, json_run, order, two = map(Path, ("run", "json", "order", "two"))
    other = Path("x.tsv")
    assert dev_pairs_of(run) == PairsSpec(run / "dev.tsv", (1, 2, 3))
    assert dev_pairs_of(json_run) == PairsSpec(json_run / "dev.tsv", (1, 2, 3))
    assert dev_pairs_of(order) == PairsSpec(order / "dev.tsv", (1, 2, 3))
    assert dev_pairs_of(two) == PairsSpec(two / "dev.tsv")
    with logged_notices() as said:
        for model in (run, json_run, run / "best"):
            assert pairs_spec([model], other, None).columns == (1, 2, 3)
        assert pairs_spec([order], other, None).columns == (2, 1, 3)
        assert pairs_spec([order], order / "dev.tsv", None).columns == (1, 2, 3)
        assert pairs_spec([two, run], other, None).columns == (1, 2, 3)
        assert pairs_spec([two, two / "best", Path("none")], other, None).columns is None
        assert pairs_spec([run], Path("x.jsonl"), None).columns is None
        assert pairs_spec([run], ParallelFiles(other, other), None).columns is None
    assert said[0] == "x.tsv: source, target and features are columns 1,2,3, as in run; see --columns."
    with pytest.raises(ConfigError, match=r"the runs were trained with different columns \(run: 1,2,3; order: 2,1,3\)"):
        pairs_spec([run, order], other, None)


def test_a_study_compares_sources_with_their_features():
    Path("train.tsv").write_text(tsv(ROWS))
    same, other = ROWS[0], (*ROWS[1][:2], "NEW")
    Path("test.tsv").write_text(tsv([same, other, ("zz", "zz", "V;PST"), (same[0], "q", "PST; V")]))
    arm = DataConfig(train="train.tsv", dev="train.tsv")
    assert worst_overlap("test.tsv", [arm]) == Overlap("test.tsv", 3, 1, 1)
    assert worst_overlap(None, [DataConfig(train="train.tsv")]).training_sources == 0
    assert pairs_of_study("test.tsv", DataConfig(train="x", feature_separator=";")).columns == (1, 2, 3)
