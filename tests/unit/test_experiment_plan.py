"""From what was typed to a checked configuration and a run folder."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from freerun.config import to_toml
from freerun.errors import ConfigError, RunError
from freerun.experiment.plan import plan_run
from freerun.experiment.request import TrainRequest


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Everything happens in an empty working directory with a configuration in a folder beside it."""
    (tmp_path / "typed").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "c.toml").write_text('[data]\ntrain = "t.tsv"\ndev = "../d.tsv"\n[training]\nupdates = 5\n')
    monkeypatch.chdir(tmp_path / "typed")


CONFIG = Path("../configs/c.toml")


def plan(subject=CONFIG, settings=(), **options):
    return plan_run(TrainRequest(source=Path(subject) if subject else None, settings=tuple(settings), **options))


def begun(folder="run", subject=CONFIG, changes="", journal=True, **options):
    """A run folder as ``train`` begins it: tokens are decided, and the first event holds the configuration."""
    made = plan(subject, out=Path(folder), **options)
    data = {"source_tokens": "char", "target_tokens": "whitespace"}
    config = made.config.model_copy(update={"data": made.config.data.model_copy(update=data)})
    Path(folder).mkdir()
    (Path(folder) / "config.toml").write_text(to_toml(config))
    if journal:
        event = {"event": "start", "update": 0, "config": config.model_dump(exclude_none=True, mode="json")}
        (Path(folder) / "journal.jsonl").write_text(json.dumps(event) + "\n")
    return Path(folder)


def refusal(error=RunError, **request):
    with pytest.raises(error) as found:
        plan(**request)
    return str(found.value)


# ---------------------------------------------------------------------------------------------- configuration and paths


def test_paths_in_a_configuration_count_from_its_file(tmp_path):
    data = plan().config.data
    assert (data.train, data.dev) == (str(tmp_path / "configs" / "t.tsv"), str(tmp_path / "d.tsv"))


def test_typed_paths_count_from_the_working_directory(tmp_path):
    work = tmp_path / "typed"
    data = plan(settings=["data.train=a.tsv"], dev=Path("b.tsv")).config.data
    assert (data.train, data.dev) == (str(work / "a.tsv"), str(work / "b.tsv"))
    data = plan(settings=['data.train={source="s", target="../t"}']).config.data
    assert (data.train.source, data.train.target) == (str(work / "s"), str(tmp_path / "t"))
    assert plan(init=Path("m")).config.training.init == str(work / "m")
    assert plan(settings=["training.init=m"]).config.training.init == str(work / "m")
    assert plan("pairs.tsv").config.data.train == str(work / "pairs.tsv")


def test_one_typed_side_of_parallel_files_leaves_the_other(tmp_path):
    (tmp_path / "configs" / "p.toml").write_text('[data]\ntrain = { source = "s", target = "t" }')
    train = plan("../configs/p.toml", ["data.train.target=x"]).config.data.train
    assert (train.source, train.target) == (str(tmp_path / "configs" / "s"), str(tmp_path / "typed" / "x"))


def test_only_toml_is_a_configuration():
    assert not plan().automatic
    for name in ("pairs.tsv", "pairs.toml.gz", "pairs", "toml"):
        assert plan(name).automatic


def test_what_is_typed_wins_over_the_file_and_set_over_options():
    training = plan(seed=3).config.training
    assert (training.seed, training.updates) == (3, 5)
    assert plan(seed=3, settings=["training.seed=4", "training.updates=6"]).config.training.seed == 4
    assert plan(dev=Path("a"), settings=["data.dev=b"]).config.data.dev.endswith("/typed/b")


def test_a_schedule_can_be_changed_in_one_key(tmp_path):
    (tmp_path / "configs" / "s.toml").write_text(
        '[data]\ntrain = "t"\n[training]\nschedule = { kind = "cosine", warmup = 500, final = 0.1 }'
    )
    schedule = plan("../configs/s.toml", ["training.schedule.warmup=7"]).config.training.schedule
    assert (schedule.kind, schedule.warmup, schedule.final) == ("cosine", 7, 0.1)
    schedule = plan("../configs/s.toml", ['training.schedule={kind="halving"}']).config.training.schedule
    assert (schedule.kind, schedule.warmup) == ("halving", 0)


def test_columns():
    assert plan("pairs.tsv", columns="3, 1").config.data.columns == (3, 1)
    assert plan("pairs.tsv", columns="1,3,2").config.data.columns == (1, 3, 2)


@pytest.mark.parametrize("text", ["1", "1,2,3,4", "0,1", "a,", "1,-2", "", "1;2", "²,1", "1.5,2"])
def test_wrong_columns_are_told(text):
    assert refusal(ConfigError, subject="pairs.tsv", columns=text) == (
        f"--columns {text}: this does not name two or three columns. Expected the numbers of the source's and of the "
        "target's column, and of the features' if there is one, counted from 1; or their names, in a Parquet "
        "or Arrow file. Write for example --columns 1,3, --columns 1,2,3 or --columns source,target."
    )


def test_faults_are_told_where_they_were_made():
    with pytest.raises(ConfigError) as error:
        plan(settings=["training.updates=x", "model.hiden_size=3", "data.columns=[0, 1]"], seed=1)
    assert [str(problem).split(": ")[0] for problem in error.value.problems] == [
        "--set data.columns=[0, 1]",
        "--set model.hiden_size=3",
        "--set training.updates=x",
    ]
    with pytest.raises(ConfigError) as error:
        plan("pairs.tsv", settings=["training.schedule.warmup=5"])
    assert str(error.value).startswith("freerun train: training.schedule.kind: this key is missing.")


def test_faults_of_the_file_and_of_what_was_typed_come_together(tmp_path):
    (tmp_path / "configs" / "c.toml").write_text('model = 3\n[data]\ntrain = "t"\n[training]\nupdates = 0')
    with pytest.raises(ConfigError) as error:
        plan(settings=["evaluation.every=-1"])
    assert [str(problem) for problem in error.value.problems] == [
        f"{CONFIG}: model: the value is 3. Expected a section, [model].",
        f"{CONFIG}: training.updates: the value is 0. Expected a whole number from 1 to 1,000,000,000.",
        "--set evaluation.every=-1: the value is -1. Expected a whole number from 0 to 1,000,000,000.",
    ]


@pytest.mark.parametrize(
    ("content", "option", "expected"),
    [
        ("data = 3", {"dev": Path("d")}, "--dev d: data is 3, a value and not a section with a key 'dev'."),
        ('training = "x"', {"seed": 1}, "--seed 1: training is \"x\", a value and not a section with a key 'seed'."),
    ],
)
def test_an_option_over_a_value_in_the_place_of_a_section_is_told(tmp_path, content, option, expected):
    (tmp_path / "configs" / "c.toml").write_text(content)
    assert refusal(ConfigError, **option).startswith(expected)


def test_a_configuration_that_is_not_there_is_told():
    assert refusal(ConfigError, subject="none.toml") == (
        "none.toml: no such file. Expected a TOML configuration. Check the path."
    )


def test_a_path_that_is_not_utf8_is_told():
    assert "Expected a path" in refusal(ConfigError, dev=Path("\udcff.tsv"))


# ------------------------------------------------------------------------------------------------------- the run folder


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (CONFIG, "c"),
        ("/data/pairs.tsv", "pairs"),
        ("a/pairs.tsv.gz", "pairs"),
        ("pairs.jsonl.xz", "pairs"),
        ("pairs.tsv.zst", "pairs"),
        ("pairs.parquet", "pairs"),
        ("pairs.feather", "pairs"),
        ("pairs.v2.txt", "pairs.v2"),
        ("pairs", "pairs"),
        (".tsv", ".tsv"),
    ],
)
def test_the_run_folder_has_the_name_of_the_pairs_or_of_the_configuration(subject, name):
    assert plan(subject).directory == Path("runs") / name
    assert plan(subject, out=Path("x/y")).directory == Path("x/y")


def test_nothing_to_train_is_told():
    assert refusal(ConfigError, subject=None) == (
        "freerun train: neither a configuration, nor pairs, nor --out. Expected freerun train CONFIG.toml, freerun "
        "train PAIRS.tsv, or --resume with the --out of a run. Name one of them."
    )
    assert refusal(ConfigError, subject=None, out=Path("run"), resume=True) == (
        "freerun train: no configuration and no pairs, and run holds no run to resume. "
        "Expected freerun train CONFIG.toml or freerun train PAIRS.tsv. Name one of them."
    )


def test_a_folder_with_another_run_is_refused():
    begun()
    assert refusal(out=Path("run")) == (
        "run: this directory holds another run. Expected a new or empty directory. "
        "Add --resume to continue that run, or choose another directory with --out."
    )


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_files_is_refused_by_name(resume):
    Path("run").mkdir()
    for name in ("d", "b", "a", "c"):
        (Path("run") / name).touch()
    assert refusal(out=Path("run"), resume=resume) == (
        "run: this directory is not empty: it holds a, b, c and 1 more. Expected a new or empty directory. "
        "Choose another with --out."
    )


def test_a_file_in_the_place_of_the_folder_is_refused():
    Path("run").touch()
    assert refusal(out=Path("run")) == (
        "run: this is a file. Expected a new or empty directory. Choose another with --out."
    )


def test_an_empty_folder_will_do_and_so_will_one_that_was_never_begun():
    Path("run").mkdir()
    assert not plan(out=Path("run")).resumes
    (Path("run") / ".config.toml.x1y2").touch()  # killed while it was written
    assert not plan(out=Path("run"), resume=True).resumes


def test_resuming_what_does_not_exist_starts_from_the_beginning():
    made = plan(out=Path("run"), resume=True)
    assert (made.resumes, made.directory) == (False, Path("run"))


# ------------------------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("subject", [CONFIG, None])
def test_a_run_is_gone_on_with_by_the_same_command_or_by_its_folder(subject):
    begun()
    made = plan(subject, out=Path("run"), resume=True)
    assert (made.resumes, made.automatic) == (True, False)
    assert made.config.data.source_tokens == "char"
    assert made.raw == tomllib.loads(Path("run/config.toml").read_text())


def test_pairs_typed_again_are_the_same_run():
    begun(subject="pairs.tsv", settings=["training.updates=9"], dev=Path("d.tsv"))
    again = {"out": Path("run"), "resume": True}
    assert plan("pairs.tsv", ["training.updates=9"], dev=Path("d.tsv"), **again).resumes
    assert plan("pairs.tsv", **again).resumes
    assert plan("../typed/pairs.tsv", **again).resumes
    assert "data.train was" in refusal(subject="other.tsv", **again)


def test_options_typed_again_may_say_auto():
    begun()
    assert plan(settings=["data.source_tokens=auto"], out=Path("run"), resume=True).resumes
    assert plan(None, settings=["data.source_tokens=auto"], out=Path("run"), resume=True).resumes


@pytest.mark.parametrize("subject", [CONFIG, None])
def test_changes_are_refused_with_both_values(subject):
    begun()
    settings = ["training.updates=6", "model.cell=gru", 'training.schedule={kind="cosine"}']
    assert refusal(subject=subject, settings=settings, out=Path("run"), resume=True) == (
        'run: the configuration has changed: model.cell was "lstm", now "gru"; training.schedule.final was not set, '
        'now 0.0; training.schedule.kind was "constant", now "cosine"; training.updates was 5, now 6. '
        "Expected the configuration that this run was started with. "
        "Revert the change to resume, or train into another directory with --out."
    )


def test_a_key_that_left_the_file_is_a_change_too(tmp_path):
    begun()
    (tmp_path / "configs" / "c.toml").write_text('[data]\ntrain = "t.tsv"\n')
    found = refusal(out=Path("run"), resume=True)
    assert 'data.dev was "' in found
    assert "now not set; training.updates was 5, now 20000." in found


def test_precision_auto_is_a_value_like_any_other():
    begun(settings=["training.precision=fp32"])
    assert 'training.precision was "fp32", now "auto"' in refusal(out=Path("run"), resume=True)


@pytest.mark.parametrize("subject", [CONFIG, None])
def test_the_other_way_to_say_how_long_is_a_change_and_no_contradiction(subject):
    begun()
    found = refusal(subject=None, settings=["training.epochs=2"], out=Path("run"), resume=True)
    assert found == (
        "run: the configuration has changed: training.epochs was not set, now 2.0; training.updates was 5, now not "
        "set. Expected training.updates, which this run was started with: 5 or more. Set training.updates to train "
        "longer, or train into another directory with --out."
    )


def test_a_misspelt_key_is_told_when_going_on_too():
    begun()
    for subject in (None, CONFIG):
        found = refusal(ConfigError, subject=subject, settings=["trainig.seed=3"], out=Path("run"), resume=True)
        assert found.startswith("--set trainig.seed=3: trainig: unknown key.")
        assert found.endswith("The closest match is 'training'.")


@pytest.mark.parametrize("subject", [CONFIG, None])
def test_an_edited_config_of_the_run_is_a_change(subject):
    folder = begun()
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("updates = 5", "updates = 50"))
    assert refusal(subject=subject, out=folder, resume=True).startswith(
        "run: the configuration has changed: training.updates was 5, now 50. Expected the configuration that"
    )


def test_a_journal_without_a_configuration_leaves_config_toml_to_tell():
    folder = begun(journal=False)
    assert plan(None, out=folder, resume=True).resumes
    assert "training.seed was 1, now 2" in refusal(subject=None, seed=2, out=folder, resume=True)


@pytest.mark.parametrize("subject", [None, "run/config.toml"])
def test_a_run_of_an_earlier_version_is_resumed_with_old_names(subject):
    folder = begun(settings=["forcing.strategy=professor", "forcing.include_teacher_term=true"])
    for name in ("config.toml", "journal.jsonl"):
        path = folder / name
        path.write_text(path.read_text().replace("include_teacher_term", "teacher_too"))
    resumed = plan(subject, out=folder, resume=True)
    assert resumed.resumes
    assert resumed.config.forcing.model_dump()["include_teacher_term"] is True


def test_a_damaged_config_of_the_run_is_told():
    folder = begun()
    (folder / "config.toml").write_text("[data")
    assert refusal(ConfigError, out=folder, resume=True).startswith("run/config.toml: this is not TOML")


def test_a_run_that_started_from_a_bundle_is_gone_on_with(tmp_path):
    """Sizes and tokens came from the bundle, so the configuration file need not say them."""
    folder = begun(init=Path("m"))
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("hidden_size = 512", "hidden_size = 64"))
    event = json.loads((folder / "journal.jsonl").read_text())
    event["config"]["model"]["hidden_size"] = 64
    (folder / "journal.jsonl").write_text(json.dumps(event))
    assert plan(init=Path("m"), out=folder, resume=True).resumes
    assert "model.hidden_size was 64, now 32" in refusal(
        settings=["model.hidden_size=32"], init=Path("m"), out=folder, resume=True
    )
    assert 'training.init was "' in refusal(out=folder, resume=True)


def test_going_on_clears_away_what_a_crash_left():
    folder = begun()
    for name in (
        ".best.old",
        ".last.abcdefgh.tmp",
        "checkpoints/.update-00000003.x_z01234.tmp",
        "checkpoints/.update-00000002.old",
        ".git",
    ):
        (folder / name).mkdir(parents=True)
    (folder / ".config.toml.abcdefgh.tmp").touch()
    plan(None, out=folder, resume=True)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert found == [".git", "best", "checkpoints", "checkpoints/update-00000002", "config.toml", "journal.jsonl"]


def test_a_refused_command_clears_away_nothing():
    folder = begun()
    (folder / ".best.old").mkdir()
    refusal(subject=None, seed=2, out=folder, resume=True)
    assert (folder / ".best.old").exists()


def test_a_plan_is_a_pure_function_of_the_request():
    request = TrainRequest(source=CONFIG, settings=("training.seed=3",))
    assert plan_run(request) == plan_run(replace(request))


# ------------------------------------------------------------------------------------------------------- longer runs


def changed(folder, *lengths, key="training.updates"):
    """The journal of a run that was made longer: from the first length to the second, and so on."""
    path = folder / "journal.jsonl"
    for before, after in itertools.pairwise(lengths):
        event = {"event": "resume", "update": before, "changed": {key: [before, after]}}
        path.write_text(path.read_text() + json.dumps(event) + "\n")
    return folder


def with_updates(folder, number):
    path = folder / "config.toml"
    path.write_text(re.sub(r"updates = \d+", f"updates = {number}", path.read_text()))
    return folder


def longer(**request):
    found = plan(resume=True, out=Path("run"), **request)
    length = found.longer and (found.longer.key, found.longer.before, found.longer.after)
    return found.config.training.updates, found.raw["training"]["updates"], length, found.is_outdated


def test_a_longer_run_is_the_one_change_that_resuming_accepts():
    begun()
    accepted = (8, 8, ("training.updates", 5, 8), True)
    assert longer(settings=["training.updates=8"]) == accepted
    assert longer(subject=None, settings=["training.updates=8"]) == accepted
    CONFIG.write_text(CONFIG.read_text().replace("updates = 5", "updates = 8"))
    assert longer() == accepted
    assert longer(subject=None) == (5, 5, None, False)


def test_a_run_from_pairs_becomes_longer_by_a_setting():
    begun(subject="pairs.tsv", settings=["training.updates=5"])
    assert longer(subject="pairs.tsv", settings=["training.updates=8"])[2] == ("training.updates", 5, 8)
    assert longer(subject="pairs.tsv")[2] is None


def test_epochs_become_more():
    begun(settings=["training.epochs=2"], subject="pairs.tsv")
    for epochs in ("2.5", "3"):
        found = plan(None, resume=True, out=Path("run"), settings=[f"training.epochs={epochs}"])
        assert (found.longer.key, found.longer.before, found.longer.after) == ("training.epochs", 2.0, float(epochs))
        assert found.config.training.epochs == float(epochs)
    assert "training.epochs was 2.0, now 1.5. Expected 2.0 or more: a run can be made longer, but not" in refusal(
        subject=None, resume=True, out=Path("run"), settings=["training.epochs=1.5"]
    )
    assert "Expected training.epochs, which this run was started with: 2.0 or more. Set training.epochs to" in refusal(
        subject=None, resume=True, out=Path("run"), settings=["training.updates=9"]
    )


@pytest.mark.parametrize("subject", [CONFIG, None])
def test_a_shorter_run_is_rejected(subject):
    begun()
    assert refusal(subject=subject, resume=True, out=Path("run"), settings=["training.updates=4"]) == (
        "run: the configuration has changed: training.updates was 5, now 4. Expected 5 or more: a run can be made "
        "longer, but not shorter. Add --set training.updates=5 to resume it, or train into another directory with "
        "--out."
    )


@pytest.mark.parametrize("subject", [CONFIG, None])
def test_no_other_change_comes_along(subject):
    begun()
    for setting in ("training.seed=3", "evaluation.every=7", "training.learning_rate=0.5"):
        settings = ["training.updates=8", setting]
        message = refusal(subject=subject, resume=True, out=Path("run"), settings=settings)
        assert "the configuration has changed: " in message
        assert setting.split("=")[0] in message
        assert "training.updates was 5, now 8" in message


def test_a_run_that_was_made_longer_is_the_longer_one_from_then_on():
    """The original command is that of another run now, and says what to add."""
    with_updates(changed(begun(), 5, 8, 20), 20)
    assert longer(subject=None) == (20, 20, None, False)
    assert longer(settings=["training.updates=20"]) == (20, 20, None, False)
    assert longer(settings=["training.updates=21"])[2] == ("training.updates", 20, 21)
    assert "Add --set training.updates=20 to resume it" in refusal(resume=True, out=Path("run"))
    assert "training.updates was 20, now 8. Expected 20 or more" in refusal(
        resume=True, out=Path("run"), settings=["training.updates=8"]
    )


def test_config_toml_may_be_older_than_the_journal_by_one_change():
    """The process was killed between the two."""
    with_updates(changed(begun(), 5, 8, 20), 8)
    assert longer(subject=None) == (20, 20, None, True)
    assert longer(settings=["training.updates=20"]) == (20, 20, None, True)
    assert longer(settings=["training.updates=30"]) == (30, 30, ("training.updates", 20, 30), True)
    with_updates(Path("run"), 5)
    assert "training.updates was 20, now 5" in refusal(subject=None, resume=True, out=Path("run"))


def test_a_length_that_only_config_toml_has_is_damage_unless_it_is_given_too():
    with_updates(begun(), 50)
    message = refusal(subject=None, resume=True, out=Path("run"))
    assert "the configuration has changed: training.updates was 5, now 50." in message
    assert message.endswith("with --out; to train longer, add --set training.updates=50.")
    assert longer(settings=["training.updates=50"]) == (50, 50, ("training.updates", 5, 50), False)
    assert longer(subject=Path("run/config.toml"))[2] == ("training.updates", 5, 50)
    assert "was 5, now 50" in refusal(resume=True, out=Path("run"), settings=["training.updates=60"])
    with_updates(Path("run"), 4)
    message = refusal(subject=None, resume=True, out=Path("run"))
    assert "training.updates was 5, now 4." in message
    assert message.endswith("with --out.")


@pytest.mark.parametrize(
    "event",
    [
        {"event": "resume", "update": 5, "changed": "x"},
        {"event": "resume", "update": 5, "changed": {"training.updates": [5]}},
        {"event": "resume", "update": 5, "changed": {"training.updates": ["5", "8"]}},
        {"event": "resume", "update": 5, "changed": {"training.updates": [True, False]}},
        {"event": "update", "update": 5, "changed": {"training.updates": [5, 8]}},
        {"event": "resume", "update": 5, "changed": {"training.epochs": [5, 8]}},
        {"event": "resume", "update": 5},
    ],
)
def test_only_what_training_wrote_is_a_change(event):
    path = begun() / "journal.jsonl"
    path.write_text(path.read_text() + json.dumps(event) + "\n")
    assert longer(subject=None) == (5, 5, None, False)


def test_a_journal_without_a_configuration_leaves_the_length_to_config_toml():
    begun(journal=False)
    assert longer(subject=None, settings=["training.updates=8"])[2] == ("training.updates", 5, 8)
