"""The parts of an update: one per batch, computed by this process or by another one.

What a part has to say fits into a few numbers, which travel between processes. Shape suffixes: R ranks, M numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freerun.errors import TrainingError
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


_MULTIPLE = 64
"""Numbers are padded to a multiple of it, so that processes that disagree about names still exchange equally many."""


def packed(parts: Sequence[Part], device: torch.device) -> Tensor:
    """Return the numbers of this process's parts as one tensor of float64, a checksum of their names first."""
    numbers = [torch.as_tensor(number, dtype=torch.float64, device=device) for part in parts for number in part.numbers]
    checksum = torch.tensor(float(_checksum(parts)), dtype=torch.float64, device=device)
    padding = [torch.zeros_like(checksum)] * (-(1 + len(numbers)) % _MULTIPLE)
    return torch.stack([checksum, *numbers, *padding])


def _checksum(parts: Sequence[Part]) -> int:
    names = [[list(part.counts), list(part.weights.values()), list(part.metrics)] for part in parts]
    return zlib.crc32(repr(names).encode())


def unpacked(own: Sequence[Part], numbers_RM: Tensor) -> list[Part]:
    """Return the parts of all processes in the order of the update: part 0 of each rank, part 1 of each, and so on.

    Raises:
        TrainingError: the strategy's terms or metrics have other names in another process.
    """
    if (numbers_RM[:, 0] != numbers_RM[0, 0]).any():
        raise TrainingError(
            "forcing.strategy",
            "its terms, weights or metrics differ between the batches of an update",
            "Expected the same names in all batches, which several processes compute",
            "Return them for every batch, with a count of 0 where there is nothing to count",
        )
    numbers_RM = numbers_RM[:, 1:]
    rows = numbers_RM.unbind() if is_asynchronous(numbers_RM.device) else numbers_RM.tolist()
    of_ranks = [iter(row) for row in rows]
    return [part.with_numbers(numbers) for part in own for numbers in of_ranks]
