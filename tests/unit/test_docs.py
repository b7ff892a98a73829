from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter

import freerun
from freerun.architecture import feature_encoder_for
from freerun.bounds import BEAM_SIZE, LENGTH, MAX_PIECES, POSITIVE_TEMPERATURE, SAMPLES
from freerun.cli import main
from freerun.config import Config, StudyConfig, parse_config
from freerun.config.fields import expectation
from freerun.config.raw import read_toml
from freerun.config.sections import Schedule as LearningRate
from freerun.data.features import SEPARATORS
from freerun.forcing.registry import STRATEGIES, settings_of
from freerun.forcing.teacher_prob import PositionSchedule, UpdateSchedule
from freerun.runtime.graphs import metadata_of
from freerun.runtime.interface import FLOAT, INT64, inputs_of, outputs_of, statics_of
from tests.exported import GraphsOf, write_model
from tests.networks import network

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()


def _sections() -> dict[str, dict[str, str]]:
    parts = re.split(r"^## \[(\w+)\]$", PAGE, flags=re.MULTILINE)[1:]
    rows = re.compile(r"^\| `(\w+)` \| (.*?) \| ", re.MULTILINE)
    return {name: dict(rows.findall(text)) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def test_every_key_is_documented_with_its_default() -> None:
    config = parse_config({"data": {"train": "x"}}, "test", settings_of)
    documented = _sections()
    assert documented.keys() == Config.model_fields.keys()
    for section, rows in documented.items():
        values = getattr(config, section)
        assert rows.keys() == type(values).model_fields.keys()
        for key, shown in rows.items():
            value = getattr(values, key)
            if shown not in ("none", "required") and key != "schedule":
                assert shown.strip("`") == (f'"{value}"' if isinstance(value, str) else str(value).lower())
            if shown == "none":
                assert value is None


def test_every_range_is_documented() -> None:
    rows = re.findall(r"^\| (`\w+\..*`) \| (.*) \|$", PAGE.split("\n## Limits\n")[1], re.MULTILINE)
    documented = {key: text for keys, text in rows for key in re.findall(r"`(.*?)`", keys)}
    found = {
        f"{section}.{key}": expectation(field)
        for section, info in Config.model_fields.items()
        for key, field in info.annotation.model_fields.items()
    }
    assert documented == {key: text for key, text in found.items() if "number" in text}
    assert all(f"{limit:,}" in PAGE for limit in (MAX_PIECES, LENGTH.high))
    page = " ".join((ROOT / "docs" / "search.md").read_text().split())
    assert f"at most {BEAM_SIZE.high:,} hypotheses, and {SAMPLES.high:,} outputs" in page
    assert f"{POSITIVE_TEMPERATURE.low:.6f} to {POSITIVE_TEMPERATURE.high:,.0f}" in page and page.count("0.000001") == 1


def test_no_key_is_without_a_range() -> None:
    models = [StudyConfig, *(strategy.Settings for strategy in STRATEGIES.values())]
    models += [info.annotation for info in Config.model_fields.values()]
    models += [
        kind for alias in (UpdateSchedule, PositionSchedule, LearningRate) for kind in get_args(get_args(alias)[0])
    ]
    fields = [(model, key, field) for model in models for key, field in model.model_fields.items()]
    assert len(fields) > 100
    for model, key, field in fields:
        text = expectation(field)
        ends = (" to ",), ("or more", "or less"), ("or more", "below"), ("above", "or less"), ("above", "below")
        assert "number" not in text or any(all(word in text for word in pair) for pair in ends), (model, key, text)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_a_page_with_its_keys_and_defaults(name: str) -> None:
    page = (ROOT / "docs" / "forcing" / f"{name}.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", page.split("\nSchedules, ")[0], re.MULTILINE))
    settings = STRATEGIES[name].Settings()
    assert rows.keys() == type(settings).model_fields.keys()
    for key, shown in rows.items():
        value = getattr(settings, key)
        if key == "schedule":
            assert shown == f"inverse sigmoid, k = {value.k:.0f}"
        elif shown != "none":
            assert shown.strip("`") == (f'"{value}"' if isinstance(value, str) else str(value).lower())
        else:
            assert value is None
    index = (ROOT / "docs" / "forcing" / "README.md").read_text()
    assert f"[`{name}`]({name}.md)" in index


def test_every_key_of_a_study_is_documented() -> None:
    page = (ROOT / "docs" / "study.md").read_text()
    for key in StudyConfig.model_fields:
        assert re.search(rf"^({key} =|\[{key}\.)", page, re.MULTILINE), key
    values = re.search(r"^metric = (.*)$", page, re.MULTILINE).group(1)
    assert all(name in values for name in get_args(StudyConfig.model_fields["metric"].annotation))


def test_every_schedule_is_documented_with_its_defaults() -> None:
    page = (ROOT / "docs" / "forcing" / "scheduled_sampling.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .* \| (`.*`) \|$", page.split("\nSchedules, ")[1], re.MULTILINE)
    assert [kind for kind, _ in rows] == ["constant", "linear", "exponential", "inverse_sigmoid", "increasing"]
    for kind, shown in rows:
        value = TypeAdapter(UpdateSchedule).validate_python({"kind": kind}).model_dump()
        given = tomllib.loads("\n".join(re.findall(r"`(.*?)`", shown)))
        assert given == {key: each for key, each in value.items() if key not in ("kind", "unit", "warmup")}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_the_configurations_that_come_with_the_project_are_valid(path: Path) -> None:
    parse_config(read_toml(path), path, settings_of)


def test_the_preset_is_sutskever_et_al_in_full() -> None:
    config = parse_config(read_toml(ROOT / "configs/sutskever2014.toml"), "preset", settings_of)
    model, training = config.model, config.training
    assert (model.num_layers, model.hidden_size, model.embedding_size, model.reverse_source) == (4, 1000, 1000, True)
    assert (model.initialisation, model.initial_range, model.forget_bias) == ("uniform", 0.08, "drawn")
    assert (training.optimizer, training.learning_rate, training.epochs) == ("sgd", 0.7, 7.5)
    assert training.schedule.model_dump() == {"kind": "halving", "start_epoch": 5.0, "every_epochs": 0.5, "warmup": 0}
    assert (training.batch_size, training.normalise, training.clip_norm) == (128, "sequences", 5.0)
    assert (model.attention, model.bidirectional, model.cell, model.dropout) == ("none", False, "lstm", 0.0)


SEQUENCE = {"attention": "general", "feature_vocabulary": 7, "feature_encoder": "sequence"}
OPTIONS = [{"attention": "general", "context": "every_step"}, {"attention": "bahdanau"}, SEQUENCE]


@pytest.mark.parametrize("name", ["greedy", "step", "encoder"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_graphs_take_and_give_is_documented_with_types_and_shapes(name: str, options: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    sizes = GraphsOf(network(0, torch.float32, **options)).weights.sizes
    for value in (*inputs_of(name, sizes), *outputs_of(name, sizes)):
        kind = {INT64: "int64", FLOAT: "float32"}[value.element_type]
        if value.name in statics_of(sizes):
            assert f"`{value.name}`" in page and value.shape[0] in ("B", "E")
        elif name != "encoder" or value.name != "state":
            free = [part if isinstance(part, str) else {9: "V", 16: "D", 1: "1"}[part] for part in value.shape]
            assert f"| `{value.name}` | {kind} | {', '.join(free)} |" in page


def test_the_metadata_of_graphs_are_documented(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    assert all(f"`{key}`" in page for key in metadata_of(write_model(tmp_path / "bundle"), "step", "fp32"))


# ------------------------------------------------------------------------------------------------------------- README

MEMORIZED = {
    "model.num_layers": 1,
    "model.hidden_size": 48,
    "model.dropout": 0.0,
    "data.target_tokens": "whitespace",
    "training.updates": 150,
    "training.learning_rate": 0.01,
    "evaluation.every": 0,
}


def test_the_python_of_the_readme_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small model that memorized the words of the example in the place of the demo's."""
    code = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL).group(1)
    words, outputs = re.findall(r'"([a-z]+)"', code), re.findall(r"'([A-Z ]+)'", code)
    assert len(words) == len(outputs) == 3
    monkeypatch.chdir(tmp_path)
    Path("pairs.tsv").write_text("".join(f"{word}\t{output}\n" for word, output in zip(words, outputs, strict=True)))
    settings = [f"{key}={value}" for key, value in MEMORIZED.items()]
    freerun.train("pairs.tsv", out="runs/demo", dev="pairs.tsv", settings=settings)
    example = doctest.DocTestParser().get_doctest(code, {}, "README.md", None, None)
    assert len(example.examples) == 4
    assert doctest.DocTestRunner().run(example).failed == 0


# ----------------------------------------------------------------------------------------------------------- features


def _blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "features.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def _memorize_verbs(directory: Path) -> None:
    """Write the file of the page, and train a small model that memorizes it."""
    (directory / "verbs.tsv").write_text(_blocks("tsv")[0], "utf-8")
    chosen = {**MEMORIZED, "data.target_tokens": "char", "training.threads": 1}
    settings = [f"--set={key}={value}" for key, value in chosen.items()]
    assert main(["train", "verbs.tsv", "--dev", "verbs.tsv", "--out", "runs/verbs", *settings]) == 0


def test_the_python_of_the_page_on_features_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _memorize_verbs(tmp_path)
    (code,) = _blocks("python")
    example = doctest.DocTestParser().get_doctest(code, {}, "features.md", None, None)
    assert len(example.examples) == 6
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.slow
def test_the_commands_of_the_page_on_features_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training with the model above in its place; a comment at the end of a line is its output."""
    monkeypatch.chdir(tmp_path)
    _memorize_verbs(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    commands = [line for block in _blocks("sh") for line in block.splitlines()]
    assert commands.pop(0) == "freerun train verbs.tsv --out runs/verbs"
    assert len(commands) > 8
    for line in commands:
        command, _, expected = line.partition(" # ")
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, (command, done.stderr)
        assert not expected or done.stdout.splitlines() == expected.strip().split(", "), command


def test_the_configuration_of_the_page_on_features_has_the_defaults() -> None:
    (text,) = _blocks("toml")
    config = parse_config(tomllib.loads(text), "page", settings_of)
    assert (config.data.columns, config.data.feature_separator) == ((1, 2, 3), SEPARATORS[0])
    assert config.model.feature_encoder == feature_encoder_for(config.model.attention)
