"""Tuning, with trainings that only write what the tuner reads."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest
import tomli_w

from freerun.config import flatten, override, read_toml
from freerun.data.memory_pairs import pairs_in_memory
from freerun.errors import ConfigError, Interrupted, RunError, TrainingError, UserError
from freerun.experiment.request import TrainRequest
from freerun.experiment.result import TrainResult
from freerun.studies import tuner as module
from freerun.studies.trials import Trial, TrialJournal, ranked
from freerun.studies.tuner import Tuner, TuningPlan
from tests.unit.test_studies_search_space import RECIPE


class FakeTraining:
    """Writes a run directory; the symbol error rate is the dropout, and a training takes some seconds of a clock."""

    def __init__(self, monkeypatch, seconds=10.0, outcomes=None):
        self.requests: list[TrainRequest] = []
        self.seconds = seconds
        self.outcomes = outcomes or {}
        self.now = 1000.0
        self.hash = "a"
        self.source_tokens = "char"
        self.recipe = {name: dict(section) for name, section in RECIPE.items()}
        self.pairs = None
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def __call__(self, request):
        self.requests.append(request)
        self.now += self.seconds
        number = int(request.out.name)
        outcome = self.outcomes.get(number)
        if isinstance(outcome, Exception) and not isinstance(outcome, Interrupted):
            raise outcome
        data = {"train": str(self.pairs or request.pairs), "source_tokens": self.source_tokens}
        raw = {"data": data, **{name: dict(section) for name, section in self.recipe.items()}}
        for setting in request.settings:
            key, value = setting.split("=")
            raw = override(raw, key.split("."), json.loads(value), "test")
        request.out.mkdir(parents=True, exist_ok=True)
        (request.out / "config.toml").write_text(tomli_w.dumps(raw))
        (request.out / "journal.jsonl").write_text(
            json.dumps({"event": "start", "update": 0, "train_sha256": self.hash}) + "\n"
        )
        if isinstance(outcome, Interrupted | KeyboardInterrupt):
            raise outcome
        for part in ("best", "last", "checkpoints", "tensorboard"):
            (request.out / part).mkdir(exist_ok=True)
        (request.out / "dev.tsv").write_text("held out")
        value = raw["model"]["dropout"] if outcome is None else outcome
        metrics = {"symbol_error_rate.free": None if value == "undefined" else value}
        return TrainResult(request.out, metrics, 100, 50)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tb\n")
    return path


def plan_of(pairs, minutes=4.0, trials=4, directory=None, **training):
    directory = directory or pairs.parent / "tuning"
    directory.mkdir(exist_ok=True)
    request = TrainRequest(source=pairs, **training)
    return TuningPlan(training=request, directory=directory, minutes=minutes, trials=trials, started=time.monotonic())


def test_every_trial_gets_the_same_share_and_the_first_is_the_recipe(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, seconds=60)
    best = Tuner(plan_of(pairs, minutes=4, trials=4, settings=("model.num_layers=1",), seed=3), train).run()
    assert [request.minutes for request in train.requests] == [1.0] * 4
    assert all(not request.resume and request.seed == 3 for request in train.requests)
    assert train.requests[0].settings == ("model.num_layers=1",)
    for request in train.requests[1:]:
        assert request.settings[0] == "model.num_layers=1"
        assert any(setting.startswith("model.dropout=") for setting in request.settings)
        assert not any(setting.startswith("model.num_layers=") for setting in request.settings[1:])
    journal = TrialJournal(pairs.parent / "tuning" / "trials.jsonl")
    assert best == min(journal.trials, key=lambda trial: trial.value)
    assert [trial.seconds for trial in journal.trials] == [60.0] * 4
    assert journal.seconds == 240


def test_time_that_trials_leave_goes_to_more_trials(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, seconds=20)
    Tuner(plan_of(pairs, minutes=4, trials=4), train).run()
    # after ten trials 40 of 240 seconds are left, less than a share
    assert len(train.requests) == 10


def test_of_all_but_the_best_only_configuration_and_journal_remain(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, seconds=60, outcomes={0: 0.5, 1: 0.2, 2: 0.3, 3: 0.25})
    tuner = Tuner(plan_of(pairs), train)
    assert tuner.run().number == 1
    for number in range(4):
        names = {path.name for path in tuner.directory_of(number).iterdir()}
        others = {"best", "last", "checkpoints", "tensorboard", "dev.tsv"} if number == 1 else set()
        assert names == {"config.toml", "journal.jsonl"} | others
    best = pairs.parent / "tuning" / "best.toml"
    assert best.read_text().startswith("# The best of 4 trials, trial 1: symbol_error_rate.free 0.2000 on the dev")
    assert read_toml(best) == read_toml(tuner.directory_of(1) / "config.toml")
    for request in train.requests[1:2]:
        chosen = flatten(read_toml(best))
        assert all(json.loads(value) == chosen[key] for key, value in (each.split("=") for each in request.settings))


def test_of_equal_trials_the_earlier_one_is_best(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, seconds=60, outcomes={0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5})
    assert Tuner(plan_of(pairs), train).run().number == 0


def test_a_stopped_tuning_goes_on_as_if_it_had_not_been_stopped(monkeypatch, pairs, tmp_path):
    undisturbed = FakeTraining(monkeypatch, seconds=60)
    expected = Tuner(plan_of(pairs, directory=tmp_path / "whole"), undisturbed)
    expected.run()

    stopped = FakeTraining(monkeypatch, seconds=30, outcomes={2: Interrupted(15)})
    with pytest.raises(Interrupted):
        Tuner(plan_of(pairs), stopped).run()
    resumed = FakeTraining(monkeypatch, seconds=60)
    tuner = Tuner(plan_of(pairs, minutes=4), resumed)
    tuner.run()
    assert resumed.requests[0].resume and resumed.requests[0].minutes is None
    assert not resumed.requests[1].resume
    assert [trial.settings for trial in tuner.trials[:4]] == [trial.settings for trial in expected.trials]
    assert [trial.value for trial in tuner.trials[:4]] == [trial.value for trial in expected.trials]
    # 30 + 30 + 30 seconds of the first part count, the last of them for the trial that was stopped
    assert tuner.journal.seconds == 90 + 60 * len(resumed.requests)
    assert [trial.seconds for trial in tuner.trials[:4]] == [30, 30, 90, 60]
    assert 240 - 60 < tuner.journal.seconds <= 240

    after = FakeTraining(monkeypatch, seconds=60)
    assert Tuner(plan_of(pairs), after).run() == tuner.best
    assert after.requests == []


@pytest.mark.parametrize("stop", [Interrupted(15), KeyboardInterrupt()])
def test_a_trial_that_was_begun_is_finished_however_much_time_is_left(monkeypatch, pairs, stop):
    train = FakeTraining(monkeypatch, seconds=58, outcomes={3: stop})
    with pytest.raises(type(stop)):
        Tuner(plan_of(pairs), train).run()
    resumed = FakeTraining(monkeypatch, seconds=60)
    tuner = Tuner(plan_of(pairs), resumed)
    tuner.run()
    assert [request.out.name for request in resumed.requests] == ["0003"]
    assert tuner.trials[3].seconds == 118


def test_what_a_killed_process_left_undone_is_done(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, seconds=60, outcomes={0: 0.5, 1: 0.4, 2: 0.3, 3: 0.2})
    with monkeypatch.context() as patched:
        patched.setattr(Tuner, "_keep_the_best", lambda _: None)
        Tuner(plan_of(pairs), train).run()
    again = FakeTraining(monkeypatch, seconds=60)
    tuner = Tuner(plan_of(pairs), again)
    assert tuner.run().number == 3 and not again.requests
    assert "trial 3: symbol_error_rate.free 0.2000" in (pairs.parent / "tuning" / "best.toml").read_text()
    assert not (tuner.directory_of(2) / "best").exists()


def test_a_mistake_leaves_nothing_behind(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, outcomes={0: ConfigError.single("data.train", "not found")})
    with pytest.raises(ConfigError):
        Tuner(plan_of(pairs), train).run()
    assert list((pairs.parent / "tuning").iterdir()) == []


def test_settings_that_cannot_be_trained_are_a_result(monkeypatch, pairs, caplog):
    broken = {1: TrainingError("update 3", "the loss is nan"), 2: ConfigError.single("model", "too large")}
    train = FakeTraining(monkeypatch, seconds=60, outcomes={**broken, 3: "undefined"})
    with caplog.at_level("INFO", "freerun"):
        assert Tuner(plan_of(pairs), train).run().number == 0
    journal = TrialJournal(pairs.parent / "tuning" / "trials.jsonl")
    failures = [trial.failed for trial in journal.trials]
    assert failures == [
        None,
        "update 3: the loss is nan.",
        "model: too large.",
        "symbol_error_rate.free is undefined",
    ]
    assert "Trial 1 failed: update 3: the loss is nan." in caplog.messages
    assert [trial.number for trial in ranked(journal.trials, False)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (TrainingError("update 3", "the loss is nan"), r"^update 3: the loss is nan\.$"),
        ("undefined", "symbol_error_rate.free is undefined. Expected a metric to tune. Use other development pairs"),
        (
            ConfigError.single("minutes", "1 minutes are not enough", "Expected 3 or more for this data", "Raise it"),
            r"^minutes: 4 minutes for 4 trials: 1 minutes are not enough\. Expected 3 or more for this data, for each",
        ),
    ],
)
def test_without_a_first_trial_there_is_no_tuning(monkeypatch, pairs, outcome, message):
    train = FakeTraining(monkeypatch, outcomes={0: outcome})
    with pytest.raises(UserError, match=message):
        Tuner(plan_of(pairs), train).run()


def test_after_too_few_minutes_more_can_be_given(monkeypatch, pairs):
    few = ConfigError.single("minutes", "too few", "Expected 3 or more", "Raise it")
    train = FakeTraining(monkeypatch, outcomes={0: few})
    with pytest.raises(UserError):
        Tuner(plan_of(pairs), train).run()
    train = FakeTraining(monkeypatch, seconds=600)
    Tuner(plan_of(pairs, minutes=20), train).run()
    assert train.requests[0].minutes == 5


def test_other_problems_end_it(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, outcomes={2: RunError("x", "disk full")})
    with pytest.raises(RunError, match="disk full"):
        Tuner(plan_of(pairs), train).run()
    assert len(TrialJournal(pairs.parent / "tuning" / "trials.jsonl").trials) == 2


def test_changed_pairs_are_noticed(monkeypatch, pairs):
    train = FakeTraining(monkeypatch)

    def changing(request):
        train.hash = "b" if request.out.name == "0002" else "a"
        return train(request)

    with pytest.raises(RunError, match="the pairs have changed between trial 0 and trial 2"):
        Tuner(plan_of(pairs), changing).run()


@pytest.mark.parametrize("change", [{"minutes": 5.0}, {"trials": 3}, {"seed": 2}, {"settings": ("model.cell=gru",)}])
def test_other_arguments_are_another_tuning(monkeypatch, pairs, change):
    train = FakeTraining(monkeypatch, seconds=60)
    Tuner(plan_of(pairs), train).run()
    with pytest.raises(RunError, match=f"a tuning with other arguments: {next(iter(change))} was .*, now "):
        Tuner(plan_of(pairs, **change), train)


def test_a_directory_with_other_content_is_left_alone(monkeypatch, pairs):
    (pairs.parent / "tuning").mkdir()
    (pairs.parent / "tuning" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and contains no tuning"):
        Tuner(plan_of(pairs), FakeTraining(monkeypatch))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"event": "start"}\n{"event": "trial"}', '{"event": "trial"}', "\xff", "{" * 9999]
)
def test_a_damaged_journal_is_an_error(pairs, content):
    (pairs.parent / "trials.jsonl").write_text(content, "latin-1")
    with pytest.raises(RunError, match="this journal cannot be read"):
        TrialJournal(pairs.parent / "trials.jsonl")


def test_a_gap_in_the_journal_is_an_error(tmp_path):
    journal = TrialJournal(tmp_path / "trials.jsonl")
    journal.begin({})
    journal.add(Trial(number=0, settings={}, value=1.0))
    journal.add(Trial(number=2, settings={}, value=1.0))
    with pytest.raises(RunError, match="not numbered from 0"):
        TrialJournal(tmp_path / "trials.jsonl")


@pytest.mark.parametrize("setting", ["training.updates=5", "training.epochs=2"])
def test_a_length_contradicts_the_minutes(monkeypatch, pairs, setting):
    with pytest.raises(ConfigError, match=f"^{setting[:-2]}: the length of a training is set.* Leave it out") as found:
        Tuner(plan_of(pairs, settings=(setting,)), FakeTraining(monkeypatch))
    assert "Raise --minutes" not in str(found.value)


@pytest.mark.parametrize(
    ("minutes", "trials", "message"),
    [
        (0.05, 2, "^minutes: "),
        (4.0, 1, "^trials: "),
        (1.0, 100, r"^minutes: 1 minutes for 100 trials are 0\.6 seconds each\. Expected 6 seconds or more"),
    ],
)
def test_plans_out_of_range(monkeypatch, pairs, minutes, trials, message):
    with pytest.raises(UserError, match=message):
        Tuner(plan_of(pairs, minutes, trials), FakeTraining(monkeypatch))


def test_a_configuration_is_not_tuned(monkeypatch, tmp_path):
    (tmp_path / "c.toml").write_text("")
    with pytest.raises(ConfigError, match="Expected pairs: what is tuned are the settings that freerun train PAIRS"):
        Tuner(plan_of(tmp_path / "c.toml"), FakeTraining(monkeypatch))


def test_a_pipe_is_rejected_and_pairs_in_memory_are_not(monkeypatch, tmp_path, pairs):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe, which can be read only once"):
        Tuner(plan_of(pairs, dev=tmp_path / "pipe"), FakeTraining(monkeypatch))
    train = FakeTraining(monkeypatch, seconds=60)
    memory = pairs_in_memory("source", [("a", "b")])
    plan = TuningPlan(
        training=TrainRequest(source=memory), directory=tmp_path / "t", minutes=4, trials=4, started=train.now
    )
    plan.directory.mkdir()
    tuner = Tuner(plan, train)
    tuner.run()
    assert len(tuner.journal.plan["pairs"]) == 64


def test_notices_of_later_trials_are_left_out_and_their_warnings_are_not(monkeypatch, pairs, caplog):
    inner = FakeTraining(monkeypatch, seconds=60)

    def train(request):
        module.log.info("a notice")
        module.log.warning("a warning")
        return inner(request)

    with caplog.at_level("INFO", "freerun"):
        Tuner(plan_of(pairs), train).run()
    assert caplog.messages.count("a notice") == 1
    assert caplog.messages.count("a warning") == 4
    assert sum(message.startswith("Trial ") for message in caplog.messages) == 7


def test_later_trials_keep_the_rest_of_the_first_ones_recipe(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, seconds=60)
    train.recipe["model"]["tied_output"] = True
    Tuner(plan_of(pairs, minutes=2, trials=2, settings=("model.dropout=0.5",)), train).run()
    first, second = (dict(setting.split("=") for setting in request.settings) for request in train.requests)
    assert first == {"model.dropout": "0.5"}
    assert (second["model.tied_output"], second["model.dropout"]) == ("true", "0.5")
    assert second["training.batch_size"] in ("16", "32", "64")
    names = [setting.partition("=")[0] for setting in train.requests[1].settings]
    assert len(names) == len(set(names))


KOREAN, FRENCH = "\uac00\tk a\n", "e\u0301te\u0301\te t e\n"
"""A syllable that consists of two letters, and accents that are written apart."""


@pytest.mark.parametrize("line", [KOREAN, FRENCH])
def test_sources_whose_characters_consist_of_others_are_tried_in_both_forms(monkeypatch, pairs, line):
    pairs.write_text("a\tb\n" + line)
    train = FakeTraining(monkeypatch, seconds=10)
    Tuner(plan_of(pairs, minutes=4, trials=4), train).run()
    tried = [dict(setting.split("=") for setting in request.settings) for request in train.requests[1:]]
    assert {each["data.normalisation.source"] for each in tried} == {'"NFC"', '"NFD"'}
    assert {each["data.normalisation.target"] for each in tried} == {'"NFC"'}


@pytest.mark.parametrize(
    ("line", "tokens", "settings"),
    [
        ("a\t\uac00\n", "char", ()),  # only a target
        (KOREAN, "whitespace", ()),
        (KOREAN, "char", ('data.normalisation="NFC"',)),
        (KOREAN, "char", ('data.normalisation="NFKC"',)),
        (KOREAN, "char", ("data.shared_vocabulary=true",)),
    ],
)
def test_forms_that_make_no_difference_or_are_set_are_not_tuned(monkeypatch, pairs, line, tokens, settings):
    pairs.write_text("a\tb\n" + line)
    train = FakeTraining(monkeypatch, seconds=60)
    train.source_tokens = tokens
    tuner = Tuner(plan_of(pairs, minutes=2, trials=2, settings=settings), train)
    tuner.run()
    assert "data.normalisation.source" not in tuner.space.ranges


def test_pairs_in_memory_are_read_for_their_forms(monkeypatch, pairs):
    train = FakeTraining(monkeypatch, seconds=60)
    train.pairs = pairs.parent / "gone.jsonl"
    given = pairs_in_memory("pairs", [("a", "b"), ("\uac00", "k a")])
    tuner = Tuner(replace(plan_of(pairs, minutes=2, trials=2), training=TrainRequest(source=given)), train)
    tuner.run()
    assert tuner.space.start["data.normalisation.source"] == "NFC"
