"""Phases, a user's own strategy, and what a configuration says of them."""

from __future__ import annotations

import sys
import tomllib

import pytest
import torch

from freerun.build import strategy_of
from freerun.config import parse_config, to_toml
from freerun.errors import ConfigError
from freerun.forcing.phases import Phases
from freerun.forcing.professor import Professor
from freerun.forcing.registry import EVERYTHING, settings_of
from freerun.forcing.strategy import Objective
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from tests.networks import close, losses_of, network, random_rows, training_batch

BATCH = training_batch(random_rows([4, 1, 6]), random_rows([4, 6, 3], size=9, seed=1))
PHASES = [
    {"strategy": "teacher", "until": 10},
    {"strategy": "scheduled_sampling", "until": 20, "schedule": {"kind": "constant", "teacher_prob": 0.0}},
    {"strategy": "professor", "hidden_size": 5},
]


def config(**forcing):
    return parse_config({"data": {"train": "x"}, "forcing": forcing}, "c.toml", EVERYTHING.settings_of)


def faults(**forcing):
    with pytest.raises(ConfigError) as error:
        config(**forcing)
    return "\n".join(map(str, error.value.problems))


@pytest.mark.parametrize(
    ("number", "figure", "phase"),
    [
        (1, "nll.teacher", "phase 1, teacher"),
        (10, "nll.teacher", "phase 1, teacher"),
        (11, "nll.scheduled", "phase 2, scheduled_sampling"),
        (20, "nll.scheduled", "phase 2, scheduled_sampling"),
        (21, "discriminator_loss", "phase 3, professor"),
        (10**9, "discriminator_loss", "phase 3, professor"),
    ],
)
def test_each_update_belongs_to_one_phase(number, figure, phase):
    strategy, model = strategy_of(config(phases=PHASES), Objective()), network()
    strategy.prepare(model, 1)
    losses = losses_of(strategy, model, BATCH, Update(number, 1))
    assert figure in losses.metrics
    assert ("discriminator_gate_closed" in strategy.step(Update(number, 1))) == (number > 20)
    assert strategy.phase(number) == phase


def test_before_the_first_update_it_is_the_first_phase():
    assert strategy_of(config(phases=PHASES), Objective()).phase(0) == "phase 1, teacher"
    assert Teacher(Teacher.Settings(), Objective()).phase(0) == ""


def test_a_phase_is_the_strategy_alone():
    model = network(dropout=0.3)
    chained = strategy_of(config(phases=PHASES), Objective()).losses(model, BATCH, Update(3, 1))
    alone = Teacher(Teacher.Settings(), Objective()).losses(model, BATCH, Update(3, 1))
    assert chained.terms["nll"].sum.item() == alone.terms["nll"].sum.item()


def test_the_states_of_all_phases_are_kept_apart():
    model, made = network(), []
    for _ in range(2):
        phases = [Professor(Professor.Settings(hidden_size=3 + k), Objective()) for k in range(2)]
        made.append(Phases(phases, ["a", "b"], [5, None], Objective()))
        made[-1].prepare(model, 1)
    made[0].strategies[0].accuracy, made[0].strategies[1].accuracy = 0.6, 0.7
    made[1].load({name: value.clone() for name, value in made[0].state().items()})
    assert [each.accuracy for each in made[1].strategies] == [0.6, 0.7]
    close(made[1].state(), made[0].state(), 0.0)


def test_a_complete_configuration_is_read_back(tmp_path):
    made = config(phases=PHASES)
    text = to_toml(made)
    assert text.count("[[forcing.phases]]") == 3
    again = parse_config(tomllib.loads(text), "c.toml", settings_of)
    assert again == made
    assert made.forcing.phases[1]["coin"] == "token"


@pytest.mark.parametrize(
    ("forcing", "message"),
    [
        ({"phases": []}, "forcing.phases: the value is []"),
        ({"phases": "teacher"}, 'forcing.phases: the value is "teacher"'),
        ({"phases": PHASES, "strategy": "teacher"}, "forcing.strategy: this key cannot be combined with phases"),
        ({"phases": [{"strategy": "teacher"}, *PHASES[1:]]}, "forcing.phases[1].until: this key is missing"),
        (
            {"phases": [PHASES[1], PHASES[0], PHASES[2]]},
            "forcing.phases[2].until: the value is 10, but the previous phase ends at 20",
        ),
        ({"phases": PHASES[:2]}, "forcing.phases[2].until: the value is 20. Expected no end for the last phase"),
        ({"phases": [{"strategy": "teacher", "until": 0}, PHASES[2]]}, "forcing.phases[1].until: the value is 0"),
        ({"phases": [{"until": 3}, PHASES[2]]}, "forcing.phases[1].strategy: this key is missing"),
        ({"phases": [PHASES[0], {"strategy": "teachr"}]}, "forcing.phases[2].strategy: unknown strategy 'teachr'"),
        ({"phases": [PHASES[0], {"strategy": "professor", "weigth": 1.0}]}, "forcing.phases[2].weigth: unknown key"),
        (
            {"phases": [PHASES[0], {"strategy": "professor", "weight": -1.0}]},
            "forcing.phases[2].weight: the value is -1.0",
        ),
    ],
)
def test_bad_phases_are_told(forcing, message):
    assert message in faults(**forcing)


OWN = """
from freerun.forcing.strategy import StrategySettings
from freerun.forcing.teacher import Teacher

class Settings(StrategySettings):
    factor: float = 2.0

class Doubled(Teacher):
    Settings = Settings

NOT_A_STRATEGY = 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_forcing.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_forcing", raising=False)


def test_a_strategy_of_ones_own(own_module):
    made = config(strategy="my_forcing:Doubled", factor=3.0)
    assert strategy_of(made, Objective()).settings.factor == 3.0
    assert isinstance(strategy_of(made, Objective()), Teacher)
    assert config(strategy="my_forcing:Doubled").forcing.model_dump()["factor"] == 2.0
    assert "forcing.facto: unknown key. Expected one of: strategy, factor" in faults(
        strategy="my_forcing:Doubled", facto=1.0
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Doubled", "'no_such_module:Doubled' cannot be imported (ModuleNotFoundError"),
        ("my_forcing:Tripled", "'my_forcing:Tripled' cannot be imported (AttributeError"),
        ("my_forcing:NOT_A_STRATEGY", "'my_forcing:NOT_A_STRATEGY' is not a strategy"),
        ("my_forcing:", "'my_forcing:' is not module:Class. Expected the name of a module"),
        (":Doubled", "':Doubled' is not module:Class"),
    ],
)
def test_a_strategy_of_ones_own_that_is_none(own_module, name, message):
    with pytest.raises(ConfigError) as error:
        EVERYTHING.settings_of(name)
    assert message in str(error.value)


def test_draws_do_not_depend_on_the_phase_before():
    strategy, model = strategy_of(config(phases=PHASES), Objective()), network(scale=1.5)
    found = strategy.losses(model, BATCH, Update(15, 1)).metrics["nll.scheduled"]
    torch.manual_seed(99)
    assert strategy.losses(model, BATCH, Update(15, 1)).metrics["nll.scheduled"] == found
