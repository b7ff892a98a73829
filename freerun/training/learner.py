"""One update: batches, losses, gradients, step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freerun.data.batching import Batch
from freerun.distributed.ranks import ALONE, Ranks
from freerun.errors import Ended, TrainingError, UserError
from freerun.forcing.loss import Losses
from freerun.forcing.strategy import Strategy
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.device import (
    Scalar,
    device_label,
    first_line,
    is_out_of_memory,
    read_numbers,
    scalar,
)
from freerun.models.seq2seq import Seq2Seq
from freerun.training.optimizers import load_optimizer_state, optimizer_tensors
from freerun.training.parts import Part, PendingSums, Sums, counts_of, packed, unpacked
from freerun.training.precision import autocast
from freerun.training.schedules import Schedule

__all__ = ["Learner", "MemoryFull", "NotFinite", "Step"]


@dataclass(frozen=True)
class Step:
    """The result of an update: the loss, the gradient norm before clipping, and the metrics of each batch."""

    loss: float
    gradient_norm: float
    metrics: Sequence[Sums]


class NotFinite(Exception):
    """A number is not finite, so the model's weights were left unchanged.

    ``others`` are the strategy's metrics that are not finite.
    """

    def __init__(self, loss: float, gradient_norm: float, others: Mapping[str, float] | None = None) -> None:
        super().__init__(f"loss {loss}, gradient norm {gradient_norm}, others {others or {}}")
        self.loss = loss
        self.gradient_norm = gradient_norm
        self.others = others or {}


class MemoryFull(Exception):
    """The device has no memory for an update; weights and state are those from before it.

    ``sizes`` describes the largest batch of the update, ``device`` where it was computed.
    """

    def __init__(self, reason: str, batches: Sequence[Batch], device: str) -> None:
        super().__init__(reason)
        largest = max(batches, key=lambda batch: batch.source.size + batch.target_in.size)
        self.sizes = (
            f"{largest.num_pairs:,} pairs, padded to {largest.source.shape[1]:,} source and "
            f"{largest.target_in.shape[1]:,} target tokens each"
        )
        self.device = device

    def as_error(self, location: str, consequence: str, fix: str) -> TrainingError:
        """Return the error for the user; ``consequence`` says what became of the training."""
        return TrainingError(
            location,
            f"no memory is left on {self.device} for a batch of {self.sizes} ({self}); {consequence}",
            "Expected room for it",
            fix,
        )


class Learner:
    """A model with its optimizer: the only place where weights change.

    Args:
        model: the model to be trained.
        strategy: returns the loss terms of a batch.
        optimizer: has all the model's parameters, and the learning rate that ``schedule`` scales.
        schedule: factor of the learning rate at each update.
        seed: of the strategy's randomness.
        clip_norm: the gradients are scaled down to this norm (Pascanu et al. 2013); 0: no clipping.
        precision: "fp32" or "bf16".
        updates_per_epoch: for strategies that count in epochs.
        cosine_every: updates after which the gradients of several loss terms are compared.
        ranks: the processes that compute an update together.
    """

    def __init__(
        self,
        *,
        model: Seq2Seq,
        strategy: Strategy,
        optimizer: Optimizer,
        schedule: Schedule,
        seed: int,
        clip_norm: float = 1.0,
        precision: str = "fp32",
        updates_per_epoch: float = math.inf,
        cosine_every: int = 50,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.optimizer = optimizer
        self.schedule = schedule
        self.seed = seed
        self.clip_norm = clip_norm
        self.precision = precision
        self.updates_per_epoch = updates_per_epoch
        self.cosine_every = cosine_every
        self.ranks = ranks
        strategy.prepare(model, seed)
        self._base_rate = float(optimizer.param_groups[0]["lr"])

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def update(self, number: int, batches: Sequence[Batch]) -> Step:
        """Make one optimizer step over all ``batches`` together; ``number`` counts from 1.

        With several processes, each calls this with its own batches: rank r of R with the parts r, r + R, ... of the
        update. The result is that of one process with all parts.

        Raises:
            NotFinite: before the step, which is then not applied.
            MemoryFull, UserError, Ended: the same; all processes but this one (or but the lost one) wait in vain.
        """
        self.optimizer.zero_grad(set_to_none=True)
        computed, reason = None, ""
        try:
            computed = self._gradients(number, batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        except (UserError, Ended):  # a lost rank, or damaged references
            self._undo()
            raise
        if computed is None:
            # raised outside of the handler: the first error would keep everything that the update has computed
            self._undo()
            raise MemoryFull(reason, batches, device_label(self.model.device))
        loss, norm, metrics = computed
        _check(loss, norm, metrics)
        own = self.strategy.step(self._moment(number))
        _check(loss, norm, [own])
        self._set_rate(number)
        self.optimizer.step()
        return Step(loss, norm, [*metrics, own] if own else metrics)

    def _undo(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.strategy.undo()

    def _gradients(self, number: int, batches: Sequence[Batch]) -> tuple[float, float, list[Sums]]:
        """Compute the clipped gradients; return the loss, their norm before clipping, and the metrics of each batch."""
        parts, counts, others = self._backward(number, batches)
        values = [
            sum((part.sums[name] * (part.weights[name] / count) for part in parts), 0.0)
            for name, count in counts.items()
        ]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm or math.inf)
        return _read(values, norm, [*(part.metrics for part in parts), *others])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Return the weights, the optimizer's state, and the strategy's, by name."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        return self.model.state_dict(), optimizer_tensors(self.optimizer, names), self.strategy.state()

    def load(
        self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], strategy: Mapping[str, Tensor], update: int
    ) -> None:
        """Restore what ``state`` returned after ``update``.

        Raises:
            RuntimeError, KeyError: it is of another model.
        """
        self.model.load_state_dict(dict(model))
        load_optimizer_state(self.optimizer, optimizer, dict(self.model.named_parameters()))
        self.strategy.load(strategy)
        self._set_rate(max(1, update))

    def phase(self, number: int) -> str:
        """Return the phase of training that an update belongs to, "" if there is only one."""
        return self.strategy.phase(number)

    def _moment(self, number: int, part: int = 0) -> Update:
        return Update(number, self.seed, part, epoch=(number - 1) / self.updates_per_epoch)

    def _set_rate(self, number: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._base_rate * self.schedule(number)

    def _backward(
        self, number: int, batches: Sequence[Batch]
    ) -> tuple[list[Part], dict[str, Scalar], list[PendingSums]]:
        """Compute the gradients of the sum over terms of weight * sum / count, with counts over all the batches.

        Returns the parts of the update, the count of each term, and metrics of the whole update.

        A single term can be backpropagated batch by batch and divided once at the end. Several terms have separate
        counts, so their graphs are kept until all counts are known.
        """
        computed: list[Losses] = []
        streams = len(batches) * self.ranks.size > 1
        for position, batch in enumerate(batches):
            part = self.ranks.rank + position * self.ranks.size
            losses = self._losses(self._moment(number, part), batch)
            streams = streams and len(losses.terms) == 1
            if streams:
                (term,) = losses.terms.values()
                (term.weight * term.sum).backward()  # type: ignore[no-untyped-call]
            computed.append(losses)
        own = [Part.of(losses) for losses in computed]
        update = self._moment(number)
        if streams:
            parts = self._add_up_gradients(own, update, divides=True)
            return parts, counts_of(parts), []
        parts = self._all_parts(own)
        counts = counts_of(parts)
        values = [
            sum((losses.terms[name].sum * (losses.terms[name].weight / count) for losses in computed), torch.zeros(()))
            for name, count in counts.items()
        ]
        if len(values) > 1 and number % self.cosine_every == 0:
            cosine = self._backward_apart(values[0], torch.stack(values[1:]).sum(), update)
            return parts, counts, [{"gradient_cosine": (cosine, 1)}]
        torch.stack(values).sum().backward()  # type: ignore[no-untyped-call]
        self._add_up_gradients([], update)
        return parts, counts, []

    def _backward_apart(self, first: Tensor, others: Tensor, update: Update) -> Scalar:
        """Set the gradients of ``first + others``, and return the cosine between the two; 0 if one of them is 0."""
        parameters = list(self.model.parameters())
        apart = [
            list(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))
            for loss in (first, others)
        ]
        if self.ranks.size > 1:
            self.ranks.add_up([*apart[0], *apart[1], *self.strategy.own_sums(update)], packed([], self.model.device))
        for parameter, one, other in zip(parameters, *apart, strict=True):
            parameter.grad = one + other
        flat = [torch.cat([gradient.flatten() for gradient in gradients]).double() for gradients in apart]
        norms = flat[0].norm() * flat[1].norm()
        return scalar(torch.where(norms > 0, (flat[0] @ flat[1]) / norms, 0.0))

    # -- several processes --------------------------------------------------------------------------------------------

    def _add_up_gradients(self, own: Sequence[Part], update: Update, divides: bool = False) -> list[Part]:
        """Add up all gradients over all processes; return the parts of all of them, in order.

        ``divides``: the gradients are then divided by the count of the only term.
        """
        if self.ranks.size == 1:
            if divides:
                self._divide_gradients(*counts_of(own).values())
            return list(own)
        parameters, device = list(self.model.parameters()), self.model.device
        missing = [parameter.grad is None for parameter in parameters]
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        flags = torch.tensor(missing, dtype=torch.float64, device=device)

        def count(numbers_RM: Tensor) -> Scalar:
            (only,) = counts_of(unpacked(own, numbers_RM[:, len(parameters) :])).values()
            return only

        numbers_RM = self.ranks.add_up(
            [*gradients, *self.strategy.own_sums(update)],
            torch.cat([flags, packed(own, device)]),
            count if divides else None,
            len(gradients),
        )
        # a parameter that no part of the update depends on has no gradient, which is not the same as 0
        nowhere = numbers_RM[:, : len(parameters)].all(0).tolist() if any(missing) else missing
        for parameter, gradient, is_missing in zip(parameters, gradients, nowhere, strict=True):
            parameter.grad = None if is_missing else gradient
        return unpacked(own, numbers_RM[:, len(parameters) :])

    def _all_parts(self, own: Sequence[Part]) -> list[Part]:
        """Return the parts of all processes, in order."""
        if self.ranks.size == 1:
            return list(own)
        return unpacked(own, self.ranks.all_numbers(packed(own, self.model.device)))

    def _losses(self, update: Update, batch: Batch) -> Losses:
        """Return the model's losses on one batch; the strategy's own loss is backpropagated right away."""
        device = self.model.device
        with autocast(self.precision, device.type):
            losses = self.strategy.losses(self.model, TrainingBatch.of(batch, device), update)
        own = self.strategy.own_loss(losses.own_inputs, update)
        if own is None:
            return losses
        if own.sum is not None:
            own.sum.backward()  # type: ignore[no-untyped-call]
        return Losses(losses.terms, {**losses.metrics, **own.metrics})

    def _divide_gradients(self, count: Scalar) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(count)


def _check(loss: float, gradient_norm: float, metrics: Sequence[Sums]) -> None:
    """Raise NotFinite unless all numbers are finite; the losses of a strategy's own model are among its metrics."""
    others = {name: total for each in metrics for name, (total, _) in each.items() if not math.isfinite(total)}
    if others or not (math.isfinite(loss) and math.isfinite(gradient_norm)):
        raise NotFinite(loss, gradient_norm, others)


def _read(values: Sequence[Scalar], norm: Tensor, parts: Sequence[PendingSums]) -> tuple[float, float, list[Sums]]:
    """Return the loss, the gradient norm and the metrics of each batch; on a GPU this is where an update waits."""
    pairs = [pair for metrics in parts for pair in metrics.values()]
    numbers = iter(read_numbers([*values, scalar(norm), *(each for pair in pairs for each in pair)]))
    loss = sum((next(numbers) for _ in values), 0.0)
    gradient_norm = next(numbers)
    read: list[Sums] = [{name: (next(numbers), next(numbers)) for name in metrics} for metrics in parts]
    return loss, gradient_norm, read
