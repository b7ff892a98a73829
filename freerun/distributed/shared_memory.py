"""Sums over processes of one machine, in memory that they share: the same bytes as ``rank_sums``, several times faster.

Through gloo, gradients of 5 MB take 10 ms on a small machine, because a loopback connection copies them four times in
the kernel; here each process writes its own once and reads the sum. Processors of other kinds than x86-64 may show one
process's writes to another out of order, so there, and on GPUs, gradients travel through torch.distributed.

Shape suffixes: R ranks, M numbers, C gradients per rank.
"""

from __future__ import annotations

import mmap
import os
import platform
import select
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from freerun.distributed.rank_sums import Divisor, OrderedSums

__all__ = ["SharedSums", "can_share"]

_NAME: Final = "freerun-gradients"
_LINE: Final = 64
"""Bytes of a cache line: each counter has its own."""
_SPIN_SECONDS: Final = 0.002
"""How long a process looks again and again, giving way to others, before it sleeps in between."""
_PAUSE_SECONDS: Final = 5e-5
_CHECK_SECONDS: Final = 0.2


def can_share(device: torch.device) -> bool:
    """Return True if processes on this machine can add up in shared memory."""
    is_known = platform.machine() in ("x86_64", "AMD64") and hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")
    return is_known and device.type == "cpu"


class SharedSums(OrderedSums):
    """Adds up in memory that all ranks share; all of them are on this machine.

    In each sum, a rank first writes its gradients, then adds up its share of everyone's, then reads all shares. Two
    counters per rank say how far it is. No rank overwrites what another one still reads: gradients are written again
    only after all shares of the previous sum have been added up, and shares only after all have written again.

    Args:
        tensors: at least one, all of one dtype.
        numbers: how many numbers travel with them, M.
        rank: of this process; rank 0 makes the memory.
        exchange: returns what rank 0 passes to it, on all ranks.
        processes: of all ranks.
        timeout: seconds to wait for the others.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        numbers: int,
        *,
        rank: int,
        processes: Sequence[int],
        exchange: Callable[[str | None], str],
        timeout: float,
    ) -> None:
        super().__init__(tensors, rank)
        self._timeout, ranks = timeout, len(processes)
        dtype, width = tensors[0].dtype, tensors[0].element_size()
        share = -(-self._total // ranks)
        parts = [2 * ranks * _LINE, ranks * numbers * 8, ranks * share * ranks * width, ranks * share * width]
        starts = np.cumsum([0, *(-(-part // _LINE) * _LINE for part in parts)]).tolist()
        memory = _shared(starts[-1], rank, exchange)

        def view(part: int, kind: torch.dtype, *shape: int) -> Tensor:
            count = int(np.prod(shape))
            if not count:
                return torch.zeros(shape, dtype=kind)
            return torch.frombuffer(memory, dtype=kind, count=count, offset=starts[part]).view(shape)

        lines = np.frombuffer(memory, np.int64, 2 * ranks * _LINE // 8).reshape(2, ranks, _LINE // 8)
        self._written_R, self._added_R = lines[:, :, 0]
        self._numbers_RM = view(1, torch.float64, ranks, numbers)
        self._gradients_RRC = view(2, dtype, ranks, ranks, share)
        self._sums_RC = view(3, dtype, ranks, share)
        self._own = self._gradients_RRC[rank].view(-1)[: self._total]
        self._sum = self._sums_RC.view(-1)[: self._total]
        self._gradients_RRC[rank].zero_()
        self._others = _watched(tuple(process for process in processes if process != os.getpid()))

    def add_up(
        self, tensors: Sequence[Tensor], numbers_M: Tensor, divisor: Divisor | None = None, divided: int = 0
    ) -> Tensor:
        """See ``OrderedSums``: write gradients, wait, add up this rank's share, wait, read all shares."""
        number, rank = int(self._written_R[self._rank]) + 1, self._rank
        self._write(tensors, self._own)
        self._numbers_RM[rank] = numbers_M
        self._written_R[rank] = number
        self._wait(self._written_R, number)
        numbers_RM = self._numbers_RM.clone()
        self._add_shares(self._gradients_RRC[:, rank], self._sums_RC[rank], numbers_RM, divisor, divided)
        self._added_R[rank] = number
        self._wait(self._added_R, number)
        self._read(self._sum, tensors)
        return numbers_RM

    def _wait(self, counters_R: Any, number: int) -> None:
        """Wait until every rank's counter has reached a number."""
        start = checked = now = time.monotonic()
        while counters_R.min() < number:
            if now - start < _SPIN_SECONDS:
                os.sched_yield()
            else:
                time.sleep(_PAUSE_SECONDS)
            now = time.monotonic()
            if now - checked > _CHECK_SECONDS:
                checked = now
                if self._others.poll(0):
                    raise RuntimeError("a process on this machine has ended")
                if now - start > self._timeout:
                    raise RuntimeError(f"a process has not come within {self._timeout:g} seconds")


@cache
def _watched(processes: tuple[int, ...]) -> select.poll:
    """Return what tells when one of these processes has ended."""
    watched = select.poll()
    for process in processes:
        watched.register(os.pidfd_open(process), select.POLLIN)
    return watched


def _shared(size: int, rank: int, exchange: Callable[[str | None], str]) -> mmap.mmap:
    """Return memory that all ranks share; the system frees it when the last of them has ended."""
    if rank == 0:
        try:
            handle = os.memfd_create(_NAME, os.MFD_CLOEXEC)
            os.ftruncate(handle, size)
        except OSError:
            exchange("")  # the others wait for it
            raise
        exchange(f"/proc/{os.getpid()}/fd/{handle}")
        return mmap.mmap(handle, size)
    path = exchange(None)
    if not path or _NAME not in str(Path(path).readlink()):
        raise OSError("rank 0 has no memory to share")  # or what has its number here is another process
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), size)
