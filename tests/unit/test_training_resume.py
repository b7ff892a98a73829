"""From which checkpoint a run resumes: whole, with its journal, and with the earlier ones that will be averaged."""

from __future__ import annotations

import json

import pytest
import torch

from freerun.errors import RunError
from freerun.training.checkpoint import Checkpoint, Checkpoints
from freerun.training.journal import Journal
from freerun.training.resume import choose_checkpoint
from freerun.training.settings import TrainerSettings

EVERY_TWO = {"updates": 12, "checkpoint_every": 2, "evaluate_every": 4, "patience": 0}


class Run:
    """Checkpoints and the journal of a run, evaluated at every fourth update, with an average of the last three."""

    def __init__(self, folder, *updates, unscheduled=(), stale=0, keep=9, **settings):
        self.checkpoints = Checkpoints(folder / "checkpoints", keep)
        self.journal = Journal(folder / "journal.jsonl")
        self.settings = TrainerSettings(**{**EVERY_TWO, "average": 3, **settings})
        for update in updates:
            if update not in unscheduled:
                self.journal.write("checkpoint", update)
            size = self.journal.size()
            state = {
                "update": update,
                "evaluated": (self.settings.evaluate_every and update // 4 * 4) or -1,
                "stale": stale,
                "best_sha256": "",
                "journal_size": size,
                "journal_sha256": self.journal.hash(size),
            }
            saved = Checkpoint({"w": torch.tensor(float(update))}, {}, {}, state)
            self.checkpoints.save(update, saved, update not in unscheduled)

    def damage(self, *updates):
        """Change the weights of these checkpoints."""
        for update in updates:
            path = self.checkpoints.path(update) / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        return self

    def choose(self):
        return choose_checkpoint(self.checkpoints, self.journal, self.settings)

    def update(self):
        return self.choose().update


def test_a_run_without_checkpoints_begins_at_the_beginning(tmp_path):
    assert Run(tmp_path).choose() is None


def test_a_whole_run_resumes_from_its_newest_checkpoint_without_a_word(tmp_path):
    found = Run(tmp_path, 4, 6, 8, 9, unscheduled=[9]).choose()
    assert (found.update, found.checkpoint.model["w"].item(), found.discarded, found.notices) == (9, 9.0, (), ())


def test_damaged_checkpoints_are_named_and_to_be_removed(tmp_path):
    run = Run(tmp_path, 2, 4, 6, 8, average=0).damage(4, 8)
    found = run.choose()
    assert (found.update, sorted(found.discarded)) == (6, [4, 8])
    assert found.notices[0] == (
        f"{run.checkpoints.path(4)}: this checkpoint is damaged (manifest.json: the SHA-256 of model.safetensors "
        "differs). Skipped and removed."
    )
    assert run.checkpoints.updates() == [2, 4, 6, 8]  # nothing is removed before the run is resumed


def test_if_none_can_be_used_each_is_named_with_its_reason(tmp_path):
    run = Run(tmp_path, 4, 6).damage(4, 6)
    with pytest.raises(RunError) as error:
        run.choose()
    damaged = "this checkpoint is damaged (manifest.json: the SHA-256 of model.safetensors differs)"
    assert str(error.value) == (
        f"{tmp_path / 'checkpoints'}: no checkpoint is usable: update 4: {damaged}; update 6: {damaged}. "
        "Expected checkpoints and a journal as this run wrote them. Put the files back, or remove this directory to "
        "start the run from the beginning."
    )
    assert run.checkpoints.updates() == [4, 6]


# -------------------------------------------------------------------------------------------------------- the journal


def test_a_journal_that_changed_after_a_checkpoint_is_cut_back_there(tmp_path):
    run = Run(tmp_path, 4, 6, average=0)
    lines = run.journal.path.read_bytes().splitlines(keepends=True)
    run.journal.path.write_bytes(lines[0] + lines[1].replace(b"6", b"7"))
    found = run.choose()
    assert (found.update, found.discarded) == (4, (6,))
    assert "the part of journal.jsonl before this checkpoint has changed. Skipped and removed." in found.notices[0]


@pytest.mark.parametrize("content", [b'{"event": "checkpoint", "update": 5}\n', b"", b"\x00"])
def test_a_journal_that_changed_before_all_checkpoints_is_rejected(tmp_path, content):
    run = Run(tmp_path, 4, 6)
    run.journal.path.write_bytes(content)
    with pytest.raises(RunError, match=r"update 4: the part of journal\.jsonl before .* changed; update 6: the part"):
        run.choose()


def test_a_missing_journal_is_told(tmp_path):
    run = Run(tmp_path, 4)
    run.journal.path.unlink()
    with pytest.raises(RunError, match=r"journal\.jsonl: the journal cannot be read \(No such file or directory\)"):
        run.choose()


def test_what_the_journal_has_after_the_checkpoint_is_no_matter(tmp_path):
    run = Run(tmp_path, 4, 6)
    with run.journal.path.open("ab") as file:
        file.write(b'{"event": "check')
    assert run.update() == 6


# ---------------------------------------------------------------------------------------------------------- averaging


@pytest.mark.parametrize(
    ("damaged", "resumed"),
    [
        ((8,), 6),  # averaged with 10 and 12: written again
        ((10,), 8),
        ((6,), 12),  # not averaged
        ((8, 10), 6),
        ((8, 12), 6),
    ],
)
def test_at_the_end_the_last_three_have_to_be_whole(tmp_path, damaged, resumed):
    assert Run(tmp_path, 4, 6, 8, 10, 12).damage(*damaged).update() == resumed


def test_a_checkpoint_that_is_averaged_may_not_be_missing_either(tmp_path):
    run = Run(tmp_path, 4, 6, 8, 10, 12)
    run.checkpoints.remove([8])
    found = run.choose()
    assert (found.update, sorted(found.discarded)) == (6, [10, 12])
    assert found.notices[0].endswith(
        "update-00000012: the checkpoint of update 8 is missing or damaged, and may be averaged at the end. "
        "Skipped and removed."
    )


def test_without_an_earlier_one_to_go_back_to_the_run_is_rejected_now_and_not_at_its_end(tmp_path):
    run = Run(tmp_path, 8, 10, 12).damage(8)
    with pytest.raises(RunError, match=r"update 12: the checkpoint of update 8 is missing or damaged, and may be aver"):
        run.choose()


@pytest.mark.parametrize(
    ("updates", "damaged", "resumed"),
    [((4, 6, 8), 6, 8), ((4, 6, 8), 4, 8), ((4, 6, 8, 10), 8, 6), ((4, 6, 8, 10), 6, 10), ((6, 8, 9), 6, 9)],
)
def test_checkpoints_that_are_still_to_come_are_averaged_first(tmp_path, updates, damaged, resumed):
    """After update 8 come 10 and 12; after update 10 only 12, so that 8 is averaged with them."""
    assert Run(tmp_path, *updates, unscheduled=[9]).damage(damaged).update() == resumed


@pytest.mark.parametrize(("stale", "resumed"), [(0, 10), (1, 6), (2, 6)])
def test_patience_may_end_the_run_at_the_next_evaluation_or_now(tmp_path, stale, resumed):
    """With evaluations at every fourth update: at 12 if one more is without improvement, at 10 if none is left."""
    run = Run(tmp_path, 4, 6, 8, 10, stale=stale, updates=99, patience=2).damage(8)
    assert run.update() == resumed


def test_a_run_that_goes_on_for_long_needs_no_earlier_checkpoint(tmp_path):
    assert Run(tmp_path, 8, 10, updates=10**9).damage(8).update() == 10


@pytest.mark.parametrize("average", [0, 1])
def test_without_an_average_no_earlier_checkpoint_is_needed(tmp_path, average):
    assert Run(tmp_path, 8, 10, 12, average=average).damage(8, 10).update() == 12


def test_a_run_shorter_than_the_average_needs_what_it_has(tmp_path):
    assert Run(tmp_path, 2, 4, updates=4).update() == 4
    (tmp_path / "damaged").mkdir()
    assert Run(tmp_path / "damaged", 2, 4, updates=5, evaluate_every=0, average=2).damage(2).update() == 4


def test_an_evaluation_that_was_stopped_is_still_to_come(tmp_path):
    """The checkpoint of update 12 was written by a signal, in the evaluation at 12, which comes again."""
    run = Run(tmp_path, 6, 8, 10, 12, unscheduled=[12], average=2)
    path = run.checkpoints.path(12)
    state = {**run.checkpoints.load(12).state, "evaluated": 8}
    run.checkpoints.save(12, Checkpoint({"w": torch.tensor(12.0)}, {}, {}, state), scheduled=False)
    assert json.loads((path / "state.json").read_text())["evaluated"] == 8
    assert run.damage(8).update() == 12
    assert run.damage(10).update() == 6


# --------------------------------------------------------------------------------------------------- earlier versions


def test_a_checkpoint_without_hashes_is_resumed_from_with_a_notice(tmp_path):
    run = Run(tmp_path, 4, average=0)
    path = run.checkpoints.path(4)
    state = json.loads((path / "state.json").read_text())
    del state["best_sha256"], state["journal_sha256"]
    (path / "state.json").write_text(json.dumps(state))
    (path / "manifest.json").unlink()
    found = run.choose()
    assert (found.update, found.discarded) == (4, ())
    assert found.notices == (
        f"{path}: an earlier version wrote this checkpoint without hashes, so damage would go unnoticed.",
    )
