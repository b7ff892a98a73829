"""Sampling: frequencies, exact support of top-k and top-p, reproducible draws, bad settings."""

from __future__ import annotations

import numpy as np
import pytest

from freerun.errors import ConfigError
from freerun.search.forced_scoring import score_targets
from freerun.search.methods import Sampling
from freerun.search.sampling import SamplingChooser
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, PAD, UNK
from tests.searching import beam_search, sample
from tests.steppers import TableStepper, batch, bounds, writable_ids

SOURCE = [4, 5, 2]


def first_tokens(stepper, count=4000, **settings):
    """Counts [V] of the first token of many draws; an output that ends at once counts as EOS."""
    hypotheses = sample(stepper, *batch([SOURCE]), max_lengths=bounds(1), num_hypotheses=count, **settings)[0]
    return np.bincount([h.ids[0] if h.ids else EOS for h in hypotheses], minlength=stepper.vocabulary_size)


def expected_shares(stepper, temperature=1.0, keep=None):
    """Softmax of the tempered logits over writable ids, and over ``keep`` of them."""
    log_probs = stepper.distribution(SOURCE, []).astype(float) / temperature
    keep = writable_ids(stepper) if keep is None else keep
    weights = np.zeros(stepper.vocabulary_size)
    weights[keep] = np.exp(log_probs[keep])
    return weights / weights.sum()


def surprise(counts, shares):
    """Pearson's chi square divided by its degrees of freedom: about 1 when the shares are true."""
    seen = shares > 0
    assert not counts[~seen].any()
    expected = shares[seen] * counts.sum()
    return ((counts[seen] - expected) ** 2 / expected).sum() / (seen.sum() - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_distribution(temperature):
    stepper = TableStepper(vocabulary_size=12, seed=1)
    counts = first_tokens(stepper, temperature=temperature)
    assert surprise(counts, expected_shares(stepper, temperature)) < 2.5
    assert surprise(counts, expected_shares(stepper, temperature * 1.4)) > 5


@pytest.mark.parametrize("top_k", [1, 3, 50])
def test_top_k_keeps_the_k_best_tokens(top_k):
    stepper = TableStepper(vocabulary_size=12, seed=1)
    best = sorted(writable_ids(stepper), key=lambda token: -stepper.distribution(SOURCE, [])[token])[:top_k]
    counts = first_tokens(stepper, top_k=top_k)
    assert set(np.flatnonzero(counts)) == set(best)
    assert top_k == 1 or surprise(counts, expected_shares(stepper, keep=best)) < 2.5


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"top_p": 0.3}])
def test_ties_at_the_cut_go_to_the_lowest_ids(settings):
    level = TableStepper(vocabulary_size=10, levels=1, bias={EOS: -60.0})  # six tokens of 1/6 each
    assert set(np.flatnonzero(first_tokens(level, 300, **settings))) == {4, 5}


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_top_p_keeps_the_fewest_best_tokens_that_reach_it(top_p, temperature):
    stepper = TableStepper(vocabulary_size=12, seed=1)
    shares = expected_shares(stepper, temperature)
    best = np.argsort(-shares, kind="stable")[: len(writable_ids(stepper))]
    size = next(n for n in range(1, len(best) + 1) if n == len(best) or shares[best[:n]].sum() >= top_p)
    counts = first_tokens(stepper, top_p=top_p, temperature=temperature)
    assert set(np.flatnonzero(counts)) == set(best[:size])
    assert size == 1 or surprise(counts, expected_shares(stepper, temperature, best[:size])) < 2.5


def test_a_share_that_is_reached_exactly_needs_no_further_token():
    level = TableStepper(vocabulary_size=8, levels=1, bias={EOS: -np.inf, PAD: -np.inf, BOS: -np.inf, UNK: -np.inf})
    assert set(np.flatnonzero(first_tokens(level, 300, top_p=0.5))) == {4, 5}


def test_a_top_p_of_1_leaves_nothing_out_however_unlikely():
    log_probs = np.array([[-60.0, 0.0, -1.0]])
    everything, nothing_said = (
        SamplingChooser(Sampling(top_p=p), np.zeros((1, 1)), 3)._weights(log_probs) for p in (1.0, None)
    )
    assert everything.tolist() == nothing_said.tolist() == np.exp(log_probs).tolist()


def test_top_p_is_measured_after_top_k():
    level = TableStepper(vocabulary_size=14, levels=1, bias={EOS: -60.0})  # ten tokens of 1/10 each
    assert set(np.flatnonzero(first_tokens(level, 300, top_k=4, top_p=0.5))) == {4, 5}


def test_what_is_never_written_is_not_drawn():
    stepper = TableStepper(bias=dict.fromkeys(NEVER_WRITTEN, 20.0))
    assert not first_tokens(stepper, 500)[list(NEVER_WRITTEN)].any()


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"top_p": 0.6}, {"temperature": 3.0}])
def test_scores_stay_those_of_the_model(settings):
    stepper = TableStepper(vocabulary_size=9, seed=2)
    drawn = sample(stepper, *batch([SOURCE]), max_lengths=bounds(30), num_hypotheses=20, **settings)[0]
    finished = [hypothesis for hypothesis in drawn if not hypothesis.truncated]
    again = score_targets(stepper, *batch([SOURCE] * len(finished)), [[*h.ids, EOS] for h in finished])
    assert len(finished) > 10
    assert [h.score for h in finished] == pytest.approx([scores.sum() for scores in again.log_probs])
    assert [h.rank_score for h in finished] == [h.score for h in finished]


def draw(seed=3, rows=(7, 8), count=5, max_length=12, sources=((4, 2), (5, 5, 2)), **settings):
    stepper = TableStepper(vocabulary_size=9, seed=2)
    lengths = bounds(*[max_length] * len(sources))
    settings |= {"num_hypotheses": count, "seed": seed, "rows": np.array(rows)}
    return sample(stepper, *batch(sources), max_lengths=lengths, **settings)


def test_draws_repeat_under_one_seed_and_differ_under_another():
    assert draw() == draw()
    assert draw() != draw(seed=4)


def test_draws_of_a_source_depend_on_its_row_and_not_on_its_batch():
    both = draw()
    assert draw(rows=[8], sources=[(5, 5, 2)])[0] == both[1]
    assert draw(rows=[9], sources=[(5, 5, 2)])[0] != both[1]


def test_every_row_and_hypothesis_has_a_stream_of_its_own():
    """The second draw of one source is no more the first of the next one than any other."""
    stepper = TableStepper(vocabulary_size=12, seed=2, bias={EOS: -9.0})
    for rows in (np.arange(6), np.array([0, 1, 2, 6, 12, 60])):
        drawn = sample(stepper, *batch([SOURCE] * 6), max_lengths=bounds(*[12] * 6), num_hypotheses=6, rows=rows)
        assert len({hypothesis.ids for hypotheses in drawn for hypothesis in hypotheses}) == 36


def test_every_step_has_a_draw_of_its_own():
    level = TableStepper(vocabulary_size=40, levels=1, bias={EOS: -60.0})
    ((drawn,),) = sample(level, *batch([SOURCE]), max_lengths=bounds(200))
    assert len(set(drawn.ids)) > 30


def test_a_draw_does_not_depend_on_how_many_there_are():
    assert [hypotheses[:2] for hypotheses in draw()] == draw(count=2)
    assert len({hypothesis.ids for hypothesis in draw(count=5)[0]}) > 1


def test_a_shorter_bound_cuts_the_same_draw():
    for long, short in zip(draw(max_length=12)[0], draw(max_length=2)[0], strict=True):
        assert long.ids[:2] == short.ids
        assert short.truncated == (len(long.ids) > 2)


def test_rows_default_to_the_place_in_the_batch():
    stepper, source = TableStepper(seed=2), batch([SOURCE, SOURCE])
    default = sample(stepper, *source, max_lengths=bounds(9, 9))
    assert default == sample(stepper, *source, max_lengths=bounds(9, 9), rows=np.array([0, 1]))


def test_a_prefix_is_written_before_anything_is_drawn():
    for hypothesis in draw(prefix=[[4, 6], []], count=9)[0]:
        assert hypothesis.ids[:2] == (4, 6)
    for settings in ({}, {"top_k": 2}, {"temperature": 0.0}):
        assert draw(prefix=[[7], [8, 8]], **settings)[1][0].ids[:2] == (8, 8)


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"top_p": 0.5}])
def test_an_impossible_prefix_is_written_all_the_same(settings):
    stepper = TableStepper(bias={5: -np.inf})
    (drawn,) = sample(stepper, *batch([SOURCE]), max_lengths=bounds(4), prefix=[[5, 5]], **settings)[0]
    assert drawn.ids[:2] == (5, 5)


def test_temperature_0_is_greedy_search():
    stepper = TableStepper(vocabulary_size=9, seed=2)
    source, lengths = batch([SOURCE, [5, 2]]), bounds(9, 9)
    drawn = sample(stepper, *source, max_lengths=lengths, temperature=0.0, num_hypotheses=2)
    greedy = beam_search(stepper, *source, max_lengths=lengths)
    assert drawn == [hypotheses * 2 for hypotheses in greedy]


def test_a_tiny_temperature_draws_the_best_token():
    stepper = TableStepper(vocabulary_size=9, seed=2)
    source, lengths = batch([SOURCE, [5, 2]]), bounds(9, 9)
    greedy = beam_search(stepper, *source, max_lengths=lengths)
    assert sample(stepper, *source, max_lengths=lengths, temperature=1e-6) == greedy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.5}, r"^temperature: the value is -0\.5\. Expected a number from 0 to 1000\."),
        (
            {"temperature": 9.9e-7},
            r"^temperature: the value is 9\.9e-07\. Expected 0, or a number from 1e-06 to 1000\.",
        ),
        ({"temperature": 1001}, r"^temperature: the value is 1001\. Expected a number from 0 to 1000\."),
        ({"temperature": 1e308}, r"^temperature: the value is 1e\+308\."),
        ({"temperature": float("nan")}, r"^temperature: the value is nan\."),
        ({"temperature": float("inf")}, r"^temperature: the value is inf\."),
        ({"top_k": 0}, r"^top_k: the value is 0\. Expected a whole number from 1 to 1,000,000,000\."),
        ({"top_k": 10**21}, r"^top_k: the value is 1000000000000000000000\."),
        ({"top_p": 0.0}, r"^top_p: the value is 0\.0\. Expected a fraction above 0 and at most 1\."),
        ({"top_p": 1.5}, r"^top_p: the value is 1\.5\."),
        ({"top_p": float("nan")}, r"^top_p: the value is nan\."),
        ({"num_hypotheses": 0}, r"^num_hypotheses: the value is 0\. Expected a whole number from 1 to 10,000\."),
        ({"num_hypotheses": 10_001}, r"^num_hypotheses: the value is 10001\."),
        ({"seed": 2**63}, r"^seed: the value is 9223372036854775808\. Expected .* to 9,223,372,036,854,775,807\."),
        ({"seed": -(2**63) - 1}, r"^seed: the value is -9223372036854775809\."),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        sample(TableStepper(), *batch([SOURCE]), max_lengths=bounds(3), **settings)
