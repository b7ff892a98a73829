"""Checkpoints are whole or not there; the newest K scheduled ones are kept."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from freerun.errors import RunError
from freerun.training.checkpoint import Checkpoint, Checkpoints, serialised


def checkpoint(value=0.0, **state):
    tensors = {"b": torch.full((2, 3), value), "a": torch.tensor(value)}
    own = {"accuracy": torch.tensor(value, dtype=torch.float64)}
    return Checkpoint(tensors, {"b/step": torch.tensor(value)}, own, {"update": 1, **state})


def saved(tmp_path, *updates, keep=3, unscheduled=()):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep)
    for update in updates:
        checkpoints.save(update, checkpoint(float(update)), update not in unscheduled)
    return checkpoints


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {"figures": {"z": [0.1 + 0.2, 3], "a": [1.0, 0.0]}, "nothing": None}
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    checkpoints.save(7, checkpoint(1 / 3, **state))
    found = checkpoints.load(7)
    assert torch.equal(found.model["b"], torch.full((2, 3), 1 / 3))
    assert found.model["a"].shape == ()
    assert torch.equal(found.optimizer["b/step"], torch.tensor(1 / 3))
    assert found.strategy["accuracy"].item() == 1 / 3
    assert found.state == {"update": 1, **state, "scheduled": True}
    assert list(found.state["figures"]) == ["z", "a"]  # the journal writes them in this order


def test_equal_tensors_give_equal_bytes_whatever_their_layout():
    values = torch.arange(6.0).reshape(2, 3)
    assert serialised({"w": values}) == serialised({"w": values.t().contiguous().t()})
    assert serialised({"w": values.clone().requires_grad_()}) == serialised({"w": values})


def test_the_newest_k_are_kept(tmp_path):
    checkpoints = saved(tmp_path, 10, 20, 30, 40, 50, keep=2)
    assert checkpoints.updates() == [40, 50]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["update-00000040", "update-00000050"]


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
    checkpoints.save(20, checkpoint(2.0))
    assert checkpoints.scheduled() == [20]
    assert checkpoints.load(20).model["a"] == 2.0


def test_newest_is_the_last_of_the_updates(tmp_path):
    checkpoints = saved(tmp_path, 10, 20)
    assert checkpoints.newest(checkpoints.updates()).model["a"] == 20.0
    assert checkpoints.newest([]) is None
    assert Checkpoints(tmp_path / "none", 1).updates() == []


def test_other_files_in_the_folder_are_no_checkpoints(tmp_path):
    checkpoints = saved(tmp_path, 10)
    for name in (".update-00000020.abcd", "update-00000030.old", "update-1", "notes"):
        (checkpoints.folder / name).mkdir()
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
        f"{checkpoints.folder / 'update-00000020'}: this checkpoint could not be written (No space left on device); "
        "the one of update 10 is untouched. Expected room and permission to write. Make room, then go on with --resume."
    )
    assert [path.name for path in checkpoints.folder.iterdir()] == ["update-00000010"]
    assert checkpoints.load(10).model["a"] == 10.0


@pytest.mark.parametrize("writes", range(4))
def test_a_disk_that_fills_up_at_any_file_leaves_no_half_checkpoint(tmp_path, monkeypatch, writes):
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    fsync, calls = os.fsync, []

    def sometimes(handle):
        calls.append(handle)
        return full() if len(calls) > writes else fsync(handle)

    monkeypatch.setattr(os, "fsync", sometimes)
    with pytest.raises(RunError, match="there is none before it"):
        checkpoints.save(20, checkpoint(20.0))
    assert list(checkpoints.folder.iterdir()) == []


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 10, unscheduled=[10])
    replace = os.replace
    whole = checkpoints.folder / "update-00000010"
    monkeypatch.setattr(
        os, "replace", lambda a, b: full() if (b == whole and not str(a).endswith(".old")) else replace(a, b)
    )
    with pytest.raises(RunError, match="the one of update 10 is untouched"):
        checkpoints.save(10, checkpoint(99.0))
    assert checkpoints.load(10).model["a"] == 10.0


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "strategy.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_checkpoint_is_told(tmp_path, name, damage):
    checkpoints = saved(tmp_path, 10)
    path = checkpoints.folder / "update-00000010" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"update-00000010: this checkpoint cannot be read .*Remove the folder"):
        checkpoints.load(10)


def test_a_state_that_is_no_object_is_told(tmp_path):
    checkpoints = saved(tmp_path, 10)
    (checkpoints.folder / "update-00000010" / "state.json").write_text("[]")
    with pytest.raises(RunError, match="not a JSON object"):
        checkpoints.load(10)


def test_an_older_damaged_checkpoint_does_not_stop_a_run(tmp_path):
    checkpoints = saved(tmp_path, 10, 20)
    (checkpoints.folder / "update-00000010" / "state.json").unlink()
    checkpoints.save(30, checkpoint(30.0))
    assert checkpoints.scheduled() == [20, 30]
