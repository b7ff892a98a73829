"""Ranks for tests: threads of one process, which find each other in a store in memory and add up at a barrier.

Everything but the sums is what real processes do: commands, answers, signs of life, and errors.
"""

from __future__ import annotations

import threading
import traceback

import torch
from torch.distributed import HashStore

from freerun.distributed.ranks import Place, Ranks, Requests
from freerun.errors import Ended, Interrupted, UserError


class ThreadRanks(Ranks):
    """A rank that is a thread."""

    def __init__(self, rank, size, meeting):
        super().__init__(Place(rank, size, cores=1), meeting.store, [f"host{number}" for number in range(size)])
        self._meeting = meeting

    def add_up(self, tensors, numbers_M, divisor=None, divided=0):
        own = [each.clone() for each in tensors], numbers_M.clone(), self.own_requests()
        everyone = self._together(lambda: self._meeting.share(self.rank, own))
        numbers_RM = torch.stack([numbers for _, numbers, _ in everyone])
        for position, tensor in enumerate(tensors):
            total = everyone[0][0][position].clone()
            for gradients, _, _ in everyone[1:]:
                total += gradients[position]
            tensor.copy_(total if divisor is None or position >= divided else total / divisor(numbers_RM))
        self._merge([requests for _, _, requests in everyone])
        return numbers_RM

    def all_numbers(self, numbers_M):
        return torch.stack(self._together(lambda: self._meeting.share(self.rank, numbers_M.clone())))

    def broadcast(self, content, size):
        return self._together(lambda: self._meeting.share(self.rank, content))[0] if size else b""


class Meeting:
    """Where threads exchange what they have."""

    def __init__(self, size):
        self.store = HashStore()
        self._size = size
        self._changed = threading.Condition()
        self._held, self._calls, self._is_left = {}, [0] * size, False

    def share(self, rank, value):
        """Return the values of all ranks, once all have come; RuntimeError if one never will, as gloo raises."""
        with self._changed:
            held = self._held.setdefault(self._calls[rank], {})
            self._calls[rank] += 1
            held[rank] = value
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(held) == self._size or self._is_left, timeout=60)
            if len(held) < self._size:
                raise RuntimeError("a thread has ended")
            return [held[other] for other in range(self._size)]

    def leave(self):
        """Let no thread wait for one that has ended."""
        with self._changed:
            self._is_left = True
            self._changed.notify_all()


def in_threads(size, *works):
    """Return what ``work(ranks)`` returns in each of ``size`` ranks, or the error that it raised on purpose.

    Rank r gets ``works[r]``, and the last one is for all others. As between processes, an error is reported to the
    other ranks before the thread ends.
    """
    meeting, found, mistakes = Meeting(size), [None] * size, []

    def run(rank):
        ranks = ThreadRanks(rank, size, meeting)
        try:
            found[rank] = works[min(rank, len(works) - 1)](ranks)
        except (UserError, Interrupted, Ended) as error:
            if isinstance(error, UserError):
                ranks.end(2, str(error))
            found[rank] = error
            meeting.leave()
        except BaseException:  # noqa: BLE001 (shown by the assertion below)
            mistakes.append(traceback.format_exc())
            ranks.end(1, "")
            meeting.leave()
        finally:
            ranks.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mistakes, mistakes[0]
    return found


__all__ = ["Meeting", "Requests", "ThreadRanks", "in_threads"]
