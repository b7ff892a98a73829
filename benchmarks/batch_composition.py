"""The composition of batches: a pair's neighbors from epoch to epoch, padding, and the weight of short targets.

    python benchmarks/batch_composition.py PAIRS.tsv --source char --target whitespace --batch-size 64

Prints one line: the fraction of a pair's batch that is in its batch again an epoch later, measured and by chance;
padded / real tokens on both sides; and the weight of a token in the shortest and in the longest fifth of targets if the
loss of each batch were divided by its own number of tokens (1 is the average; freerun divides by the average number of
tokens per batch, so all weights are 1).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from freerun.data.batching import plan_epoch
from freerun.data.readers import read_pairs
from freerun.data.tokenizers import make_tokenizer

Ids = npt.NDArray[np.int64]


def main() -> None:
    """Read the pairs, plan two epochs and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--source", default="char", help="tokens of the source: char or whitespace")
    parser.add_argument("--target", default="whitespace", help="tokens of the target")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    tokenizers = make_tokenizer(args.source), make_tokenizer(args.target)
    rows = [(pair.source, pair.target) for pair in read_pairs(args.pairs)]
    sources, targets = (
        np.array([len(tokenizer.tokens(row[side])) + 1 for row in rows]) for side, tokenizer in enumerate(tokenizers)
    )
    first, second = (
        plan_epoch(sources, targets, batch_size=args.batch_size, batch_tokens=None, seed=1, epoch=epoch)
        for epoch in (0, 1)
    )
    short, long = weights(first, targets)
    print(
        f"same neighbors {100 * company(first, second):.1f} % (by chance {100 * args.batch_size / len(rows):.1f} %), "
        f"padded / real source tokens {padding(first, sources):.3f}, target tokens {padding(first, targets):.3f}, "
        f"weight of a token in the shortest fifth {short:.2f}, in the longest {long:.2f}"
    )


def company(first: list[Ids], second: list[Ids]) -> float:
    """Return the average fraction of a pair's batch in ``first`` that is also in its batch in ``second``."""
    place = np.empty(sum(map(len, first)), np.int64)
    for number, batch in enumerate(second):
        place[batch] = number
    together = [(np.bincount(place[batch])[place[batch]] - 1) / (len(batch) - 1) for batch in first if len(batch) > 1]
    return float(np.mean(np.concatenate(together)))


def padding(batches: list[Ids], lengths: Ids) -> float:
    """Return the number of positions in all batches, padding included, per real position."""
    return float(sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum())


def weights(batches: list[Ids], lengths: Ids) -> tuple[float, float]:
    """Return the weight of a token in the shortest and in the longest fifth of ``lengths``, 1 on average."""
    weight = np.empty(len(lengths))
    for batch in batches:
        weight[batch] = 1 / lengths[batch].sum()
    weight *= lengths.sum() / (weight * lengths).sum()
    order, fifth = np.argsort(lengths, kind="stable"), len(lengths) // 5
    ends = order[:fifth], order[-fifth:]
    short, long = (float((weight[rows] * lengths[rows]).sum() / lengths[rows].sum()) for rows in ends)
    return short, long


if __name__ == "__main__":
    main()
