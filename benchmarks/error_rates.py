"""Do 95 % intervals cover 95 % of the time, and do tests at 5 % reject a true hypothesis 5 % of the time?

Simulates data whose true value is known and passes them to every interval and test that freerun prints. Prints a
Markdown table, a row per case: coverage, and rejections at 5 % where there is no difference.

Shape suffixes: S seeds, N sources.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Columns, Resampled
from freerun.diagnostics.state_divergence import mmd_test
from freerun.metrics.intervals import ratio_interval
from freerun.metrics.paired import mcnemar, paired_ratios
from freerun.studies.differences import LEVEL, Tested, hierarchical_bootstrap, paired_t

Floats = npt.NDArray[np.float64]
Random = np.random.Generator
RATE = 0.2
"""Expected errors per token."""


class Trial(NamedTuple):
    """An interval with the value that it should cover, and the p-value of a true hypothesis; NaN for none."""

    low: float
    high: float
    truth: float
    p_value: float


def _rates(random: Random, sources: int) -> Floats:
    """Return an error probability for each source; their mean is ``RATE``."""
    return 2 * RATE * random.beta(0.5, 0.5, sources)


def _errors(random: Random, rates_N: Floats, lengths_N: Floats) -> Columns:
    return random.binomial(lengths_N.astype(int), rates_N), lengths_N


def _lengths(random: Random, sources: int) -> Floats:
    return 1.0 + random.poisson(5.0, sources)


def ratio(random: Random, sources: int) -> Trial:
    """``metrics.intervals.ratio_interval``."""
    found = ratio_interval(*_errors(random, _rates(random, sources), _lengths(random, sources)))
    return Trial(found.low, found.high, RATE, np.nan)


def estimated_ratio(random: Random, sources: int) -> Trial:
    """``diagnostics.estimate.Resampled.ratio``."""
    found = Resampled({"errors": _errors(random, _rates(random, sources), _lengths(random, sources))}).ratio("errors")
    assert found.low is not None and found.high is not None
    return Trial(found.low, found.high, RATE, np.nan)


def quotient(random: Random, sources: int) -> Trial:
    """``diagnostics.estimate.Resampled.quotient`` of two ratios on the same sources."""
    rates_N, lengths_N = _rates(random, sources), _lengths(random, sources)
    columns = {"free": _errors(random, 1.5 * rates_N, lengths_N), "forced": _errors(random, rates_N, lengths_N)}
    found = Resampled(columns).quotient("free", "forced")
    assert found.low is not None and found.high is not None
    return Trial(found.low, found.high, 1.5, np.nan)


def mean_over_draws(random: Random, sources: int, seeds: int, spread: float) -> Trial:
    """``diagnostics.estimate.Resampled.mean_over_draws``: the mean over seeds whose rates have a standard deviation."""
    columns = _over_seeds(random, _rates(random, sources), _lengths(random, sources), _shifts(random, seeds, spread))
    made = Resampled({str(seed): each for seed, each in enumerate(columns)})
    found = made.mean_over_draws([str(seed) for seed in range(seeds)])
    assert found.low is not None and found.high is not None
    return Trial(found.low, found.high, RATE, np.nan)


def _shifts(random: Random, seeds: int, spread: float) -> Floats:
    """Return factors [S] of the error rates with mean 1 and standard deviation ``spread`` (at most 0.57)."""
    return 1 + 3**0.5 * spread * random.uniform(-1, 1, seeds)


def _over_seeds(random: Random, rates_N: Floats, lengths_N: Floats, shifts_S: Floats) -> list[Columns]:
    return [_errors(random, shift * rates_N, lengths_N) for shift in shifts_S]


def paired(random: Random, sources: int) -> Trial:
    """``metrics.paired.paired_ratios`` of two models with the same hard sources and the same error rate."""
    rates_N, lengths_N = _rates(random, sources), _lengths(random, sources)
    found = paired_ratios(_errors(random, rates_N, lengths_N), _errors(random, rates_N, lengths_N))
    return Trial(found.difference.low, found.difference.high, 0.0, found.p_value)


def paired_differing(random: Random, sources: int) -> Trial:
    """``metrics.paired.paired_ratios`` of two models, one with 1.5 times the errors of the other."""
    rates_N, lengths_N = _rates(random, sources), _lengths(random, sources)
    found = paired_ratios(_errors(random, rates_N, lengths_N), _errors(random, 1.5 * rates_N, lengths_N))
    return Trial(found.difference.low, found.difference.high, 0.5 * RATE, np.nan)


def mcnemar_test(random: Random, sources: int) -> Trial:
    """``metrics.paired.mcnemar`` of two models that are right equally often."""
    rates_N = _rates(random, sources)
    right_a, right_b = random.random((2, sources)) < rates_N
    return Trial(np.nan, np.nan, np.nan, mcnemar(right_a, right_b).p_value)


def mmd(random: Random, sources: int, dimensions: int = 5) -> Trial:
    """``diagnostics.state_divergence.mmd_test`` of states that differ only by noise."""
    source_NH = random.normal(size=(sources, dimensions))
    noise_2NH = random.standard_t(3, size=(2, sources, dimensions))
    return Trial(np.nan, np.nan, np.nan, mmd_test(source_NH + noise_2NH[0], source_NH + noise_2NH[1], 399)[1])


def _two_arms(random: Random, sources: int, seeds: int, spread: float) -> tuple[list[Columns], list[Columns]]:
    rates_N, lengths_N = _rates(random, sources), _lengths(random, sources)
    arm, control = (_over_seeds(random, rates_N, lengths_N, _shifts(random, seeds, spread)) for _ in range(2))
    return arm, control


def study_bootstrap(random: Random, sources: int, seeds: int, spread: float) -> Trial:
    """``studies.differences.hierarchical_bootstrap`` of two equally good arms."""
    return _trial(hierarchical_bootstrap(*_two_arms(random, sources, seeds, spread)))


def study_t(random: Random, sources: int, seeds: int, spread: float) -> Trial:
    """``studies.differences.paired_t`` of two equally good arms."""
    arm, control = _two_arms(random, sources, seeds, spread)
    return _trial(
        paired_t([a.sum() / b.sum() - c.sum() / d.sum() for (a, b), (c, d) in zip(arm, control, strict=True)])
    )


def _trial(found: Tested) -> Trial:
    return Trial(found.difference.low, found.difference.high, 0.0, found.p_value)


CASES: dict[str, Callable[[Random], Trial]] = {
    **{f"ratio, {n} sources": partial(ratio, sources=n) for n in (10, 20, 50, 200)},
    **{f"diagnosed ratio, {n} sources": partial(estimated_ratio, sources=n) for n in (50, 200)},
    **{f"diagnosed quotient, {n} sources": partial(quotient, sources=n) for n in (20, 50, 200)},
    **{f"paired bootstrap, {n} sources": partial(paired, sources=n) for n in (10, 20, 50, 200)},
    **{f"paired bootstrap of unlike models, {n} sources": partial(paired_differing, sources=n) for n in (50, 200)},
    **{f"McNemar, {n} sources": partial(mcnemar_test, sources=n) for n in (20, 200)},
    **{f"MMD, {n} sources": partial(mmd, sources=n) for n in (20, 60)},
}
SPREADS = {"alike": 0.0, "apart": 0.5}
"""Relative standard deviation of a seed's error rate."""
for _name, _spread in SPREADS.items():
    for _function, _what in (
        (mean_over_draws, "mean over seeds"),
        (study_bootstrap, "study, bootstrap"),
        (study_t, "study, t over seeds"),
    ):
        for _seeds in (3, 5, 10, 20):
            CASES[f"{_what}, seeds {_name}, {_seeds} seeds, 200 sources"] = partial(
                _function, sources=200, seeds=_seeds, spread=_spread
            )


def rates(case: str, trials: int, seed: int = 0) -> tuple[float, float]:
    """Return the fraction of ``trials`` whose interval covers the truth and that with p below 5 %; NaN where none."""
    random = np.random.default_rng(seed)
    made = np.array([CASES[case](random) for _ in range(trials)])
    low, high, truth, p_value = made.T
    covered = np.nan if np.isnan(low).all() else float(np.mean((low <= truth) & (truth <= high)))
    return covered, np.nan if np.isnan(p_value).all() else float(np.mean(p_value < LEVEL))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| case | coverage of the 95 % interval | rejections at 5 % |\n|---|---|---|")
    for case in CASES:
        if options.only in case:
            shown = (
                "" if np.isnan(rate) else f"{100 * rate:.1f} %" for rate in rates(case, options.trials, options.seed)
            )
            print(f"| {case} |", " | ".join(shown), "|", flush=True)


if __name__ == "__main__":
    main()
