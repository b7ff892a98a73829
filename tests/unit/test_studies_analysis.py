"""Verdicts, and results that are kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from freerun.commands.study import as_text
from freerun.config import StudyConfig
from freerun.diagnostics.plain import as_values
from freerun.errors import RunError
from freerun.experiment.overlap import Overlap
from freerun.report.study_page import study_page
from freerun.studies.analysis import METRICS, analyse
from freerun.studies.differences import holm, smallest_detectable
from freerun.studies.results import Result, read_result, write_result

SOURCES = 400


def result(arm, seed, rate, falling=False, **changes):
    """A run whose steps err at about ``rate``; the sources are the same for all."""
    generator = np.random.default_rng(seed)
    lengths = np.full(SOURCES, 10.0)
    errors = np.minimum(generator.poisson(rate * 10, SOURCES), 10).astype(float)
    each = np.ones(SOURCES)
    ratios = {name: (errors.tolist(), lengths.tolist()) for name in METRICS}
    ratios["sequence_accuracy.free"] = ((errors == 0).astype(float).tolist(), each.tolist())
    ends = [(100, 0.5), (200, rate * 1.5 if falling else rate), (300, rate)]
    curve = [(update, {"symbol_error_rate.free": error, "nll.teacher": error}) for update, error in ends]
    made = Result(
        arm=arm,
        seed=seed,
        config_hash="hash",
        failed=None,
        sources_hash="sources",
        ratios=ratios,
        scores={"bleu.free": 50.0},
        curve=curve,
        updates=300,
        seconds=60.0,
        journal={"effective_rate": 0.1},
    )
    return replace(made, **changes)


def study(rates, seeds=5, **changes):
    results = [result(arm, seed, rate) for arm, rate in rates.items() for seed in range(seeds)]
    return analyse(results, list(rates), "teacher", **{"metric": "symbol_error_rate.free", **changes})


def verdicts(analysis):
    return {each.name: each.verdict for each in analysis.comparisons}


def test_a_clear_difference_is_told_with_its_direction():
    found = study({"teacher": 0.3, "good": 0.1, "bad": 0.6})
    assert verdicts(found) == {"good": "better", "bad": "worse"}
    assert found.statements[0].startswith("The smallest true difference in symbol_error_rate.free")
    assert found.sources == SOURCES


def test_higher_may_be_better():
    found = study({"teacher": 0.3, "good": 0.1}, metric="sequence_accuracy.free")
    assert verdicts(found) == {"good": "better"}
    assert found.comparisons[0].difference.value > 0


def test_no_difference_is_said_to_be_none_that_can_be_seen():
    generator = np.random.default_rng(0)
    results = [result(arm, seed, generator.normal(0.3, 0.02)) for arm in ("teacher", "same") for seed in range(5)]
    found = analyse(results, ["teacher", "same"], "teacher", "symbol_error_rate.free")
    assert verdicts(found) == {"same": "no difference that this study can see"}


def test_a_few_seeds_are_exploratory():
    found = study({"teacher": 0.3, "good": 0.1}, seeds=3)
    assert verdicts(found) == {"good": "better (exploratory: 3 seeds)"}
    assert "Fewer than 5 seeds: all results are exploratory, and nothing is claimed." in found.statements


def test_one_seed_allows_no_test():
    found = study({"teacher": 0.3, "good": 0.1}, seeds=1)
    assert verdicts(found) == {"good": "one seed: no test is possible"}
    assert math.isnan(found.comparisons[0].p_over_seeds)
    assert any(statement.startswith("One seed only") for statement in found.statements)


def compared(by_arm, sources=SOURCES, metric="symbol_error_rate.free"):
    """Comparisons by arm; ``by_arm``: name to each seed's errors [N] of ten steps, the control first."""
    lengths = [10.0] * sources
    results = [
        result(arm, seed, 0.0, ratios={name: (list(map(float, errors)), lengths) for name in METRICS})
        for arm, runs in by_arm.items()
        for seed, errors in enumerate(runs)
    ]
    found = analyse(results, [*by_arm], next(iter(by_arm)), metric)
    return {each.name: each for each in found.comparisons}


def same_on_all_sources(*rates, sources=SOURCES):
    return [np.full(sources, 10 * rate) for rate in rates]


def test_a_bootstrap_that_finds_a_difference_is_not_enough():
    # better under every seed, but hardly so under four of five: t over seeds sees no difference
    runs = {"control": same_on_all_sources(*[0.3] * 5), "odd": same_on_all_sources(0.1, 0.29, 0.29, 0.29, 0.29)}
    found = compared(runs)["odd"]
    assert found.p_value < 0.01 and found.p_over_seeds > 0.05
    assert found.verdict == "no difference that this study can see"


def test_seeds_that_agree_are_not_enough():
    # every seed is better by much the same, but because of two sources out of 400
    control, better = np.full((5, SOURCES), 3.0), np.full((5, SOURCES), 3.0)
    better[:, :2] = 0
    better[0, 0] = 1
    found = compared({"control": control, "lucky": better})["lucky"]
    assert found.p_value > 0.05 and found.p_over_seeds < 0.01
    assert found.verdict == "no difference that this study can see"


def test_both_p_values_are_corrected_for_the_number_of_arms():
    # both tests find a difference in each arm alone, and Student's t in none of them together
    runs = {"control": same_on_all_sources(*[0.3] * 5)}
    runs |= {str(rate): same_on_all_sources(0.32, 0.33, 0.35, 0.36, rate) for rate in (0.3, 0.415, 0.42)}
    found = compared(runs).values()
    for raw, corrected in (("raw_p_value", "p_value"), ("raw_p_over_seeds", "p_over_seeds")):
        assert [getattr(each, corrected) for each in found] == holm([getattr(each, raw) for each in found])
    alone = [compared({"control": runs["control"], each.name: runs[each.name]})[each.name] for each in found]
    assert [(each.p_value, each.p_over_seeds) for each in alone] == [
        (each.raw_p_value, each.raw_p_over_seeds) for each in found
    ]
    assert [each.verdict for each in alone] == ["worse"] * 3
    assert max(each.p_value for each in found) < 0.05 < min(each.p_over_seeds for each in found)
    assert {each.verdict for each in found} == {"no difference that this study can see"}
    assert study({"teacher": 0.3, "a": 0.9, "b": 0.9, "c": 0.9}).comparisons[0].p_value == pytest.approx(3 * 2 / 1001)


def test_an_arm_that_cannot_be_tested_is_no_comparison_to_correct_for():
    runs = {"control": same_on_all_sources(0.3, 0.3, 0.3), "arm": same_on_all_sources(0.31, 0.33, 0.32)}
    alone = compared(runs)["arm"]
    found = compared({**runs, "one": same_on_all_sources(0.1), "other": same_on_all_sources(0.1)})
    assert found["arm"] == alone
    assert np.isnan([found["one"].p_value, found["one"].p_over_seeds, found["one"].detectable]).all()
    assert found["one"].verdict == "one seed: no test is possible"


def test_a_difference_can_be_found_among_many_arms():
    runs = {str(arm): same_on_all_sources(0.6, 0.61, 0.62, sources=10) for arm in range(26)}
    found = compared({"control": same_on_all_sources(0.3, 0.31, 0.32, sources=10), **runs}, sources=10)
    assert {each.verdict for each in found.values()} == {"worse (exploratory: 3 seeds)"}
    assert [each.raw_p_value for each in found.values()] == pytest.approx([2 / (26 * 100 + 1)] * 26)


def test_the_smallest_detectable_difference_is_that_of_the_corrected_test():
    runs = {"control": same_on_all_sources(0.3, 0.3, 0.3), "a": same_on_all_sources(0.31, 0.33, 0.32)}
    runs |= {"b": same_on_all_sources(0.30, 0.36, 0.33), "same": runs["control"], "one": same_on_all_sources(0.5)}
    found = compared(runs)
    assert found["a"].detectable == pytest.approx(smallest_detectable([0.01, 0.03, 0.02], 3))
    assert found["b"].detectable == pytest.approx(3 * found["a"].detectable)
    rates = {"teacher": 0.3, "same": 0.3, "good": 0.1}
    (arm,) = [each for each in study(rates).comparisons if each.name == "good"]
    # runs that equal the control's have no spread, which is not what could be detected
    ends = f"{arm.detectable:.4f} to {arm.detectable:.4f}"
    assert f"is {ends}, given the spread over seeds and the correction for the number" in study(rates).statements[0]


def test_the_tables_say_which_p_values_are_corrected():
    found = study({"teacher": 0.3, "a": 0.32, "b": 0.9})
    text = as_text(
        found, StudyConfig.model_construct(pairs="held.tsv", target_error=None), Overlap("held.tsv", 9, 0, 0)
    )
    assert text.count("p (Holm)") == study_page("x", found, [], "held.tsv").count("p (Holm)") == 2
    lines = [line for line in text.splitlines() if line.startswith("a +")]
    for each in (found.comparisons[0].p_value, found.comparisons[0].p_over_seeds):
        assert f"  {each:.3f}  " in lines[0]
    one = study({"teacher": 0.3, "a": 0.32}, seeds=1)
    assert "nan" not in as_text(one, StudyConfig.model_construct(pairs=None, target_error=None), Overlap(None, 9, 0, 9))
    assert ">nan<" not in study_page("x", one, [], "held.tsv")


def test_seeds_that_only_one_arm_finished_are_not_compared():
    results = [result("teacher", seed, 0.3) for seed in range(4)]
    results += [result("arm", seed, 0.1) for seed in (2, 3, 4)]
    found = analyse(results, ["teacher", "arm"], "teacher", "symbol_error_rate.free")
    assert found.comparisons[0].seeds == [2, 3]


def test_failed_and_undertrained_runs_are_told():
    results = [result("teacher", seed, 0.3) for seed in range(2)]
    results += [result("arm", 0, 0.3, falling=True), result("arm", 1, 0.3, failed="the loss is nan", ratios={})]
    found = analyse(results, ["teacher", "arm"], "teacher", "symbol_error_rate.free")
    assert "arm, seed 1: failed (the loss is nan)." in found.statements
    assert any(told.startswith("arm, seed 0: undertrained.") for told in found.statements)
    assert found.arms[1].undertrained == [0] and found.arms[1].seeds == [0]


@pytest.mark.parametrize(("last", "falling"), [(0.284, True), (0.286, False)])
def test_falling_is_more_than_five_per_cent_in_the_last_quarter(last, falling):
    curve = [(100, {"symbol_error_rate.free": 0.4}), (225, {"symbol_error_rate.free": 0.3})]
    curve.append((300, {"symbol_error_rate.free": last}))
    assert result("arm", 0, 0.3, curve=curve).is_undertrained is falling


def test_updates_to_an_error_count_the_seeds_that_came_to_it():
    results = [result("teacher", 0, 0.1), result("teacher", 1, 0.4), result("arm", 0, 0.1, falling=True)]
    found = analyse(results, ["teacher", "arm"], "teacher", "symbol_error_rate.free", target_error=0.1)
    assert [arm.updates_to_target for arm in found.arms] == [(200.0, 1), (300.0, 1)]


def test_an_arms_time_and_updates_are_means_over_seeds():
    results = [result("teacher", seed, 0.1, seconds=40.0 * seed, updates=100 * seed) for seed in (1, 2)]
    (arm,) = analyse(results, ["teacher"], "teacher", "symbol_error_rate.free").arms
    assert (arm.seconds, arm.updates) == (60.0, 150.0)


def test_without_the_control_nothing_is_compared():
    found = analyse([result("arm", 0, 0.1)], ["teacher", "arm"], "teacher", "symbol_error_rate.free")
    assert found.comparisons == []
    assert found.statements == ["No run of the control 'teacher' has finished, so nothing can be compared."]
    results = [result("teacher", 0, 0.3, failed="why", ratios={}), result("arm", 0, 0.3, falling=True)]
    told = analyse(results, ["teacher", "arm"], "teacher", "symbol_error_rate.free").statements
    assert told[1:] == ["teacher, seed 0: failed (why).", told[2]] and told[2].startswith("arm, seed 0: undertrained.")


def test_arms_on_other_sources_are_not_compared():
    results = [result("teacher", 0, 0.3), result("arm", 0, 0.3, sources_hash="others"), result("same", 0, 0.3)]
    found = analyse(results, ["teacher", "arm", "same"], "teacher", "symbol_error_rate.free")
    assert [each.name for each in found.comparisons] == ["same"]
    assert any(told.startswith("arm: not compared.") for told in found.statements)


def test_an_arm_with_too_few_seeds_does_not_speak_for_the_others():
    results = [result(arm, seed, rate) for arm, rate in (("teacher", 0.3), ("good", 0.1)) for seed in range(5)]
    results += [result("few", seed, 0.1) for seed in range(3)]
    found = analyse(results, ["teacher", "good", "few"], "teacher", "symbol_error_rate.free")
    assert verdicts(found) == {"good": "better", "few": "better (exploratory: 3 seeds)"}
    assert not any("everything here" in told for told in found.statements)


def test_figures_that_are_not_defined_have_no_p_value():
    nothing = {"symbol_error_rate.free": ([0.0] * 5, [0.0] * 5), **result("x", 0, 0.1).ratios}
    nothing["nll.teacher"] = ([0.0] * SOURCES, [0.0] * SOURCES)
    results = [result(arm, seed, 0.3, ratios=nothing) for arm in ("teacher", "arm") for seed in range(5)]
    found = analyse(results, ["teacher", "arm"], "teacher", "nll.teacher")
    assert math.isnan(found.comparisons[0].p_value)
    assert verdicts(found) == {"arm": "no difference that this study can see"}


def test_points_without_a_figure_are_left_out_of_the_curve():
    made = result("arm", 0, 0.3, curve=[(100, {}), (225, {"symbol_error_rate.free": 0.3}), (300, {})])
    assert made.updates_to(0.3) == 225 and not made.is_undertrained


def test_results_come_back_as_they_were(tmp_path):
    path = tmp_path / "results" / "arm-0.json"
    assert read_result(path, "hash") is None
    for kept in (result("arm", 0, 0.1), result("arm", 0, 0.1, failed="the loss is nan", ratios={}, curve=[])):
        write_result(path, kept)
        assert read_result(path, "hash") == kept


def test_damaged_and_foreign_results_are_refused(tmp_path):
    path = tmp_path / "arm-0.json"
    write_result(path, result("arm", 0, 0.1))
    with pytest.raises(RunError, match="belongs to another configuration"):
        read_result(path, "other")
    path.write_text(path.read_text()[:100])
    with pytest.raises(RunError, match=r"arm-0.json: this result cannot be read .* Remove it to run it again"):
        read_result(path, "hash")
    for content in ({"arm": "arm"}, {**asdict(result("arm", 0, 0.1)), "ratios": []}):
        path.write_text(json.dumps(content))
        with pytest.raises(RunError, match="cannot be read"):
            read_result(path, "hash")


def test_an_undefined_score_is_null_in_files_and_said_on_the_page(tmp_path):
    made = result("arm", 0, 0.1, scores={"bleu.free": math.nan, "chrf.free": 12.5})
    write_result(tmp_path / "x.json", made)
    assert json.loads((tmp_path / "x.json").read_text())["scores"] == {"bleu.free": None, "chrf.free": 12.5}
    kept = read_result(tmp_path / "x.json", "hash")
    assert kept is not None and math.isnan(kept.scores["bleu.free"]) and kept.scores["chrf.free"] == 12.5
    other = result("other", 0, 0.1, scores={})
    found = analyse([kept, other], ["arm", "other"], "arm", "symbol_error_rate.free")
    assert as_values(found)["arms"][0]["scores"] == {"bleu.free": None, "chrf.free": 12.5}
    rows = study_page("x", found, [kept, other], "test.tsv").split('<table id="arms">')[1].split("<tr>")
    assert '<td class="number">undefined</td><td class="number">12.50</td>' in rows[2]
    assert '<td class="number"></td><td class="number"></td>' in rows[3]


def test_the_page_shows_every_arm_and_escapes_its_name():
    rates = {"teacher": 0.3, "<b>": 0.1}
    results = [result(arm, seed, rate) for arm, rate in rates.items() for seed in range(2)]
    results.append(result("gone", 0, 0.1, failed="<i>", ratios={}))
    found = analyse(results, [*rates, "gone"], "teacher", "symbol_error_rate.free")
    text = study_page("a <study>", found, results, "test.tsv")
    assert "<b>" not in text and "<i>" not in text and "a <study>" not in text
    assert text.count("&lt;b&gt;") >= 3 and "gone, seed 0: failed (&lt;i&gt;)." in text
    assert text.count("<svg") == 4 and "effective_rate" in text and "50.00" in text
    assert study_page("a", analyse([], ["teacher"], "teacher", "nll.teacher"), [], "x").count("<svg") == 0
