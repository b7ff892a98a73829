"""Processes of a training for tests: as threads, which meet at a barrier, or as real processes with gloo."""

from __future__ import annotations

import threading
import traceback

import torch

from freerun.distributed.ranks import Place, Ranks


class ThreadRanks(Ranks):
    """A rank that is a thread: sums in rank order, like the real one, but through a list that all threads share."""

    def __init__(self, rank, size, meeting):
        super().__init__(Place(rank, size))
        self._meeting = meeting

    def add_up(self, tensors, numbers_M, divisor=None, divided=0):
        everyone = self._meeting.share(self.rank, ([each.clone() for each in tensors], numbers_M.clone()))
        for position, tensor in enumerate(tensors):
            total = everyone[0][0][position].clone()
            for gradients, _ in everyone[1:]:
                total += gradients[position]
            tensor.copy_(total)
        numbers_RM = torch.stack([numbers for _, numbers in everyone])
        for tensor in tensors[:divided] if divisor is not None else []:
            tensor /= divisor(numbers_RM)
        return numbers_RM

    def all_numbers(self, numbers_M):
        return torch.stack(self._meeting.share(self.rank, numbers_M.clone()))


class Meeting:
    """Where threads exchange what they have."""

    def __init__(self, size):
        self._barrier = threading.Barrier(size, timeout=60)
        self._held = [None] * size

    def share(self, rank, value):
        """Return the values of all ranks, once all have come."""
        self._held[rank] = value
        self._barrier.wait()
        everyone = list(self._held)
        self._barrier.wait()
        return everyone

    def leave(self):
        """Let nobody wait for a thread that has failed."""
        self._barrier.abort()


def in_threads(size, work):
    """Return what ``work(ranks)`` returns in each of ``size`` ranks."""
    meeting, found, errors = Meeting(size), [None] * size, []

    def run(rank):
        try:
            found[rank] = work(ThreadRanks(rank, size, meeting))
        except BaseException:
            errors.append(traceback.format_exc())
            meeting.leave()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    return found
