"""Devices in trainings, models and studies: what is refused, what is recorded, and what a full memory leaves behind."""

from __future__ import annotations

import json

import pytest
import torch

import freerun
from freerun.errors import ConfigError, RunError, TrainingError, UserError
from freerun.experiment import run as running
from freerun.experiment.origin import changed_device, device_of
from freerun.studies.plan import load_study
from freerun.training.learner import Learner

PAIRS = [("".join("abcdef"[(i * k) % 6] for k in range(1, 5)), "abcdef"[i % 6] * 3) for i in range(60)]
CONFIG = {
    "model": {"hidden_size": 8, "embedding_size": 8},
    "training": {"updates": 8, "batch_size": 8, "threads": 1, "checkpoint_every": 4},
    "evaluation": {"every": 0},
}


def train(out, **options):
    return freerun.train(PAIRS, config=CONFIG, out=out, **options)


def events(directory, name):
    lines = (directory / "journal.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def weights(directory):
    return (directory / "last" / "model.safetensors").read_bytes()


def test_a_gpu_that_is_not_there_is_an_error_before_anything_is_read(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"^training\.device: cuda is requested, but "):
        freerun.train(tmp_path / "missing.tsv", device="cuda", out=tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()
    for function in (freerun.load, freerun.evaluate, freerun.diagnose):
        with pytest.raises(ConfigError, match=r"^device: cuda:7 is requested, but "):
            function(tmp_path / "missing", device="cuda:7")
    with pytest.raises(ConfigError, match=r"^device: cuda is requested, but "):
        freerun.compare(tmp_path / "a", tmp_path / "b", PAIRS, device="cuda")
    with pytest.raises(ConfigError, match=r"^device: cuda is requested, but "):
        freerun.study(tmp_path / "missing.toml", device="cuda")


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:01", "cuda:12345", "cpu ", "cpu\n"])
def test_a_name_that_is_no_device(tmp_path, name):
    message = r'Expected "auto", "cpu", "cuda" or "cuda:N", counted from 0'
    with pytest.raises(ConfigError, match=message):
        freerun.load(tmp_path, device=name)
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", device=name)
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", settings=[f"training.device={json.dumps(name)}"])


def test_a_device_is_a_text(tmp_path):
    with pytest.raises(TypeError, match="device"):
        freerun.load(tmp_path, device=0)


@pytest.mark.parametrize(("option", "value"), [("runtime", "onnx"), ("precision", "int8")])
def test_a_gpu_runs_neither_onnxruntime_nor_int8(tmp_path, option, value):
    with pytest.raises(ConfigError) as caught:
        freerun.load(tmp_path, device="cuda", **{option: value})
    assert str(caught.value) == (
        f"device: cuda with {option} {value}. Expected torch in fp32 on a GPU. Omit {option} or the device."
    )


def test_a_device_does_not_apply_to_a_loaded_model(tmp_path):
    model = train(tmp_path / "run").model
    for call in (lambda: freerun.evaluate(model, PAIRS, device="auto"), lambda: freerun.diagnose(model, device="auto")):
        with pytest.raises(UserError, match="device: this option is given together with a loaded Predictor"):
            call()


def test_auto_is_the_cpu_where_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    directory = train(tmp_path / "run").directory
    model = freerun.load(directory, device="auto")
    assert model.predict("abc") == freerun.load(directory).predict("abc")
    assert events(directory, "start")[0]["device"] == "cpu"
    assert freerun.diagnose(directory, PAIRS, device="auto").summary == freerun.diagnose(directory, PAIRS).summary


def test_auto_leaves_an_export_without_weights_on_the_cpu(tmp_path, monkeypatch):
    directory = train(tmp_path / "run").directory
    freerun.export(directory, out=tmp_path / "export")
    expected = freerun.evaluate(tmp_path / "export", PAIRS).metrics
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert freerun.evaluate(tmp_path / "export", PAIRS, device="auto").metrics == expected
    assert freerun.load(tmp_path / "export", device="auto").predict("abc")
    assert freerun.compare(tmp_path / "export", tmp_path / "export", PAIRS, device="auto").differences


def test_a_run_may_be_resumed_with_another_name_of_its_device(tmp_path):
    directory = train(tmp_path / "run", device="cpu").directory
    longer = ["training.updates=12"]
    freerun.train(out=directory, resume=True, device="auto", settings=longer)
    assert events(directory, "stop")[-1]["update"] == 12
    assert "device" not in events(directory, "resume")[0]
    expected = freerun.train(PAIRS, config=CONFIG, settings=longer, out=tmp_path / "other").directory
    assert weights(directory) == weights(expected)


def test_a_run_on_another_kind_of_device_says_that_its_bytes_differ(tmp_path, monkeypatch, caplog):
    directory = train(tmp_path / "run").directory
    monkeypatch.setattr(running, "device_of", lambda retained: "cuda")
    monkeypatch.setattr(running, "changed_device", lambda retained, device: {"device": device})
    with caplog.at_level("INFO", logger="freerun"):
        freerun.train(out=directory, resume=True, settings=["training.updates=12"])
    assert (
        "Until now this run was trained on cuda, from here on cpu: random numbers and sums are others there, so the "
        "result is not that of a run on one device."
    ) in caplog.messages
    assert events(directory, "resume")[0]["device"] == "cpu"


def test_the_journal_says_on_which_kind_of_device_a_run_is():
    start, moved = {"event": "start", "device": "cuda"}, {"event": "resume", "device": "cpu"}
    assert device_of([start, {"event": "update"}]) == "cuda"
    assert device_of([start, moved, {"event": "update"}]) == "cpu"
    assert device_of([{"event": "start"}]) == "cpu"  # of a version that knew no other
    assert changed_device([start], "cuda") == {}
    assert changed_device([start, moved], "cuda") == {"device": "cuda"}
    assert changed_device([], "cuda") == {}


def fail_once(monkeypatch, number, error):
    """Raise an error in an update, the first time that it is made."""
    own, failed = Learner._backward, []

    def backward(learner, update, batches):
        if update == number and not failed:
            failed.append(update)
            raise error
        return own(learner, update, batches)

    monkeypatch.setattr(Learner, "_backward", backward)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["gpu", "cpu"],
)
def test_an_update_that_finds_no_memory_is_named_and_nothing_is_lost(tmp_path, monkeypatch, error):
    undisturbed = train(tmp_path / "undisturbed").directory
    fail_once(monkeypatch, 7, error)
    with pytest.raises(TrainingError) as caught:
        train(tmp_path / "run")
    first = str(error).partition("\n")[0].rstrip(".")
    assert str(caught.value) == (
        "update 7: no memory is left on cpu for a batch of 8 pairs, padded to 5 source and 4 target tokens each "
        f"({first}); the update was not applied, and a checkpoint of update 6 was saved. Expected room for it. Free "
        "memory and rerun with --resume; or train again into another directory, with --init to start from these "
        "weights and a lower training.batch_size or training.batch_tokens (training.accumulate makes up for it), "
        "data.max_source_length or data.max_target_length."
    )
    assert events(tmp_path / "run", "stop")[-1]["reason"] == "memory"
    freerun.train(out=tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(undisturbed)


SPECTRAL = {"strategy": "professor", "warmup": 0, "model_gate": 0.0, "hidden_size": 4, "spectral_norm": True}


def test_professor_forcing_forgets_an_update_that_finds_no_memory(tmp_path, monkeypatch):
    """Each pass of its discriminator makes a step of a power iteration, which a checkpoint has."""
    options = {"config": {**CONFIG, "forcing": SPECTRAL, "training": {**CONFIG["training"], "accumulate": 2}}}
    undisturbed = freerun.train(PAIRS, out=tmp_path / "undisturbed", **options).directory
    own, failed = Learner._losses, []

    def losses(learner, update, batch):
        found = own(learner, update, batch)
        if (update.number, update.part) == (7, 1) and not failed:
            failed.append(update)
            raise torch.OutOfMemoryError("no memory")
        return found

    monkeypatch.setattr(Learner, "_losses", losses)
    with pytest.raises(TrainingError, match="update 7: no memory"):
        freerun.train(PAIRS, out=tmp_path / "run", **options)
    freerun.train(out=tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(undisturbed)


def test_a_phase_whose_first_update_finds_no_memory_begins_once(tmp_path, monkeypatch):
    phases = {"phases": [{"strategy": "teacher", "until": 4}, {"strategy": "free_running"}]}
    fail_once(monkeypatch, 5, torch.OutOfMemoryError("no memory"))
    with pytest.raises(TrainingError, match="update 5: no memory"):
        freerun.train(PAIRS, config={**CONFIG, "forcing": phases}, out=tmp_path / "run")
    freerun.train(out=tmp_path / "run", resume=True)
    assert [event["update"] for event in events(tmp_path / "run", "phase")] == [4]


def test_a_trial_of_updates_that_finds_no_memory_is_an_error_for_the_user(tmp_path, monkeypatch):
    fail_once(monkeypatch, 2, torch.OutOfMemoryError("no memory"))
    with pytest.raises(
        TrainingError, match=r"training: no memory is left on cpu for a batch of .* nothing was written"
    ):
        freerun.train(PAIRS, minutes=0.1, out=tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()


def test_nothing_of_an_update_without_memory_is_kept_alive(tmp_path, monkeypatch):
    fail_once(monkeypatch, 3, torch.OutOfMemoryError("no memory"))
    with pytest.raises(TrainingError) as caught:
        train(tmp_path / "run")
    error = caught.value
    while error is not None:
        assert not isinstance(error, torch.OutOfMemoryError)
        error = error.__context__


def test_the_device_in_a_runs_configuration_may_be_edited(tmp_path):
    directory = train(tmp_path / "run", device="cpu").directory
    path = directory / "config.toml"
    path.write_text(path.read_text().replace('device = "cpu"', 'device = "auto"'))
    freerun.train(out=directory, resume=True, settings=["training.updates=12"])
    assert events(directory, "stop")[-1]["update"] == 12


def test_a_bundle_does_not_say_where_it_was_trained(tmp_path):
    directory = train(tmp_path / "run", device="cpu").directory
    settings = json.loads((directory / "best" / "config.json").read_text())["training"]
    assert settings["training"]["updates"] == 8
    assert "device" not in settings["training"]


def test_another_error_is_not_taken_for_a_full_memory(tmp_path, monkeypatch):
    fail_once(monkeypatch, 3, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(tmp_path / "run")


def test_a_study_has_the_same_results_for_every_name_of_a_device(tmp_path):
    (tmp_path / "train.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))

    def hashes(device):
        base = tmp_path / f"{device}.toml"
        base.write_text(f'[data]\ntrain = "train.tsv"\n[training]\ndevice = "{device}"\nupdates = 2\n')
        arms = {"a": {"strategy": "teacher"}, "b": {"strategy": "free_running"}}
        study = {"base": str(base), "control": "a", "seeds": [1], "strategies": arms}
        return [run.config_hash for run in load_study(study, tmp_path / "study").runs]

    assert hashes("cpu") == hashes("auto") == hashes("cuda:3")


def test_a_full_memory_elsewhere_is_an_error_for_the_user(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore lines")

    monkeypatch.setattr(running.RunHooks, "evaluate", full)
    with pytest.raises(RunError) as caught:
        train(tmp_path / "run")
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: no memory is left on cpu (CUDA out of memory). Expected room for the model, its "
        "optimizer and evaluations. Free memory and rerun with --resume, or train a smaller model into another "
        "directory."
    )
    monkeypatch.undo()
    assert freerun.train(out=tmp_path / "run", resume=True).metrics
