"""Beam and greedy search: bounds, bans, ties, prefixes, order of hypotheses, bad settings."""

from __future__ import annotations

import re
from itertools import chain

import numpy as np
import pytest

from freerun.bounds import MAX_LENGTH
from freerun.errors import ConfigError
from freerun.search.beam import BeamChooser
from freerun.search.forced_scoring import score_targets
from freerun.search.hypothesis import divisor_bound, penalised
from freerun.search.loop import Rows
from freerun.search.methods import Beam
from freerun.symbols import BOS, EOS, PAD, UNK
from freerun.text import shown
from tests.searching import beam_search
from tests.steppers import TableStepper, batch, bounds, rank

SOURCES = [[4, 5, 2], [5, 2], [2], [4, 4, 4, 2]]


def search(stepper, sources=SOURCES, max_length=6, **settings):
    return beam_search(stepper, *batch(sources), max_lengths=bounds(*[max_length] * len(sources)), **settings)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("token", [PAD, BOS, UNK])
def test_a_token_that_is_never_written_is_not_even_when_it_is_most_probable(token, beam_size):
    stepper = TableStepper(bias={token: 50.0})
    for hypotheses in search(stepper, beam_size=beam_size, num_hypotheses=beam_size):
        assert not {PAD, BOS, UNK} & {written for hypothesis in hypotheses for written in hypothesis.ids}
        assert hypotheses[0].score < -40  # normalised before the ban


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_a_hypothesis_without_end_is_truncated_and_scored_without_eos(beam_size):
    stepper = TableStepper(vocabulary_size=12, bias={EOS: -30.0})
    for hypothesis in chain(*search(stepper, beam_size=beam_size, num_hypotheses=beam_size, max_length=3)):
        assert hypothesis.truncated
        assert len(hypothesis.ids) == len(hypothesis.token_scores) == 3
        assert hypothesis.score > -15


def test_the_step_after_the_last_token_still_sees_eos():
    stepper = TableStepper(seed=2)
    (free,) = search(stepper, [[4, 2]], max_length=20)[0]
    assert not free.truncated
    length = len(free.ids)
    assert length > 1
    assert search(stepper, [[4, 2]], max_length=length) == [[free]]
    (cut,) = search(stepper, [[4, 2]], max_length=length - 1)[0]
    assert cut.truncated
    assert cut.ids == free.ids[:-1]
    assert cut.token_scores == free.token_scores[: length - 1]


def test_a_bound_of_0_leaves_only_the_empty_output():
    ended, cut = search(TableStepper(bias={EOS: 9.0}), [[4]], 0)[0][0], search(TableStepper(), [[4]], 0)[0][0]
    assert (ended.ids, ended.truncated, len(ended.token_scores)) == ((), False, 1)
    assert (cut.ids, cut.truncated, cut.score, cut.token_scores) == ((), True, 0.0, ())


def test_every_source_has_its_own_bound():
    stepper = TableStepper(bias={EOS: -30.0})
    found = beam_search(stepper, *batch(SOURCES), max_lengths=bounds(3, 0, 5, 1), beam_size=2)
    assert [len(hypotheses[0].ids) for hypotheses in found] == [3, 0, 5, 1]


def test_a_truncated_hypothesis_comes_after_a_finished_one_with_a_lower_score():
    found = search(TableStepper(8, seed=13), max_length=2, beam_size=8, num_hypotheses=8)
    mixed = [each for each in found if len({hypothesis.truncated for hypothesis in each}) == 2]
    assert mixed
    for hypotheses in mixed:
        flags = [hypothesis.truncated for hypothesis in hypotheses]
        assert flags == sorted(flags)
    assert any(h[0].rank_score < max(x.rank_score for x in h if x.truncated) for h in mixed)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_ties_go_to_the_lowest_id(beam_size):
    level = TableStepper(vocabulary_size=8, levels=1, bias={EOS: -1.0})  # all others are equally probable
    (best,) = search(level, [[4]], max_length=3, beam_size=beam_size)[0]
    assert best.ids == (4, 4, 4)


def test_ties_between_parents_go_to_the_lower_token_and_then_to_the_better_parent():
    chooser = BeamChooser(Beam(2, 2, 0.0), bounds(9), 9)
    rows = Rows(np.array([0, 0]), np.array([-1.0, -2.0]))
    ids, log_probs = np.array([[5, 6, 2], [4, 5, 2]]), np.array([[-2.0, -2.0, -9.0], [-1.0, -1.0, -9.0]])
    choice = chooser.choose(3, rows, ids, log_probs)
    assert list(zip(choice.tokens, choice.parents, strict=True)) == [(4, 1), (5, 0)]


def test_an_ending_frees_no_place_and_the_beam_is_refilled():
    chooser = BeamChooser(Beam(2, 2, 0.0), bounds(9), 9)
    ids, log_probs = np.array([[EOS, 5, 6]]), np.array([[-0.5, -1.0, -1.5]])
    choice = chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs)
    assert choice.tokens.tolist() == [EOS, 5, 6]


def test_eos_ends_only_among_the_best_k():
    chooser = BeamChooser(Beam(2, 2, 0.0), bounds(9), 9)
    ids, log_probs = np.array([[5, 6, EOS]]), np.array([[-0.5, -1.0, -1.5]])
    choice = chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs)
    assert choice.tokens.tolist() == [5, 6]


def test_probability_0_comes_after_all_else_but_is_still_a_candidate():
    chooser = BeamChooser(Beam(3, 3, 0.0), bounds(9), 6)
    ids, log_probs = np.array([[5, EOS, 4]]), np.array([[-1.0, -np.inf, -np.inf]])
    choice = chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs)
    assert choice.tokens.tolist() == [5, EOS, 4]


def test_a_live_hypothesis_that_could_only_draw_level_ends_the_search():
    chooser = BeamChooser(Beam(1, 1, 0.0), bounds(9), 9)
    ids, log_probs = np.array([[EOS, 5]]), np.array([[-1.0, -1.0]])
    assert chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs).tokens.tolist() == [EOS]


def after_one_ended(length_penalty, score, longest=(9,), num_hypotheses=1, early_stop=False):
    """Tokens that a beam of 2 chooses for each source in its second step; one has finished before, with rank score -1.

    The best active hypothesis then has ``score``, the other one 1 less.
    """
    chooser = BeamChooser(Beam(2, num_hypotheses, length_penalty, early_stop), bounds(*longest), 9)
    ids, log_probs = np.array([[5, EOS, 6]] * len(longest)), np.array([[-0.5, -1.0, -1.1]] * len(longest))
    chooser.choose(0, Rows(np.arange(len(longest)), np.zeros(len(longest))), ids, log_probs)
    starts = np.repeat(np.arange(len(longest)), 2)
    ids, log_probs = np.array([[5, 6, 7], [7, 8, EOS]]), np.array([[score, score - 1, -9.0], [-90.0, -90.0, -90.0]])
    rows = Rows(starts, np.zeros(len(starts)))
    every = np.tile(ids, (len(longest), 1)), np.tile(log_probs, (len(longest), 1))
    choice = chooser.choose(1, rows, *every)
    return [choice.tokens[starts[choice.parents] == source].tolist() for source in range(len(longest))]


@pytest.mark.parametrize(
    ("penalty", "score"),
    [(0.0, -1.0), (0.6, -(2.5**0.6)), (1.0, -2.5), (2.0, -6.25), (-1.0, -0.75)],
)
def test_the_bound_is_exact(penalty, score):
    """At most 9 tokens and EOS: ((5 + 10) / 6) ** penalty; a negative penalty favours the next step, (5 + 3) / 6."""
    assert after_one_ended(penalty, score * 0.999) == [[5, 6]]
    assert after_one_ended(penalty, score * 1.001) == [[]]


def test_every_source_is_bounded_by_its_own_longest_output():
    # (5 + 10) / 6, (5 + 3) / 6 and (5 + 13) / 6
    assert after_one_ended(1.0, -2.6, longest=(9, 2, 12)) == [[], [], [5, 6]]
    assert after_one_ended(1.0, -2.4, longest=(9, 2, 12)) == [[5, 6], [], [5, 6]]


def test_no_bound_holds_before_as_many_have_finished_as_are_requested():
    assert after_one_ended(1.0, -8.0, num_hypotheses=2) == [[5, 6]]


def test_what_is_impossible_is_still_searched_for_while_fewer_have_finished():
    chooser = BeamChooser(Beam(2, 2, 0.0), bounds(9), 9)
    ids, log_probs = np.array([[EOS, 5, 6]]), np.array([[-0.5, -np.inf, -np.inf]])
    assert chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs).tokens.tolist() == [EOS, 5, 6]


def test_a_score_of_0_can_reach_any_rank_below_0_but_not_beat_0():
    assert after_one_ended(1.0, 0.0) == [[5, 6]]
    chooser = BeamChooser(Beam(2, 1, 1.0), bounds(9), 9)
    ids, log_probs = np.array([[EOS, 5, 6]]), np.array([[0.0, 0.0, 0.0]])
    assert chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs).tokens.tolist() == [EOS]


@pytest.mark.parametrize(("length", "longest"), [(1, 1), (4, 4), (9, 30)])
@pytest.mark.parametrize("penalty", [1e-17, 0.1, 0.6, 1.0, 2.0, 10.0])
def test_rounding_never_makes_the_bound_too_low(penalty, length, longest):
    scores = -np.random.default_rng(0).exponential(size=2000)
    ranks = penalised(scores, np.full(len(scores), longest + 1.0), penalty)
    assert (scores / divisor_bound(length, longest, penalty) >= ranks).all()


@pytest.mark.parametrize(("log_prob", "done"), [(-0.66, False), (0.5 - 7 / 6, True), (-0.67, True)])
def test_stopping_early_holds_the_best_live_hypothesis_against_the_kth_ending_at_its_length(log_prob, done):
    chooser = BeamChooser(Beam(2, 1, 1.0, early_stop=True), bounds(9), 9)
    ids, log_probs = np.array([[5, EOS, 6]]), np.array([[-0.5, -1.0, -1.1]])
    chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs)  # an ending of rank score -1
    ids, log_probs = np.array([[EOS, 5, 6], [7, 8, EOS]]), np.array([[-0.2, log_prob, -9.0], [-9.0, -9.0, -9.0]])
    choice = chooser.choose(1, Rows(np.array([0, 0]), np.array([-0.5, -1.1])), ids, log_probs)
    # -1.16 / (7 / 6) is above -1, -1.17 / (7 / 6) is below it; one that only ties is no better.
    assert choice.tokens.tolist() == ([EOS] if done else [EOS, 5, 6])


@pytest.mark.parametrize(("log_prob", "done"), [(-0.9, False), (-1.6, True)])
def test_stopping_early_waits_for_as_many_endings_as_the_beam_has_hypotheses(log_prob, done):
    chooser = BeamChooser(Beam(3, 1, 1.0, early_stop=True), bounds(9), 9)
    ids, log_probs = np.array([[5, EOS, 6, 7]]), np.array([[-0.5, -1.0, -1.1, -1.2]])
    chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs)
    ids = np.array([[EOS, 5, 6, 7], [EOS, 5, 6, 7], [8, 5, 6, 7]])
    log_probs = np.full((3, 4), -9.0)
    log_probs[:2, 0], log_probs[0, 1] = (-0.2, -0.9), log_prob
    choice = chooser.choose(1, Rows(np.zeros(3, int), np.array([-0.5, -1.1, -1.2])), ids, log_probs)
    # rank scores of the endings: -1, -0.7 / (7 / 6) and -2 / (7 / 6); of the best active one: -1.4 or -2.1 / (7 / 6)
    assert (set(choice.tokens.tolist()) == {EOS}) == done


@pytest.mark.parametrize(("num_hypotheses", "alive"), [(1, []), (2, [5, 6])])
def test_a_source_is_done_when_nothing_can_beat_what_is_asked_for(num_hypotheses, alive):
    chooser = BeamChooser(Beam(2, num_hypotheses, 0.0), bounds(9), 9)
    ids, log_probs = np.array([[EOS, 5, 6]]), np.array([[-0.5, -1.0, -1.2]])
    choice = chooser.choose(0, Rows(np.array([0]), np.zeros(1)), ids, log_probs)
    assert [token for token in choice.tokens.tolist() if token != EOS] == alive


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_fewer_hypotheses_are_the_first_of_more(penalty, early_stop):
    """Stopping sooner loses nothing: the search for five goes on until five have ended."""
    settings = {"max_length": 6, "beam_size": 5, "length_penalty": penalty, "early_stop": early_stop}
    for seed in range(20):
        every = search(TableStepper(seed=seed), num_hypotheses=5, **settings)
        for count in (1, 2, 3):
            few = search(TableStepper(seed=seed), num_hypotheses=count, **settings)
            assert few == [hypotheses[:count] for hypotheses in every]


def rows_fed(**settings):
    stepper = TableStepper(seed=1, bias={EOS: 1.0})
    search(stepper, max_length=30, beam_size=5, **settings)
    return sum(stepper.rows_fed)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_fewer_hypotheses_cost_fewer_rows(penalty):
    assert rows_fed(num_hypotheses=1, length_penalty=penalty) < rows_fed(num_hypotheses=5, length_penalty=penalty)


@pytest.mark.parametrize(("penalty", "is_cheaper"), [(0.0, False), (2.0, True), (-1.0, False)])
def test_stopping_early_costs_fewer_rows_under_a_positive_penalty(penalty, is_cheaper):
    exact, early = (rows_fed(length_penalty=penalty, early_stop=early_stop) for early_stop in (False, True))
    assert (early < exact) is is_cheaper
    assert early <= exact


def test_a_finished_source_costs_no_more_rows():
    stepper = TableStepper(bias={EOS: 30.0})
    search(stepper, beam_size=1)
    assert stepper.rows_fed == [4]
    slow = TableStepper(bias={EOS: -30.0})
    beam_search(slow, *batch(SOURCES), max_lengths=bounds(0, 0, 2, 2), beam_size=1)
    assert slow.rows_fed == [4, 2, 2]


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_hypotheses_are_ordered_by_rank_score(penalty):
    for hypotheses in search(TableStepper(seed=5), beam_size=5, num_hypotheses=5, length_penalty=penalty):
        finished = [hypothesis for hypothesis in hypotheses if not hypothesis.truncated]
        assert len(hypotheses) == 5
        assert finished == sorted(finished, key=lambda hypothesis: -hypothesis.rank_score)
        for hypothesis in hypotheses:
            length = len(hypothesis.ids) + (not hypothesis.truncated)
            assert hypothesis.rank_score == pytest.approx(rank(hypothesis.score, length, penalty))


def test_the_length_penalty_is_the_papers():
    assert penalised(-3.0, 7, 0.5) == pytest.approx(-3 / 2**0.5)
    assert penalised(-3.0, 7, 0.0) == -3.0


def test_the_length_of_a_truncated_hypothesis_counts_no_eos():
    (cut,) = search(TableStepper(bias={EOS: -30.0}), [[4]], max_length=3, length_penalty=1.0)[0]
    assert cut.rank_score == pytest.approx(cut.score / (8 / 6))


def test_the_length_penalty_only_ranks():
    plain = search(TableStepper(seed=2), [[4]], beam_size=30, num_hypotheses=30, max_length=3)[0]
    ranked = search(TableStepper(seed=2), [[4]], beam_size=30, num_hypotheses=30, max_length=3, length_penalty=4.0)[0]
    assert {(h.ids, h.score) for h in plain} == {(h.ids, h.score) for h in ranked}
    assert [h.ids for h in plain] != [h.ids for h in ranked]


@pytest.mark.parametrize("beam_size", [1, 4])
def test_scores_are_those_of_forcing_the_same_tokens(beam_size):
    stepper = TableStepper(vocabulary_size=9, seed=4)
    found = search(stepper, beam_size=beam_size, num_hypotheses=beam_size, max_length=9)
    for source, hypotheses in zip(SOURCES, found, strict=True):
        finished = [hypothesis for hypothesis in hypotheses if not hypothesis.truncated]
        again = score_targets(stepper, *batch([source] * len(finished)), [[*h.ids, EOS] for h in finished])
        for hypothesis, log_probs in zip(finished, again.log_probs, strict=True):
            assert hypothesis.token_scores == pytest.approx(log_probs.tolist())
            assert hypothesis.score == pytest.approx(log_probs.sum())


def test_more_hypotheses_than_the_beam_widen_it():
    assert search(TableStepper(), num_hypotheses=4) == search(TableStepper(), num_hypotheses=4, beam_size=4)


def test_a_beam_of_one_is_greedy_search_whatever_the_penalty():
    greedy, ranked = (search(TableStepper(seed=3), length_penalty=penalty) for penalty in (0.0, 2.0))
    assert [each[0].ids for each in ranked] == [each[0].ids for each in greedy]


def test_a_vocabulary_of_specials_can_only_end():
    for beam_size in (1, 3):
        assert [h.ids for h in search(TableStepper(vocabulary_size=4), [[4]], beam_size=beam_size)[0]] == [()]


def test_no_sources_give_no_hypotheses():
    assert search(TableStepper(), []) == []


# ---------------------------------------------------------------------------------------------------------- prefixes


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_prefix_begins_every_hypothesis_and_counts_in_its_score(beam_size):
    stepper, prefix = TableStepper(seed=6), [[4, 5, 4], [], [UNK], [5]]
    found = search(stepper, prefix=prefix, beam_size=beam_size, num_hypotheses=beam_size)
    for source, forced, hypotheses in zip(SOURCES, prefix, found, strict=True):
        for hypothesis in hypotheses:
            assert list(hypothesis.ids[: len(forced)]) == forced
            expected = [stepper.distribution(source, forced[:n])[token] for n, token in enumerate(forced)]
            assert list(hypothesis.token_scores[: len(forced)]) == pytest.approx(expected)
            assert hypothesis.score == pytest.approx(sum(hypothesis.token_scores))
    assert found[1] == search(stepper, beam_size=beam_size, num_hypotheses=beam_size)[1]


def test_forcing_the_output_itself_changes_nothing():
    stepper = TableStepper(seed=8)
    plain = search(stepper)
    assert search(stepper, prefix=[hypotheses[0].ids for hypotheses in plain]) == plain


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_impossible_prefix_is_written_all_the_same(dtype):
    stepper = TableStepper(bias={5: -np.inf}, dtype=dtype)
    for beam_size in (1, 3):
        found = search(stepper, [[4]], prefix=[[5, 5]], beam_size=beam_size, max_length=4)
        assert found[0][0].ids[:2] == (5, 5)


@pytest.mark.parametrize("token", [PAD, BOS, EOS, 6, -2])
def test_a_prefix_with_what_no_output_holds_is_refused(token):
    with pytest.raises(ConfigError, match=rf"^prefix of source 1: it holds the id {token}\. Expected ids .* below 6,"):
        search(TableStepper(), [[4], [5]], prefix=[[], [4, token]])


def test_a_prefix_longer_than_the_bound_is_refused():
    message = r"^prefix of source 0: it has 3 tokens, and the output may have 2\. .* raise the maximum length\.$"
    with pytest.raises(ConfigError, match=message):
        search(TableStepper(), [[4]], 2, prefix=[[4, 4, 4]])


def test_prefixes_and_sources_are_equally_many():
    with pytest.raises(ValueError, match="1 prefixes for 2 sources"):
        search(TableStepper(), [[4], [5]], prefix=[[4]])


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("name", ["beam_size", "num_hypotheses"])
@pytest.mark.parametrize("value", [0, -1, 1001, 10**21, 2.0, "3", True])
def test_sizes_out_of_range_are_refused(name, value):
    message = f"{name}: the value is {shown(value)}. Expected a whole number from 1 to 1,000. Use 1 for"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        search(TableStepper(), **{name: value})


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("penalty", [10.1, -10.1, 1e308, float("inf"), float("nan")])
def test_penalties_without_meaning_are_refused(penalty, beam_size):
    with pytest.raises(
        ConfigError,
        match=rf"^length_penalty: the value is {re.escape(str(penalty))}\. Expected a number from -10 to 10\. Use 0",
    ):
        search(TableStepper(), beam_size=beam_size, length_penalty=penalty)


@pytest.mark.parametrize("penalty", [-10.0, 10.0])
def test_no_length_overflows_under_the_largest_penalty(penalty):
    stepper, settings = TableStepper(bias={EOS: 9.0}), {"beam_size": 2, "length_penalty": penalty, "early_stop": True}
    (found,) = beam_search(stepper, *batch([[4]]), max_lengths=bounds(MAX_LENGTH.high), **settings)
    assert np.isfinite(found[0].rank_score)


@pytest.mark.parametrize("settings", [{}, {"beam_size": 3, "length_penalty": 0.6}])
def test_a_negative_bound_is_refused(settings):
    with pytest.raises(ConfigError, match=r"^max_length: the value is -9\. Expected 0 or more tokens\."):
        beam_search(TableStepper(), *batch([[4], [5]]), max_lengths=bounds(3, -9), **settings)
