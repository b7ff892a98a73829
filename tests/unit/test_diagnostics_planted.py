"""Every measure on models whose faults are known, by the code that runs on real ones."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import CensoredData, ecdf

from freerun.diagnostics.by_position import by_position, by_source_length
from freerun.diagnostics.diagnosis import diagnose
from freerun.diagnostics.excess_error import excess_error
from freerun.diagnostics.identity import identity
from freerun.diagnostics.prefix_switch import prefix_switch, switch_lengths
from freerun.diagnostics.record import Recorder, sample_rows
from freerun.diagnostics.recovery import recovery
from freerun.diagnostics.road_exam import RATES, _corrupted, road_exam
from freerun.search.bound import LengthBound
from freerun.symbols import EOS
from tests.planted import (
    BOUND,
    JUNK,
    SOURCE,
    TARGET,
    Planted,
    derails,
    errs_at_random,
    fault_at,
    items_of,
    never_errs,
    optimal,
    recorded,
    recovers_after_two,
    share,
    words,
)

WORDS = words(60)


def values(estimates):
    return [each.value for each in estimates]


def test_a_model_that_never_errs_has_nothing_to_compare():
    found, recorder = recorded(never_errs, *WORDS)
    excess = excess_error(found)
    assert (excess.free.value, excess.teacher.value, excess.excess.value) == (0.0, 0.0, None)
    assert excess.ending_regret.value == 0.0
    assert recovery(found).with_error == 0
    assert {each.recovered.value for each in recovery(found).curve} == {None}
    assert prefix_switch(found, recorder) == []
    assert set(values(each.errors for each in road_exam(found, recorder))) == {0.0}
    assert identity(found) == (60, 60, 60, 60)


def test_a_free_run_follows_the_first_of_the_references_that_it_follows_equally_long():
    found, _ = recorded(lambda source, prefix, optimal: JUNK, "ab", ["ab", "cd", "ef"], ["gh"])
    assert found.followed.tolist() == [0, 1, 4]
    # "cd" and "ce" begin alike, and the run ends there
    c = TARGET.encode_tokens(["c"])[0]
    found, _ = recorded(lambda source, prefix, optimal: EOS if prefix else c, ["ab", "cd", "ce"])
    assert found.followed.tolist() == [1]


def test_a_model_that_derails_never_recovers():
    found, recorder = recorded(derails, *WORDS)
    assert recovery(found).with_error == 60
    for each in recovery(found).curve:
        # junk for good on its own; on right tokens the fault is over after its step
        assert (each.free.value, each.teacher.value, each.recovered.value) == (1.0, 0.0, 0.0)
        assert each.ratio.value is None
        # free runs go on to their bound, but are compared as long as the reference lasts
        faults = [fault_at(tuple(source)) for source in found.pairs.sources]
        assert each.free.n == sum(fault + each.k <= len(word) for fault, word in zip(faults, WORDS, strict=True))
    for switch in prefix_switch(found, recorder):
        behind = [row for row in range(60) if fault_at(tuple(found.pairs.sources[row])) < switch.length]
        # their faults lie in the prefix, which is right now
        assert (switch.own.value, switch.right.value) == (1.0, 0.0)
        assert switch.own.n == sum(len(WORDS[row]) >= switch.length for row in behind)
    assert found.free.ended.sum() == 0
    assert found.first_errors.tolist() == [fault_at(tuple(source)) for source in found.pairs.sources]


def test_the_excess_of_a_model_that_derails_is_what_counting_gives():
    found, _ = recorded(derails, *WORDS)
    bound = BOUND.of(np.array([4]))[0]
    faults = [fault_at(tuple(source)) for source in found.pairs.sources]
    free = sum(bound - fault for fault in faults) / (60 * bound)
    teacher = 60 / sum(len(word) + 1 for word in WORDS)
    excess = excess_error(found)
    assert excess.free.value == pytest.approx(free)
    assert excess.teacher.value == pytest.approx(teacher)
    assert excess.excess.value == pytest.approx(100 * (free / teacher - 1))
    at_four = next(each for each in excess.curve if each.steps == 4)
    assert at_four.free.value == pytest.approx(sum(4 - fault for fault in faults) / 240)
    assert at_four.teacher.value == pytest.approx(60 / 240)


def test_a_model_that_recovers_after_two_tokens_is_seen_to():
    found, _ = recorded(recovers_after_two, *WORDS)
    curve = recovery(found).curve
    assert values(each.recovered for each in curve) == [0.0] + [1.0] * 9
    assert values(each.free for each in curve[:3]) == [1.0, 0.0, 0.0]
    assert {each.recovered.low for each in curve[1:]} == {1.0}


def test_errors_that_come_at_random_have_no_excess():
    found, _ = recorded(errs_at_random(0.2), *words(1500, seed=1))
    excess = excess_error(found)
    assert excess.free.value == pytest.approx(0.2, abs=0.02)
    assert excess.teacher.value == pytest.approx(0.2, abs=0.02)
    assert excess.excess.low < 0 < excess.excess.high
    assert not found.free.ended.all() or (found.free.ending_regret > 0).any()


def test_errors_at_random_over_two_difficulties_read_one():
    found, _ = recorded(errs_at_random(lambda source: 0.05 if source[-2] % 2 else 0.35), *words(2000, seed=2))
    for each in recovery(found).curve[:3]:
        assert each.ratio.low < 1 < each.ratio.high
        assert each.ratio.high - each.ratio.low < 0.5


def test_regrets_add_up_to_the_edit_distance():
    from rapidfuzz.distance import Levenshtein

    texts = [[*pair] for pair in zip(words(200, seed=3), words(200, seed=4), strict=True)]
    found, _ = recorded(errs_at_random(0.3), *texts)
    for row, references in enumerate(found.pairs.references):
        output = [int(token) for token in found.free.tokens[row]]
        output = output[:-1] if found.free.ended[row] else output
        distance = min(Levenshtein.distance(output, each[:-1].tolist()) for each in references)
        steps = found.free.errors[row][: len(output)].sum()
        assert steps + found.free.ending_regret[row] == distance
        if found.free.ended[row]:
            assert found.free.errors[row][-1] == (found.free.ending_regret[row] > 0)


def test_steps_are_judged_after_what_was_fed():
    # junk that is taken for right after itself would show: two runs that differ in what is fed, and brute force
    texts = [[*pair] for pair in zip(words(60, seed=7), words(60, seed=8), strict=True)]
    found, _ = recorded(lambda source, prefix, optimal: 5 + len(prefix) % 8 if len(prefix) < 9 else EOS, *texts)
    for row, (owner, target) in enumerate(zip(found.pairs.owners_P, found.pairs.targets, strict=True)):
        references = [each.tolist() for each in found.pairs.references[owner]]
        written = found.forced.tokens[row].tolist()
        expected = [token not in optimal(target[:t].tolist(), references) for t, token in enumerate(written)]
        assert found.forced.errors[row].tolist() == expected
    for row, several in enumerate(found.pairs.references):
        references, written = [each.tolist() for each in several], found.free.tokens[row].tolist()
        expected = [token not in optimal(written[:t], references) for t, token in enumerate(written)]
        assert found.free.errors[row].tolist() == expected


def test_several_references_count_as_much_as_one():
    found, _ = recorded(derails, ["abcd", "abcdefgh"], "abcd")
    # each reference errs once: (1 / 2 + 1 / 2 + 1) errors in (5 / 2 + 9 / 2 + 5) steps
    assert excess_error(found).teacher.value == pytest.approx(2 / 12)


def test_the_reference_that_is_followed_longest_is_compared_with():
    found, _ = recorded(
        lambda source, prefix, optimal: ([5, 6, 7, 9, 3] + [3] * 30)[len(prefix)], ["abdd", "abcg", "a"]
    )
    assert found.followed.tolist() == [1]
    assert found.first_errors.tolist() == [3]


def test_recovery_times_are_those_of_kaplan_and_meier():
    found, _ = recorded(errs_at_random(0.5), *words(300, seed=5))
    times, censored = [], []
    for row, tau in enumerate(found.first_errors):
        after = found.free.errors[row][tau + 1 :]
        if len(after):
            good = np.flatnonzero(~after)
            times.append(good[0] + 1 if len(good) else len(after))
            censored.append(not len(good))
    expected = ecdf(CensoredData.right_censored(times, np.array(censored))).cdf
    for each in recovery(found).curve[:6]:
        assert each.recovered.value == pytest.approx(float(expected.evaluate(each.k)))


def errors_by_hand(rule, source, prefix, references):
    """The steps after ``prefix`` of a run of the rule, True where they err."""
    written, errors = list(prefix), []
    while EOS not in written and len(written) < BOUND.of(np.array([4]))[0]:
        allowed = optimal(written, references)
        token = rule(source, tuple(written), allowed)
        errors.append(token not in allowed)
        written.append(token)
    return errors


def test_prefixes_are_switched_as_by_hand():
    rule = errs_at_random(0.25)
    found, recorder = recorded(rule, *WORDS)
    for switch in prefix_switch(found, recorder):
        own, right = [], []
        for row, references in enumerate(found.pairs.references):
            target, written = references[0].tolist(), found.free.tokens[row].tolist()
            length = switch.length
            if min(len(target), len(written)) > length and target[:length] != written[:length]:
                source = tuple(found.pairs.sources[row])
                own += errors_by_hand(rule, source, written[:length], [target])
                right += errors_by_hand(rule, source, target[:length], [target])
        assert switch.own.value == pytest.approx(np.mean(own))
        assert switch.right.value == pytest.approx(np.mean(right))
        assert switch.ratio.value == pytest.approx(np.mean(own) / np.mean(right))


def test_the_road_exam_counts_errors_after_half_a_reference():
    rule = errs_at_random(0.25)
    found, recorder = recorded(rule, *WORDS)
    errors = []
    for row, references in enumerate(found.pairs.references):
        target = references[0].tolist()
        errors += errors_by_hand(rule, tuple(found.pairs.sources[row]), target[: len(target) // 2], [target])
    assert road_exam(found, recorder)[0].errors.value == pytest.approx(np.mean(errors))


def test_outputs_that_err_in_their_last_step_are_counted():
    def stops_early(source, prefix, optimal):
        return EOS if source[2] % 2 and len(prefix) == 2 else optimal[0]

    found, _ = recorded(stops_early, *WORDS)
    odd = sum(source[2] % 2 for source in found.pairs.sources)
    assert (recovery(found).with_error, recovery(found).at_their_end) == (odd, odd)
    assert recovery(found).curve[0].free.n == 0
    found, _ = recorded(recovers_after_two, *WORDS)
    assert (recovery(found).with_error, recovery(found).at_their_end) == (60, 0)


def test_an_output_that_was_cut_off_is_not_right():
    found, _ = recorded(never_errs, *WORDS)
    short = Recorder(Planted(found.pairs, never_errs), LengthBound(0, 0.0, fixed=2)).record(found.pairs)
    lengths = [1] * len(WORDS)
    assert by_source_length(short, lengths)[0].sequence_accuracy_free.value == 0.0
    assert by_source_length(short, lengths)[0].error_free.value == 0.0
    assert by_source_length(found, lengths)[0].sequence_accuracy_free.value == 1.0


NUMBERS = [
    ("by_position", {"MAX_POSITIONS": 60, "_TOGETHER": 5}),
    ("excess_error", {"POINTS": 20}),
    ("prefix_switch", {"POINTS": 6, "MAX_SOURCES": 5000}),
    ("recovery", {"DISTANCES": 10}),
    ("road_exam", {"RATES": (0.0, 0.1, 0.2, 0.4), "MAX_SOURCES": 2000}),
    ("state_divergence", {"MAX_SOURCES": 500, "MIN_SOURCES": 20, "PERMUTATIONS": 1000}),
    ("summary", {"WITHIN": 2}),
]


@pytest.mark.parametrize(("module", "numbers"), NUMBERS)
def test_figures_of_two_versions_rest_on_the_same_numbers(module, numbers):
    found = importlib.import_module(f"freerun.diagnostics.{module}")
    assert {name: getattr(found, name) for name in numbers} == numbers


def test_the_documentation_says_how_many_sources_are_looked_at():
    numbers = dict(NUMBERS)
    switch, exam, states = (numbers[name]["MAX_SOURCES"] for name in ("prefix_switch", "road_exam", "state_divergence"))
    expected = f"Prefix switch uses at most {switch:,} sources, the road exam {exam:,} and state divergence {states:,}"
    assert expected in (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text()


def test_a_sample_is_the_same_in_every_version():
    rows = np.arange(10, 22)
    assert sample_rows(rows, 4, "prefix switch").tolist() == [10, 13, 14, 15]
    assert sample_rows(rows, 12, "prefix switch") is rows


def test_what_is_corrupted_becomes_another_token_any_of_them():
    others, prefix = np.arange(4, 9), np.array([4, 6, 8])
    drawn = np.array([_corrupted(prefix, 1.0, others, row) for row in range(400)])
    assert (drawn != prefix).all()
    for place, right in enumerate(prefix):
        found, counts = np.unique(drawn[:, place], return_counts=True)
        assert found.tolist() == [token for token in others if token != right]
        assert counts.min() > 60
    assert _corrupted(prefix, 0.0, others, 0).tolist() == prefix.tolist()
    low, high = (np.array([_corrupted(prefix, rate, others, row) for row in range(400)]) for rate in (0.2, 0.4))
    assert (low != prefix).mean() == pytest.approx(0.2, abs=0.04)
    assert (high[low != prefix] == low[low != prefix]).all()


def test_corrupted_prefixes_are_held_against_the_model_only_by_what_follows():
    def shy(source, prefix, optimal):
        """Right as long as all of the prefix is, junk for good after anything else."""
        return optimal[0] if list(prefix) == whole[source][: len(prefix)] else JUNK

    found, recorder = recorded(never_errs, *WORDS)
    whole = {tuple(s): r[0].tolist() for s, r in zip(found.pairs.sources, found.pairs.references, strict=True)}
    exam = road_exam(found, Recorder(Planted(found.pairs, shy), BOUND))
    assert [each.rate for each in exam] == list(RATES)
    rates = values(each.errors for each in exam)
    assert rates[0] == 0.0
    assert rates == sorted(rates)
    assert 0.3 < rates[-1] < 1.0
    assert values(each.ratio for each in exam) == [None] * 4
    # and one that recovers from anything at once never errs after them
    assert set(values(each.errors for each in road_exam(found, recorder))) == {0.0}


def test_figures_by_position_are_what_counting_gives():
    found, _ = recorded(derails, *WORDS)
    faults = np.array([fault_at(tuple(source)) for source in found.pairs.sources])
    for each in by_position(found)[:4]:
        t = each.position - 1
        assert each.error_free.value == pytest.approx((faults <= t).mean())
        assert each.error_teacher.value == pytest.approx((faults == t).mean())
        wrong = -math.log(0.1 / 12)
        nll = -math.log(0.9) * (faults != t).mean() + wrong * (faults == t).mean()
        assert each.nll_teacher.value == pytest.approx(nll, rel=1e-5)
        assert each.self_nll.value == pytest.approx(-math.log(0.9), rel=1e-5)


def test_unknown_tokens_are_left_out_of_likelihoods():
    def hesitates(source, prefix, optimal):
        """Right but for the second step; sure of UNK where nothing else is right, though it is never written."""
        return JUNK if len(prefix) == 1 else max(optimal)

    # "x" is unknown
    found, _ = recorded(hesitates, "abxd", "axcd", ["xxx", "ab"], "xx")
    right, wrong = -math.log(0.9), -math.log(0.1 / 12)
    expected = {1: [right, right, right], 2: [wrong, wrong], 3: [right, right], 4: [right, right], 5: [right, right]}
    weights = {1: [1, 1, 0.5], 2: [1, 0.5], 3: [1, 0.5], 4: [1, 1], 5: [1, 1]}
    for each in by_position(found):
        nll = np.average(expected[each.position], weights=weights[each.position])
        assert each.nll_teacher.value == pytest.approx(nll, rel=1e-5)
        assert each.nll_teacher.n == len(expected[each.position])
    (band,) = by_source_length(found, [3] * 4)
    sums = [np.dot(expected[t], weights[t]) for t in expected]
    assert band.nll_teacher.value == pytest.approx(sum(sums) / sum(map(sum, weights.values())), rel=1e-5)
    assert (identity(found).right_free, identity(found).right_forced) == (0, 0)


def test_where_all_tokens_are_unknown_a_likelihood_is_undefined():
    found, _ = recorded(never_errs, "xx", "x")
    assert [each.nll_teacher.value for each in by_position(found)] == [None] * len(by_position(found))
    assert identity(found)[:3] == (0, 0, 2)


def test_figures_by_source_length_are_of_the_sources_in_a_band():
    found, _ = recorded(lambda source, prefix, optimal: JUNK if source[2] % 2 and not prefix else optimal[0], *WORDS)
    bands = by_source_length(found, [1 + int(source[2]) % 2 for source in found.pairs.sources])
    assert [(band.shortest, band.longest) for band in bands] == [(1, 1), (2, 2)]
    odd = [source[2] % 2 for source in found.pairs.sources]
    assert bands[0].sequence_accuracy_free.value == 1.0 and bands[0].sequence_accuracy_free.n == odd.count(0)
    assert bands[1].sequence_accuracy_free.value == 0.0 and bands[1].error_teacher.value > 0


def test_measures_do_not_depend_on_the_batch_size():
    texts = words(150, seed=6)

    def measures(size):
        found, recorder = recorded(errs_at_random(0.2), *texts, batch_size=size)
        return (
            excess_error(found),
            recovery(found),
            prefix_switch(found, recorder),
            road_exam(found, recorder),
            by_position(found),
        )

    assert measures(1) == measures(7) == measures(256)


def test_prefixes_longer_than_the_length_bound_can_be_forced():
    found, _ = recorded(derails, *WORDS)
    short = Recorder(Planted(found.pairs, never_errs), LengthBound(0, 0.0, fixed=1))
    assert [each.length for each in prefix_switch(found, short)] == switch_lengths(found)


def test_prefixes_go_from_one_token_to_what_nine_of_ten_references_have():
    found, _ = recorded(derails, *WORDS)
    longest = int(np.quantile([len(word) for word in WORDS], 0.9))
    assert longest > 2
    assert switch_lengths(found, points=2) == [1, longest]


def test_an_empty_reference_is_one():
    found, recorder = recorded(never_errs, "", "ab")
    assert identity(found).right_free == 2
    assert [each.errors.n for each in road_exam(found, recorder)] == [1] * 4
    assert road_exam(*recorded(never_errs, "")) == []


def test_json_has_the_keys_that_were_promised():
    items = items_of(*WORDS)
    from freerun.diagnostics.record import EncodedPairs

    stepper = Planted(EncodedPairs.of(items, SOURCE, TARGET), errs_at_random(0.2))
    seen = []
    found = diagnose(stepper, items, SOURCE, TARGET, bound=BOUND, progress=lambda *counts: seen.append(counts))
    values = json.loads(json.dumps(found.as_json()))
    assert {
        "summary",
        "excess_error",
        "recovery",
        "prefix_switch",
        "road_exam",
        "state_divergence",
        "by_position",
        "by_source_length",
        "sources",
    } <= values.keys()
    assert values["excess_error"]["free"].keys() == {"value", "low", "high", "n"}
    assert values["sources"] == 60 and values["state_divergence"] is None
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_planted_models_are_what_they_say():
    assert 0.15 < np.mean([share("x", row) < 0.2 for row in range(2000)]) < 0.25
