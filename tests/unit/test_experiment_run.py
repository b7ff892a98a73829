"""The train command around the loop: data that changed, bundles to start from, folders that fill up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest

from freerun.commands import train as command
from freerun.commands.train_progress import ConsoleProgress
from freerun.errors import RunError, TrainingError
from freerun.experiment import run as runs
from freerun.experiment import run_hooks
from freerun.experiment.request import TrainRequest
from freerun.runtime.bundle import read_bundle
from freerun.training.journal import read_journal
from freerun.version import VERSION

PAIRS = "".join(f"{a}{b}\t{b}{a}\n" for a in "abc" for b in "abcd")
CONFIG = """
[data]
train = "train.tsv"
source_tokens = "char"
target_tokens = "char"
[model]
embedding_size = 4
hidden_size = 5
num_layers = 1
dropout = 0.2
[training]
updates = 4
batch_size = 4
threads = 1
precision = "fp32"
checkpoint_every = 2
[evaluation]
every = 2
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    Path("train.tsv").write_text(PAIRS)
    Path("dev.tsv").write_text("ab\tba\nca\tac\n")
    Path("c.toml").write_text(CONFIG)


def train(*settings, out="run", **options):
    return command.train(TrainRequest(source=Path("c.toml"), out=Path(out), settings=settings, **options))


def test_a_run_has_the_held_out_pairs_only_where_none_were_given(tmp_path):
    train()
    held_out = Path("run/dev.tsv").read_text()
    assert held_out in {f"{line}\n" for line in PAIRS.splitlines()}
    assert tomllib.loads(Path("run/config.toml").read_text())["data"]["train"] == str(tmp_path / "train.tsv")
    train(out="other", dev=Path("dev.tsv"))
    assert not Path("other/dev.tsv").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [(["train"], "the training pairs (SHA-256 was "), (["dev"], "the development pairs (SHA-256 was ")],
)
def test_changed_data_is_refused(changed, told):
    train(dev=Path("dev.tsv"))
    before = read_journal(Path("run/journal.jsonl"))
    assert before[0].keys() >= {"train_sha256", "dev_sha256", "config", "pairs", "updates", "parameters", "precision"}
    Path("run/journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in before[:-1]))
    for name in changed:
        with Path(f"{name}.tsv").open("a") as file:
            file.write("dd\tdd\n")
    with pytest.raises(RunError) as error:
        train(dev=Path("dev.tsv"), resume=True)
    assert str(error.value).startswith(f"run: the data of this run has changed since it was started: {told}")
    assert before[0][f"{changed[0]}_sha256"][:12] in str(error.value)
    assert str(error.value).endswith("Restore the data to resume, or train into another directory with --out.")
    assert read_journal(Path("run/journal.jsonl")) == before[:-1]


def test_a_complete_run_is_left_as_it_is(capsys):
    first = train()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    again = train(resume=True)
    assert again == first
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert "run: this run is complete (update 4, all updates made)" in capsys.readouterr().err


def edit_journal(edit):
    path = Path("run/journal.jsonl")
    path.write_text("".join(json.dumps(event) + "\n" for event in edit(list(map(dict, read_journal(path))))))


def begun_with(version):
    def edit(events):
        del events[0]["freerun"]
        return [events[0] if version is None else {**events[0], "freerun": version}, *events[1:]]

    return edit


@pytest.mark.parametrize(
    ("version", "name"), [("0.1.0", "0.1.0"), ("0.1.9.dev3", "0.1.9.dev3"), (None, "of an unknown version")]
)
def test_a_run_begun_with_other_random_numbers_is_not_resumed(version, name):
    train()
    edit_journal(lambda events: events[:-1])
    edit_journal(begun_with(version))
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with pytest.raises(RunError) as error:
        train(resume=True)
    assert str(error.value) == (
        f"run: this run was begun with freerun {name}, which has other random numbers than freerun {VERSION}. "
        f"Expected a run that freerun 0.2.0 or later began. Resume it with freerun {name}, or start again in another "
        "directory with --out."
    )
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_run_begun_with_these_random_numbers_is_resumed(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "VERSION", "9.9.9")
        train()
    edit_journal(lambda events: events[:-1])
    train(resume=True)
    assert read_journal(Path("run/journal.jsonl"))[-1]["event"] == "stop"


def test_a_complete_run_of_an_earlier_version_is_complete(capsys):
    first = train()
    edit_journal(begun_with("0.1.0"))
    assert train(resume=True) == first
    assert "run: this run is complete (update 4, all updates made)" in capsys.readouterr().err


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(capsys):
    train()
    journal = read_journal(Path("run/journal.jsonl"))
    weights = Path("run/best/model.safetensors").read_bytes()
    for path in Path("run/checkpoints").iterdir():
        path.rename(path.name)
    Path("run/dev.tsv").unlink()
    Path("run/journal.jsonl").write_text(json.dumps(journal[0]) + '\n{"event": "upd')
    train(resume=True)
    assert "run: no checkpoint yet; starting from the beginning." in capsys.readouterr().err
    assert [event["event"] for event in read_journal(Path("run/journal.jsonl"))] == [
        event["event"] for event in journal
    ]
    assert Path("run/best/model.safetensors").read_bytes() == weights
    assert Path("run/dev.tsv").exists()


def test_a_run_from_a_bundle_has_its_sizes_and_can_be_gone_on_with():
    train()
    Path("c.toml").write_text('[data]\ntrain = "train.tsv"\n[training]\nupdates = 2\nbatch_size = 4\nthreads = 1\n')
    train(out="tuned", init=Path("run"))
    config = tomllib.loads(Path("tuned/config.toml").read_text())
    assert (config["model"]["hidden_size"], config["data"]["target_tokens"]) == (5, "char")
    assert read_bundle(Path("tuned")).config["training"]["model"]["hidden_size"] == 5
    events = Path("tuned/journal.jsonl")
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    train(out="tuned", init=Path("run"), resume=True)

    Path("run/best").rename("gone")
    Path("c2.toml").write_text(CONFIG)
    command.train(TrainRequest(source=Path("c2.toml"), out=Path("run2"), seed=5))
    Path("run2/best").rename("run/best")
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match=r"since it was started: the initial model \(SHA-256 was "):
        train(out="tuned", init=Path("run"), resume=True)


def test_a_bundle_that_does_not_fit_on_the_disk_leaves_the_one_before(monkeypatch):
    write_bundle, calls = run_hooks.write_bundle, []

    def full(folder, parts):
        calls.append(folder.name)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_bundle(folder, parts)

    monkeypatch.setattr(run_hooks, "write_bundle", full)
    with pytest.raises(RunError) as error:
        train("training.learning_rate=0.1")
    assert str(error.value) == (
        f"{Path('run') / calls[-1]}: this bundle could not be written (No space left on device); the one before it and "
        "all checkpoints are unchanged. Expected enough disk space and permission to write. Free disk "
        "space, then rerun with --resume."
    )
    assert read_bundle(Path("run")).config["training"]["update"] == 2
    monkeypatch.undo()
    monkeypatch.setattr(runs, "tensorboard_is_installed", lambda: False)


def test_a_loss_that_is_not_finite_shows_its_pairs():
    with pytest.raises(TrainingError, match=r"^update \d+: the loss is .* gradient norm (nan|inf);"):
        train("training.learning_rate=1e38", 'training.optimizer="sgd"', "training.clip_norm=0", "training.updates=9")
    (path,) = Path("run").glob("not-finite-update-*.json")
    saved = json.loads(path.read_text())
    assert 1 <= len(saved["pairs"]) <= 4
    for pair in saved["pairs"]:
        assert f"{pair['source']}\t{pair['target']}\n" in PAIRS


def test_a_folder_that_cannot_be_made_is_told():
    Path("file").touch()
    with pytest.raises(RunError) as error:
        train(out="file/run")
    assert str(error.value) == (
        "file/run: this directory cannot be written (Not a directory). Expected a directory that can be written. "
        "Choose another directory."
    )


# -------------------------------------------------------------------------------------------------------------- damage


def flip(path):
    """Change the last bit of a file."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def other_best():
    """Another model in place of the best one, whole in itself."""
    command.train(TrainRequest(source=Path("c.toml"), out=Path("other"), seed=9))
    shutil.rmtree("run/best")
    shutil.copytree("other/best", "run/best")


BEST = {
    "its weights": lambda: flip("run/best/model.safetensors"),
    "gone": lambda: shutil.rmtree("run/best"),
    "a vocabulary": lambda: flip("run/best/source_vocabulary.json"),
    "its configuration": lambda: Path("run/best/config.json").write_text("{"),
    "another model": other_best,
}


@pytest.mark.parametrize("damage", BEST)
def test_a_complete_run_whose_best_model_is_damaged_ends_once_more(damage, capsys):
    first = train()
    before = {path: path.read_bytes() for path in Path("run/best").iterdir()}
    BEST[damage]()
    capsys.readouterr()
    assert train(resume=True) == first
    told = capsys.readouterr().err
    assert "Repeating the end of this run from its newest checkpoint." in told and "Resuming from update 4." in told
    assert {path: path.read_bytes() for path in Path("run/best").iterdir()} == before
    assert read_journal(Path("run/journal.jsonl"))[-1]["event"] == "stop"


def test_a_complete_run_with_neither_best_model_nor_checkpoint_is_told(capsys):
    train()
    flip("run/best/model.safetensors")
    shutil.rmtree("run/checkpoints")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with pytest.raises(RunError) as error:
        train(resume=True)
    assert str(error.value).startswith("run/best/model.safetensors: its SHA-256 is ")
    assert str(error.value).endswith(
        ", and no checkpoint is left to restore it from. Expected the directory best/ as training wrote it. Put it "
        "back, or train again into another directory with --out."
    )
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_complete_run_whose_journal_names_no_hash_is_complete(capsys):
    """As earlier versions wrote it."""
    train()

    def without(events):
        return [{key: value for key, value in event.items() if key != "best_sha256"} for event in events]

    edit_journal(without)
    train(resume=True)
    assert "this run is complete" in capsys.readouterr().err


def test_what_is_left_out_is_told_before_the_run_goes_on(capsys):
    train()
    edit_journal(lambda events: events[:-1])
    flip("run/checkpoints/update-00000004/optimizer.safetensors")
    capsys.readouterr()
    train(resume=True)
    told = capsys.readouterr().err
    notice = "run/checkpoints/update-00000004: this checkpoint is damaged (manifest.json: the SHA-256 of optimizer.safe"
    assert notice in told.partition("Resuming from update 2.")[0]
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == ["update-00000002", "update-00000004"]


def test_held_out_pairs_are_written_again():
    train()
    before = Path("run/dev.tsv").read_text()
    Path("run/dev.tsv").write_text("zz\tzz\n")
    flip("run/best/model.safetensors")
    train(resume=True)
    assert Path("run/dev.tsv").read_text() == before


@pytest.mark.parametrize(("damaged", "start"), [([], 4), ([4], 2)])
def test_the_progress_of_a_resumed_run_counts_from_its_checkpoint(monkeypatch, damaged, start):
    """TensorBoard drops the events after it."""
    train()
    for update in damaged:
        flip(f"run/checkpoints/update-{update:08d}/optimizer.safetensors")
    flip("run/best/model.safetensors")
    starts = []
    monkeypatch.setattr(ConsoleProgress, "on_start", lambda self, update, updates: starts.append((update, updates)))
    train(resume=True)
    assert starts == [(start, 4)]
