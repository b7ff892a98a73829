"""Professor forcing (Lamb, Goyal, Zhang, Zhang, Courville & Bengio 2016).

The behaviour B(x, y) of the decoder is its hidden states, and output distributions, over time. A discriminator D is
trained to distinguish the teacher-forced from the free-running behaviour,

    C_d = E[-log D(B_teacher)] + E[-log(1 - D(B_free))],

and the model to predict the reference tokens and to behave alike in both modes:

    NLL + weight * (C_f [+ C_t]),   C_f = E[-log D(B_free)],   C_t = E[-log(1 - D(B_teacher))].

C_d trains only D (``own_loss``); C_f and C_t train only the model (``losses``): C_f through the free-running pass,
whose sampled tokens are constants, C_t through the teacher-forced one. The model gets no adversarial gradient while D's
accuracy, a moving average, is below 75 % (D has nothing to teach yet), and D is not trained while it is above 99 %.

Over 350 lines, because the paper's algorithm is read here whole: both losses, both passes, both gates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from freerun.config.numbers import Count, Number, PositiveNumber, Size, Temperature
from freerun.forcing.discriminator import Behaviour, Discriminator, step_bound
from freerun.forcing.draw import Draw
from freerun.forcing.loss import Losses, OwnLoss, Term, or_one, sum_of_rows, upcast
from freerun.forcing.moments import mmd
from freerun.forcing.replay import encode
from freerun.forcing.rollout import free_pass, uniforms
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.forcing.training_batch import TrainingBatch, Update
from freerun.memory import check_fits
from freerun.models.decoder import Decoded
from freerun.models.device import Scalar, read_numbers, scalar
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.initialise import initialise_network
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS, NEVER_WRITTEN

__all__ = ["Professor", "ProfessorSettings"]

SMALL_VOCABULARY = 1000
"""Largest target vocabulary for which ``outputs = "auto"`` makes the output distributions part of the behaviour."""

Accuracy = Annotated[float, Field(ge=0.0, le=1.0)]
_DISCRIMINATOR_KEYS = (
    *("outputs", "hidden_size", "learning_rate", "spectral_norm", "r1"),
    *("model_gate", "discriminator_gate", "average"),
)


class ProfessorSettings(StrategySettings):
    """The keys of ``strategy = "professor"``."""

    used_with: ClassVar = {
        "temperature": ("draw", ("sample",)),
        **dict.fromkeys(_DISCRIMINATOR_KEYS, ("adversary", ("logistic", "hinge"))),
    }

    weight: Number = 0.1
    warmup: Count = 1000
    """Updates over which the weight rises from 0."""
    include_teacher_term: bool = False
    """Add C_t, which moves the teacher-forced behaviour towards the free-running one."""
    adversary: Literal["logistic", "hinge", "mmd"] = "logistic"
    """mmd: no discriminator; the mean states over time are matched (a control)."""
    draw: Literal["sample", "argmax"] = "sample"
    temperature: Temperature = 1.0
    outputs: bool | Literal["auto"] = "auto"
    """Show D the output distributions; "auto": only if the vocabulary has at most 1,000 ids."""
    hidden_size: Size = 128
    learning_rate: PositiveNumber = 1e-3
    model_gate: Accuracy = 0.75
    discriminator_gate: Accuracy = 0.99
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the moving average of D's accuracy, per update."""
    spectral_norm: bool = False
    r1: Number = 0.0
    """Weight of the penalty on D's gradient at teacher-forced behaviour (Mescheder et al. 2018)."""


class Professor(Strategy):
    """Teacher forcing, and a discriminator that the free-running behaviour has to deceive."""

    Settings = ProfessorSettings
    settings: ProfessorSettings

    def prepare(self, model: Seq2Seq, seed: int) -> None:
        """Create the discriminator and its optimizer; the moving average of its accuracy starts at chance."""
        settings = self.settings
        self.accuracy = 0.5
        self.discriminator: Discriminator | None = None
        if settings.adversary == "mmd":
            return
        sizes = model.sizes
        outputs = settings.outputs if settings.outputs != "auto" else sizes.target_vocabulary <= SMALL_VOCABULARY
        like = model.decoder.output_bias
        shape = (
            sizes.num_layers,
            sizes.hidden_size,
            sizes.hidden_size,
            sizes.target_vocabulary if outputs else None,
            settings.hidden_size,
            # R1 needs second derivatives, which neither our kernels nor torch's provide
            "reference" if settings.r1 else "auto",
        )
        with torch.device("meta"):  # shapes without memory
            parameters = sum(parameter.numel() for parameter in Discriminator(*shape).parameters())
        what = f"a discriminator with hidden_size = {settings.hidden_size:,}"
        check_fits("forcing.hidden_size", what, parameters, 4, "Choose a smaller size")
        self.discriminator = Discriminator(*shape).to(like)
        initialise_network(self.discriminator, seed, "discriminator")
        if settings.spectral_norm:
            self.discriminator.bound_spectra(seed)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), settings.learning_rate, fused=True)
        # of this update's batches: rows, and the mean number of correct decisions about the two kinds of behaviour
        self._counts = torch.zeros_like(like[:2])

    # -- the model's losses -------------------------------------------------------------------------------------------

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """Return the token NLL and, if the model's gate is open, C_f and C_t as means over sequences."""
        encoded, masks = encode(model, batch, update)
        teacher_pass = model.decoder.sequence(batch.target_in_BT, encoded, masks)
        nll, metric = self.objective.token_nll(model, batch.at_real_positions(teacher_pass.features_TBF), batch)
        terms = {"nll": nll}
        is_adversarial = self.has_adversarial_term(update)
        free_pass, lengths_B = self._free_running_pass(model, batch, update, encoded, masks, is_adversarial)
        teacher = self._behaviour(model, teacher_pass, encoded, lengths_B)
        free = self._behaviour(model, free_pass, encoded, lengths_B)
        if is_adversarial:
            # the discriminator computes in full precision, whatever the model's is
            with torch.autocast(lengths_B.device.type, enabled=False):
                terms |= self._adversarial_terms(teacher, free, self._weight(update))
        own_inputs = None if self.discriminator is None else (teacher.detach(), free.detach())
        return Losses(terms, {"nll.teacher": metric}, own_inputs)

    def has_adversarial_term(self, update: Update) -> bool:
        """Return True if this update's loss has an adversarial term."""
        return self._weight(update) > 0 and self._model_gate_is_open()

    def _model_gate_is_open(self) -> bool:
        return self.discriminator is None or self.accuracy >= self.settings.model_gate

    def _weight(self, update: Update) -> float:
        warmup = self.settings.warmup
        return self.settings.weight * (min(1.0, (update.number - 1) / warmup) if warmup else 1.0)

    def _free_running_pass(
        self,
        model: Seq2Seq,
        batch: TrainingBatch,
        update: Update,
        encoded: Encoded,
        masks: DropoutMasks | None,
        with_gradient: bool,
    ) -> tuple[Decoded, Tensor]:
        """Return the free-running pass, and the number of steps [B] on which the two streams are compared.

        Both streams are truncated to the shorter of target and free run, without the step of EOS: their lengths, and
        the look of an ending, would give the stream away. So the rollout need not go beyond the target.
        """
        settings = self.settings
        draw = Draw(settings.draw, settings.temperature, NEVER_WRITTEN)
        target_BT = batch.target_in_BT
        numbers_BT = uniforms(update, "free run", *target_BT.shape, device=target_BT.device)
        with torch.set_grad_enabled(with_gradient):
            run, decoded = free_pass(
                model.decoder, encoded, batch.target_lengths_B, numbers_BT, draw, masks, all_steps=True
            )
        ends_B = (run.written_BT == EOS).any(1)
        return decoded, torch.minimum(batch.target_lengths_B - 1, run.lengths_B - ends_B.long())

    def _behaviour(self, model: Seq2Seq, decoded: Decoded, encoded: Encoded, lengths_B: Tensor) -> Behaviour:
        """Return the steps to compare; the context has no gradient, or the encoder would learn to deceive D."""
        steps = max(1, step_bound(lengths_B, len(decoded.features_TBF)))
        probs_TBV = None
        if self.discriminator is not None and self.discriminator.outputs is not None:
            probs_TBV = torch.softmax(upcast(model.decoder.logits(decoded.features_TBF[:steps])), 2)
        layers = [layer[:steps] for layer in decoded.layers_TBH]
        return Behaviour(layers, probs_TBV, encoded.state.h_LBH[-1].detach(), lengths_B)

    def _adversarial_terms(self, teacher: Behaviour, free: Behaviour, weight: float) -> dict[str, Term]:
        """Return C_f and C_t as sums over the rows that have a step to compare."""
        rows_B = free.lengths_B > 0
        if self.discriminator is None:
            return self._moment_term(teacher, free, rows_B, weight)
        count = scalar(rows_B.sum())
        with _frozen(self.discriminator):
            free_B = self._generator_loss(self.discriminator(free))
            terms = {"free": Term(sum_of_rows(free_B, rows_B), count, weight)}
            if self.settings.include_teacher_term:
                # C_t rewards teacher-forced behaviour that looks free-running: the same loss of the negated score
                teacher_B = self._generator_loss(-self.discriminator(teacher))
                terms["teacher"] = Term(sum_of_rows(teacher_B, rows_B), count, weight)
        return terms

    def _moment_term(self, teacher: Behaviour, free: Behaviour, rows_B: Tensor, weight: float) -> dict[str, Term]:
        """Return the squared MMD of the states' means over time, weighted by the rows of the batch that it is of."""
        count = int(rows_B.sum())
        if count < 2:
            return {"free": Term(0.0 * free.layers_TBH[-1].sum(), count, weight)}
        teacher = teacher if self.settings.include_teacher_term else teacher.detach()
        means = [_means_over_time(each)[rows_B] for each in (teacher, free)]
        return {"free": Term(count * mmd(*means), count, weight)}

    def _generator_loss(self, scores_B: Tensor) -> Tensor:
        """Return -log D = softplus(-score), for hinge -score: the loss of behaviour that should look teacher-forced."""
        return -scores_B if self.settings.adversary == "hinge" else softplus(-scores_B)

    # -- the discriminator --------------------------------------------------------------------------------------------

    def own_loss(self, inputs: tuple[Behaviour, Behaviour] | None, update: Update) -> OwnLoss | None:
        """Return C_d summed over rows, R1 included; no loss, but its metrics, while the discriminator's gate is closed.

        Also counts the rows and the correct decisions, from which ``step`` takes the mean gradient and the accuracy.
        """
        if self.discriminator is None or inputs is None:
            return None
        teacher, free = inputs
        rows_B = free.lengths_B > 0
        learns = self._discriminator_gate_is_open()
        if self.settings.r1 and learns:
            teacher = teacher.as_leaves()
        with torch.enable_grad() if learns else torch.no_grad():
            teacher_B, free_B = self.discriminator(_concatenate(teacher, free)).chunk(2)
            teacher_loss, free_loss = (
                sum_of_rows(scores_B, rows_B, self._discriminator_losses) for scores_B in (teacher_B, -free_B)
            )
            loss = teacher_loss + free_loss
            penalty = self._penalty(sum_of_rows(teacher_B, rows_B), teacher) if self.settings.r1 and learns else 0.0
        rows = scalar(rows_B.sum())
        correct_teacher, correct_free = (scalar((each & rows_B).sum()) for each in (teacher_B > 0, free_B <= 0))
        for count, value in zip(self._counts.unbind(), (rows, (correct_teacher + correct_free) / 2), strict=True):
            count += value
        metrics: dict[str, tuple[Scalar, Scalar]] = {
            "discriminator_accuracy.teacher": (correct_teacher, rows),
            "discriminator_accuracy.free": (correct_free, rows),
            "discriminator_loss": (scalar(loss), rows),
            "model_gate_closed": (float(not self._model_gate_is_open()), 1),
        }
        return OwnLoss(loss + penalty if learns else None, metrics)

    def _discriminator_losses(self, scores_B: Tensor) -> Tensor:
        """Return -log D, for hinge max(0, 1 - score), of the scores of teacher-forced behaviour."""
        return relu(1 - scores_B) if self.settings.adversary == "hinge" else softplus(-scores_B)

    def _penalty(self, score: Tensor, teacher: Behaviour) -> Tensor:
        """Return R1 / 2 times the squared norm of D's gradient at teacher-forced behaviour, summed over rows.

        ``score`` is the sum of the rows' scores.
        """
        gradients = torch.autograd.grad(score, teacher.tensors(), create_graph=True)
        return sum((gradient.square().sum() for gradient in gradients), torch.zeros(())) * (self.settings.r1 / 2)

    def _discriminator_gate_is_open(self) -> bool:
        return self.accuracy <= self.settings.discriminator_gate

    def own_sums(self, update: Update) -> Sequence[Tensor]:
        """Return the counts and, if the discriminator learns in this update, its gradients."""
        if self.discriminator is None:
            return ()
        if not self._discriminator_gate_is_open():
            return (self._counts,)
        parameters = list(self.discriminator.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # no row of this process had a step to compare
                parameter.grad = torch.zeros_like(parameter)
        return (self._counts, *(parameter.grad for parameter in parameters if parameter.grad is not None))

    def step(self, update: Update) -> Mapping[str, tuple[float, float]]:
        """Update D by the mean of its gradients, unless its gate is closed; then update the moving average."""
        if self.discriminator is None:
            return {}
        learns = self._discriminator_gate_is_open()
        metrics = {"discriminator_gate_closed": (float(not learns), 1.0)}
        norm = self._clip_mean_gradient(self.discriminator) if learns else 0.0
        rows, correct, norm = read_numbers([*self._counts.unbind(), norm])
        self._counts.zero_()
        if rows and learns:
            metrics["discriminator_gradient_norm"] = (norm, 1)
            if norm < float("inf"):
                self.optimizer.step()
                self.discriminator.follow_spectra()
        self.optimizer.zero_grad(set_to_none=True)
        if not rows:
            return metrics
        decay = self.settings.average
        self.accuracy = decay * self.accuracy + (1 - decay) * correct / rows
        return metrics

    def undo(self) -> None:
        """Forget the gradients and counts."""
        if self.discriminator is None:
            return
        self._counts.zero_()
        self.optimizer.zero_grad(set_to_none=True)

    def _clip_mean_gradient(self, discriminator: Discriminator) -> Scalar:
        """Divide D's gradient by the rows that it is a sum over, and return its norm before clipping."""
        rows = or_one(scalar(self._counts[0]))
        for parameter in discriminator.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(rows)
        return scalar(nn.utils.clip_grad_norm_(discriminator.parameters(), 1.0))

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return the discriminator, its optimizer's state and the moving average."""
        state = {"accuracy": torch.tensor(self.accuracy, dtype=torch.float64)}
        if self.discriminator is not None:
            state |= {f"discriminator/{name}": value for name, value in self.discriminator.state_dict().items()}
            for name, parameter in self.discriminator.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    state[f"optimizer/{name}/{key}"] = value
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        self.accuracy = state["accuracy"].item()
        if self.discriminator is None:
            return
        weights = {name.partition("/")[2]: value for name, value in state.items() if name.startswith("discriminator/")}
        self.discriminator.load_state_dict(weights)
        parameters = dict(self.discriminator.named_parameters())
        for name, value in state.items():
            if name.startswith("optimizer/"):
                owner, _, key = name.removeprefix("optimizer/").rpartition("/")
                owned = parameters[owner]
                self.optimizer.state[owned][key] = value.to(owned.device, copy=True)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Compute gradients with respect to the network's inputs only, not its parameters, inside the block."""
    parameters = list(network.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _concatenate(first: Behaviour, second: Behaviour) -> Behaviour:
    """Concatenate two batches of behaviours to one of twice as many rows."""
    steps = max(1, step_bound(first.lengths_B, min(len(first.layers_TBH[0]), len(second.layers_TBH[0]))))

    def rows(one: Tensor, other: Tensor, dim: int) -> Tensor:
        return torch.cat([one, other], dim)

    layers = [rows(a[:steps], b[:steps], 1) for a, b in zip(first.layers_TBH, second.layers_TBH, strict=True)]
    probs_TBV = None
    if first.probs_TBV is not None and second.probs_TBV is not None:
        probs_TBV = rows(first.probs_TBV[:steps], second.probs_TBV[:steps], 1)
    context_BC = rows(first.context_BC, second.context_BC, 0)
    return replace(
        first,
        layers_TBH=layers,
        probs_TBV=probs_TBV,
        context_BC=context_BC,
        lengths_B=rows(first.lengths_B, second.lengths_B, 0),
    )


def _means_over_time(behaviour: Behaviour) -> Tensor:
    """Return the mean of each row's states over its steps, all layers concatenated: [B, L x H]."""
    layers_TBD = upcast(torch.cat(behaviour.layers_TBH, 2))
    steps_T1 = torch.arange(len(layers_TBD), device=layers_TBD.device).unsqueeze(1)
    real_TB1 = (steps_T1 < behaviour.lengths_B).unsqueeze(2)
    return (layers_TBD * real_TB1).sum(0) / behaviour.lengths_B.clamp(min=1).unsqueeze(1)
