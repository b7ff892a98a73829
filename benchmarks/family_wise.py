"""How often does a study in which no arm differs call some arm better or worse?

Simulates runs of equally good arms and passes them through ``freerun.studies.analysis.analyse``. Prints a Markdown
table: the fraction of studies with at least one verdict, with the t test over seeds uncorrected (before) and corrected
(after). With ``--effect`` one arm differs, and the table is the fraction of studies that find it.

Shape suffixes: A arms with the control first, S seeds, N sources.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics import estimate
from freerun.metrics import intervals
from freerun.studies import analysis, differences
from freerun.studies.analysis import Analysis, analyse
from freerun.studies.results import Result

METRIC = "symbol_error_rate.free"


class Kind(NamedTuple):
    """What makes equally good runs differ, as standard deviations of the log-odds of an error.

    ``seed``: of an arm under one seed. ``source``: of an arm on one source, the same under all its seeds. ``tails``:
    degrees of freedom of the seeds' noise, Student's t; a few make for runs that go wrong.
    """

    seed: float
    source: float
    tails: float


KINDS = {
    "seeds": Kind(0.5, 0.0, np.inf),
    "sources": Kind(0.0, 2.0, np.inf),
    "both": Kind(0.3, 1.5, np.inf),
    "tails": Kind(0.3, 0.5, 3.0),
}


Floats = npt.NDArray[np.float64]


@contextmanager
def fast() -> Iterator[None]:
    """Leave out of an analysis what costs most of its time and changes no verdict.

    The sources that a bootstrap draws depend on their number alone, so they are drawn once; and figures other than
    ``METRIC`` are not computed.
    """
    resampled_sums, figures = intervals.resampled_sums, analysis.METRICS

    @cache
    def counts(sources: int, resamples: int, seed: int) -> Floats:
        return resampled_sums(np.eye(sources), resamples, seed)

    def sums(figures: Floats, resamples: int = intervals.RESAMPLES, seed: int = 0) -> Floats:
        product: Floats = counts(len(figures), resamples, seed) @ np.asarray(figures, np.float64)
        return product

    modules = (intervals, estimate, differences)
    for module in modules:
        module.resampled_sums = sums
    analysis.METRICS = (METRIC,)
    try:
        yield
    finally:
        for module in modules:
            module.resampled_sums = resampled_sums
        analysis.METRICS = figures


def simulate(
    generator: np.random.Generator, kind: Kind, arms: int, seeds: int, sources: int, effect: float = 0.0
) -> list[Result]:
    """Return the results of ``arms`` arms and the control, arm "0"; ``effect`` is added to the log-odds of arm "1".

    All runs share the difficulty and the length of each source; all arms under one seed share the seed's own effect.
    """
    lengths_N = generator.integers(4, 16, sources)
    difficulty_N = generator.normal(-2.0, 1.0, sources)
    seeds_S1 = generator.normal(0.0, 0.3, (seeds, 1))
    noise_AS1 = generator.normal(0.0, kind.seed, (arms + 1, seeds, 1))
    if np.isfinite(kind.tails):
        noise_AS1 /= np.sqrt(generator.chisquare(kind.tails, noise_AS1.shape) / kind.tails)
    log_odds_ASN = difficulty_N + seeds_S1 + noise_AS1 + generator.normal(0.0, kind.source, (arms + 1, 1, sources))
    log_odds_ASN[1] += effect
    errors_ASN = generator.binomial(lengths_N, 1 / (1 + np.exp(-log_odds_ASN)))
    return [
        _result(str(arm), seed, errors_ASN[arm, seed], lengths_N) for arm in range(arms + 1) for seed in range(seeds)
    ]


def _result(arm: str, seed: int, errors_N: npt.NDArray[np.int64], lengths_N: npt.NDArray[np.int64]) -> Result:
    columns = {METRIC: (errors_N.astype(float).tolist(), lengths_N.astype(float).tolist())}
    return Result(
        arm=arm,
        seed=seed,
        config_hash="",
        failed=None,
        sources_hash="",
        ratios=columns,
        scores={},
        curve=[],
        updates=1,
        seconds=1.0,
        journal={},
    )


def analyses(
    kind: Kind, arms: int, seeds: int, sources: int, studies: int, effect: float = 0.0, seed: int = 0
) -> list[Analysis]:
    """Analyse ``studies`` simulated studies, which are a function of the arguments."""
    generator = np.random.default_rng([seed, arms, seeds])
    names = [str(arm) for arm in range(arms + 1)]
    with fast():
        return [
            analyse(simulate(generator, kind, arms, seeds, sources, effect), names, "0", METRIC) for _ in range(studies)
        ]


def found_before(study: Analysis) -> set[str]:
    """Return the arms that were called better or worse when only the bootstrap was corrected."""
    return {
        each.name
        for each in study.comparisons
        if each.p_value < differences.LEVEL and each.raw_p_over_seeds < differences.LEVEL
    }


def found_after(study: Analysis) -> set[str]:
    """Return the arms that the verdict calls better or worse, exploratory or not."""
    return {each.name for each in study.comparisons if each.verdict.split()[0] in {"better", "worse"}}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="what makes runs differ")
    parser.add_argument("--arms", nargs="+", type=int, default=[1, 3, 7], help="arms besides the control")
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 5, 10])
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--studies", type=int, default=500, help="simulated studies per row")
    parser.add_argument("--effect", type=float, default=0.0, help="log-odds of an error that arm 1 adds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    event = "arm 1 found" if options.effect else "some arm called better or worse"
    print(f"| runs differ by | arms | seeds | {event}: before | after | standard error |")
    print("|---|---|---|---|---|---|")
    for name in options.kinds:
        for arms in options.arms:
            for seeds in options.seeds:
                wanted = {"1"} if options.effect else {str(arm) for arm in range(1, arms + 1)}
                made = analyses(
                    KINDS[name], arms, seeds, options.sources, options.studies, options.effect, options.seed
                )
                hits = [(bool(found_before(each) & wanted), bool(found_after(each) & wanted)) for each in made]
                before, after = np.mean(hits, axis=0)
                error = (after * (1 - after) / options.studies) ** 0.5
                row = [name, str(arms), str(seeds), *(f"{100 * rate:.1f} %" for rate in (before, after, error))]
                print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
