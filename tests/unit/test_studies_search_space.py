"""The ranges of a tuning, and what its trials suggest."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.config import parse_config
from freerun.forcing.registry import EVERYTHING
from freerun.studies.search_space import FEWEST_FOR_IMPORTANCES, SearchSpace
from freerun.studies.trials import Trial

RECIPE = {
    "model": {
        "hidden_size": 256,
        "embedding_size": 256,
        "num_layers": 1,
        "attention": "bahdanau",
        "dropout": 0.4,
        "embedding_unit_dropout": 0.3,
        "memory_dropout": 0.3,
    },
    "training": {"batch_size": 32, "learning_rate": 0.002, "label_smoothing": 0.1},
}


def config_of(**model):
    raw = {"data": {"train": "pairs.tsv"}, **RECIPE, "model": {**RECIPE["model"], **model}}
    return parse_config(raw, "test", EVERYTHING.settings_of)


def space(fixed=(), higher=False, forms=(), **model):
    return SearchSpace(config_of(**model), fixed, higher, forms)


def trials_by(cost, searched, count, seed=1):
    """Run trials whose value is a function of their settings."""
    trials = []
    for number in range(count):
        chosen = searched.suggest(trials, seed) if number else {}
        trials.append(Trial(number=number, settings=chosen, value=cost({**searched.start, **chosen})))
    return trials


def test_the_first_trial_is_the_recipe_and_within_every_range():
    searched = space()
    assert searched.start == {
        "model.hidden_size": 256,
        "model.num_layers": 1,
        "model.dropout": 0.4,
        "model.embedding_unit_dropout": 0.3,
        "model.memory_dropout": 0.3,
        "training.learning_rate": 0.002,
        "training.label_smoothing": 0.1,
        "model.attention": "bahdanau",
        "training.batch_size": 32,
    }
    for key, value in searched.start.items():
        assert searched.ranges[key]._contains(searched.ranges[key].to_internal_repr(value)), key


def test_ranges():
    ranges = space().ranges
    assert (ranges["model.hidden_size"].low, ranges["model.hidden_size"].high) == (128, 512)
    assert (ranges["model.num_layers"].low, ranges["model.num_layers"].high) == (1, 2)
    assert (ranges["model.dropout"].low, ranges["model.dropout"].high) == (0.15, 0.65)
    assert (ranges["training.label_smoothing"].low, ranges["training.label_smoothing"].high) == (0.0, 0.2)
    assert (ranges["training.learning_rate"].low, ranges["training.learning_rate"].high) == (0.0005, 0.008)
    assert ranges["training.batch_size"].choices == (16, 32, 64)


def test_what_was_set_is_not_tuned():
    fixed = {"model.hidden_size", "training.batch_size"}
    assert fixed.isdisjoint(space(fixed).ranges)
    assert "model.hidden_size" not in space(fixed).suggest([Trial(number=0, settings={}, value=1.0)], 1)


def test_settings_of_one_attention_fix_the_attention():
    assert "model.attention" not in space({"model.attention_score"}).ranges
    assert "model.attention" not in space({"model.input_feeding"}, attention="luong", input_feeding=True).ranges
    assert "model.attention" in space({"model.input_feeding"}, input_feeding=False).ranges


def test_forms_of_sources_are_tuned_and_targets_keep_theirs():
    searched = space(forms=("NFC", "NFD"))
    assert searched.start["data.normalisation.source"] == "NFC"
    first = [Trial(number=0, settings={}, value=1.0)]
    tried = [searched.suggest(first, seed) for seed in range(8)]
    assert {each["data.normalisation.source"] for each in tried} == {"NFC", "NFD"}
    assert all(each["data.normalisation.target"] == "NFC" for each in tried)
    for key in ("data.normalisation", "data.normalisation.source"):
        assert "data.normalisation.source" not in space({key}, forms=("NFC", "NFD")).ranges
    assert "data.normalisation.target" not in space().suggest(first, 1)


def test_without_attention_there_is_no_memory_to_drop():
    ranges = space(attention="none", memory_dropout=0.0).ranges
    assert "model.memory_dropout" not in ranges and "model.attention" not in ranges


@given(
    hidden=st.integers(1, 2000),
    layers=st.integers(1, 4),
    rate=st.floats(0, 0.99).map(lambda rate: round(rate, 3)),
    smoothing=st.floats(0, 0.9).map(lambda rate: round(rate, 3)),
    learning_rate=st.floats(1e-5, 1.0),
    batch=st.integers(1, 500),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=60)
def test_any_configuration_has_valid_ranges_around_it(hidden, layers, rate, smoothing, learning_rate, batch, seed):
    learning_rate = float(f"{learning_rate:.3g}")
    raw = {
        "data": {"train": "pairs.tsv"},
        "model": {"hidden_size": hidden, "num_layers": layers, "attention": "luong", "dropout": rate},
        "training": {"batch_size": batch, "learning_rate": learning_rate, "label_smoothing": smoothing},
    }
    searched = SearchSpace(parse_config(raw, "test", EVERYTHING.settings_of), (), False)
    first = Trial(number=0, settings={}, value=0.5)
    chosen = searched.suggest([first], seed)
    second = Trial(number=1, settings=chosen, value=0.4)
    later = searched.suggest([first, second], seed)
    for key in searched.ranges:
        section, name = key.split(".")
        raw[section][name] = later[key]
    parse_config(raw, "test", EVERYTHING.settings_of)  # whatever is suggested can be trained


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.15, 0.3, 0.45])
def test_a_range_of_rates_begins_at_0_or_above(rate):
    lowest = space(dropout=rate).ranges["model.dropout"].low
    assert lowest >= 0.0
    assert lowest == pytest.approx(max(0.0, rate - 0.25), abs=1e-9)


def test_a_suggestion_is_a_function_of_seed_and_results():
    trials = trials_by(lambda chosen: chosen["model.dropout"], space(), 9)
    assert space().suggest(trials, 1) == space().suggest(trials, 1)
    assert space().suggest(trials, 1) != space().suggest(trials, 2)
    assert space().suggest(trials, 1) != space().suggest(trials[:-1], 1)
    state = optuna.logging.get_verbosity()
    space().suggest(trials, 1)
    assert optuna.logging.get_verbosity() == state


def distance(chosen):
    """Lowest at dropout 0.2 and a learning rate of 0.004; everything else changes nothing."""
    return (chosen["model.dropout"] - 0.2) ** 2 * 20 + math.log(chosen["training.learning_rate"] / 0.004) ** 2 / 4


def test_suggestions_go_where_results_are_better():
    for higher in (False, True):
        sign = -1 if higher else 1
        found = []
        for seed in range(4):
            trials = trials_by(lambda chosen, sign=sign: sign * distance(chosen), space(higher=higher), 30, seed)
            costs = [sign * trial.value for trial in trials]
            found.append(sum(costs[20:]) / 10 < sum(costs[1:6]) / 5)
            assert min(costs) < 0.35 * costs[0]
        assert all(found)


def test_importances_name_what_decides():
    searched = space()
    trials = trials_by(lambda chosen: (chosen["model.dropout"] - 0.2) ** 2, searched, 30)
    importances = searched.importances(trials)
    assert next(iter(importances)) == "model.dropout"
    assert importances["model.dropout"] > 0.4
    assert sum(importances.values()) == pytest.approx(1)
    assert list(importances.values()) == sorted(importances.values(), reverse=True)
    assert searched.importances(trials[: FEWEST_FOR_IMPORTANCES - 1]) == {}
    assert searched.importances(trials[:FEWEST_FOR_IMPORTANCES])


def test_equal_results_say_nothing_about_importance():
    searched = space()
    assert searched.importances(trials_by(lambda _: 0.25, searched, FEWEST_FOR_IMPORTANCES + 2)) == {}


@pytest.mark.filterwarnings("error")
def test_few_different_results_are_no_reason_to_warn():
    searched = space()
    assert searched.importances(trials_by(lambda chosen: chosen["training.batch_size"] // 32, searched, 12))


def test_failed_trials_are_no_results():
    searched = space()
    trials = trials_by(lambda chosen: chosen["model.dropout"], searched, FEWEST_FOR_IMPORTANCES - 1)
    failed = Trial(number=len(trials), settings=searched.suggest(trials, 1), value=None, failed="not finite")
    assert searched.importances([*trials, failed]) == {}
    assert searched.suggest([*trials, failed], 1)


def test_the_embedding_follows_the_hidden_size_as_in_a_recipe():
    first = [Trial(number=0, settings={}, value=1.0)]
    for seed in range(8):
        chosen = space().suggest(first, seed)
        assert chosen["model.embedding_size"] == min(chosen["model.hidden_size"], 256)
        assert "model.embedding_size" not in space({"model.embedding_size"}).suggest(first, seed)
        tied = space(tied_output=True).suggest(first, seed)
        assert tied["model.embedding_size"] == tied["model.hidden_size"]
