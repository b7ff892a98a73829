"""The parts of an update: one per batch, computed by this process or by another one.

What a part has to say fits into a few numbers, which travel between processes. Shape suffixes: R ranks, M numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freerun.forcing.loss import Losses, or_one
from freerun.models.device import Scalar, is_asynchronous

__all__ = ["Part", "PendingSums", "Sums", "counts_of", "packed", "unpacked"]

Sums = Mapping[str, tuple[float, float]]
"""Name -> sum and count."""
PendingSums = Mapping[str, tuple[Scalar, Scalar]]
"""The same, possibly still on a GPU."""


@dataclass(frozen=True)
class Part:
    """The numbers of one batch of an update: each term's sum, count and weight, and the metrics."""

    sums: Mapping[str, Scalar]
    counts: Mapping[str, Scalar]
    weights: Mapping[str, float]
    metrics: PendingSums

    @staticmethod
    def of(losses: Losses) -> Part:
        """Return the numbers of a batch's losses."""
        terms = losses.terms
        return Part(
            {name: term.sum.detach() for name, term in terms.items()},
            {name: term.count for name, term in terms.items()},
            {name: term.weight for name, term in terms.items()},
            losses.metrics,
        )

    @property
    def numbers(self) -> list[Scalar]:
        """Everything but the weights, which are equal in all parts."""
        return [*self.sums.values(), *self.counts.values(), *(each for pair in self.metrics.values() for each in pair)]

    def with_numbers(self, numbers: Iterator[Scalar]) -> Part:
        """Return a part that has these numbers in place of its own."""
        sums, counts = ({name: next(numbers) for name in each} for each in (self.sums, self.counts))
        return Part(sums, counts, self.weights, {name: (next(numbers), next(numbers)) for name in self.metrics})


def counts_of(parts: Sequence[Part]) -> dict[str, Scalar]:
    """Return the count of each term over all parts; 1 if there was nothing to count, because the sum is 0 then."""
    names = parts[0].counts.keys()
    assert all(part.counts.keys() == names for part in parts), "every part of an update has the same terms"
    return {name: or_one(sum(part.counts[name] for part in parts)) for name in names}


def packed(parts: Sequence[Part], device: torch.device) -> Tensor:
    """Return the numbers of this process's parts as one tensor of float64."""
    numbers = [torch.as_tensor(number, dtype=torch.float64, device=device) for part in parts for number in part.numbers]
    return torch.stack(numbers) if numbers else torch.zeros(0, dtype=torch.float64, device=device)


def unpacked(own: Sequence[Part], numbers_RM: Tensor) -> list[Part]:
    """Return the parts of all processes in the order of the update: part 0 of each rank, part 1 of each, and so on."""
    rows = numbers_RM.unbind() if is_asynchronous(numbers_RM.device) else numbers_RM.tolist()
    of_ranks = [iter(row) for row in rows]
    return [part.with_numbers(numbers) for part in own for numbers in of_ranks]
