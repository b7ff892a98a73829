"""What is chosen for those who chose nothing, and that their choices stay."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time

import numpy as np
import pytest

from freerun.build import order_of
from freerun.config import ModelConfig, parse_config
from freerun.data.codec import Codec
from freerun.data.corpus import FilterReport
from freerun.data.tokenizers import WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import ConfigError
from freerun.evaluation.items import EvaluationSet
from freerun.experiment import automatic, recipes
from freerun.experiment.automatic import choose_before_data, choose_length, choose_recipe, choose_sizes, measure_length
from freerun.experiment.dataset import TrainingData
from freerun.experiment.recipes import Recipe, recipes_for
from freerun.experiment.time_limit import Cost, TimeLimit
from freerun.forcing.registry import settings_of
from freerun.models.dropout import DropoutRates
from tests.networks import corpus, random_rows


def data(pairs=100, length=4, vocabulary=9):
    rows = random_rows([length + 1] * pairs, size=9)
    codec = Codec(WhitespaceTokenizer(), Vocabulary(str(number) for number in range(vocabulary - 4)))
    empty = EvaluationSet([])
    return TrainingData(
        codec,
        codec,
        corpus(rows, rows),
        FilterReport(
            read=pairs, kept=pairs, too_long_source=0, too_long_target=0, longest_source=length, longest_target=length
        ),
        empty,
        empty,
    )


def config(**training):
    raw = {
        "data": {"train": "t"},
        "model": {"hidden_size": 4, "embedding_size": 4},
        "training": {"threads": 1, **training},
    }
    return parse_config(raw, "here", settings_of), {"data": raw["data"], "training": training}


@pytest.fixture(autouse=True)
def fixed_recipes(monkeypatch):
    """Fixed ones, for those of the program follow what was measured on real data."""
    small = Recipe(
        pairs=1000,
        hidden_size=256,
        num_layers=1,
        batch_size=32,
        dropout=0.4,
        embedding_unit_dropout=0.25,
        memory_dropout=0.1,
        epochs=60,
        most_epochs=150,
    )
    large = Recipe(
        pairs=math.inf, hidden_size=300, num_layers=2, batch_size=128, dropout=0.2, epochs=20, most_epochs=50
    )
    monkeypatch.setattr("freerun.experiment.recipes.RECIPES", (small, large))
    monkeypatch.setattr("freerun.experiment.recipes.SENTENCES", (sentences("bahdanau"),))


def sentences(attention):
    return Recipe(
        pairs=math.inf,
        hidden_size=512,
        num_layers=1,
        batch_size=128,
        dropout=0.3,
        epochs=15,
        most_epochs=40,
        attention=attention,
    )


def sizes_of(data, chosen):
    return choose_sizes(data, chosen, recipes_for(data)[0])


def length_of(settings, data, chosen, limit):
    order = order_of(settings.training, data.corpus)
    cost = measure_length(settings, data, order, chosen)
    return choose_length(settings, order, chosen, limit, recipes_for(data)[0], cost)


def limit(minutes=None, gone=0.0):
    """A limit of a command that began ``gone`` seconds ago."""
    return TimeLimit(minutes, time.monotonic() - gone)


WITHIN = " (0.25 of embedding units, 0.1 of the attention memory)"


@pytest.mark.parametrize(
    ("pairs", "length", "vocabulary", "expected"),
    [
        (1000, 8, 2000, f"1 x 256 units, batches of 32, dropout 0.4{WITHIN}."),
        (1001, 8, 2000, "2 x 300 units, batches of 128, dropout 0.2."),
        (1001, 8, 2001, "1 x 512 units, batches of 128, dropout 0.3."),
        (1001, 6, 2001, "2 x 300 units, batches of 128, dropout 0.2."),
    ],
)
def test_sizes_suit_the_data(pairs, length, vocabulary, expected):
    choice = sizes_of(data(pairs, length, vocabulary), {"data": {"train": "t"}})
    layers, size, dropout = (choice.values[f"model.{key}"] for key in ("num_layers", "hidden_size", "dropout"))
    found = f"{layers} x {size} units, batches of {choice.values['training.batch_size']}, dropout {dropout}"
    assert expected in (f"{found}.", f"{found}{WITHIN}.")
    assert choice.values["model.embedding_size"] == 256
    assert choice.reasons == [
        (
            f"{pairs:,} pairs of {length:.1f} source and {length:.1f} target tokens: a bidirectional LSTM encoder "
            f"and a decoder with Bahdanau attention, {expected}"
        )
    ]


def test_recipes_of_the_program_cover_all_sizes(monkeypatch):
    monkeypatch.undo()
    assert [recipe.attention for recipe in recipes.RECIPES] == ["bahdanau"] * 6
    assert [recipe.fewest_epochs > 0 for recipe in recipes.RECIPES] == [False, False, True, False, True, False]
    assert [recipe.attention for recipe in recipes.SENTENCES] == ["bahdanau", "luong"]
    for table in (recipes.RECIPES, recipes.SENTENCES):
        assert table[-1].pairs == math.inf
        assert sorted(table, key=lambda recipe: recipe.pairs) == list(table)
        assert all(each.fewest_epochs <= each.epochs <= each.most_epochs for each in table)
        for each, following in itertools.pairwise(table):
            # a quicker recipe for as many pairs, or one for more
            if each.pairs == following.pairs:
                assert each.fewest_epochs and following.hidden_size < each.hidden_size
    rates = {each.name for each in dataclasses.fields(DropoutRates)} & set(ModelConfig.model_fields)
    assert {f"model.{rate}" for rate in rates - {"embedding_dropout"}} <= set(recipes.RECIPES[0].settings())


def test_what_was_set_is_left_out_and_told_as_it_is():
    chosen = {
        "model": {"hidden_size": 7, "cell": "gru", "bidirectional": False, "attention": "none"},
        "training": {"batch_tokens": 5000, "schedule": {"kind": "constant"}},
    }
    choice = sizes_of(data(), chosen)
    assert not choice.values.keys() & {
        "model.hidden_size",
        "model.bidirectional",
        "training.batch_size",
        "training.batch_tokens",
        "training.schedule",
    }
    assert choice.values["model.dropout"] == 0.4
    assert choice.reasons[0].endswith(
        "a unidirectional GRU encoder and a decoder with no attention, 1 x 7 units, batches of 5,000 tokens, dropout "
        "0.4 (0.25 of embedding units)."
    )


@pytest.mark.parametrize(("cell", "name"), [("rnn", "RNN"), ("mingru", "minGRU")])
def test_cells_have_their_names(cell, name):
    assert f"a bidirectional {name} encoder" in sizes_of(data(), {"model": {"cell": cell}}).reasons[0]


NEEDS_LUONG = [
    ({"model": {"input_feeding": True}}, "model.input_feeding = true needs it"),
    ({"model": {"attention_score": "concat"}}, 'model.attention_score = "concat" is one of its scores'),
]


@pytest.mark.parametrize(("chosen", "why"), NEEDS_LUONG)
def test_luong_attention_is_chosen_where_nothing_else_will_do(chosen, why):
    choice = sizes_of(data(), chosen)
    assert choice.values["model.attention"] == "luong"
    assert "a decoder with Luong attention" in choice.reasons[0]
    assert choice.reasons[1:] == [
        f"Luong attention, although Bahdanau attention is more accurate on such data, because {why}."
    ]
    assert choose_before_data(chosen)["model"]["attention"] == "luong"


@pytest.mark.parametrize(
    "chosen",
    [
        {"model": {"input_feeding": False}},
        {"forcing": {"strategy": "scheduled_sampling"}},
        {"forcing": {"strategy": "professor"}},
        {"forcing": {"strategy": "unknown"}},
        {"forcing": 3},
    ],
)
def test_everything_else_leaves_the_choice_open(chosen):
    choice = sizes_of(data(), chosen)
    assert (choice.values["model.attention"], len(choice.reasons)) == ("bahdanau", 1)
    assert choose_before_data(chosen)["model"]["attention"] == "bahdanau"


def test_an_attention_that_was_set_stays_silently():
    choice = sizes_of(data(), {"model": {"attention": "luong", "input_feeding": True}})
    assert "model.attention" not in choice.values
    assert len(choice.reasons) == 1


def test_running_text_has_rows_by_size_too(monkeypatch):
    few = dataclasses.replace(sentences("bahdanau"), pairs=1000, tied_output=True, learning_rate=5e-4)
    monkeypatch.setattr("freerun.experiment.recipes.SENTENCES", (few, sentences("luong")))
    found = [sizes_of(data(pairs, 8, 2001), {}).values for pairs in (1000, 1001)]
    keys = ("model.attention", "model.tied_output", "model.embedding_size", "training.learning_rate")
    assert [tuple(values[key] for key in keys) for values in found] == [
        ("bahdanau", True, 512, 5e-4),
        ("luong", False, 256, 2e-3),
    ]


def test_the_embedding_follows_an_output_that_the_user_ties_or_not(monkeypatch):
    tied = dataclasses.replace(sentences("bahdanau"), tied_output=True)
    monkeypatch.setattr("freerun.experiment.recipes.SENTENCES", (tied,))
    sizes = [sizes_of(data(10, 8, 2001), {"model": {"tied_output": is_tied}}).values for is_tied in (False, True)]
    assert [values["model.embedding_size"] for values in sizes] == [256, 512]
    assert all("model.tied_output" not in values for values in sizes)


def test_a_recipe_decides_for_its_kind_of_data(monkeypatch):
    monkeypatch.setattr("freerun.experiment.recipes.SENTENCES", (sentences("luong"),))
    choice = sizes_of(data(10, 8, 2001), {"forcing": {"strategy": "professor"}})
    assert (choice.values["model.attention"], len(choice.reasons)) == ("luong", 1)
    assert sizes_of(data(10, 6, 2001), {}).values["model.attention"] == "bahdanau"


def timed(monkeypatch, seconds, evaluations=2.0):
    monkeypatch.setattr(automatic, "measure_cost", lambda *_: Cost(seconds, evaluations))


def test_small_data_gets_the_passes_that_suit_it(monkeypatch):
    timed(monkeypatch, 0.01)
    settings, chosen = config(batch_size=10)
    choice = length_of(settings, data(100), {"data": chosen["data"]}, limit())
    assert choice.values == {"training.updates": 600, "evaluation.every": 75}
    assert choice.reasons == [
        "600 updates, 60.0 epochs: about 11 s at 10 ms per update on this machine, at most 2 minutes."
    ]


def test_slow_training_gets_what_fits_in_the_limit(monkeypatch):
    timed(monkeypatch, 10.0)
    settings, chosen = config(batch_size=10)
    choice = length_of(settings, data(100), {"data": chosen["data"]}, limit())
    # (143 x 10 s + 2 s for evaluations + 3 s at the end) x 1.25 to be safe = 29.9 minutes
    assert choice.values["training.updates"] == 143
    assert "(600 would suit the data, but not the limit of 30 minutes)" in choice.reasons[0]
    assert choice.reasons[0].endswith("at most 30 minutes.")


@pytest.mark.parametrize(
    ("training", "updates"),
    [
        ({"updates": 80}, 80),
        ({"epochs": 8.0}, 80),
        ({"epochs": 16, "accumulate": 2}, 80),
        ({"batch_tokens": 100, "epochs": 8}, 80),
    ],
)
def test_a_length_that_was_set_stays_and_is_evaluated_eight_times(training, updates):
    settings, chosen = config(**{"batch_size": 10, **training} if "batch_tokens" not in training else training)
    choice = length_of(settings, data(100), chosen, limit())
    assert (choice.values, choice.reasons) == ({"evaluation.every": updates // 8}, [])


PHASES = [{"strategy": "teacher", "until": 700}, {"strategy": "free_running"}]


@pytest.mark.parametrize(("until", "updates"), [(599, 600), (600, 1200), (30_000, 60_000)])
def test_the_length_lets_every_phase_begin(monkeypatch, until, updates):
    timed(monkeypatch, 0.01)
    phases = [{**PHASES[0], "until": until}, PHASES[1]]
    raw = {"data": {"train": "t"}, "model": {"hidden_size": 4, "embedding_size": 4}, "training": {"batch_size": 10}}
    settings = parse_config({**raw, "forcing": {"phases": phases}}, "here", settings_of)
    choice = length_of(settings, data(100), {"data": raw["data"]}, limit())
    assert choice.values["training.updates"] == updates
    assert (f" (twice the {until:,} before the last phase of forcing), " in choice.reasons[0]) == (updates > 600)
    if until == 30_000:
        assert choice.reasons[0].endswith("about 10 min 05 s at 10 ms per update on this machine, at most 13 minutes.")


def test_phases_that_do_not_fit_into_the_minutes_are_an_error(monkeypatch):
    timed(monkeypatch, 1.0, 0.0)
    raw = {"data": {"train": "t"}, "model": {"hidden_size": 4, "embedding_size": 4}, "training": {"batch_size": 10}}
    settings = parse_config({**raw, "forcing": {"phases": [{**PHASES[0], "until": 610}, PHASES[1]]}}, "x", settings_of)
    assert length_of(settings, data(100), {"data": raw["data"]}, limit(13)).values["training.updates"] == 620
    with pytest.raises(ConfigError) as caught:
        length_of(settings, data(100), {"data": raw["data"]}, limit(12))
    # 1,220 updates and 3 seconds, 1.25 times: 25.5 minutes
    assert str(caught.value) == (
        "minutes: training for 12 minutes ends before the last phase of forcing, which begins after update 610. "
        "Expected 26 or more, for 1,220 updates on this machine. Raise the time limit, or let the phases begin earlier."
    )


def test_updates_are_timed_however_late_the_last_phase_begins():
    raw = {"data": {"train": "t"}, "model": {"hidden_size": 4, "embedding_size": 4}, "training": {"threads": 1}}
    settings = parse_config(
        {**raw, "forcing": {"phases": [{**PHASES[0], "until": 25_000}, PHASES[1]]}}, "x", settings_of
    )
    assert length_of(settings, data(), raw, limit()).values["training.updates"] == 50_000


def test_a_dot_product_gets_an_encoder_of_one_direction():
    chosen = {"model": {"attention_score": "dot"}}
    choice = sizes_of(data(), chosen)
    assert (choice.values["model.bidirectional"], choice.values["model.attention"]) == (False, "luong")
    assert choice.reasons[1] == (
        'A unidirectional encoder, because model.attention_score = "dot" compares vectors of equal size.'
    )
    assert choose_before_data(chosen)["model"]["bidirectional"] is False
    assert len(sizes_of(data(), {"model": {"attention_score": "dot", "bidirectional": False}}).reasons) == 2
    assert choose_before_data({"model": {"attention_score": "general"}})["model"]["bidirectional"] is True


def test_an_interval_that_was_set_stays():
    settings, chosen = config(updates=80)
    assert length_of(settings, data(), {**chosen, "evaluation": {"every": 3}}, limit()).values == {}


@pytest.mark.parametrize(
    ("minutes", "gone", "updates"),
    [
        (10, 0, 475),  # (475 s + 5 s) x 1.25 = 10 minutes
        (10, 120, 379),  # two of them are over
        (20, 0, 955),
        (60, 0, 1500),  # 150 epochs, the most of the recipe
    ],
)
def test_a_time_limit_is_used_up(monkeypatch, minutes, gone, updates):
    """Also beyond what suits the data (600 updates), since somebody is ready to wait."""
    timed(monkeypatch, 1.0)
    settings, chosen = config(batch_size=10)
    choice = length_of(settings, data(100), {"data": chosen["data"]}, limit(minutes, gone))
    assert choice.values["training.updates"] == pytest.approx(updates, abs=1)
    (reason,) = choice.reasons
    if updates == 1500:
        assert "1,500 updates (150 epochs, the most for data of this kind), 150.0 epochs: about 25 min" in reason
    else:
        assert reason.endswith(f"at most {minutes - gone // 60} minutes.")


QUICK = Recipe(pairs=1000, hidden_size=64, num_layers=1, batch_size=16, dropout=0.1, epochs=30, most_epochs=90)


def with_quicker_recipes(monkeypatch, seconds):
    """Recipes of 256, 64 and 16 units for as many pairs; an update takes so many seconds for each unit."""
    first = dataclasses.replace(recipes.RECIPES[0], fewest_epochs=20)
    quicker = dataclasses.replace(QUICK, fewest_epochs=10), dataclasses.replace(QUICK, hidden_size=16)
    monkeypatch.setattr("freerun.experiment.recipes.RECIPES", (first, *quicker, recipes.RECIPES[1]))
    monkeypatch.setattr(automatic, "measure_cost", lambda config, *_: Cost(seconds * config.model.hidden_size, 0.0))


def chosen_for(settings=(), minutes=10.0, pairs=160):
    chosen = {"data": {"train": "t"}, "training": {"threads": 1}}
    for section, key, value in settings:
        chosen.setdefault(section, {})[key] = value

    def complete(values):
        raw = {section: dict(keys) for section, keys in chosen.items()}
        for path, value in values.items():
            section, _, key = path.partition(".")
            raw.setdefault(section, {}).setdefault(key, value)
        return parse_config(raw, "here", settings_of)

    return choose_recipe(data(pairs), chosen, limit(minutes), complete)


@pytest.mark.parametrize(
    ("seconds", "passed_over", "units"),
    [
        # of 600 s, 477 are for updates: 5 of them an epoch with 256 units, 10 with fewer
        (477 / 256 / 101, [], 256),
        (477 / 256 / 99, ["1 x 256"], 64),
        (477 / 64 / 101, ["1 x 256"], 64),
        (477 / 64 / 99, ["1 x 256", "1 x 64"], 16),
    ],
)
def test_with_little_time_a_quicker_recipe_is_taken(monkeypatch, seconds, passed_over, units):
    with_quicker_recipes(monkeypatch, seconds)
    choice = chosen_for()
    assert choice.values["model.hidden_size"] == units
    assert choice.values["training.batch_size"] == (32 if units == 256 else 16)
    *why, sizes, length = choice.reasons
    assert [reason.partition(" units would suit the data")[0] for reason in why] == passed_over
    assert f"a decoder with Bahdanau attention, 1 x {units} units" in sizes
    assert f" {choice.values['training.updates']:,} updates" in f" {length}"


def test_it_is_said_why_a_recipe_is_passed_over(monkeypatch):
    with_quicker_recipes(monkeypatch, 477 / 256 / 99)
    assert chosen_for().reasons[0] == (
        "1 x 256 units would suit the data, but only 19.6 epochs would fit into 10 minutes on this machine. A smaller "
        "model makes fewer errors then."
    )


def test_too_little_time_for_the_quickest_recipe_is_an_error(monkeypatch):
    with_quicker_recipes(monkeypatch, 100.0)
    with pytest.raises(ConfigError, match="not enough for a single update"):
        chosen_for()


@pytest.mark.parametrize("setting", [("model", "hidden_size", 256), ("training", "updates", 50)])
def test_a_size_or_a_length_that_was_set_leaves_no_reason_for_a_quicker_recipe(monkeypatch, setting):
    with_quicker_recipes(monkeypatch, 477 / 256 / 99)
    choice = chosen_for([setting])
    assert choice.values.get("model.hidden_size", 256) == 256
    assert choice.values.get("training.batch_size") == 32
    assert "would suit the data, but only" not in " ".join(choice.reasons)


def test_a_time_limit_that_is_over_before_the_first_update_is_an_error(monkeypatch):
    timed(monkeypatch, 1.0, 60.0)
    settings, chosen = config(batch_size=10)
    with pytest.raises(ConfigError) as caught:
        length_of(settings, data(100), {"data": chosen["data"]}, limit(1, 30))
    assert str(caught.value) == (
        "minutes: a limit of 1 minute is not enough for a single update and its evaluation. Expected 6 or more for "
        "this data on this machine. Raise the time limit."
    )


def test_lengths_are_told_without_the_end_token():
    assert np.all(data(length=4).corpus.sources.lengths == 5)
    assert "4.0 source" in sizes_of(data(length=4), {}).reasons[0]
