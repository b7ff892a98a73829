"""``freerun.train``: pairs and configurations in memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import tomllib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

import freerun
from freerun.errors import ConfigError, DataError, RunError
from freerun.experiment import memory_files, prepare
from freerun.experiment import run as runs
from freerun.files import file_hash
from freerun.training import notebook
from freerun.training.journal import read_journal
from tests.killed import differences
from tests.notices import logged_notices

PAIRS = [(a + b, b + a) for a in "abcd" for b in "efgh"]
CONFIG = {
    "data": {"source_tokens": "char", "target_tokens": "char"},
    "model": {"embedding_size": 4, "hidden_size": 5, "num_layers": 1},
    "training": {"updates": 6, "batch_size": 4, "threads": 1, "precision": "fp32", "checkpoint_every": 2},
    "evaluation": {"every": 3},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)


def train(source=PAIRS, **options):
    return freerun.train(source, **{"config": CONFIG, **options})


class Counter(freerun.Callback):
    def __init__(self):
        self.updates, self.evaluations = [], []

    def on_update(self, update, metrics):
        self.updates.append(update)

    def on_evaluation(self, update, result, is_best):
        self.evaluations.append((update, result.metrics["symbol_error_rate.free"], is_best))


# ------------------------------------------------------------------------------------------------------------- training


def test_a_list_of_pairs_trains_in_silence_with_a_callback_and_a_history(capfd):
    callback = Counter()
    result = train(callbacks=[callback])
    assert capfd.readouterr() == ("", "")
    assert callback.updates == [1, 2, 3, 4, 5, 6]
    content = "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in PAIRS)
    assert (result.directory / "train.jsonl").read_text() == content
    assert result.directory == Path("runs") / f"memory-{file_hash(result.directory / 'train.jsonl')[:8]}"
    assert sorted(path.name for path in result.directory.iterdir()) == [
        "best",
        "checkpoints",
        "config.toml",
        "dev.tsv",
        "journal.jsonl",
        "last",
        "train.jsonl",
    ]
    assert result.metrics == json.loads((result.directory / "best" / "metrics.json").read_text())
    assert [(row["update"], row["symbol_error_rate.free"], row["best"]) for row in result.history[:2]] == (
        callback.evaluations
    )
    assert [row["final"] for row in result.history] == [False, False, True]
    for row in result.history:
        assert all(value is None or isinstance(value, bool | int | float) for value in row.values())
    assert result.history[2]["best_update"] == result.best_update
    assert isinstance(result.model.predict("ae").text, str) and result.model is result.model
    assert capfd.readouterr() == ("", "")


def test_without_a_configuration_everything_is_chosen(capfd):
    result = freerun.train(PAIRS, settings=["training.updates=2", "training.threads=1", "model.hidden_size=8"], seed=3)
    assert capfd.readouterr() == ("", "")
    config = tomllib.loads((result.directory / "config.toml").read_text())
    assert (config["model"]["attention"], config["model"]["hidden_size"]) == ("bahdanau", 8)
    assert (config["training"]["seed"], config["data"]["source_tokens"]) == (3, "char")


Row = namedtuple("Row", "source target")
Unnamed = namedtuple("Unnamed", "left right")
SOURCES = {
    "a generator": lambda: (pair for pair in PAIRS),
    "lists": lambda: [list(pair) for pair in PAIRS],
    "rows with these names": lambda: [Row(*pair) for pair in PAIRS],
    "rows with other names": lambda: [Unnamed(*pair) for pair in PAIRS],
    "an array": lambda: np.array(PAIRS, dtype=object),
    "an array of texts": lambda: np.array(PAIRS),
    "the view of a dict": lambda: dict(PAIRS).items(),
    "columns": lambda: zip(*zip(*PAIRS, strict=True), strict=True),
    "mappings": lambda: [{"source": source, "target": target, "id": 1} for source, target in PAIRS],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_pairs_of_every_kind_are_the_same_pairs(kind, monkeypatch):
    written = []

    def write(directory, pairs):
        written.append(pairs["train"])
        raise InterruptedError

    monkeypatch.setattr(prepare, "write_memory_files", write)
    with pytest.raises(InterruptedError):
        train(SOURCES[kind](), out="run")
    assert [(pair.source, pair.target) for pair in written[0].pairs] == PAIRS
    assert not Path("run").exists()


class Table:
    """Iterates over its columns, as a DataFrame does."""

    columns = ("source", "target")

    def __iter__(self):
        return iter([["aa", "ab"], ["xx", "xy"]])


def test_a_table_is_not_an_iterable_of_rows():
    with pytest.raises(TypeError, match=r"^pairs: the value is a table \(Table\), not its rows\. Expected an iterable"):
        train(Table())


def test_numbers_of_numpy_are_numbers():
    model = {"embedding_size": np.int64(4), "hidden_size": np.int32(5), "num_layers": np.array(1)}
    evaluation = {"every": 3, "length_penalty": np.float32(0.5), "early_stop": np.bool_(True)}
    config = {**CONFIG, "model": model, "evaluation": evaluation, "training": {**CONFIG["training"], "updates": 1}}
    train(config=config, out="run")
    written = tomllib.loads(Path("run/config.toml").read_text())
    assert written["model"]["hidden_size"] == 5 and written["evaluation"]["length_penalty"] == 0.5
    assert written["evaluation"]["early_stop"] is True


def test_development_pairs_in_memory_are_a_file_too():
    result = train(dev=iter(PAIRS[:3]), out="run")
    assert result.metrics["sources"] == 3
    assert len(Path("run/dev.jsonl").read_text().splitlines()) == 3 and not Path("run/dev.tsv").exists()
    assert tomllib.loads(Path("run/config.toml").read_text())["data"]["dev"] == str(Path("run/dev.jsonl").absolute())


@pytest.mark.parametrize("kind", ["a dict", "a Config", "a file"])
def test_a_configuration_of_every_kind(kind):
    Path("pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    sections = {**CONFIG, "data": {**CONFIG["data"], "train": "pairs.tsv", "dev": Path("pairs.tsv")}}
    if kind == "a dict":
        source = sections
    else:
        train(sections, config=None, out="first")
        source = Path("first/config.toml")
    if kind == "a Config":
        source = freerun.Config.model_validate(tomllib.loads(source.read_text()))
    result = freerun.train(source, out="run")
    assert (result.updates, result.metrics["sources"]) == (6, 16)
    assert tomllib.loads(Path("run/config.toml").read_text())["data"]["train"] == str(Path("pairs.tsv").absolute())
    # the same as the configuration of pairs in memory
    again = freerun.train(PAIRS, config=source, out="again")
    assert again.metrics == result.metrics


def test_a_file_of_pairs_and_parallel_paths_still_train():
    Path("pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    assert train("pairs.tsv").directory == Path("runs/pairs")


# ------------------------------------------------------------------------------------------------------------- resuming


class Stop(freerun.Callback):
    def __init__(self, update):
        self.update = update

    def on_update(self, update, metrics):
        if update == self.update:
            raise KeyboardInterrupt


@pytest.mark.parametrize("update", [1, 3, 5])
def test_a_resumed_run_has_the_same_bytes(update):
    whole = train(PAIRS, out="run").directory.rename("whole")
    with pytest.raises(KeyboardInterrupt):
        train(PAIRS, out="run", callbacks=[Stop(update)])
    assert read_journal(Path("run/journal.jsonl"))[-1]["event"] != "stop"
    result = train((pair for pair in PAIRS), out="run", resume=True)
    assert differences(Path("run"), whole) == []
    assert result.history[-1]["final"]


def test_a_bundle_names_no_files_of_the_machine_that_trained_it():
    train(PAIRS, out="other")
    train(PAIRS, out="run", init="other")
    training = json.loads(Path("run/best/config.json").read_text())["training"]
    assert training["update"] == 6 and training["training"].keys().isdisjoint({"init"})
    assert training["data"].keys().isdisjoint({"train", "dev"})


def test_the_mean_of_an_ensemble_is_the_requested_one():
    one, other = (train(PAIRS, out=f"run{seed}", seed=seed).directory for seed in (1, 2))
    means = [freerun.load(one, ensemble=[other], mean=mean).predict("ae").score for mean in ("arithmetic", "geometric")]
    assert means[0] != pytest.approx(means[1], abs=1e-7)


def test_a_complete_run_is_returned_again():
    first = train()
    assert (again := train(resume=True)) == first
    assert (again.history, dict(again.baselines)) == (first.history, {})


def test_other_pairs_are_not_those_of_a_complete_run(tmp_path):
    train(PAIRS, out="run", dev=PAIRS[:2])
    with pytest.raises(RunError, match=r"run: the data of this run has changed .*: the training pairs \(SHA-256 was"):
        train([*PAIRS, ("zz", "zz")], out="run", dev=PAIRS[:2], resume=True)
    with pytest.raises(RunError, match=r"run: the data of this run has changed .*: the development pairs \(SHA-256"):
        train(PAIRS, out="run", dev=PAIRS[:3], resume=True)
    assert train(PAIRS, out="run", dev=PAIRS[:2], resume=True).updates == 6


def test_other_pairs_are_changed_data():
    with pytest.raises(KeyboardInterrupt):
        train(PAIRS, out="run", callbacks=[Stop(4)])
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with pytest.raises(RunError) as error:
        train([*PAIRS, ("zz", "zz")], out="run", resume=True)
    old, new = file_hash(Path("run/train.jsonl"))[:12], error.value.what[-len("123456789012...)") :][:12]
    assert str(error.value) == (
        "run: the data of this run has changed since it was started: the training pairs (SHA-256 was "
        f"{old}..., is now {new}...). Expected the same data. Restore the data to resume, or train into another "
        "directory with --out."
    )
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_run_is_longer_and_its_file_is_restored_and_its_directory_moves(damage):
    train(out="run")
    content = Path("run/train.jsonl").read_bytes()
    Path("run").rename("moved")
    damage(Path("moved/train.jsonl"))
    result = train(out="moved", resume=True, settings=["training.updates=8"])
    assert result.updates == 8 and Path("moved/train.jsonl").read_bytes() == content
    # the command needs no pairs any more
    result = freerun.train(out="moved", resume=True, settings=["training.updates=9"])
    assert result.updates == 9


def test_a_run_of_a_file_is_not_a_run_of_pairs_in_memory():
    Path("pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    with pytest.raises(KeyboardInterrupt):
        train("pairs.tsv", out="run", callbacks=[Stop(4)])
    with pytest.raises(RunError, match=r"the configuration has changed: data\.train was \"/"):
        train(PAIRS, out="run", resume=True)


def test_a_file_of_another_directory_is_not_this_runs_although_it_has_the_same_name_and_pairs():
    train(PAIRS, out="other")
    with pytest.raises(KeyboardInterrupt):
        train("other/train.jsonl", out="run", callbacks=[Stop(4)])
    with pytest.raises(RunError, match=r"the configuration has changed: data\.train was \"/"):
        train(PAIRS, out="run", resume=True)


def test_a_kill_between_the_configuration_and_the_pairs_is_repaired(monkeypatch):
    whole = train(PAIRS, out="run").directory.rename("whole")
    with monkeypatch.context() as patch:
        patch.setattr(memory_files.MemoryFiles, "publish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(memory_files.MemoryFiles, "discard", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            train(PAIRS, out="run")
    assert not Path("run/train.jsonl").exists() and Path("run/config.toml").exists()
    freerun.train(out="run", resume=True)
    assert differences(Path("run"), whole) == []


def test_a_kill_before_the_configuration_leaves_nothing_in_the_way(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(memory_files.MemoryFiles, "discard", lambda self: None)
        patch.setattr(prepare, "load_data", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(PAIRS, out="run")
    assert [path.name for path in Path("run").iterdir() if path.name.startswith(".memory.")]
    train(PAIRS, out="run")
    assert not list(Path("run").glob(".*"))


def test_an_error_in_the_data_leaves_nothing():
    with pytest.raises(DataError, match="pairs: 1 distinct source, too few to hold any out"):
        train([("a", "b")], out="run")
    assert not Path("run").exists()


# --------------------------------------------------------------------------------------------------------------- errors


def bad(pair, number=2):
    return [*PAIRS[:number], pair, *PAIRS[number:]]


TYPES = {
    "a number": ({"source": 3}, "source: the value is 3 (int). Expected a path, or an iterable of pairs"),
    "bytes": ({"source": b"x"}, "source: the value is b'x' (bytes). Expected a path, or an iterable"),
    "an item": ({"source": bad("ab")}, "pairs[2]: the value is 'ab' (str). Expected (source, target)"),
    "four": ({"source": bad(("a", "b", "c", "d"))}, "pairs[2]: the value is ('a', 'b', 'c', 'd') (tuple). Expected"),
    "not a text": ({"source": bad(("a", float("nan")))}, "pairs[2]: the value is ('a', nan) (tuple). Expected"),
    "no target": ({"source": bad({"source": "a"})}, "pairs[2]: the value is {'source': 'a'} (dict). Expected"),
    "dev": ({"dev": [("a", 1)]}, "dev[0]: the value is ('a', 1) (tuple). Expected"),
    "dev as a dict": ({"dev": {}}, "dev: the value is {} (dict). Expected a path, or an iterable of pairs"),
    "config": ({"config": 3}, "config: the value is 3 (int). Expected a path, a freerun.Config or a dict"),
    "a key": ({"config": {"data": {1: 2}}}, "a key of config.data: the value is 1 (int). Expected a str"),
    "seed": ({"seed": "1"}, "seed: the value is '1' (str). Expected an int"),
    "resume": ({"resume": 1}, "resume: the value is 1 (int). Expected True or False"),
    "out": ({"out": 1}, "out: the value is 1 (int). Expected a path"),
    "init": ({"init": 1}, "init: the value is 1 (int). Expected a path"),
    "settings": ({"settings": "a=1"}, "settings: the value is 'a=1' (str). Expected a list"),
    "a setting": ({"settings": [1]}, "settings[0]: the value is 1 (int). Expected a str"),
    "a callback": ({"callbacks": [print]}, "callbacks[0]: the value is <built-in function print>"),
    "one callback": ({"callbacks": Counter()}, "callbacks: the value is "),
}


@pytest.mark.parametrize("name", TYPES)
def test_arguments_of_the_wrong_type(name):
    options, message = TYPES[name]
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        train(**options)
    assert list(Path().iterdir()) == []


USERS = {
    "a tab": (
        {"source": bad(("a\tb", "c"))},
        DataError,
        "pairs[2]: the source contains a tab. Expected text",
    ),
    "a line end": ({"source": bad(("a", "c\n"))}, DataError, "pairs[2]: the target contains a line feed."),
    "a surrogate": ({"source": bad(("a", "\ud83d"))}, DataError, "pairs[2]: the target contains half a surrogate pair"),
    "nothing": ({"source": []}, DataError, "source: there are no pairs. Expected at least one pair"),
    "no dev": ({"dev": []}, DataError, "dev: there are no pairs. Expected at least one pair"),
    "two configurations": ({"source": CONFIG}, ConfigError, "config: two configurations are given, source and config."),
    "no name": ({"source": CONFIG, "config": None}, ConfigError, "out: no run directory is named. Expected a path"),
    "a key": ({"config": {"modle": {}}, "out": "run"}, ConfigError, "modle: "),
    "a value": ({"config": {"training": {"updates": "x"}}}, ConfigError, "training.updates: "),
    "nothing at all": (
        {"source": None, "config": None},
        ConfigError,
        "source: there are neither pairs nor a configuration. Expected pairs, a configuration, or out together with",
    ),
    "nothing to resume": ({"source": None, "config": None, "resume": True}, ConfigError, "source: there are neither"),
    "an empty path": ({"source": ""}, ConfigError, "source: the path is empty. Expected the path of"),
    "no path": ({"out": "a\0b"}, ConfigError, "out: the path contains a NUL character. Expected the path of"),
}


@pytest.mark.parametrize("name", USERS)
def test_mistakes_that_the_user_can_fix(name):
    options, kind, message = USERS[name]
    with pytest.raises(kind) as error:
        train(**options)
    assert message in str(error.value)
    assert error.value.expected
    assert list(Path().iterdir()) == []


def test_a_directory_with_another_run_is_kept():
    train(out="run")
    with pytest.raises(RunError, match="run: this directory holds another run"):
        train(out="run")
    shutil.rmtree("run/best")


def test_an_error_of_the_iterable_is_passed_on():
    def rows():
        yield PAIRS[0]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        train(rows())
    assert list(Path().iterdir()) == []


# ------------------------------------------------------------------------------------------------ notices and notebooks


def test_notices_go_to_the_logger(caplog):
    with logged_notices() as notices:
        train()
    assert "No development pairs given: 1 of 16 sources are held out" in notices[0]
    assert any(notice.startswith("Model: ") for notice in notices)


def test_in_a_notebook_the_progress_line_is_the_default(monkeypatch):
    from freerun.api import training_callbacks

    made = []

    class Line(notebook.NotebookProgress):
        def __init__(self):
            super().__init__()
            made.append(self)

        def show_line(self, text):
            raise AssertionError

    monkeypatch.setattr(training_callbacks, "NotebookProgress", Line)
    assert training_callbacks.as_callbacks(()) == [] == made
    monkeypatch.setattr(training_callbacks, "is_notebook", lambda: True)
    assert training_callbacks.as_callbacks(()) == made and len(made) == 1
    callback = Counter()
    assert training_callbacks.as_callbacks([callback]) == [callback]


def test_a_result_is_a_table_in_a_notebook():
    result = freerun.TrainResult(
        Path("a<b"),
        {"sources": 1200, "bleu.free": 3.25, "nll.teacher": None, "bleu.free.low": 1.0},
        1000,
        500,
        {"copy": {"bleu.free": 0.5}},
    )
    assert result._repr_html_() == (
        "<table><caption>a&lt;b: 1,000 updates, best model from update 500</caption>"
        "<thead><tr><th>metric</th><th>model</th><th>copy</th></tr></thead><tbody>"
        "<tr><td>sources</td><td>1,200</td><td></td></tr>"
        "<tr><td>bleu.free</td><td>3.2500</td><td>0.5000</td></tr>"
        "<tr><td>nll.teacher</td><td></td><td></td></tr></tbody></table>"
    )


def test_a_result_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    result = train(out="run", settings=["training.updates=1"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert result.directory == Path("run")
    assert isinstance(result.model.predict("ae").text, str) and result.history[-1]["final"]


def test_a_result_without_its_directory_has_no_history():
    result = train(out="run", settings=["training.updates=1"])
    shutil.rmtree("run")
    with pytest.raises(RunError, match=r"journal\.jsonl: this journal is missing or empty"):
        _ = result.history


def test_in_another_thread_a_training_leaves_the_signals_alone():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    seen, results = [], []

    class Looks(freerun.Callback):
        def on_update(self, update, metrics):
            seen.append({number: signal.getsignal(number) for number in before})

    thread = threading.Thread(target=lambda: results.append(train(out="run", callbacks=[Looks()])))
    thread.start()
    thread.join()
    assert results[0].updates == 6 and all(each == before for each in seen) and len(seen) == 6
    main = train(out="other", callbacks=[Looks()])
    assert main.metrics == results[0].metrics
    assert seen[-1] != before  # the first signal only asks to stop
    assert {number: signal.getsignal(number) for number in before} == before


# ------------------------------------------------------------------------------------------------------- documentation


def test_the_page_runs(capfd, monkeypatch):
    """The blocks of the section on training, one after the other."""
    monkeypatch.setattr("logging.basicConfig", lambda level: None)
    page = (Path(freerun.__file__).parent.parent / "docs" / "python.md").read_text()
    section = page.partition("\n## Training\n")[2].partition("\n## ")[0]
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert len(names["result"].history) > 1
    assert names["curve"].error_rates and capfd.readouterr() == ("", "")
