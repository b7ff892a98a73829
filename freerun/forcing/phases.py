"""Phases: one strategy after another, such as teacher forcing first and a remedy of exposure bias then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from freerun.forcing.loss import Losses
from freerun.forcing.strategy import Objective, Strategy, StrategySettings
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.seq2seq import Seq2Seq

__all__ = ["Phases"]


class Phases(Strategy):
    """Strategy k up to and including update ``ends[k]``; the last one, whose end is None, to the end of training.

    Updates are counted from the beginning of training in every phase, and so are a strategy's schedules.
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
        """Which phase, from 1, and the name of its strategy; before the first update it is the first phase."""
        index = self._index(max(1, number))
        return f"phase {index + 1}, {self.names[index]}"

    def prepare(self, model: Seq2Seq, seed: int) -> None:
        """Prepare all strategies, so that a checkpoint always has the same parts."""
        for strategy in self.strategies:
            strategy.prepare(model, seed)

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Those of the phase's strategy."""
        return self.strategies[self._index(update.number)].losses(model, batch, update)

    def step(self, update: Update) -> Mapping[str, tuple[float, float]]:
        """That of the phase's strategy."""
        return self.strategies[self._index(update.number)].step(update)

    def state(self) -> dict[str, Tensor]:
        """The states of all phases."""
        return {
            f"{index}/{name}": value
            for index, strategy in enumerate(self.strategies)
            for name, value in strategy.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        for index, strategy in enumerate(self.strategies):
            prefix = f"{index}/"
            strategy.load({name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)})
