"""From finished runs to a table and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from freerun.config import HIGHER_IS_BETTER
from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.metrics.intervals import RESAMPLES, Interval
from freerun.studies.differences import FEWEST_SEEDS, LEVEL, hierarchical_bootstrap, holm, paired_t, smallest_detectable
from freerun.studies.results import FALLING, Result

__all__ = ["Analysis", "ArmFigures", "Comparison", "analyse"]

FIGURES = (
    "symbol_error_rate.free",
    "sequence_accuracy.free",
    "nll.teacher",
    "token_accuracy.teacher",
    "hit_length_bound.free",
)


class ArmFigures(NamedTuple):
    """An arm over its seeds.

    ``figures``: name to the mean over seeds, its interval over seeds and sources; ``by_seed``: the primary figure of
    each seed. ``failed`` and ``falling`` name seeds. ``to_reach``: mean updates to the asked symbol error rate over the
    seeds that came to it, and how many did.
    """

    name: str
    seeds: list[int]
    figures: dict[str, Estimate]
    by_seed: dict[int, float]
    scores: dict[str, float]
    failed: dict[int, str]
    falling: list[int]
    seconds: float
    updates: float
    to_reach: tuple[float | None, int]
    journal: dict[str, float]


class Comparison(NamedTuple):
    """An arm against the control over the seeds that both finished.

    ``p_value`` is that of the bootstrap over seeds and sources, ``p_over_seeds`` that of Student's t over seeds, both
    corrected by Holm for all comparisons of the study; the names in ``raw_`` are those before the correction. NaN where
    undefined (one seed). The intervals, ``difference`` and ``over_seeds``, are not corrected: each is a 95 % interval
    by itself. ``detectable`` is ``smallest_detectable`` at the corrected level.
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
    """All arms, all comparisons, and what can be said in a few sentences."""

    metric: str
    control: str
    sources: int
    arms: list[ArmFigures]
    comparisons: list[Comparison]
    statements: list[str]


def analyse(
    results: Sequence[Result], arms: Sequence[str], control: str, metric: str, reach: float | None = None
) -> Analysis:
    """Compare every arm with the control by ``metric``; ``reach`` is a symbol error rate to come to."""
    by_arm = {name: {each.seed: each for each in results if each.arm == name} for name in arms}
    figures = [_figures(name, found, metric, reach) for name, found in by_arm.items() if found]
    good = {name: {seed: each for seed, each in found.items() if each.failed is None} for name, found in by_arm.items()}
    shared = {name: _shared_seeds(good[name], good[control]) for name in arms if name != control}
    tested = sum(len(seeds) > 1 for seeds in shared.values())
    found = [
        _compare(name, seeds, good[name], good[control], metric, tested) for name, seeds in shared.items() if seeds
    ]
    found = [each._replace(verdict=_verdict(each, metric)) for each in _corrected(found)]
    finished = [each for each in results if each.failed is None]
    sources = len(finished[0].ratios[metric][0]) if finished else 0
    statements = _statements(figures, found, good[control], control, metric)
    statements += [
        f"{name}: not compared. Its runs read other sources apart than those of {control}, so they are of other pairs."
        for name, seeds in shared.items()
        if not seeds and good[name].keys() & good[control].keys()
    ]
    return Analysis(metric, control, sources, figures, found, statements)


def _figures(name: str, found: Mapping[int, Result], metric: str, reach: float | None) -> ArmFigures:
    good = [each for each in found.values() if each.failed is None]
    reached = [each.reached(reach) for each in good] if reach is not None else []
    came = [update for update in reached if update is not None]
    return ArmFigures(
        name,
        [each.seed for each in good],
        {figure: _over_seeds(good, figure) for figure in FIGURES} if good else {},
        {each.seed: each.value(metric) for each in good},
        _means([each.scores for each in good]),
        {each.seed: each.failed for each in found.values() if each.failed is not None},
        [each.seed for each in good if each.is_falling],
        float(np.mean([each.seconds for each in good])) if good else math.nan,
        float(np.mean([each.updates for each in good])) if good else math.nan,
        (float(np.mean(came)) if came else None, len(came)),
        _means([each.journal for each in good]),
    )


def _over_seeds(good: Sequence[Result], figure: str) -> Estimate:
    """The mean over seeds; seeds and sources are resampled."""
    made = Resampled({str(each.seed): each.columns(figure) for each in good})
    return made.mean_over_draws([str(each.seed) for each in good])


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(each) for each in values)) if values else set()
    return {name: float(np.mean([each[name] for each in values])) for name in sorted(names)}


def _shared_seeds(arm: Mapping[int, Result], control: Mapping[int, Result]) -> list[int]:
    """The seeds under which both finished, with figures of the same sources."""
    both = sorted(arm.keys() & control.keys())
    return [seed for seed in both if arm[seed].sources_hash == control[seed].sources_hash]


def _compare(
    name: str, seeds: Sequence[int], arm: Mapping[int, Result], control: Mapping[int, Result], metric: str, tested: int
) -> Comparison:
    """Compare an arm, one of ``tested``, with the control; p-values are not yet corrected, and there is no verdict."""
    # p is at least 2 / (resamples + 1): with many arms more resamples, so that it can be small enough after correction
    bootstrap = hierarchical_bootstrap(
        [arm[seed].columns(metric) for seed in seeds],
        [control[seed].columns(metric) for seed in seeds],
        max(RESAMPLES, 100 * tested),
    )
    differences = [arm[seed].value(metric) - control[seed].value(metric) for seed in seeds]
    over_seeds = paired_t(differences)
    cost = np.mean([arm[seed].seconds for seed in seeds]) / np.mean([control[seed].seconds for seed in seeds])
    return Comparison(
        name,
        list(seeds),
        bootstrap.difference,
        bootstrap.p_value,
        bootstrap.p_value,
        over_seeds.difference,
        over_seeds.p_value,
        over_seeds.p_value,
        smallest_detectable(differences, tested),
        float(cost),
        "",
    )


def _corrected(raw: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of both tests for the number of comparisons.

    Correcting one list is not enough: where seeds differ more than sources do, a bootstrap over a few seeds finds
    differences too easily, and Student's t alone decides; where sources differ more it is the other way round.
    """
    both = zip(holm([each.raw_p_value for each in raw]), holm([each.raw_p_over_seeds for each in raw]), strict=True)
    return [
        each._replace(p_value=p_value, p_over_seeds=p_over_seeds)
        for each, (p_value, p_over_seeds) in zip(raw, both, strict=True)
    ]


def _verdict(found: Comparison, metric: str) -> str:
    """What may be claimed: a difference needs enough seeds, and both tests after correction."""
    if len(found.seeds) < 2:
        return "one seed: no test is possible"
    clear = found.p_value < LEVEL and found.p_over_seeds < LEVEL
    if not clear:
        return "no difference that this study can see"
    better = (found.difference.value > 0) == (metric in HIGHER_IS_BETTER)
    word = "better" if better else "worse"
    return word if len(found.seeds) >= FEWEST_SEEDS else f"{word} (exploratory: {len(found.seeds)} seeds)"


def _statements(
    arms: Sequence[ArmFigures],
    comparisons: Sequence[Comparison],
    control: Mapping[int, Result],
    name: str,
    metric: str,
) -> list[str]:
    told: list[str] = []
    if not control:
        told.append(f"No run of the control {name!r} has finished, so nothing can be compared.")
    # an arm whose runs equal the control's (a term of weight 0) has no spread, which says nothing of other arms
    detectable = [each.detectable for each in comparisons if each.detectable > 0]
    if detectable:
        told.append(
            f"The smallest true difference in {metric} that this study would find in 80 % of cases is "
            f"{min(detectable):.4f} to {max(detectable):.4f}, by the spread over seeds and after correction for the "
            "number of arms."
        )
    most = max((len(each.seeds) for each in comparisons), default=FEWEST_SEEDS)
    if most < 2:
        told.append("One seed only: a difference between two runs may be the seed's, and no test is possible.")
    elif most < FEWEST_SEEDS:
        told.append(f"Fewer than {FEWEST_SEEDS} seeds: everything here is exploratory, and no claim.")
    told += [f"{each.name}: {each.verdict}." for each in comparisons]
    for arm in arms:
        told += [f"{arm.name}, seed {seed}: failed ({why})." for seed, why in arm.failed.items()]
        if arm.falling:
            seeds = ", ".join(map(str, arm.falling))
            told.append(
                f"{arm.name}, seed {seeds}: undertrained. Its error fell by more than {100 * FALLING:.0f} % in the "
                "last quarter, so its figures are no evidence of what it comes to."
            )
    return told
