"""Strategies under one seed train under the same dropout: the masks of a step are one, whatever the strategy."""

from __future__ import annotations

import pytest
import torch

from freerun.architecture import FEATURE_ENCODERS
from freerun.forcing.registry import STRATEGIES
from freerun.forcing.rollout import uniforms
from freerun.forcing.strategy import Objective
from freerun.forcing.training_batch import Update
from tests.networks import (
    RATES,
    dropout_generators,
    network,
    random_features,
    random_rows,
    training_batch,
    with_features,
)

ROWS = random_rows([4, 2, 6, 3]), random_rows([3, 5, 2, 5], size=9, seed=1)
BATCHES = {
    "": training_batch(*ROWS),
    **dict.fromkeys(FEATURE_ENCODERS, training_batch(*ROWS, random_features([2, 0, 4, 3]))),
}
UPDATE = Update(number=7, seed=3, part=1)
SIZES = {**dict.fromkeys(RATES, 0.5), "num_layers": 3, "attention": "dot", "scale": 1.2}
ARMS = {name: {} for name in STRATEGIES} | {"professor": {"warmup": 0, "model_gate": 0.0}}
VARIANTS = [*ARMS.items(), ("scheduled_sampling", {"passes": 2}), ("optimal_completion", {"teacher_prob": 0.5})]


class Watched:
    """A model that keeps what dropout its passes are given: [(mask, first step or None)] by the mask's name."""

    def __init__(self, monkeypatch, kind):
        self.model = network(**SIZES, **with_features(kind))
        self.masks = []
        decoder = self.model.decoder
        for owner, name, note in (
            (self.model, "encode", self._encoder),
            (decoder, "sequence", self._sequence),
            (decoder, "step", self._step),
        ):
            monkeypatch.setattr(owner, name, self._noting(getattr(owner, name), note))

    def _noting(self, method, note):
        def call(first, second, third=None, *fourth):
            # encode(source, lengths, masks, features), sequence(fed, encoded, masks)
            # and step(tokens, encoded, tables, masks)
            given = third if note != self._step else fourth[0] if fourth else None
            assert given is not None or not torch.is_grad_enabled(), "a pass that learns has dropout"
            if given is not None:
                note(given)
            return method(first, second, third, *fourth)

        return call

    def _encoder(self, masks):
        self.masks += [("source", masks.source_tokens_SB1), ("memory", masks.memory_SBM)]
        self.masks.append(("source embedding", masks.source_embedding_VE))
        if masks.features_BQ1 is not None:
            self.masks.append(("features", masks.features_BQ1))
        if masks.feature_summary_BE is not None:
            self.masks.append(("feature summary", masks.feature_summary_BE))
        self.masks += [(f"encoder {gap}", mask) for gap, mask in enumerate(masks.encoder_layers)]

    def _sequence(self, masks):
        self.masks += [("target", masks.target_tokens_TB1), ("output", masks.output_TBF)]
        self.masks.append(("target embedding", masks.target_embedding_VE))
        self.masks += [(f"decoder {gap}", mask) for gap, mask in enumerate(masks.decoder_layers)]

    def _step(self, masks):
        self.masks += [("target step", masks.token_B1), ("output step", masks.output_BF)]
        self.masks += [(f"decoder {gap} step", mask) for gap, mask in enumerate(masks.layers)]


def whole_masks(kind, steps=60):
    """The masks of the update for more steps than any pass has, by name."""
    masks = network(**SIZES, **with_features(kind)).draw_masks(
        6, steps, 4, *dropout_generators(UPDATE), 4 if kind else 0
    )
    layers = [("encoder", masks.encoder_layers), ("decoder", masks.decoder_layers)]
    found = {f"{side} {gap}": mask for side, each in layers for gap, mask in enumerate(each)}
    found |= {"source": masks.source_tokens_SB1, "target": masks.target_tokens_TB1, "output": masks.output_TBF}
    found |= {
        "memory": masks.memory_SBM,
        "source embedding": masks.source_embedding_VE,
        "target embedding": masks.target_embedding_VE,
    }
    own = {"features": masks.features_BQ1, "feature summary": masks.feature_summary_BE}
    return found | {name: mask for name, mask in own.items() if mask is not None}


def is_among(mask, whole):
    """Whether ``mask`` is the beginning of ``whole`` [T, B, ...]; with other rows, whether each is one of its rows."""
    beginning = whole[: len(mask)]
    if mask.shape[1] == whole.shape[1]:
        return mask.equal(beginning)
    return all(any(mask[:, n].equal(beginning[:, row]) for row in range(4)) for n in range(mask.shape[1]))


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=str)
def test_every_strategy_trains_under_the_masks_of_the_update(name, settings, kind, monkeypatch):
    watched = Watched(monkeypatch, kind)
    strategy = STRATEGIES[name](STRATEGIES[name].Settings(**settings), Objective())
    strategy.prepare(watched.model, UPDATE.seed)
    strategy.losses(watched.model, BATCHES[kind], UPDATE)
    expected = whole_masks(kind)
    assert expected.keys() <= {name for name, _ in watched.masks}
    for mask_name, mask in watched.masks:
        if mask_name.endswith(" step"):
            assert any(mask.equal(step) for step in expected[mask_name.removesuffix(" step")]), mask_name
        else:
            assert is_among(mask, expected[mask_name]), mask_name


@pytest.mark.parametrize("other", [Update(8, 3, 1), Update(7, 4, 1), Update(7, 3, 0), Update(7, 3, 2)])
def test_another_update_part_seed_or_process_has_other_masks(other):
    sizes = (6, 5, 4)
    one, two = (network(**SIZES).draw_masks(*sizes, *dropout_generators(update)) for update in (UPDATE, other))
    assert not one.output_TBF.equal(two.output_TBF)
    assert not one.encoder_layers[0].equal(two.encoder_layers[0])


@pytest.mark.parametrize("other", [Update(7, 3, 0), Update(7, 3, 2), Update(8, 3, 1), Update(7, 4, 1)])
def test_all_parts_of_an_update_share_the_masks_of_token_types(other):
    """A batch that is accumulated, or shared among processes, drops the same features of the same types."""
    one, two = (network(**SIZES).draw_masks(6, 5, 4, *dropout_generators(update)) for update in (UPDATE, other))
    is_same = (other.number, other.seed) == (UPDATE.number, UPDATE.seed)
    assert one.source_embedding_VE.equal(two.source_embedding_VE) == is_same
    assert one.target_embedding_VE.equal(two.target_embedding_VE) == is_same
    assert not one.memory_SBM.equal(two.memory_SBM)


def test_numbers_for_draws_do_not_depend_on_how_many_steps_follow():
    long, short = (uniforms(UPDATE, "draws", 4, steps) for steps in (20, 5))
    assert long[:, :5].equal(short)
    assert len(long.unique()) == 80
