"""The configuration: what it takes, what it refuses, and in which words."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from freerun.architecture import attention_scores
from freerun.config import (
    HIGHER_IS_BETTER,
    Config,
    CosineSchedule,
    DataConfig,
    FilePair,
    HalvingSchedule,
    StudyConfig,
    absolute_paths,
    apply_overrides,
    changed_keys,
    check_values,
    flatten,
    merge,
    override,
    parse_config,
    read_toml,
    shown,
    to_toml,
    with_former_names,
    with_new_names,
)
from freerun.errors import ConfigError
from freerun.forcing.registry import settings_of as real_settings
from tests.networks import CELLS, one_of

FITTING_SCORES = [name for name, spec in attention_scores().items() if not spec.needs_equal_sizes]


COLUMNS = (
    "Expected two or three columns (source, target, features), counted from 1, for example [1, 2] or [1, 2, 3], or "
    'names of columns, for example ["source", "target"].'
)
FILES = (
    'Expected a path, { source = "PATH", target = "PATH" } for two parallel files, or a list of paths and patterns, '
    'for example ["a.tsv", "b/*.tsv"].'
)
SEPARATOR = 'Expected the text between features, 1 to 8 characters without tabs and line ends, for example ";".'


class NoSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Sampling(BaseModel):
    """A strategy with settings, one of them with a check of its own."""

    model_config = ConfigDict(extra="forbid", strict=True)
    coin: str = "token"
    k: float = 1.0

    @field_validator("k")
    @classmethod
    def _positive(cls, value):
        if value <= 0:
            raise ValueError(f"k = {value} would never feed a right token|Expected k above 0|Set forcing.k = 2000.0")
        return value


def forcing(name):
    if name not in ("teacher", "sampling"):
        raise ConfigError.single("forcing.strategy", f"unknown strategy {name!r}", "Expected another")
    return {"teacher": NoSettings, "sampling": Sampling}[name]


def parse(text, **origins):
    return parse_config(
        tomllib.loads(text), "c.toml", forcing, {path.replace("__", "."): o for path, o in origins.items()}
    )


def section(name, lines):
    return parse('[data]\ntrain = "t"\n' + ("" if name == "data" else f"[{name}]\n") + lines)


def problems(text, **origins):
    with pytest.raises(ConfigError) as error:
        parse(text, **origins)
    assert str(error.value) == "\n".join(map(str, error.value.problems))
    return [str(problem) for problem in error.value.problems]


def problem(name, lines):
    """The one fault of a section, without the file's name."""
    (found,) = problems('[data]\ntrain = "t"\n' + ("" if name == "data" else f"[{name}]\n") + lines)
    assert found.startswith("c.toml: ")
    return found.removeprefix("c.toml: ")


# -------------------------------------------------------------------------------------------------------- what it takes


def test_only_the_training_pairs_are_needed():
    config = parse('[data]\ntrain = "t"')
    assert (config.training.updates, config.training.epochs) == (20000, None)
    assert (config.training.batch_size, config.training.batch_tokens) == (128, None)
    assert (config.model.cell, config.model.hidden_size, config.evaluation.every) == ("lstm", 512, 1000)
    assert config.forcing.model_dump(exclude_none=True) == {"strategy": "teacher"}


def test_an_alternative_takes_the_place_of_the_default():
    training = section("training", "epochs = 2\nbatch_tokens = 500").training
    assert (training.updates, training.epochs, training.batch_size, training.batch_tokens) == (None, 2.0, None, 500)


def test_lists_of_files_and_names_of_columns():
    config = parse('[data]\ntrain = ["a.tsv", "b/*.tsv"]\ndev = ["c"]\ncolumns = ["src", "tgt", "2"]')
    assert (config.data.train, config.data.dev) == (("a.tsv", "b/*.tsv"), ("c",))
    assert config.data.columns == ("src", "tgt", "2")
    assert tomllib.loads(to_toml(config))["data"]["train"] == ["a.tsv", "b/*.tsv"]
    assert parse(to_toml(config)) == config


def test_a_setting_may_be_a_list(tmp_path):
    raw = apply_overrides({"data": {"train": "x"}}, ['data.train=["a.tsv", "b/*.tsv"]'], tmp_path)
    assert raw == {"data": {"train": [str(tmp_path / "a.tsv"), str(tmp_path / "b" / "*.tsv")]}}


def test_parallel_files_and_columns():
    config = parse('[data]\ntrain = { source = "a", target = "b" }\ncolumns = [3, 1]')
    assert config.data.train == FilePair(source="a", target="b")
    assert config.data.columns == (3, 1)


@pytest.mark.parametrize("spec", ["auto", "char", "whitespace", "sentencepiece:8000"])
def test_tokens(spec):
    assert section("data", f'source_tokens = "{spec}"').data.source_tokens == spec


def test_schedules_have_their_own_keys():
    cosine = section("training", 'schedule = { kind = "cosine", warmup = 5, final = 0.5 }').training.schedule
    assert cosine == CosineSchedule(kind="cosine", warmup=5, final=0.5)
    halving = section("training", 'schedule = { kind = "halving", start_epoch = 5 }').training.schedule
    assert halving == HalvingSchedule(kind="halving", start_epoch=5.0, every_epochs=0.5)
    assert section("training", 'schedule = { kind = "inverse_sqrt" }').training.schedule.warmup == 1000


def test_a_strategy_has_its_settings_with_their_defaults():
    config = parse('[data]\ntrain = "t"\n[forcing]\nstrategy = "sampling"\nk = 3.5')
    assert config.forcing.model_dump(exclude_none=True) == {"strategy": "sampling", "coin": "token", "k": 3.5}


def test_a_whole_number_will_do_for_a_number():
    assert section("training", "learning_rate = 1").training.learning_rate == 1.0


# ------------------------------------------------------------------------------------------------------ what it refuses


def test_all_faults_are_told_at_once():
    """Of every kind and in every section, contradictions between right values too."""
    found = problems("""
        [data]
        trian = "t"
        [model]
        hidden_size = 0
        cell = "lsmt"
        [training]
        updates = 5
        epochs = 1
        average = 4
        learning_rat = 1e-3
        [trainig]
        [forcing]
        strategy = "sampling"
        coin = 5
        """)
    assert [line.split(": ")[1] for line in found] == [
        "data.train",
        "data.trian",
        "model.cell",
        "model.hidden_size",
        "training.learning_rat",
        "trainig",
        "forcing.coin",
        "training.epochs",
        "training.average",
    ]


KEYS = "Expected one of: {}. "


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("model", "hiden_size = 3", "The closest match is 'hidden_size'."),
        ("model", "xyzzy = 3", "Remove it."),
        ("model", "updates = 3", "Move it to [training]."),
        ("evaluation", "batch_size = 3", "Move it to [training]."),
        ("training", "treads = 3", "The closest match is 'threads'."),
    ],
)
def test_an_unknown_key_is_told_with_the_valid_ones_and_where_it_belongs(name, line, expected):
    key = line.split(" ")[0]
    found = problem(name, line)
    assert found.startswith(f"{name}.{key}: unknown key. Expected one of: ")
    assert found.endswith(expected)
    for valid in Config.model_fields[name].annotation.model_fields:
        assert valid in found


def test_an_unknown_section_is_told_with_the_nearest():
    (found,) = problems('[data]\ntrain = "t"\n[trainig]\nupdates = 3')
    assert found == (
        "c.toml: trainig: unknown key. Expected one of: data, evaluation, forcing, model, training. "
        "The closest match is 'training'."
    )


def test_a_key_before_the_first_section_is_sent_to_its_own():
    (found,) = problems('hidden_size = 3\n[data]\ntrain = "t"')
    assert found.endswith("Move it to [model].")


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("model", "hidden_size = 0", "0. Expected a whole number from 1 to 1,000,000."),
        ("model", "num_layers = -3", "-3. Expected a whole number from 1 to 1,000."),
        ("model", "embedding_size = 1.5", "1.5. Expected a whole number from 1 to 1,000,000."),
        ("model", "embedding_size = true", "true. Expected a whole number from 1 to 1,000,000."),
        ("model", 'embedding_size = "8"', '"8". Expected a whole number from 1 to 1,000,000.'),
        ("model", "dropout = 1", "1. Expected a number, 0 or more, below 1."),
        ("model", "dropout = -0.1", "-0.1. Expected a number, 0 or more, below 1."),
        ("model", "dropout = nan", "nan. Expected a finite number, 0 or more, below 1."),
        ("model", "dropout = false", "false. Expected a number, 0 or more, below 1."),
        ("model", "bidirectional = 1", "1. Expected true or false."),
        ("model", 'bidirectional = "true"', '"true". Expected true or false.'),
        ("model", "cell = 3", f"3. Expected {one_of(CELLS)}."),
        ("model", 'cell = "LSTM"', f'"LSTM". Expected {one_of(CELLS)}.'),
        ("model", 'cell = "lsmt"', f"\"lsmt\". Expected {one_of(CELLS)}. The closest match is 'lstm'."),
        ("model", "hidden_size = 2024-01-01", "2024-01-01. Expected a whole number from 1 to 1,000,000."),
        ("model", "hidden_size = [512]", "[512]. Expected a whole number from 1 to 1,000,000."),
        ("model", "hidden_size = { a = 1 }", "{ a = 1 }. Expected a whole number from 1 to 1,000,000."),
        (
            "model",
            'forget_bias = "drwn"',
            '"drwn". Expected a number from -1e+38 to 1e+38 or "drawn". The closest match is \'drawn\'.',
        ),
        ("training", "learning_rate = 0", "0. Expected a number, above 0, 1e+38 or less."),
        ("training", "learning_rate = inf", "inf. Expected a finite number, above 0, 1e+38 or less."),
        ("training", 'learning_rate = "1e-3"', '"1e-3". Expected a number, above 0, 1e+38 or less.'),
        ("training", "updates = 0", "0. Expected a whole number from 1 to 1,000,000,000."),
        ("training", "epochs = 0", "0. Expected a number, above 0, 1,000,000,000 or less."),
        ("training", "batch_size = -1", "-1. Expected a whole number from 1 to 1,000,000."),
        (
            "training",
            "seed = 1.0",
            "1.0. Expected a whole number from -9,223,372,036,854,775,808 to 9,223,372,036,854,775,807.",
        ),
        ("training", "threads = 99999999999", "99999999999. Expected a whole number from 0 to 1,024."),
        ("training", "checkpoint_every = -1", "-1. Expected a whole number from 0 to 1,000,000,000."),
        ("training", 'average = "9"', '"9". Expected a whole number from 0 to 1,000,000,000.'),
        ("training", "init = 3", "3. Expected the path of a bundle or run directory."),
        ("evaluation", "beam_size = 0", "0. Expected a whole number from 1 to 1,000."),
        ("evaluation", "length_penalty = 11", "11. Expected a number from 0 to 10."),
        ("data", "columns = [0, 1]", f"[0, 1]. {COLUMNS}"),
        ("data", 'columns = ["1", 2]', f'["1", 2]. {COLUMNS}'),
        ("data", 'columns = ["a", ""]', f'["a", ""]. {COLUMNS}'),
        ("data", 'columns = ["a"]', f'["a"]. {COLUMNS}'),
        ("data", "columns = [1]", f"[1]. {COLUMNS}"),
        ("data", "columns = [1, 2, 3, 4]", f"[1, 2, 3, 4]. {COLUMNS}"),
        ("data", "columns = [true, 2]", f"[true, 2]. {COLUMNS}"),
        ("data", 'columns = "1,2"', f'"1,2". {COLUMNS}'),
        ("data", 'feature_separator = ""', f'"". {SEPARATOR}'),
        ("data", 'feature_separator = "\\t"', f'"\\t". {SEPARATOR}'),
        ("data", 'feature_separator = "123456789"', f'"123456789". {SEPARATOR}'),
        ("data", "feature_separator = 3", f"3. {SEPARATOR}"),
        ("model", 'feature_encoder = "mean"', '"mean". Expected one of "summary", "sequence", "both".'),
        ("data", "dev = 3", f"3. {FILES}"),
        ("data", 'dev = ""', f'"". {FILES}'),
        ("data", "dev = []", f"[]. {FILES}"),
        ("data", 'dev = ["a", 3]', f'["a", 3]. {FILES}'),
        ("data", 'dev = ["a", ""]', f'["a", ""]. {FILES}'),
        ("data", 'dev = [["a"]]', f'[["a"]]. {FILES}'),
        (
            "data",
            'dev = "a\\u0000b"',
            f'"a\\u0000b". {FILES}',
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_is_expected(name, line, expected):
    assert problem(name, line) == f"{name}.{line.split(' ')[0]}: the value is {expected}"


@pytest.mark.parametrize("spec", ["chars", "sentencepiece", "sentencepiece:0", "sentencepiece:1.5", "char\\n", ""])
def test_a_wrong_tokenizer_is_told_with_the_right_ones(spec):
    assert problem("data", f'source_tokens = "{spec}"').startswith(
        f'data.source_tokens: the value is "{spec}". Expected "auto", "char", "whitespace" or "sentencepiece:N" with N'
    )


def test_a_metric_without_its_ending_is_told_the_nearest():
    found = problem("evaluation", 'select_on = "symbol_error_rate"')
    assert found.endswith("The closest match is 'symbol_error_rate.free'.")


def test_of_two_faults_at_a_key_the_first_is_told():
    assert problem("training", 'updates = 5\nepochs = "x"') == (
        'training.epochs: the value is "x". Expected a number, above 0, 1,000,000,000 or less.'
    )


def test_figures_of_which_more_is_better_are_known():
    metrics = get_args(Config.model_fields["evaluation"].annotation.model_fields["select_on"].annotation)
    assert set(HIGHER_IS_BETTER) == {name for name in metrics if not name.startswith(("nll", "symbol_error_rate"))}


def test_missing_keys_are_told():
    assert problems("") == ["c.toml: data: this key is missing. Expected a section, [data]. Set data.train."]
    assert problems("[data]") == [f"c.toml: data.train: this key is missing. {FILES} Set this key."]
    assert problems('[data]\ntrain = { source = "a" }') == [
        "c.toml: data.train.target: this key is missing. Expected a path. Set this key."
    ]


def test_a_misspelt_side_of_parallel_files_is_told():
    missing, unknown = problems('[data]\ntrain = { source = "a", targets = "b" }')
    assert missing.startswith("c.toml: data.train.target: this key is missing.")
    assert unknown == (
        "c.toml: data.train.targets: unknown key. Expected one of: source, target. The closest match is 'target'."
    )


@pytest.mark.parametrize("name", ["data", "model", "forcing", "training", "evaluation"])
@pytest.mark.parametrize(("value", "told"), [("5", "5"), ('"x"', '"x"'), ("true", "true"), ("[1]", "[1]")])
def test_a_value_where_a_section_belongs_is_told(name, value, told):
    others = "" if name == "data" else '\n[data]\ntrain = "t"'
    assert problems(f"{name} = {value}{others}") == [
        f"c.toml: {name}: the value is {told}. Expected a section, [{name}]."
    ]


KINDS = 'Expected one of "constant", "inverse_sqrt", "cosine", "halving".'


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        ('{ kind = "cosin" }', ".kind", f"the value is \"cosin\". {KINDS} The closest match is 'cosine'."),
        ("{ kind = 3 }", ".kind", f"the value is 3. {KINDS}"),
        ('{ kind = ["cosine"] }', ".kind", f'the value is ["cosine"]. {KINDS}'),
        ("{ warmup = 5 }", ".kind", f"this key is missing. {KINDS} Set this key."),
        (
            '{ kind = "cosine", start_epoch = 5.0 }',
            ".start_epoch",
            'unknown key for kind = "cosine". Expected one of: final, kind, warmup. Remove it.',
        ),
        (
            '{ kind = "halving", every_epoch = 5.0 }',
            ".every_epoch",
            (
                'unknown key for kind = "halving". Expected one of: every_epochs, kind, start_epoch, warmup. '
                "The closest match is 'every_epochs'."
            ),
        ),
        ('{ kind = "cosine", final = 2 }', ".final", "the value is 2. Expected a number from 0 to 1."),
        (
            '{ kind = "inverse_sqrt", warmup = 0 }',
            ".warmup",
            "the value is 0. Expected a whole number from 1 to 1,000,000,000.",
        ),
        (
            '"cosine"',
            "",
            (
                'the value is "cosine". Expected a table with its kind, for example { kind = "cosine", warmup = 500 }. '
                'Write schedule = { kind = "cosine" }.'
            ),
        ),
    ],
)
def test_a_wrong_schedule_is_told(value, key, expected):
    assert problem("training", f"schedule = {value}") == f"training.schedule{key}: {expected}"


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        (
            "training",
            "updates = 5\nepochs = 1.5",
            "training.epochs: both updates = 5 and epochs = 1.5 are set. Expected only one of them. Remove one.",
        ),
        (
            "training",
            "batch_size = 8\nbatch_tokens = 900",
            (
                "training.batch_tokens: both batch_size = 8 and batch_tokens = 900 are set. Expected only one of "
                "them. Remove one."
            ),
        ),
        (
            "training",
            "average = 5",
            (
                "training.average: 5 checkpoints cannot be averaged if only keep = 3 are retained. "
                "Expected average <= keep. Set training.keep to 5 or more."
            ),
        ),
        (
            "model",
            'attention = "luong"\nattention_score = "dot"\nbidirectional = true',
            (
                'model.attention_score: "dot" needs vectors of equal size, but those of a bidirectional encoder are '
                f"twice as long. Expected {one_of(FITTING_SCORES)}, or bidirectional = false. Change attention_score "
                "or bidirectional."
            ),
        ),
        (
            "model",
            "input_feeding = true",
            (
                'model.input_feeding: input feeding cannot be combined with attention = "none". Expected '
                'attention = "luong". Change attention or input_feeding.'
            ),
        ),
        (
            "evaluation",
            "early_stop = true\nbeam_size = 4",
            (
                "evaluation.early_stop: early stopping has no effect without a length penalty. Expected "
                "length_penalty above 0. Set evaluation.length_penalty, or remove early_stop."
            ),
        ),
        (
            "data",
            'shared_vocabulary = true\nsource_tokens = "char"\ntarget_tokens = "whitespace"',
            (
                'data.shared_vocabulary: source_tokens = "char" and target_tokens = "whitespace" cannot share a '
                "vocabulary. Expected the same tokens on both sides. Make the two equal, or set "
                "data.shared_vocabulary = false."
            ),
        ),
    ],
)
def test_values_that_contradict_each_other_are_told(name, lines, expected):
    assert problem(name, lines) == expected


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("training", "average = 5\nkeep = 5"),
        ("evaluation", "early_stop = true\nlength_penalty = 0.6"),
        ("model", 'attention = "luong"\nattention_score = "dot"'),
        ("model", 'attention_score = "dot"\nbidirectional = true'),
        ("model", 'attention = "luong"\ninput_feeding = true'),
        ("data", 'shared_vocabulary = true\nsource_tokens = "char"'),
        ("data", 'shared_vocabulary = true\nsource_tokens = "char"\ntarget_tokens = "char"'),
    ],
)
def test_values_that_go_together_are_taken(name, lines):
    assert isinstance(section(name, lines), Config)


# ----------------------------------------------------------------------------------------------------------- strategies


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('strategy = "techer"', "forcing.strategy: unknown strategy 'techer'. Expected another."),
        ("strategy = 5", "forcing.strategy: the value is 5. Expected a string."),
        ('strategy = "teacher"\nk = 1', "forcing.k: unknown key. Expected one of: strategy. Remove it."),
        (
            'strategy = "sampling"\nkoin = 1',
            "forcing.koin: unknown key. Expected one of: strategy, coin, k. The closest match is 'coin'.",
        ),
        ('strategy = "sampling"\nk = "x"', 'forcing.k: the value is "x". Expected a number.'),
        (
            'strategy = "sampling"\nk = -1.0',
            "forcing.k: k = -1.0 would never feed a right token. Expected k above 0. Set forcing.k = 2000.0.",
        ),
    ],
)
def test_settings_of_a_strategy_are_checked_with_the_rest(lines, expected):
    assert problem("forcing", lines) == expected


# --------------------------------------------------------------------------------------------------------- renamed keys

OLD, NEW = {"strategy": "professor", "teacher_too": True}, {"strategy": "professor", "include_teacher_term": True}


@pytest.mark.parametrize(
    ("forcing", "key"),
    [
        (OLD, "forcing.teacher_too"),
        ({"phases": [{"strategy": "teacher", "until": 5}, OLD]}, "forcing.phases[2].teacher_too"),
    ],
)
def test_an_old_name_is_an_error_that_gives_the_new_one(forcing, key):
    with pytest.raises(ConfigError) as error:
        parse_config({"data": {"train": "t"}, "forcing": forcing}, "c.toml", real_settings)
    assert str(error.value) == (
        f"c.toml: {key}: this key was renamed. Expected include_teacher_term. "
        "Write include_teacher_term in place of teacher_too."
    )


def test_an_old_name_is_an_unknown_key_where_the_new_one_is():
    with pytest.raises(ConfigError, match=r"forcing\.teacher_too: unknown key"):
        parse_config(
            {"data": {"train": "t"}, "forcing": {"strategy": "teacher", "teacher_too": True}}, "c.toml", real_settings
        )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"forcing": OLD}, {"forcing": NEW}),
        ({"forcing": NEW}, {"forcing": NEW}),
        ({"forcing": {"phases": [OLD, NEW]}}, {"forcing": {"phases": [NEW, NEW]}}),
        ({"forcing": {**OLD, "strategy": "my:Own"}}, {"forcing": {**OLD, "strategy": "my:Own"}}),
        ({"model": {"teacher_too": 1}, "forcing": 3}, {"model": {"teacher_too": 1}, "forcing": 3}),
        ({"forcing": {**OLD, **NEW}}, {"forcing": {**OLD, **NEW}}),
    ],
)
def test_a_configuration_that_freerun_wrote_is_read_with_old_names(written, read):
    assert with_new_names(written) == read


@pytest.mark.parametrize(
    ("written", "former"),
    [
        (
            {"forcing": NEW, "model": {"include_teacher_term": 1}},
            {"forcing": OLD, "model": {"include_teacher_term": 1}},
        ),
        ({"forcing": {"phases": [NEW, NEW]}}, {"forcing": {"phases": [OLD, OLD]}}),
        ({"forcing": {**NEW, "strategy": "my:Own"}}, {"forcing": {**NEW, "strategy": "my:Own"}}),
        ({"target_error": 0.5}, {"reach": 0.5}),
    ],
)
def test_former_names_are_those_that_hashes_of_earlier_versions_were_made_of(written, former):
    assert with_former_names(written) == former


# -------------------------------------------------------------------------------------------------------- who set a key


def test_a_fault_names_what_was_typed():
    found = problems(
        '[data]\ntrain = "t"\ndev = 3\n[model]\nhidden_size = 0\nnum_layers = 0\n[training]\nschedule = { kind = "x" }',
        model__hidden_size="--set model.hidden_size=0",
        training__schedule="--set training.schedule={kind='x'}",
    )
    assert [line.split(": the value")[0] for line in found] == [
        "c.toml: data.dev",
        "--set model.hidden_size=0",
        "c.toml: model.num_layers",
        "--set training.schedule={kind='x'}: training.schedule.kind",
    ]


def test_check_values_tells_in_the_same_words():
    with pytest.raises(ConfigError) as error:
        check_values(DataConfig, {"train": "t", "minimum_count": 0}, "here")
    assert str(error.value) == "here: minimum_count: the value is 0. Expected a whole number from 1 to 1,000,000,000."


# ----------------------------------------------------------------------------------------------------------------- TOML


def toml_problem(tmp_path, content):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_toml(path)
    return str(error.value).removeprefix(f"{path}: ")


def test_a_file_that_is_not_toml_is_told_with_its_line(tmp_path):
    assert toml_problem(tmp_path, b"[data]\ntrain = t.tsv\n") == (
        "this is not TOML: Invalid value (at line 2, column 9). Expected lines such as key = value. Correct that line."
    )


def test_a_file_that_is_not_utf8_is_told_with_its_byte(tmp_path):
    assert toml_problem(tmp_path, b'[data]\ntrain = "caf\xe9"\n') == (
        "byte 0xe9 at offset 19 is not UTF-8. Expected UTF-8 text. Save the file as UTF-8."
    )


def test_nesting_without_end_is_told(tmp_path):
    assert toml_problem(tmp_path, b"a = " + b"[" * 100_000).startswith("this is not TOML: ")


def test_a_byte_order_mark_is_nothing(tmp_path):
    (tmp_path / "c.toml").write_bytes(b'\xef\xbb\xbf[data]\ntrain = "t"\n')
    assert read_toml(tmp_path / "c.toml") == {"data": {"train": "t"}}


def test_a_file_that_is_not_there_is_told(tmp_path):
    for path, what in ((tmp_path / "none.toml", "no such file"), (tmp_path, "this is a directory")):
        with pytest.raises(ConfigError) as error:
            read_toml(path)
        assert str(error.value).startswith(f"{path}: {what}. Expected a TOML configuration")
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match=r"the file cannot be read \(Not a directory\)"):
        read_toml(tmp_path / "a" / "c.toml")


def test_a_device_is_not_read_for_ever():
    with pytest.raises(ConfigError) as error:
        read_toml(Path("/dev/zero"))
    assert str(error.value) == (
        "/dev/zero: this file has more than 10,000,000 bytes. Expected a TOML configuration. Check the path."
    )


# ---------------------------------------------------------------------------------------------------------------- --set


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("a.b=3", 3),
        ("a.b = 3", 3),
        ("a.b=1e-3", 1e-3),
        ("a.b=true", True),
        ("a.b=True", "True"),
        ("a.b=lstm", "lstm"),
        ('a.b="lstm"', "lstm"),
        ("a.b=1,2", "1,2"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=a=b", "a=b"),
        ("a.b=", ""),
        ("a.b={c = 1}", {"c": 1}),
        ("a.b=01", "01"),
        ("a.b=1\nc=2", "1\nc=2"),
        ("a.b=/data/x.tsv", "/data/x.tsv"),
        ("a.b=" + "[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_is_toml_and_else_a_string(setting, value):
    assert apply_overrides({}, [setting]) == {"a": {"b": value}}


def test_a_setting_wins_over_what_was_there_and_leaves_the_rest():
    raw = {"training": {"seed": 1, "updates": 5, "schedule": {"kind": "cosine", "warmup": 500}}}
    found = apply_overrides(raw, ["training.seed=3", "training.seed=4", "training.schedule.warmup=7"])
    assert found == {"training": {"seed": 4, "updates": 5, "schedule": {"kind": "cosine", "warmup": 7}}}
    assert raw["training"]["schedule"]["warmup"] == 500


def test_a_whole_schedule_replaces_but_a_whole_section_is_merged():
    raw = {"training": {"seed": 1, "schedule": {"kind": "cosine", "final": 0.5}}}
    found = apply_overrides(raw, ['training.schedule={kind="halving"}'])
    assert found["training"] == {"seed": 1, "schedule": {"kind": "halving"}}
    found = apply_overrides(raw, ['training={updates=5, schedule={kind="constant"}}'])
    assert found["training"] == {"seed": 1, "updates": 5, "schedule": {"kind": "constant"}}
    assert apply_overrides({"data": {"train": {"source": "a", "target": "b"}}}, ["data.train={source='c'}"]) == {
        "data": {"train": {"source": "c"}}
    }


@pytest.mark.parametrize("setting", ["training.seed", "=3", "training.=3", ".seed=3", "a..b=3", ""])
def test_what_is_no_setting_is_told(setting):
    with pytest.raises(ConfigError) as error:
        apply_overrides({}, [setting])
    assert str(error.value).startswith(f"--set {setting}: this is not key.path=VALUE. Expected a key path,")


def test_a_path_through_a_value_is_told():
    with pytest.raises(ConfigError) as error:
        apply_overrides({"data": {"train": "pairs.tsv"}}, ["data.train.source=a"])
    assert str(error.value) == (
        "--set data.train.source=a: data.train is \"pairs.tsv\", a value and not a section with a key 'source'. "
        "Expected data.train to be a section. Change data.train in the configuration, or set all of it."
    )


def test_override_puts_one_value_in_its_place():
    raw = {"a": {"b": 1}}
    assert override(raw, ["a", "c"], 2, "--c") == {"a": {"b": 1, "c": 2}}
    assert raw == {"a": {"b": 1}}


# ---------------------------------------------------------------------------------------------------------------- paths


def test_relative_paths_count_from_the_folder(tmp_path):
    raw = {
        "data": {"train": "t", "dev": {"source": "../s", "target": "/x/t"}},
        "training": {"init": "runs/a", "seed": 1},
    }
    found = absolute_paths(raw, tmp_path / "configs")
    assert found["data"]["train"] == str(tmp_path / "configs" / "t")
    assert found["data"]["dev"] == {"source": str(tmp_path / "s"), "target": "/x/t"}
    assert found["training"] == {"init": str(tmp_path / "configs" / "runs" / "a"), "seed": 1}
    assert raw["data"]["train"] == "t"


def test_a_link_keeps_its_own_name(tmp_path):
    """Caches keep files under names without an ending; the link's name tells that it is compressed."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123abcd").touch()
    (tmp_path / "here").symlink_to(tmp_path / "blobs")
    (tmp_path / "train.tsv.gz").symlink_to(tmp_path / "blobs" / "0123abcd")
    found = absolute_paths({"data": {"train": "train.tsv.gz", "dev": "here/0123abcd"}}, tmp_path)
    assert found["data"] == {
        "train": str(tmp_path / "train.tsv.gz"),
        "dev": str(tmp_path / "blobs" / "0123abcd"),
    }


def test_the_home_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_paths({"data": {"train": "~/t"}}, tmp_path / "x")["data"]["train"] == str(tmp_path / "t")


@pytest.mark.parametrize("value", [3, None, True, [3, "", "a\0b*", ["a"]], "", "a\0b"])
def test_what_is_no_path_is_left_to_be_told(value, tmp_path):
    for raw in ({"data": {"train": value}}, {"training": {"init": value}}, {"data": {"dev": {"source": value}}}):
        assert absolute_paths(raw, tmp_path) == raw
    assert absolute_paths({"data": value, "training": value}, tmp_path) == {"data": value, "training": value}


def test_a_path_that_leads_nowhere_is_left_to_the_reader(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in ("~no_such_user_here/t", "circle/t"):
        found = absolute_paths({"data": {"train": path}}, tmp_path)["data"]["train"]
        assert os.path.isabs(found)  # noqa: PTH117
        assert found.endswith(path)


# --------------------------------------------------------------------------------------------- raw configurations alike


def test_merging_is_key_by_key_but_a_schedule_is_one():
    under = {"training": {"seed": 1, "schedule": {"kind": "cosine", "final": 0.1}}, "model": {"cell": "gru"}}
    over = {"training": {"updates": 5, "schedule": {"kind": "constant"}}, "model": 3}
    assert merge(under, over) == {"training": {"seed": 1, "updates": 5, "schedule": {"kind": "constant"}}, "model": 3}
    assert under["training"]["schedule"]["kind"] == "cosine"


def test_flatten_and_changed_keys():
    old = {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}
    new = {"a": {"b": 1, "c": {"d": 3}}, "f": "x"}
    assert flatten(old) == {"a.b": 1, "a.c.d": 2, "e": [1]}
    assert changed_keys(old, new) == [("a.c.d", 2, 3), ("e", [1], None), ("f", None, "x")]
    assert changed_keys(old, old) == []


def test_the_complete_configuration_has_every_default():
    config = parse('[data]\ntrain = "t"')
    raw = tomllib.loads(to_toml(config))
    features = {"data.feature_separator", "model.feature_encoder"}
    data = {"data.dev", "data.columns", "data.window"}
    optional = {*data, "training.epochs", "training.batch_tokens", "forcing.phases", *features}
    for name, info in Config.model_fields.items():
        missing = {f"{name}.{key}" for key in info.annotation.model_fields if key not in raw[name]}
        assert missing <= optional
    assert raw["training"]["schedule"] == {"kind": "constant", "warmup": 0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "not set"),
        (True, "true"),
        ('a "b"\n', '"a \\"b\\"\\n"'),
        (0.001, "0.001"),
        ((1, 2), "[1, 2]"),
        ({"kind": "cosine", "x": [True]}, '{ kind = "cosine", x = [true] }'),
        ("x" * 99, '"' + "x" * 76 + "..."),
    ],
)
def test_values_are_shown_as_toml_writes_them(value, expected):
    assert shown(value) == expected


def test_the_processes_of_a_study_are_bounded():
    raw = {"base": "b.toml", "control": "a", "processes": 1025}
    with pytest.raises(ConfigError, match=r"s: processes: the value is 1025\. Expected a whole number from 1 to 256\."):
        check_values(StudyConfig, raw, "s")
    assert check_values(StudyConfig, {**raw, "processes": 256}, "s").processes == 256


@pytest.mark.parametrize("kind", ["sequence", "both"])
def test_features_as_a_sequence_need_an_attention(kind):
    with pytest.raises(ConfigError) as error:
        parse(f'[data]\ntrain = "t"\n[model]\nfeature_encoder = "{kind}"')
    assert str(error.value) == (
        f'c.toml: model.feature_encoder: "{kind}" needs an attention, which reads features, but attention = "none". '
        'Expected "summary", or attention = "luong" or "bahdanau". Change feature_encoder or attention.'
    )
    for attention, encoder in (("luong", kind), ("bahdanau", kind), ("none", "summary")):
        config = parse(f'[data]\ntrain = "t"\n[model]\nfeature_encoder = "{encoder}"\nattention = "{attention}"')
        assert config.model.feature_encoder == encoder
