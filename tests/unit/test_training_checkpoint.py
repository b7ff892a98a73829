"""Checkpoints are whole or not there; the newest K scheduled ones are kept."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil

import pytest
import torch

from freerun.errors import RunError
from freerun.training import checkpoint as module
from freerun.training.checkpoint import Checkpoint, Checkpoints, Damaged, serialised

FILES = ["model.safetensors", "optimizer.safetensors", "strategy.safetensors", "state.json"]


def checkpoint(value=0.0, **state):
    """As training writes it: ``value`` is the update as well, unless said otherwise."""
    tensors = {"b": torch.full((2, 3), value), "a": torch.tensor(value)}
    own = {"accuracy": torch.tensor(value, dtype=torch.float64)}
    return Checkpoint(tensors, {"b/step": torch.tensor(value)}, own, {"update": int(value), "best_sha256": "", **state})


def saved(tmp_path, *updates, keep=3, unscheduled=()):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep)
    for update in updates:
        checkpoints.save(update, checkpoint(float(update)), update not in unscheduled)
    return checkpoints


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {"figures": {"z": [0.1 + 0.2, 3], "a": [1.0, 0.0]}, "nothing": None}
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    checkpoints.save(7, checkpoint(1 / 3, update=7, **state))
    found = checkpoints.load(7)
    assert torch.equal(found.model["b"], torch.full((2, 3), 1 / 3))
    assert found.model["a"].shape == ()
    assert torch.equal(found.optimizer["b/step"], torch.tensor(1 / 3))
    assert found.strategy["accuracy"].item() == 1 / 3
    assert found.state == {"update": 7, "best_sha256": "", **state, "scheduled": True}
    assert found.is_verified
    assert list(found.state["figures"]) == ["z", "a"]  # the journal writes them in this order


def test_equal_tensors_give_equal_bytes_whatever_their_layout():
    values = torch.arange(6.0).reshape(2, 3)
    assert serialised({"w": values}) == serialised({"w": values.t().contiguous().t()})
    assert serialised({"w": values.clone().requires_grad_()}) == serialised({"w": values})


def test_the_newest_k_are_kept(tmp_path):
    checkpoints = saved(tmp_path, 10, 20, 30, 40, 50, keep=2)
    assert checkpoints.updates() == [40, 50]
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == ["update-00000040", "update-00000050"]


def test_updates_are_in_the_order_of_their_numbers(tmp_path):
    assert saved(tmp_path, 999_999_990, 9, 1_000_000_000, 123_456_789_012, keep=9).updates() == [
        9,
        999_999_990,
        1_000_000_000,
        123_456_789_012,
    ]


def test_an_unscheduled_checkpoint_changes_nothing_for_the_scheduled_ones(tmp_path):
    checkpoints = saved(tmp_path, 10, 20, 23, keep=2, unscheduled=[23])
    assert checkpoints.updates() == [10, 20, 23]
    assert checkpoints.scheduled() == [10, 20]
    checkpoints.save(30, checkpoint(30.0))
    assert checkpoints.updates() == checkpoints.scheduled() == [20, 30]


def test_a_scheduled_checkpoint_takes_the_place_of_an_unscheduled_one(tmp_path):
    checkpoints = saved(tmp_path, 20, unscheduled=[20])
    checkpoints.save(20, checkpoint(2.0, update=20))
    assert checkpoints.scheduled() == [20]
    assert checkpoints.load(20).model["a"] == 2.0


def test_a_run_that_has_not_begun_has_no_checkpoints(tmp_path):
    assert Checkpoints(tmp_path / "none", 1).updates() == []


def test_a_manifest_has_the_update_and_the_hash_of_each_file(tmp_path):
    checkpoints = saved(tmp_path, 10)
    folder = checkpoints.path(10)
    assert json.loads((folder / "manifest.json").read_text()) == {
        "version": 1,
        "update": 10,
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    written = []
    write = module.write_atomic
    monkeypatch.setattr(module, "write_atomic", lambda path, data: written.append(path.name) or write(path, data))
    saved(tmp_path, 10)
    assert written == [*FILES, "manifest.json"]


def test_other_files_in_the_folder_are_no_checkpoints(tmp_path):
    checkpoints = saved(tmp_path, 10)
    for name in (".update-00000020.abcd", "update-00000030.old", "update-1", "notes"):
        (checkpoints.directory / name).mkdir()
    assert checkpoints.updates() == [10]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
def test_a_full_disk_leaves_the_last_good_one_and_says_so(tmp_path, monkeypatch, call):
    checkpoints = saved(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(RunError) as error:
            checkpoints.save(20, checkpoint(20.0))
    assert str(error.value) == (
        f"{checkpoints.directory / 'update-00000020'}: this checkpoint could not be written (No space left on device); "
        "the one of update 10 is unchanged. Expected enough disk space and permission to write. Free disk "
        "space, then rerun with --resume."
    )
    assert [path.name for path in checkpoints.directory.iterdir()] == ["update-00000010"]
    assert checkpoints.load(10).model["a"] == 10.0


@pytest.mark.parametrize("writes", range(5))
def test_a_disk_that_fills_up_at_any_file_leaves_no_half_checkpoint(tmp_path, monkeypatch, writes):
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    fsync, calls = os.fsync, []

    def sometimes(handle):
        calls.append(handle)
        return full() if len(calls) > writes else fsync(handle)

    monkeypatch.setattr(os, "fsync", sometimes)
    with pytest.raises(RunError, match="there is none before it"):
        checkpoints.save(20, checkpoint(20.0))
    assert list(checkpoints.directory.iterdir()) == []


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 10, unscheduled=[10])
    replace = os.replace
    whole = checkpoints.directory / "update-00000010"
    monkeypatch.setattr(
        os, "replace", lambda a, b: full() if (b == whole and not str(a).endswith(".old")) else replace(a, b)
    )
    with pytest.raises(RunError, match="the one of update 10 is unchanged"):
        checkpoints.save(10, checkpoint(99.0, update=10))
    assert checkpoints.load(10).model["a"] == 10.0


def flip(path, bit=-1):
    """Change one bit: the last one, or that of this number."""
    content = bytearray(path.read_bytes())
    byte = bit // 8 % len(content)
    content[byte] ^= 1 << bit % 8
    path.write_bytes(content)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "a bit": flip,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "another kind": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told(tmp_path, name, damage):
    checkpoints = saved(tmp_path, 10)
    DAMAGE[damage](checkpoints.path(10) / name)
    if (name, damage) == ("manifest.json", "longer"):
        assert checkpoints.load(10).is_verified  # a space at the end changes nothing that it says
        return
    with pytest.raises(Damaged) as error:
        checkpoints.load(10)
    assert error.value.where == str(checkpoints.path(10))
    assert error.value.what.startswith("this checkpoint is damaged (")
    assert error.value.expected.endswith(
        "strategy.safetensors, state.json, manifest.json as they were written together"
    )
    assert error.value.fix == "Put them back, or remove this directory to continue from the checkpoint before it"


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_file_of_another_checkpoint_is_told(tmp_path, name):
    checkpoints = saved(tmp_path, 10, 20)
    shutil.copyfile(checkpoints.path(10) / name, checkpoints.path(20) / name)
    with pytest.raises(
        Damaged, match=r"state.json is of update 10, not 20" if name == "state.json" else "manifest.json: the SHA"
    ):
        checkpoints.load(20)


def test_the_damaged_file_is_named(tmp_path):
    checkpoints = saved(tmp_path, 10)
    flip(checkpoints.path(10) / "optimizer.safetensors")
    with pytest.raises(Damaged, match=r"\(manifest\.json: the SHA-256 of optimizer\.safetensors differs\)"):
        checkpoints.load(10)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"version": None}, {"update": 20}, {"update": "10"}, {"more": 1}, {"files": {}}, {"files": []}],
)
def test_a_manifest_that_says_something_else_is_told(tmp_path, change):
    checkpoints = saved(tmp_path, 10)
    path = checkpoints.path(10) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Damaged, match=r"manifest\.json: (unexpected content|the SHA-256 of )"):
        checkpoints.load(10)


def test_a_renamed_checkpoint_is_told(tmp_path):
    checkpoints = saved(tmp_path, 10)
    checkpoints.path(10).rename(checkpoints.path(30))
    with pytest.raises(Damaged, match=r"\(state.json is of update 10, not 30\)"):
        checkpoints.load(30)


def without_manifest(checkpoints, update, **state):
    """A checkpoint as earlier versions wrote it."""
    checkpoints.save(update, checkpoint(float(update)))
    path = checkpoints.path(update) / "state.json"
    path.write_text(json.dumps({"update": update, "scheduled": True, **state}))
    (checkpoints.path(update) / "manifest.json").unlink()


def test_a_checkpoint_of_an_earlier_version_is_loaded_unverified(tmp_path):
    checkpoints = saved(tmp_path)
    without_manifest(checkpoints, 10)
    found = checkpoints.load(10)
    assert (found.is_verified, found.model["a"].item()) == (False, 10.0)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_torn_checkpoint_of_an_earlier_version_is_told(tmp_path, name, damage):
    checkpoints = saved(tmp_path)
    without_manifest(checkpoints, 10)
    DAMAGE[damage](checkpoints.path(10) / name)
    with pytest.raises(Damaged):
        checkpoints.load(10)


def test_a_renamed_checkpoint_of_an_earlier_version_is_told(tmp_path):
    checkpoints = saved(tmp_path)
    without_manifest(checkpoints, 10)
    checkpoints.path(10).rename(checkpoints.path(30))
    with pytest.raises(Damaged, match=r"state\.json is of update 10, not 30"):
        checkpoints.load(30)


def test_removed_checkpoints_are_gone_and_the_others_stay(tmp_path):
    checkpoints = saved(tmp_path, 10, 20, 30)
    checkpoints.remove([10, 30, 40])
    assert checkpoints.updates() == [20]


def test_an_older_damaged_checkpoint_does_not_stop_a_run(tmp_path):
    checkpoints = saved(tmp_path, 10, 20)
    (checkpoints.directory / "update-00000010" / "state.json").unlink()
    checkpoints.save(30, checkpoint(30.0))
    assert checkpoints.scheduled() == [20, 30]
