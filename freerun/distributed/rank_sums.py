"""Sums over the processes of a training, in the order of their ranks: the same bytes on every rank, in every run.

A library's own sum adds in whatever order messages arrive (gloo) or that its version chooses (NCCL). Here every rank
gets one share of all the gradients from every other one, adds up these shares in the order of the ranks, and sends the
sum to all: an all-to-all and an all-gather, together twice the bytes of the gradients, as in any good all-reduce.

Shape suffixes: R ranks, M numbers, C gradients per rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Divisor", "OrderedSums", "RankSums", "share_of"]

Divisor: TypeAlias = Callable[[Tensor], float | Tensor]
"""A function of the numbers [R, M] of all ranks: what sums are divided by."""


class OrderedSums(ABC):
    """Adds up tensors of some shapes over all ranks, in the order of the ranks.

    Args:
        tensors: at least one, all of one dtype and on one device.
        rank: of this process.
    """

    def __init__(self, tensors: Sequence[Tensor], rank: int) -> None:
        self._rank = rank
        self._sizes = [tensor.numel() for tensor in tensors]
        self._total = sum(self._sizes)

    @abstractmethod
    def add_up(
        self, tensors: Sequence[Tensor], numbers_M: Tensor, divisor: Divisor | None = None, divided: int = 0
    ) -> Tensor:
        """Replace tensors by their sums over all ranks, and return the numbers [R, M] of every rank.

        All ranks call this together. ``numbers_M`` is float64 and on the tensors' device. The sums of the first
        ``divided`` tensors are divided by ``divisor``: each rank divides its share, before the others read it.

        Raises:
            RuntimeError: another process has ended, or did not come in time.
        """

    def _write(self, tensors: Sequence[Tensor], flat: Tensor) -> None:
        torch.cat([tensor.flatten() for tensor in tensors], out=flat)

    def _read(self, flat: Tensor, tensors: Sequence[Tensor]) -> None:
        for tensor, values in zip(tensors, torch.split(flat, self._sizes), strict=True):
            tensor.copy_(values.view_as(tensor))

    def _add_shares(
        self, shares_RC: Tensor, sum_C: Tensor, numbers_RM: Tensor, divisor: Divisor | None, divided: int
    ) -> None:
        """Write the sum of this rank's share of all gradients to ``sum_C``, its leading part divided."""
        torch.add(shares_RC[0], shares_RC[1], out=sum_C)
        for share_C in shares_RC[2:]:
            sum_C += share_C
        if divisor is not None:
            share_of(sum_C, self._rank, sum(self._sizes[:divided])).div_(divisor(numbers_RM))


class RankSums(OrderedSums):
    """Adds up through torch.distributed: gloo, or NCCL on GPUs.

    Args:
        tensors: at least one, all of one dtype and on one device.
        numbers: how many numbers travel with them, M.
        rank: of this process.
        ranks: how many processes there are.
    """

    def __init__(self, tensors: Sequence[Tensor], numbers: int, rank: int, ranks: int) -> None:
        super().__init__(tensors, rank)
        # even, so that the numbers behind it are aligned to 8 bytes
        self._share = 2 * -(-self._total // (2 * ranks))
        width = self._share + numbers * 8 // tensors[0].element_size()
        # kept between updates: fresh memory costs more than the sums
        self._flat_RC, self._sent, self._received = (
            tensors[0].new_zeros(ranks, size) for size in (self._share, width, width)
        )
        self._own_C = tensors[0].new_zeros(self._share)

    def add_up(
        self, tensors: Sequence[Tensor], numbers_M: Tensor, divisor: Divisor | None = None, divided: int = 0
    ) -> Tensor:
        """See ``OrderedSums``: an all-to-all of shares, and an all-gather of their sums."""
        flat = self._flat_RC.view(-1)[: self._total]
        self._write(tensors, flat)
        self._sent[:, : self._share] = self._flat_RC
        self._sent[:, self._share :] = numbers_M.view(flat.dtype)
        dist.all_to_all_single(self._received, self._sent)
        numbers_RM = self._received[:, self._share :].contiguous().view(torch.float64)
        self._add_shares(self._received[:, : self._share], self._own_C, numbers_RM, divisor, divided)
        dist.all_gather(list(self._flat_RC), self._own_C)
        self._read(flat, tensors)
        return numbers_RM


def share_of(own_C: Tensor, rank: int, leading: int) -> Tensor:
    """Return the part of a rank's share that belongs to the ``leading`` first ones of all gradients."""
    return own_C[: max(0, leading - rank * len(own_C))]
