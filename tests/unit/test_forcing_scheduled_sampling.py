"""Scheduled sampling and free running: coins, what the journal gets, settings in a configuration."""

from __future__ import annotations

import pytest
import torch

from freerun.config import merge, parse_config
from freerun.errors import ConfigError
from freerun.forcing.free_running import FreeRunning
from freerun.forcing.registry import settings_of
from freerun.forcing.scheduled_sampling import ScheduledSampling
from freerun.forcing.strategy import Objective, StrategySettings
from freerun.forcing.teacher import Teacher
from freerun.forcing.training_batch import Update
from tests.networks import dropout_generators, network, random_rows, training_batch

LENGTHS = [3, 9, 1, 7, 8, 6] * 10
BATCH = training_batch(random_rows([4] * 60), random_rows(LENGTHS, size=9, seed=1))
REAL = sum(LENGTHS) - len(LENGTHS)


def constant(teacher_prob, **settings):
    schedule = {"kind": "constant", "teacher_prob": teacher_prob}
    return ScheduledSampling(ScheduledSampling.Settings(schedule=schedule, **settings), Objective())


def coins(strategy, teacher_prob, number=1):
    return strategy._draws(BATCH, Update(number, 1), teacher_prob)


def losses(strategy, number=1):
    return strategy.losses(network(scale=1.5), BATCH, Update(number, 1))


@pytest.mark.parametrize("teacher_prob", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("coin", ["token", "sequence", "batch"])
def test_coins_fall_as_often_as_asked_for(coin, teacher_prob):
    drawn = sum(coins(constant(teacher_prob, coin=coin), teacher_prob, number).sum().item() for number in range(1, 201))
    tolerance = {"token": 0.01, "sequence": 0.02, "batch": 0.1}[coin] * (0 < teacher_prob < 1)
    assert drawn / (200 * REAL) == pytest.approx(1 - teacher_prob, abs=tolerance)


def test_bos_and_padding_are_never_drawn():
    drawn = coins(constant(0.0), 0.0)
    for row, length in zip(drawn, LENGTHS, strict=True):
        assert row.nonzero().squeeze(1).tolist() == list(range(1, length))


def test_one_coin_a_token_a_sequence_or_a_batch():
    tokens, sequences = coins(constant(0.5), 0.5), coins(constant(0.5, coin="sequence"), 0.5)
    kinds = {(bool(row[1]), bool(row[2])) for row, length in zip(tokens, LENGTHS, strict=True) if length > 2}
    assert len(kinds) == 4
    rows = {tuple(row[1:length].tolist()) for row, length in zip(sequences, LENGTHS, strict=True) if length > 1}
    assert all(len(set(row)) == 1 for row in rows) and {row[0] for row in rows} == {True, False}
    batches = [coins(constant(0.5, coin="batch"), 0.5, number).sum().item() for number in range(1, 30)]
    assert set(batches) == {0, REAL}


def test_by_position_later_tokens_are_drawn_more_often():
    strategy = constant(0.5, position={"kind": "linear", "k": 1.0, "c": 0.2})
    drawn = sum(coins(strategy, 0.5, number)[1::6] for number in range(1, 301))  # rows of length 9
    shares = (drawn.double() / 300).mean(0)
    assert shares[1:].tolist() == pytest.approx([0.1 * t for t in range(1, 9)], abs=0.03)


def test_with_right_tokens_only_it_is_teacher_forcing():
    model = network(dropout=0.3)
    found = constant(1.0).losses(model, BATCH, Update(4, 2))
    teacher = Teacher(StrategySettings(), Objective()).losses(model, BATCH, Update(4, 2))
    assert found.terms["nll"].sum.item() == teacher.terms["nll"].sum.item()
    assert found.metrics["effective_rate"] == (0, REAL)


def test_without_right_tokens_it_is_free_running():
    free = FreeRunning(FreeRunning.Settings(), Objective())
    assert losses(constant(0.0)).terms["nll"].sum.item() == losses(free).terms["nll"].sum.item()


def test_the_journal_gets_the_effective_rate(monkeypatch):
    model, fed = network(scale=1.5), []
    sequence = model.decoder.sequence
    monkeypatch.setattr(
        model.decoder, "sequence", lambda tokens, *others: (fed.append(tokens), sequence(tokens, *others))[1]
    )
    figures = constant(0.3).losses(model, BATCH, Update(1, 1)).metrics
    changed = sum(
        int(fed[0][row, t] != BATCH.target_in_BT[row, t])
        for row, length in enumerate(LENGTHS)
        for t in range(1, length)
    )
    assert figures["teacher_prob"] == (0.3, 1)
    assert figures["effective_rate"] == (changed, REAL)
    assert 0 < changed < 0.7 * REAL * 1.1
    assert figures["nll.scheduled"][1] == sum(LENGTHS)


def test_enough_passes_certify_every_sequence():
    figures = losses(constant(0.2, passes=10)).metrics
    assert figures["certified"] == (60, 60)
    first = losses(constant(0.2, passes=1)).metrics["certified"]
    assert 0 <= first[0] < 60 and first[1] == 60
    exact, sequential = losses(constant(0.2, passes=10)), losses(constant(0.2))
    assert exact.terms["nll"].sum.item() == pytest.approx(sequential.terms["nll"].sum.item(), rel=1e-12)


def test_strategies_under_one_seed_share_their_dropout():
    model = network(dropout=0.5)
    alone = [model.draw_masks(4, 9, 60, *dropout_generators(Update(1, 1))) for _ in range(2)]
    assert torch.equal(alone[0].output_TBF, alone[1].output_TBF)


@pytest.mark.parametrize(
    ("forcing", "message"),
    [
        (
            {"schedule": {"kind": "linear", "c": -1.0}},
            "forcing.schedule.c: the value is -1.0. Expected a number, above 0",
        ),
        (
            {"schedule": {"kind": "inverse_sigmoid", "k": 0.5}},
            "forcing.schedule.k: the value is 0.5. Expected a number from 1 to 1e+38.",
        ),
        ({"schedule": "linear"}, 'forcing.schedule: the value is "linear"'),
        ({"schedule": {"kind": "liner"}}, 'forcing.schedule.kind: the value is "liner"'),
        ({"position": {"kind": "liner"}}, 'forcing.position.kind: the value is "liner"'),
        ({"coin": "row"}, 'forcing.coin: the value is "row"'),
        ({"temperature": 0.0}, "forcing.temperature: the value is 0.0. Expected a number from 1e-06 to 1000."),
        ({"passes": -1}, "forcing.passes: the value is -1"),
        ({"teacher_prob": 0.5}, "forcing.teacher_prob: unknown key"),
        (
            {"schedule": {"kind": "linear", "minimum": 0.6, "k": 0.5}},
            "forcing.schedule: minimum = 0.6 is above k = 0.5. Expected minimum <= k. Change minimum or k.",
        ),
        (
            {"schedule": {"kind": "increasing", "start": 0.6, "end": 0.5}},
            "forcing.schedule: start = 0.6 is above end = 0.5. Expected start <= end. Change start or end.",
        ),
        (
            {"schedule": {"kind": "linear", "wramup": 5.0}},
            "Expected one of: c, k, kind, minimum, unit, warmup. The closest match is 'warmup'.",
        ),
        ({"draw": "argmax", "temperature": 0.5}, 'forcing.temperature: the value is 0.5, but draw = "argmax"'),
    ],
)
def test_bad_settings_are_told_before_training(forcing, message):
    with pytest.raises(ConfigError) as error:
        parse_config(
            {"data": {"train": "x"}, "forcing": {"strategy": "scheduled_sampling", **forcing}}, "c.toml", settings_of
        )
    assert message in "\n".join(map(str, error.value.problems))


@pytest.mark.parametrize(("key", "value"), [("unit", "updates"), ("unit", "epochs"), ("warmup", 0.0), ("kinds", 1)])
@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize(
    ("schedule", "valid"),
    [
        ({"kind": "constant"}, "kind, teacher_prob"),
        ({"kind": "linear"}, "c, k, kind, minimum"),
        ({"kind": "exponential"}, "k, kind"),
        ({"kind": "inverse_sigmoid"}, "k, kind"),
    ],
)
def test_a_position_schedule_knows_neither_unit_nor_warm_up(schedule, valid, phases, key, value):
    forcing = {"strategy": "scheduled_sampling", "position": {**schedule, key: value}}
    place = "forcing.phases[1].position" if phases else "forcing.position"
    whole = {"phases": [{**forcing, "until": 5}, {"strategy": "teacher"}]} if phases else forcing
    with pytest.raises(ConfigError) as error:
        parse_config({"data": {"train": "x"}, "forcing": whole}, "c.toml", settings_of)
    fix = "The closest match is 'kind'" if key == "kinds" else "Remove it"
    what = f'unknown key for kind = "{schedule["kind"]}"'
    assert list(map(str, error.value.problems)) == [f"c.toml: {place}.{key}: {what}. Expected one of: {valid}. {fix}."]


def test_a_position_schedule_is_merged_as_a_whole():
    """As is a schedule over updates: keys of the kind that is replaced must not shine through."""
    for key in ("position", "schedule"):
        under, over = {"kind": "linear", "c": 0.1}, {"kind": "exponential"}
        assert merge({"forcing": {key: under}}, {"forcing": {key: over}}) == {"forcing": {key: over}}
