"""Phases: one strategy after another, for example teacher forcing and then a remedy for exposure bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from freerun.forcing.loss import Losses, OwnLoss
from freerun.forcing.strategy import Objective, Strategy, StrategySettings
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq

__all__ = ["Phases"]


class Phases(Strategy):
    """Several strategies: number k up to and including update ``ends[k]``, the last one (None) to the end of training.

    Every phase counts updates from the start of training, and so do a strategy's schedules.
    """

    def __init__(
        self, strategies: Sequence[Strategy], names: Sequence[str], ends: Sequence[int | None], objective: Objective
    ) -> None:
        super().__init__(StrategySettings(), objective)
        self.strategies = strategies
        self.names = names
        self.ends = ends

    def _index(self, number: int) -> int:
        return next(index for index, end in enumerate(self.ends) if end is None or number <= end)

    def phase(self, number: int) -> str:
        """Return the phase's number, from 1, and its strategy; before the first update that is the first phase."""
        index = self._index(max(1, number))
        return f"phase {index + 1}, {self.names[index]}"

    def prepare(self, model: Seq2Seq, seed: int) -> None:
        """Prepare all strategies, so that every checkpoint has the same parts."""
        for strategy in self.strategies:
            strategy.prepare(model, seed)

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return the losses of the current phase's strategy."""
        return self.strategies[self._index(update.number)].losses(model, batch, update)

    def own_loss(self, inputs: Any, update: Update) -> OwnLoss | None:
        """Return the own loss of the current phase's strategy."""
        return self.strategies[self._index(update.number)].own_loss(inputs, update)

    def own_sums(self, update: Update) -> Sequence[Tensor]:
        """Return what the current phase's strategy has added up."""
        return self.strategies[self._index(update.number)].own_sums(update)

    def step(self, update: Update) -> Mapping[str, tuple[float, float]]:
        """Make the step of the current phase's strategy."""
        return self.strategies[self._index(update.number)].step(update)

    def undo(self) -> None:
        """Let every strategy forget an update that is not made."""
        for strategy in self.strategies:
            strategy.undo()

    def state(self) -> dict[str, Tensor]:
        """Return the states of all phases."""
        return {
            f"{index}/{name}": value
            for index, strategy in enumerate(self.strategies)
            for name, value in strategy.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        for index, strategy in enumerate(self.strategies):
            prefix = f"{index}/"
            strategy.load({name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)})
