"""Odd values of options and keys: exit code 2, a message with where, what, expected and fix, and nothing written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import freerun as package
from freerun.errors import ConfigError
from freerun.search.methods import Beam, Sampling
from tests.cli.conftest import Freerun
from tests.networks import CELLS, one_of

HUGE = "1" + "0" * 21
DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--beam-size", HUGE), "'--beam-size': Input should be less than or equal to 1000."),
        (("--beam-size", 1001), "'--beam-size': Input should be less than or equal to 1000."),
        (("--beam-size", DIGITS), "'--beam-size': Unable to parse input string as an integer"),
        (("--beam-size", "²"), "'--beam-size': Input should be a valid integer"),
        (("--num-hypotheses", HUGE), "'--num-hypotheses': Input should be less than or equal to 10000."),
        (("--num-hypotheses", 1001), "num_hypotheses: the value is 1001. Expected a whole number from 1 to 1,000."),
        (("--num-hypotheses", 10_001, "--sample"), "'--num-hypotheses': Input should be less than or equal to 10000."),
        (("--length-penalty", "1e308"), "'--length-penalty': Input should be less than or equal to 10."),
        (("--max-length", HUGE), "'--max-length': Input should be less than or equal to 65536."),
        (("--sample", "--top-k", HUGE), "'--top-k': Input should be less than or equal to 1000000000."),
        (("--sample", "--top-p", "nan"), "'--top-p': Input should be less than or equal to 1."),
        (("--sample", "--top-p", "0"), "top_p: the value is 0.0. Expected a fraction above 0 and at most 1."),
        (("--sample", "--temperature", "nan"), "'--temperature': Input should be less than or equal to 1000."),
        (("--sample", "--temperature", "inf"), "'--temperature': Input should be less than or equal to 1000."),
        (("--sample", "--temperature", "1e308"), "'--temperature': Input should be less than or equal to 1000."),
        (
            ("--sample", "--temperature", "1e-9"),
            "temperature: the value is 1e-09. Expected 0, or a number from 1e-06 to 1000.",
        ),
        (("--sample", "--seed", 2**63), "'--seed': Input should be less than or equal to 9223372036854775807."),
        (("--threads", HUGE), "'--threads': Input should be less than or equal to 1024."),
        (("--threads", 1025), "'--threads': Input should be less than or equal to 1024."),
    ],
)
def test_options_of_a_prediction(freerun: Freerun, trained: Path, arguments: tuple[object, ...], message: str) -> None:
    result = freerun("predict", trained / "run", "abc", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1 and len(result.err) < 2100


def test_the_largest_values_are_taken(freerun: Freerun, trained: Path) -> None:
    assert freerun("predict", trained / "run", "abc", "--beam-size", 1000, "--length-penalty", 10).code == 0
    sampling = ("--sample", "--temperature", 1000, "--top-k", 10**9, "--top-p", 1, "--seed", 2**63 - 1)
    assert freerun("predict", trained / "run", "abc", *sampling).code == 0
    assert freerun("predict", trained / "run", "abc", "--sample", "--seed", -(2**63)).code == 0
    assert freerun("evaluate", trained / "run", "--examples", 10**9, "--worst", 10**9).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "run", "--examples", HUGE), "'--examples': Input should be less than or equal to 1000000000."),
        (("evaluate", "run", "--worst", HUGE), "'--worst': Input should be less than or equal to 1000000000."),
        (("evaluate", "run", "--beam-size", HUGE), "'--beam-size': Input should be less than or equal to 1000."),
        (
            ("compare", "run", "run", "dev.tsv", "--beam-size", HUGE),
            "'--beam-size': Input should be less than or equal to 1000.",
        ),
        (
            ("export", "run", "--quantize", "int8", "--max-loss", "nan"),
            "'--max-loss': Input should be less than or equal to 100.",
        ),
        (
            ("export", "run", "--quantize", "int8", "--max-loss", "101"),
            "'--max-loss': Input should be less than or equal to 100.",
        ),
        (
            ("data", "make", "copy", "new", "--seed", 2**63),
            "'--seed': Input should be less than or equal to 9223372036854775807.",
        ),
        (
            ("train", "config.toml", "--out", "new", "--seed", 2**63),
            "'--seed': Input should be less than or equal to 9223372036854775807.",
        ),
        (("train", "train.tsv", "--out", "new", "--columns", f"1,{DIGITS}"), "this does not name two or three columns"),
        (("train", "train.tsv", "--out", "new", "--columns", "1,1000001"), "this does not name two or three columns"),
        (("inspect", "x\0y"), 'argument 2: "x\\u0000y" contains a NUL character. Expected text without NUL.'),
        (("inspect", "x\ny"), "x\\ny: "),
        (("inspect", "x" * 90_000), " ... "),
    ],
)
def test_options_of_other_commands(
    freerun: Freerun, trained: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(trained)
    before = sorted(trained.iterdir())
    result = freerun(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ") and message in result.err
    assert result.err.count("\n") == 1 and len(result.err) < 2100
    assert sorted(trained.iterdir()) == before


BIG = 2**63


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.source_tokens=sentencepiece:99999999999999999999", '"sentencepiece:99999999999999999999". Expected'),
        ("data.source_tokens=sentencepiece:0", '"sentencepiece:0". Expected "auto"'),
        ("data.source_tokens=sentencepiece:-1", '"sentencepiece:-1". Expected "auto"'),
        ("data.source_tokens=sentencepiece:²", '"sentencepiece:²". Expected "auto"'),
        ("data.source_tokens=sentencepiece:1000001", '"sentencepiece:8000", at most 1,000,000.'),
        (f"data.columns=[1, {BIG}]", f"[1, {BIG}]. Expected two or three columns"),
        (f"data.minimum_count={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000,000."),
        (f"data.max_source_length={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000."),
        (f"data.max_target_length={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000."),
        (f"model.hidden_size={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000."),
        (f"model.embedding_size={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000."),
        (f"model.num_layers={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000."),
        ("model.hidden_size=512.0", "512.0. Expected a whole number from 1 to 1,000,000."),
        ("model.hidden_size=2026-11-29", "2026-11-29. Expected a whole number"),
        ("model.initial_range=1e308", "1e+308. Expected a number, above 0, 1e+38 or less."),
        ("model.forget_bias=-1e308", '-1e+308. Expected a number from -1e+38 to 1e+38 or "drawn".'),
        (f"training.updates={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000,000."),
        ("training.epochs=1e308", "1e+308. Expected a number, above 0, 1,000,000,000 or less."),
        (f"training.batch_size={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000."),
        (f"training.batch_tokens={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000,000."),
        (f"training.accumulate={BIG}", f"{BIG}. Expected a whole number from 1 to 10,000."),
        ("training.learning_rate=1e308", "1e+308. Expected a number, above 0, 1e+38 or less."),
        ("training.learning_rate=nan", "nan. Expected a finite number, above 0"),
        ("training.weight_decay=inf", "inf. Expected a finite number from 0 to 1e+38."),
        ("training.clip_norm=1e39", "1e+39. Expected a number from 0 to 1e+38."),
        (f"training.seed={BIG}", f"{BIG}. Expected a whole number from -9,223,372,036,854,775,808 to"),
        ("training.seed=" + DIGITS, '"99999'),
        ("training.average=0x" + "f" * 5000, "a whole number of about 6,021 digits. Expected a whole number from"),
        ("training.seed=0x" + "f" * 5000, "a whole number of about 6,021 digits. Expected a whole number from"),
        (f"training.threads={BIG}", f"{BIG}. Expected a whole number from 0 to 1,024."),
        (f"training.journal_every={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000,000."),
        (f"training.checkpoint_every={BIG}", f"{BIG}. Expected a whole number from 0 to 1,000,000,000."),
        (f"training.keep={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000,000."),
        (f"training.average={BIG}", f"{BIG}. Expected a whole number from 0 to 1,000,000,000."),
        (f'training.schedule={{kind="cosine", warmup={BIG}}}', f"{BIG}. Expected a whole number from 0 to"),
        ('training.schedule={kind="halving", every_epochs=1e308}', "1e+308. Expected a number, above 0"),
        (f"evaluation.every={BIG}", f"{BIG}. Expected a whole number from 0 to 1,000,000,000."),
        (f"evaluation.max_sources={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000,000,000."),
        (f"evaluation.patience={BIG}", f"{BIG}. Expected a whole number from 0 to 1,000,000,000."),
        (f"evaluation.beam_size={BIG}", f"{BIG}. Expected a whole number from 1 to 1,000."),
        ("evaluation.length_penalty=1e308", "1e+308. Expected a number from 0 to 10."),
        ("model.cell=\udcff", f"Expected {one_of(CELLS)}."),
        ("model.\udcff=1", "this is not key.path=VALUE."),
        ("model." + "x" * 3000 + "=1", "unknown key"),
        ("model.hidden_size=" + "[" * 90 + "]" * 90, "Expected a whole number"),
        ("=1", "--set =1: this is not key.path=VALUE."),
        ("x" * 3000, "..: this is not key.path=VALUE."),
    ],
)
def test_keys_of_a_configuration(freerun: Freerun, pairs: Path, setting: str, message: str) -> None:
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", "--set", setting)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert all(line.startswith("error: ") and len(line) < 2100 for line in result.err.splitlines())
    assert not (pairs / "run").exists()


STRATEGIES = {
    "scheduled_sampling": [
        ("temperature", "1e-320", "1e-320. Expected a number from 1e-06 to 1000."),
        ("passes", BIG, f"{BIG}. Expected a whole number from 0 to 10,000."),
        ("schedule", '{kind="linear", c=1e308}', "1e+308. Expected a number, above 0, 1e+38 or less."),
        ("schedule", '{kind="inverse_sigmoid", k=1e308}', "1e+308. Expected a number from 1 to 1e+38."),
        ("schedule", '{kind="constant", warmup=1e308}', "1e+308. Expected a number from 0 to 1e+38."),
    ],
    "professor": [
        ("hidden_size", BIG, f"{BIG}. Expected a whole number from 1 to 1,000,000."),
        ("weight", "1e308", "1e+308. Expected a number from 0 to 1e+38."),
        ("warmup", BIG, f"{BIG}. Expected a whole number from 0 to 1,000,000,000."),
        ("learning_rate", "1e308", "1e+308. Expected a number, above 0, 1e+38 or less."),
        ("r1", "inf", "inf. Expected a finite number from 0 to 1e+38."),
        ("hidden_size", 10**6, "a discriminator with hidden_size = 1,000,000 has "),
    ],
    "minimum_risk": [
        ("samples", BIG, f"{BIG}. Expected a whole number from 1 to 1,000."),
        ("alpha", "1e308", "1e+308. Expected a number, above 0, 1e+38 or less."),
        ("temperature", "1001", "1001. Expected a number from 1e-06 to 1000."),
    ],
    "optimal_completion": [("longest_ratio", "1e308", "1e+308. Expected a number from 1 to 100.")],
    "input_corruption": [("temperature", "1e-300", "1e-300. Expected a number from 1e-06 to 1000.")],
}


@pytest.mark.parametrize(
    ("strategy", "key", "value", "message"),
    [(strategy, *case) for strategy, cases in STRATEGIES.items() for case in cases],
)
def test_keys_of_a_strategy(
    freerun: Freerun, pairs: Path, strategy: str, key: str, value: object, message: str
) -> None:
    settings = (f"--set=forcing.strategy={strategy}", f"--set=forcing.{key}={value}")
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", *settings)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert not (pairs / "run").exists()


def test_keys_of_a_study(freerun: Freerun, pairs: Path) -> None:
    arms = '[strategies.a]\nstrategy = "teacher"\n[strategies.b]\nstrategy = "free_running"\n'
    keys = f'base = "config.toml"\ncontrol = "a"\nseeds = [{BIG}]\nprocesses = {BIG}\n'
    (pairs / "study.toml").write_text(keys + arms)
    result = freerun("study", pairs / "study.toml", "--out", pairs / "new")
    assert result.code == 2
    assert f"study.toml: seeds: the value is [{BIG}]. Expected 1 to 1,000 seeds" in result.err
    assert f"study.toml: processes: the value is {BIG}. Expected a whole number from 1 to 256." in result.err
    assert not (pairs / "new").exists()


def test_a_file_with_a_number_of_5000_digits(freerun: Freerun, pairs: Path) -> None:
    config = pairs / "config.toml"
    config.write_text(config.read_text().replace("updates = 60", f"updates = {DIGITS}"))
    result = freerun("train", config, "--out", pairs / "run")
    assert result.code == 2
    assert "config.toml: this is not TOML: Exceeds the limit" in result.err and "Correct that line." in result.err


def test_a_model_that_does_not_fit_is_told_before_it_takes_memory(
    freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freerun.memory.machine_memory", lambda: 8 * 10**9)
    monkeypatch.setattr("freerun.build.Seq2Seq", None)  # nothing may be built
    result = freerun("train", pairs / "config.toml", "--out", pairs / "run", "--set", "model.hidden_size=100_000")
    assert result.code == 2
    # two LSTMs with 4 gates of 100,000 units each, over embeddings of 16 and their own states; 7 letters and 7 sounds
    numbers = 2 * 400_000 * (16 + 100_000 + 2) + 2 * 11 * 16 + 11 * 100_000 + 11
    assert (
        "error: model: a network with hidden_size = 100,000, embedding_size = 16 and num_layers = 1 has "
        f"{numbers:,} parameters, which take {16 * numbers / 1e9:,.1f} GB in training. Expected at most 8.0 GB, the "
        "memory of this machine. Choose smaller dimensions.\n"
    ) in result.err
    assert not (pairs / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Beam(10**21),
            "beam_size: the value is 1000000000000000000000. Expected a whole number from 1 to 1,000.",
        ),
        (lambda: Beam(num_hypotheses=0), "num_hypotheses: the value is 0. Expected"),
        (
            lambda: Beam(length_penalty=float("nan")),
            "length_penalty: the value is nan. Expected a number from -10 to 10.",
        ),
        (lambda: Sampling(temperature=1e308), "temperature: the value is 1e+308. Expected a number from 0 to 1000."),
        (lambda: Sampling(top_p=float("nan")), "top_p: the value is nan. Expected a fraction above 0 and at most 1."),
        (lambda: Sampling(top_k=0), "top_k: the value is 0. Expected a whole number from 1 to 1,000,000,000."),
        (lambda: Sampling(seed=2**64), "seed: the value is 18446744073709551616. Expected a whole number from"),
        (lambda: Sampling(10_001), "num_hypotheses: the value is 10001. Expected a whole number from 1 to 10,000."),
    ],
)
def test_settings_of_a_search_in_python(make: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()  # type: ignore[operator]
    assert str(error.value).startswith(message)


def test_arguments_in_python(trained: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^beam_size: the value is 1000000000000000000000\. Expected a whole number from 1"
    ):
        package.evaluate(trained / "run", beam_size=10**21)


# -- strategies from elsewhere ----------------------------------------------------------------------------------------

OWN = """
from pathlib import Path
from freerun.forcing.teacher import Teacher
from tests.networks import CELLS, one_of

Path("imported").touch()

class Mine(Teacher):
    pass

class Odd(Teacher):
    Settings = dict
"""
BUSY_MESSAGE = (
    "config.toml: forcing.strategy: 'my_module:Mine' is Python code, named by a run directory and not by you, so it "
    "was not imported. Expected a strategy of freerun, or code that you trust. Check where the directory comes from, "
    "then add --trust-code (in Python: trust_code=True).\n"
)


@pytest.fixture
def theirs(freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory with a strategy of its own, in a directory with the module; nothing is imported yet."""
    monkeypatch.chdir(pairs)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (pairs / "my_module.py").write_text(OWN)
    strategy = '[forcing]\nstrategy = "my_module:Mine"\n'
    config = (pairs / "config.toml").read_text().replace("updates = 60", "updates = 2")
    (pairs / "own.toml").write_text(config + strategy)
    sys.modules.pop("my_module", None)
    result = freerun("train", "own.toml", "--out", "run")
    assert result.code == 0
    assert "freerun train --resume --out run --trust-code" in result.err
    (pairs / "imported").unlink()
    del sys.modules["my_module"]
    return pairs


@pytest.mark.parametrize(
    "arguments",
    [
        ("--resume", "--out", "run"),
        ("run/config.toml", "--resume", "--out", "run"),
        ("train.tsv", "--resume", "--out", "run"),
        ("config.toml", "--resume", "--out", "run", "--set", "forcing.strategy=teacher"),
    ],
)
def test_code_that_a_run_directory_names_is_not_imported(
    freerun: Freerun, theirs: Path, arguments: tuple[str, ...]
) -> None:
    result = freerun("train", *arguments)
    assert result.code == 2
    assert result.err.endswith(BUSY_MESSAGE)
    assert not (theirs / "imported").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--resume", "--out", "run", "--trust-code"),
        ("own.toml", "--resume", "--out", "run"),
        ("--resume", "--out", "run", "--set", "forcing.strategy=my_module:Mine"),
        ("run/config.toml", "--out", "new"),
    ],
)
def test_code_that_the_user_names_or_trusts_is_imported(
    freerun: Freerun, theirs: Path, arguments: tuple[str, ...]
) -> None:
    assert freerun("train", *arguments).code == 0
    assert (theirs / "imported").exists()


def test_trust_is_needed_for_resuming_only(freerun: Freerun, theirs: Path) -> None:
    result = freerun("train", "own.toml", "--out", "new", "--trust-code")
    assert (result.code, (theirs / "new").exists()) == (2, False)
    what = "error: train: --trust-code without --resume. It requires --resume."
    assert result.err == f"{what} Add --resume, or remove --trust-code.\n"


def test_code_is_trusted_in_python_too(theirs: Path) -> None:
    with pytest.raises(ConfigError, match="was not imported"):
        package.train(theirs / "train.tsv", out=theirs / "run", resume=True)
    assert not (theirs / "imported").exists()
    settings = [f'data.dev="{theirs / "dev.tsv"}"']
    package.train(theirs / "train.tsv", out=theirs / "run", settings=settings, resume=True, trust_code=True)
    assert (theirs / "imported").exists()


def test_what_a_journal_names_is_not_imported_either(freerun: Freerun, theirs: Path) -> None:
    config = theirs / "run" / "config.toml"
    config.write_text(config.read_text().replace("my_module:Mine", "teacher"))
    result = freerun("train", "--resume", "--out", "run")
    assert result.code == 2
    assert "journal.jsonl: forcing.strategy: 'my_module:Mine' is Python code" in result.err
    assert not (theirs / "imported").exists()


def test_using_a_model_imports_no_strategy(freerun: Freerun, theirs: Path) -> None:
    for command in (("predict", "run", "abc"), ("evaluate", "run"), ("inspect", "run"), ("export", "run")):
        assert freerun(*command).code == 0
    assert freerun("train", "config.toml", "--init", "run", "--out", "new", "--set", "training.updates=1").code == 0
    assert not (theirs / "imported").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x:y", "'../x:y' is not module:Class. Expected the name of a module, a colon and the name of a class"),
        ("a..b:C", "'a..b:C' is not module:Class."),
        (".a:C", "'.a:C' is not module:Class."),
        ("class:C", "'class:C' is not module:Class."),
        ("a:b:c", "'a:b:c' is not module:Class."),
        ("a:b.c", "'a:b.c' is not module:Class."),
        ("os:system", "'os:system' is not a strategy. Expected a subclass of freerun.forcing.strategy.Strategy"),
        ("json:JSONDecoder", "'json:JSONDecoder' is not a strategy."),
        ("freerun.forcing.strategy:Strategy", "'freerun.forcing.strategy:Strategy' is an abstract class."),
        ("no_such_module:C", "'no_such_module:C' cannot be imported (ModuleNotFoundError: No module named"),
        ("broken:C", "'broken:C' cannot be imported (ZeroDivisionError: division by zero)."),
        ("leaves:C", "'leaves:C' cannot be imported (SystemExit: 0)."),
        ("unfinished:C", "'unfinished:C' cannot be imported (SyntaxError: "),
        ("my_module:Odd", "the Settings of 'my_module:Odd' are not StrategySettings."),
        ("x" * 2000 + ":C", "...' cannot be imported (ModuleNotFoundError"),
    ],
)
def test_a_strategy_that_cannot_be(
    freerun: Freerun, pairs: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(pairs)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (pairs / "broken.py").write_text("1 / 0\n")
    (pairs / "leaves.py").write_text("raise SystemExit(0)\n")
    (pairs / "unfinished.py").write_text("class C(\n")
    (pairs / "my_module.py").write_text(OWN)
    sys.modules.pop("my_module", None)
    result = freerun("train", "config.toml", "--out", "run", "--set", f"forcing.strategy={name}")
    assert (result.code, result.out) == (2, "")
    assert message in result.err and result.err.count("\n") == 1 and len(result.err) < 1000
    assert not (pairs / "run").exists()
