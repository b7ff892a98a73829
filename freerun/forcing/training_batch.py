"""A training batch as tensors, and the update that it belongs to.

Shape suffixes: B batch, S source, T target, N real target positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freerun.data.batching import Batch
from freerun.models.device import to_device
from freerun.randomness import CounterGenerator

__all__ = ["TrainingBatch", "Update"]


@dataclass(frozen=True)
class Update:
    """One optimizer step, and the randomness that belongs to it.

    ``number`` counts from 1. ``part`` is the position of the batch within the update, whose gradient is accumulated
    over several batches, computed by one process or by several. ``epoch`` is the number of epochs completed before it.
    """

    number: int
    seed: int
    part: int = 0
    epoch: float = 0.0

    def generator(self, purpose: str) -> CounterGenerator:
        """Return a generator whose numbers are a pure function of (seed, purpose, update, part)."""
        return CounterGenerator(self.seed, purpose, self.number, self.part, 0)  # 0: numbers of all versions are equal

    def shared_generator(self, purpose: str) -> CounterGenerator:
        """Return a generator whose numbers all parts of the update share: a function of (seed, purpose, update)."""
        return CounterGenerator(self.seed, purpose, "shared", self.number)


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Pairs as tensors, right-padded.

    ``source_lengths_B`` is None if no source is padded. ``real_N`` holds the indices of the real target positions in a
    flattened [T, B] array, in its order; None if no target is padded.
    """

    source_BS: Tensor
    source_lengths_B: Tensor | None = None
    target_in_BT: Tensor
    target_out_BT: Tensor
    target_lengths_B: Tensor
    real_N: Tensor | None = None
    num_pairs: int
    num_tokens: int
    origin: Batch
    feature_ids_BQ: Tensor | None = None

    @property
    def references(self) -> list[list[NDArray[np.integer]]]:
        """The references of each row's source, as ids with EOS."""
        return self.origin.references

    @property
    def replaceable_BT(self) -> Tensor:
        """True where the fed token may differ from the reference token: real positions after BOS."""
        steps_T = torch.arange(self.target_in_BT.shape[1], device=self.target_in_BT.device)
        return (steps_T > 0) & (steps_T < self.target_lengths_B.unsqueeze(1))

    @property
    def target_N(self) -> Tensor:
        """The reference tokens at the real positions, in the order of ``real_N``."""
        return self.at_real_positions(self.target_out_BT.t())

    def at_real_positions(self, values_TB: Tensor) -> Tensor:
        """Flatten [T, B, ...] to the real target positions [N, ...]."""
        flat = values_TB.flatten(0, 1)
        return flat if self.real_N is None else flat.index_select(0, self.real_N)

    @staticmethod
    def of(batch: Batch, device: torch.device | str = "cpu") -> TrainingBatch:
        """Convert a batch of arrays to tensors."""
        steps = np.arange(batch.target_out.shape[1])
        real_TB = steps[:, None] < batch.target_lengths[None, :]
        arrays = {
            "source_BS": batch.source,
            "target_in_BT": batch.target_in,
            "target_out_BT": batch.target_out,
            "target_lengths_B": batch.target_lengths,
        }
        if (batch.source_lengths < batch.source.shape[1]).any():
            arrays["source_lengths_B"] = batch.source_lengths
        if not real_TB.all():
            arrays["real_N"] = np.flatnonzero(real_TB)
        if batch.features is not None:
            arrays["feature_ids_BQ"] = batch.features
        tensors = dict(zip(arrays, to_device(list(arrays.values()), device), strict=True))
        return TrainingBatch(**tensors, num_pairs=batch.num_pairs, num_tokens=batch.num_tokens, origin=batch)
