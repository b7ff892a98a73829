"""The analysis of a study: metrics of each arm, comparisons with the control, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from freerun.config import HIGHER_IS_BETTER
from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.metrics.intervals import RESAMPLES, Interval
from freerun.studies.differences import LEVEL, MIN_SEEDS, hierarchical_bootstrap, holm, paired_t, smallest_detectable
from freerun.studies.results import UNDERTRAINED, Result

__all__ = ["Analysis", "ArmComparison", "ArmResults", "analyse"]

METRICS = (
    "symbol_error_rate.free",
    "sequence_accuracy.free",
    "nll.teacher",
    "token_accuracy.teacher",
    "hit_length_bound.free",
)


class ArmResults(NamedTuple):
    """An arm over its seeds.

    Attributes:
        name: of the arm.
        seeds: those that have metrics.
        figures: name of a metric -> mean over seeds, with its interval over seeds and sources.
        by_seed: seed -> the primary metric.
        scores: mean BLEU and chrF.
        failed: seed -> why it has no metrics.
        undertrained: seeds whose error was still falling steeply at the end.
        seconds: mean training time.
        updates: mean number of updates.
        updates_to_target: mean updates to the target error over the seeds that reached it, and the number of these.
        journal: means of the strategy's own metrics.
    """

    name: str
    seeds: list[int]
    figures: dict[str, Estimate]
    by_seed: dict[int, float]
    scores: dict[str, float]
    failed: dict[int, str]
    undertrained: list[int]
    seconds: float
    updates: float
    updates_to_target: tuple[float | None, int]
    journal: dict[str, float]


class ArmComparison(NamedTuple):
    """An arm compared with the control over the seeds that both have finished.

    ``p_value`` is that of the bootstrap over seeds and sources, ``p_over_seeds`` that of Student's t over seeds, both
    corrected for all comparisons of the study (Holm); ``raw_`` names the uncorrected ones. They are NaN if undefined
    (one seed). The intervals, ``difference`` and ``over_seeds``, are not corrected: each is a 95 % interval by itself.
    ``detectable`` is ``smallest_detectable`` at the corrected level.
    """

    name: str
    seeds: list[int]
    difference: Interval
    p_value: float
    raw_p_value: float
    over_seeds: Interval
    p_over_seeds: float
    raw_p_over_seeds: float
    detectable: float
    cost: float
    verdict: str


class Analysis(NamedTuple):
    """All arms, all comparisons, and their summary in a few sentences."""

    metric: str
    control: str
    sources: int
    arms: list[ArmResults]
    comparisons: list[ArmComparison]
    statements: list[str]


def analyse(
    results: Sequence[Result], arms: Sequence[str], control: str, metric: str, target_error: float | None = None
) -> Analysis:
    """Compare every arm with the control by ``metric``; ``target_error`` is a symbol error rate to reach."""
    by_arm = {name: {each.seed: each for each in results if each.arm == name} for name in arms}
    arm_results = [_results(name, by_seed, metric, target_error) for name, by_seed in by_arm.items() if by_seed]
    good = {
        name: {seed: each for seed, each in by_seed.items() if each.failed is None} for name, by_seed in by_arm.items()
    }
    shared = {name: _shared_seeds(good[name], good[control]) for name in arms if name != control}
    tested = sum(len(seeds) > 1 for seeds in shared.values())
    comparisons = [
        _compare(name, seeds, good[name], good[control], metric, tested) for name, seeds in shared.items() if seeds
    ]
    comparisons = [each._replace(verdict=_verdict(each, metric)) for each in _corrected(comparisons)]
    finished = [each for each in results if each.failed is None]
    sources = len(finished[0].ratios[metric][0]) if finished else 0
    statements = _statements(arm_results, comparisons, good[control], control, metric)
    statements += [
        f"{name}: not compared. Its runs distinguish other sources than those of {control}, so the pairs differ."
        for name, seeds in shared.items()
        if not seeds and good[name].keys() & good[control].keys()
    ]
    return Analysis(metric, control, sources, arm_results, comparisons, statements)


def _results(name: str, by_seed: Mapping[int, Result], metric: str, target_error: float | None) -> ArmResults:
    good = [each for each in by_seed.values() if each.failed is None]
    needed = [each.updates_to(target_error) for each in good] if target_error is not None else []
    updates = [update for update in needed if update is not None]
    return ArmResults(
        name=name,
        seeds=[each.seed for each in good],
        figures={metric_name: _over_seeds(good, metric_name) for metric_name in METRICS} if good else {},
        by_seed={each.seed: each.value(metric) for each in good},
        scores=_means([each.scores for each in good]),
        failed={each.seed: each.failed for each in by_seed.values() if each.failed is not None},
        undertrained=[each.seed for each in good if each.is_undertrained],
        seconds=float(np.mean([each.seconds for each in good])) if good else math.nan,
        updates=float(np.mean([each.updates for each in good])) if good else math.nan,
        updates_to_target=(float(np.mean(updates)) if updates else None, len(updates)),
        journal=_means([each.journal for each in good]),
    )


def _over_seeds(good: Sequence[Result], name: str) -> Estimate:
    """Return the mean over seeds; seeds and sources are resampled."""
    resampled = Resampled({str(each.seed): each.columns(name) for each in good})
    return resampled.mean_over_draws([str(each.seed) for each in good])


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(each) for each in values)) if values else set()
    return {name: float(np.mean([each[name] for each in values])) for name in sorted(names)}


def _shared_seeds(arm: Mapping[int, Result], control: Mapping[int, Result]) -> list[int]:
    """Return the seeds under which both finished, with the same sources."""
    both = sorted(arm.keys() & control.keys())
    return [seed for seed in both if arm[seed].sources_hash == control[seed].sources_hash]


def _compare(
    name: str, seeds: Sequence[int], arm: Mapping[int, Result], control: Mapping[int, Result], metric: str, tested: int
) -> ArmComparison:
    """Compare an arm, one of ``tested``, with the control, without correction and verdict."""
    # p is at least 2 / (resamples + 1), so many arms need more resamples for p-values that survive correction
    bootstrap = hierarchical_bootstrap(
        [arm[seed].columns(metric) for seed in seeds],
        [control[seed].columns(metric) for seed in seeds],
        max(RESAMPLES, 100 * tested),
    )
    differences = [arm[seed].value(metric) - control[seed].value(metric) for seed in seeds]
    over_seeds = paired_t(differences)
    cost = np.mean([arm[seed].seconds for seed in seeds]) / np.mean([control[seed].seconds for seed in seeds])
    return ArmComparison(
        name=name,
        seeds=list(seeds),
        difference=bootstrap.difference,
        p_value=bootstrap.p_value,
        raw_p_value=bootstrap.p_value,
        over_seeds=over_seeds.difference,
        p_over_seeds=over_seeds.p_value,
        raw_p_over_seeds=over_seeds.p_value,
        detectable=smallest_detectable(differences, tested),
        cost=float(cost),
        verdict="",
    )


def _corrected(raw: Sequence[ArmComparison]) -> list[ArmComparison]:
    """Correct the p-values of both tests for the number of comparisons.

    Correcting one list is not enough: if seeds differ more than sources, a bootstrap over a few seeds finds differences
    too easily and Student's t alone decides; if sources differ more, it is the reverse.
    """
    both = zip(holm([each.raw_p_value for each in raw]), holm([each.raw_p_over_seeds for each in raw]), strict=True)
    return [
        each._replace(p_value=p_value, p_over_seeds=p_over_seeds)
        for each, (p_value, p_over_seeds) in zip(raw, both, strict=True)
    ]


def _verdict(comparison: ArmComparison, metric: str) -> str:
    """Return the claim: a difference needs enough seeds, and both tests after correction."""
    if len(comparison.seeds) < 2:
        return "one seed: no test is possible"
    significant = comparison.p_value < LEVEL and comparison.p_over_seeds < LEVEL
    if not significant:
        return "no difference that this study can see"
    better = (comparison.difference.value > 0) == (metric in HIGHER_IS_BETTER)
    word = "better" if better else "worse"
    return word if len(comparison.seeds) >= MIN_SEEDS else f"{word} (exploratory: {len(comparison.seeds)} seeds)"


def _statements(
    arms: Sequence[ArmResults],
    comparisons: Sequence[ArmComparison],
    control: Mapping[int, Result],
    name: str,
    metric: str,
) -> list[str]:
    sentences: list[str] = []
    if not control:
        sentences.append(f"No run of the control {name!r} has finished, so nothing can be compared.")
    # an arm whose runs equal the control's (a term of weight 0) has no spread and says nothing about other arms
    detectable = [each.detectable for each in comparisons if each.detectable > 0]
    if detectable:
        sentences.append(
            f"The smallest true difference in {metric} that this study detects in 80 % of cases is "
            f"{min(detectable):.4f} to {max(detectable):.4f}, given the spread over seeds and the correction for the "
            "number of arms."
        )
    seeds = max((len(each.seeds) for each in comparisons), default=MIN_SEEDS)
    if seeds < 2:
        sentences.append("One seed only: no test is possible, since a difference may be due to the seed.")
    elif seeds < MIN_SEEDS:
        sentences.append(f"Fewer than {MIN_SEEDS} seeds: all results are exploratory, and nothing is claimed.")
    sentences += [f"{each.name}: {each.verdict}." for each in comparisons]
    for arm in arms:
        sentences += [f"{arm.name}, seed {seed}: failed ({why})." for seed, why in arm.failed.items()]
        if arm.undertrained:
            names = ", ".join(map(str, arm.undertrained))
            sentences.append(
                f"{arm.name}, seed {names}: undertrained. Its error fell by more than {100 * UNDERTRAINED:.0f} % in "
                "the last quarter, so its metrics are no evidence of its final quality."
            )
    return sentences
