"""One update: batches, losses, gradients, step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freerun.data.batching import Batch
from freerun.errors import TrainingError
from freerun.forcing.loss import Losses, or_one
from freerun.forcing.strategy import Strategy
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.models.device import Scalar, device_label, first_line, is_out_of_memory, read_numbers, scalar
from freerun.models.seq2seq import Seq2Seq
from freerun.training.optimizers import load_optimizer_state, optimizer_tensors
from freerun.training.precision import autocast
from freerun.training.schedules import Schedule

__all__ = ["Learner", "MemoryFull", "NotFinite", "Step"]


@dataclass(frozen=True)
class Step:
    """The result of an update: the loss, the gradient norm before clipping, and the metrics of each batch."""

    loss: float
    gradient_norm: float
    metrics: Sequence[Sums]


Sums = Mapping[str, tuple[float, float]]
"""Name -> sum and count."""
PendingSums = Mapping[str, tuple[Scalar, Scalar]]
"""The same, possibly still on a GPU."""


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
        strategy.prepare(model, seed)
        self._base_rate = float(optimizer.param_groups[0]["lr"])

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def update(self, number: int, batches: Sequence[Batch]) -> Step:
        """Make one optimizer step over all ``batches`` together; ``number`` counts from 1.

        Raises:
            NotFinite, MemoryFull: before the step, which is then not applied.
        """
        self.optimizer.zero_grad(set_to_none=True)
        computed, reason = None, ""
        try:
            computed = self._gradients(number, batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        if computed is None:
            # raised outside of the handler: the first error would keep everything that the update has computed
            self.optimizer.zero_grad(set_to_none=True)
            self.strategy.undo()
            raise MemoryFull(reason, batches, device_label(self.model.device))
        loss, norm, metrics = computed
        _check(loss, norm, metrics)
        own = self.strategy.step(self._moment(number))
        _check(loss, norm, [own])
        self._set_rate(number)
        self.optimizer.step()
        return Step(loss, norm, [*metrics, own] if own else metrics)

    def _gradients(self, number: int, batches: Sequence[Batch]) -> tuple[float, float, list[Sums]]:
        """Compute the clipped gradients; return the loss, their norm before clipping, and the metrics."""
        values, parts = self._backward(number, batches)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm or math.inf)
        return _read(values, norm, parts)

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

    def _backward(self, number: int, batches: Sequence[Batch]) -> tuple[list[Tensor], list[PendingSums]]:
        """Compute the gradients of the sum over terms of weight * sum / count, with counts over all the batches.

        Returns the value of each term, and the metrics of each batch.

        A single term can be backpropagated batch by batch and divided once at the end. Several terms have separate
        counts, so their graphs are kept until all counts are known.
        """
        parts: list[Losses] = []
        streams = len(batches) > 1
        for part, batch in enumerate(batches):
            losses = self._losses(self._moment(number, part), batch)
            streams = streams and len(losses.terms) == 1
            if streams:
                (term,) = losses.terms.values()
                (term.weight * term.sum).backward()  # type: ignore[no-untyped-call]
            parts.append(losses)
        counts = _counts(parts)
        values = [
            sum((losses.terms[name].sum * (losses.terms[name].weight / count) for losses in parts), torch.zeros(()))
            for name, count in counts.items()
        ]
        metrics = [losses.metrics for losses in parts]
        if streams:
            self._divide_gradients(*counts.values())
        elif len(values) > 1 and number % self.cosine_every == 0:
            metrics.append({"gradient_cosine": (self._backward_apart(values[0], torch.stack(values[1:]).sum()), 1)})
        else:
            torch.stack(values).sum().backward()  # type: ignore[no-untyped-call]
        return [value.detach() for value in values], metrics

    def _backward_apart(self, first: Tensor, others: Tensor) -> Scalar:
        """Set the gradients of ``first + others``, and return the cosine between the two; 0 if one of them is 0."""
        parameters = list(self.model.parameters())
        apart = [
            torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True) for loss in (first, others)
        ]
        for parameter, one, other in zip(parameters, *apart, strict=True):
            parameter.grad = one + other
        flat = [torch.cat([gradient.flatten() for gradient in gradients]).double() for gradients in apart]
        norms = flat[0].norm() * flat[1].norm()
        return scalar(torch.where(norms > 0, (flat[0] @ flat[1]) / norms, 0.0))

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


def _read(values: Sequence[Tensor], norm: Tensor, parts: Sequence[PendingSums]) -> tuple[float, float, list[Sums]]:
    """Return the loss, the gradient norm and the metrics of each batch; on a GPU this is where an update waits."""
    pairs = [pair for metrics in parts for pair in metrics.values()]
    numbers = iter(read_numbers([*map(scalar, values), scalar(norm), *(each for pair in pairs for each in pair)]))
    loss = sum((next(numbers) for _ in values), 0.0)
    gradient_norm = next(numbers)
    read: list[Sums] = [{name: (next(numbers), next(numbers)) for name in metrics} for metrics in parts]
    return loss, gradient_norm, read


def _counts(parts: Sequence[Losses]) -> dict[str, Scalar]:
    """Return the count of each term over all parts; 1 if there was nothing to count, because the sum is 0 then."""
    names = parts[0].terms.keys()
    assert all(losses.terms.keys() == names for losses in parts), "every part of an update has the same terms"
    return {name: or_one(sum(losses.terms[name].count for losses in parts)) for name in names}
