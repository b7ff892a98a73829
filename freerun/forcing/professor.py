"""Professor forcing (Lamb, Goyal, Zhang, Zhang, Courville & Bengio 2016).

The behaviour B(x, y) of the decoder is its hidden states, and output distributions, over time. A discriminator D is
trained to tell the behaviour under right tokens from that under the model's own,

    C_d = E[-log D(B_teacher)] + E[-log(1 - D(B_free))],

and the model to write the right tokens and to behave alike in both modes:

    NLL + weight (C_f [+ C_t]),   C_f = E[-log D(B_free)],   C_t = E[-log(1 - D(B_teacher))].

C_d moves D alone, C_f and C_t the model alone: C_f through the free-running pass, whose drawn tokens are constants, C_t
through the teacher-forced one. The model is spared while D is right in less than 75 % of the cases (it has nothing to
teach yet), and D while it is right in more than 99 %; both by a moving average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from freerun.config.numbers import Count, Number, PositiveNumber, Size, Temperature
from freerun.forcing.batch import TrainingBatch, Update
from freerun.forcing.discriminator import Behaviour, Discriminator
from freerun.forcing.draw import Draw
from freerun.forcing.loss import Losses, Term, in_full
from freerun.forcing.moments import mmd
from freerun.forcing.replay import encode
from freerun.forcing.rollout import free_rollout, uniforms
from freerun.forcing.strategy import Strategy, StrategySettings
from freerun.memory import check_fits
from freerun.models.decoder import Decoded
from freerun.models.dropout import DropoutMasks
from freerun.models.encoded import Encoded
from freerun.models.initialise import initialise_network
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS, NEVER_WRITTEN

__all__ = ["Professor", "ProfessorSettings"]

SMALL_VOCABULARY = 1000
"""Up to so many ids the output distributions are part of the behaviour, unless the settings say otherwise."""

Accuracy = Annotated[float, Field(ge=0.0, le=1.0)]


_OF_THE_DISCRIMINATOR = (
    *("outputs", "hidden_size", "learning_rate", "spectral_norm", "r1"),
    *("model_gate", "discriminator_gate", "average"),
)


class ProfessorSettings(StrategySettings):
    """The keys of ``strategy = "professor"``."""

    needs_replay = True
    used_with: ClassVar = {
        "temperature": ("draw", ("sample",)),
        **dict.fromkeys(_OF_THE_DISCRIMINATOR, ("adversary", ("logistic", "hinge"))),
    }

    weight: Number = 0.1
    warmup: Count = 1000
    """Updates over which the weight rises from 0."""
    teacher_too: bool = False
    """Add C_t: the teacher-forced behaviour moves towards the free-running one as well."""
    adversary: Literal["logistic", "hinge", "mmd"] = "logistic"
    """mmd: no discriminator; the means of the states over time are matched (a control)."""
    draw: Literal["sample", "argmax"] = "sample"
    temperature: Temperature = 1.0
    outputs: bool | Literal["auto"] = "auto"
    """Whether D sees output distributions; "auto": where the vocabulary has at most 1,000 ids."""
    hidden_size: Size = 128
    learning_rate: PositiveNumber = 1e-3
    model_gate: Accuracy = 0.75
    discriminator_gate: Accuracy = 0.99
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """How much of the moving average of D's accuracy an update keeps."""
    spectral_norm: bool = False
    r1: Number = 0.0
    """Weight of the penalty on D's gradient at teacher-forced behaviour (Mescheder et al. 2018)."""


class Professor(Strategy):
    """Teacher forcing, and a discriminator that the free-running behaviour has to get past."""

    Settings = ProfessorSettings
    settings: ProfessorSettings

    def prepare(self, model: Seq2Seq, seed: int) -> None:
        """A new discriminator with its optimiser, and a moving average that begins at chance."""
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
            # R1 differentiates a gradient, which neither our core nor torch's kernels can
            "reference" if settings.r1 else "auto",
        )
        with torch.device("meta"):  # has sizes, but takes no memory
            parameters = sum(parameter.numel() for parameter in Discriminator(*shape).parameters())
        what = f"a discriminator with hidden_size = {settings.hidden_size:,}"
        check_fits("forcing.hidden_size", what, parameters, 4, "Choose a smaller size")
        self.discriminator = Discriminator(*shape).to(like)
        initialise_network(self.discriminator, seed, "discriminator")
        if settings.spectral_norm:
            self.discriminator.bound_spectra(seed)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), settings.learning_rate, fused=True)
        self._begin_update()

    def _begin_update(self) -> None:
        self._rows = self._right = 0.0

    # -- the model's losses -------------------------------------------------------------------------------------------

    def losses(self, model: Seq2Seq, batch: TrainingBatch, update: Update) -> Losses:
        """The token NLL, and where the gate is open C_f, and C_t where it is asked for, each a mean over sequences."""
        encoded, masks = encode(model, batch, update)
        taught = model.decoder.sequence(batch.target_in_BT, encoded, masks)
        nll, figure = self.objective.token_nll(model, batch.at_real_positions(taught.features_TBF), batch)
        terms, figures = {"nll": nll}, {"nll.teacher": figure}
        acts = self.acts(update)
        free, lengths_B = self._run_freely(model, batch, update, encoded, masks, acts)
        taught_behaviour = self._behaviour(model, taught, encoded, lengths_B)
        free_behaviour = self._behaviour(model, free, encoded, lengths_B)
        # the judge works in full precision whatever the model computes in
        with torch.autocast(lengths_B.device.type, enabled=False):
            if acts:
                terms |= self._adversarial(taught_behaviour, free_behaviour, self._weight(update))
            if self.discriminator is not None:
                figures |= self._judge(taught_behaviour.detach(), free_behaviour.detach())
                figures["model_gate_closed"] = (float(not self._model_gate_is_open()), 1)
        return Losses(terms, figures)

    def acts(self, update: Update) -> bool:
        """Whether this update's loss has an adversarial term."""
        return self._weight(update) > 0 and self._model_gate_is_open()

    def _model_gate_is_open(self) -> bool:
        return self.discriminator is None or self.accuracy >= self.settings.model_gate

    def _weight(self, update: Update) -> float:
        warmup = self.settings.warmup
        return self.settings.weight * (min(1.0, (update.number - 1) / warmup) if warmup else 1.0)

    def _run_freely(
        self,
        model: Seq2Seq,
        batch: TrainingBatch,
        update: Update,
        encoded: Encoded,
        masks: DropoutMasks | None,
        with_gradient: bool,
    ) -> tuple[Decoded, Tensor]:
        """The free-running pass, and how many steps of each row the two streams are compared on.

        Both are cut to the shorter of target and free run, the step of EOS left out: lengths, and how an ending looks,
        would tell the streams apart. So the rollout need not go beyond the target.
        """
        settings = self.settings
        draw = Draw(settings.draw, settings.temperature, NEVER_WRITTEN)
        numbers_BT = uniforms(update, "free run", *batch.target_in_BT.shape).to(batch.target_in_BT.device)
        run = free_rollout(model.decoder, encoded, batch.target_lengths_B, numbers_BT, draw, masks)
        ends_B = (run.written_BT == EOS).any(1)
        lengths_B = torch.minimum(batch.target_lengths_B - 1, run.lengths_B - ends_B.long())
        steps = run.fed_BT.shape[1]
        with torch.set_grad_enabled(with_gradient):
            return model.decoder.sequence(run.fed_BT, encoded, masks and masks.first_steps(steps)), lengths_B

    def _behaviour(self, model: Seq2Seq, decoded: Decoded, encoded: Encoded, lengths_B: Tensor) -> Behaviour:
        """The steps to compare; the context goes without a gradient, or the encoder would learn to fool D."""
        steps = max(1, int(lengths_B.max()))
        probs_TBV = None
        if self.discriminator is not None and self.discriminator.outputs is not None:
            probs_TBV = torch.softmax(in_full(model.decoder.logits(decoded.features_TBF[:steps])), 2)
        layers = [layer[:steps] for layer in decoded.layers_TBH]
        return Behaviour(layers, probs_TBV, encoded.state.h_LBH[-1].detach(), lengths_B)

    def _adversarial(self, taught: Behaviour, free: Behaviour, weight: float) -> dict[str, Term]:
        """C_f and C_t as sums over the rows that have a step to compare."""
        rows_B = free.lengths_B > 0
        count = rows_B.sum().item()
        if self.discriminator is None:
            return self._moments(taught, free, rows_B, weight)
        with _frozen(self.discriminator):
            terms = {"free": Term(self._fooled(self.discriminator(free))[rows_B].sum(), count, weight)}
            if self.settings.teacher_too:
                # what is sought here is to be taken for free-running: the same loss of the negated score
                terms["teacher"] = Term(self._fooled(-self.discriminator(taught))[rows_B].sum(), count, weight)
        return terms

    def _moments(self, taught: Behaviour, free: Behaviour, rows_B: Tensor, weight: float) -> dict[str, Term]:
        """Squared MMD of the states' means over time; it is a figure of the batch, so it is weighed by its rows."""
        count = int(rows_B.sum())
        if count < 2:
            return {"free": Term(0.0 * free.layers_TBH[-1].sum(), count, weight)}
        taught = taught if self.settings.teacher_too else taught.detach()
        means = [_means_over_time(each)[rows_B] for each in (taught, free)]
        return {"free": Term(count * mmd(*means), count, weight)}

    def _fooled(self, scores_B: Tensor) -> Tensor:
        """-log D = softplus(-score), or -score for hinge: what a behaviour costs that should look teacher-forced."""
        return -scores_B if self.settings.adversary == "hinge" else softplus(-scores_B)

    # -- the discriminator --------------------------------------------------------------------------------------------

    def _judge(self, taught: Behaviour, free: Behaviour) -> dict[str, tuple[float, float]]:
        """Measure D on both streams; where its gate is open also add up its gradients, of sums over rows."""
        assert self.discriminator is not None
        rows_B = free.lengths_B > 0
        learns = self._discriminator_gate_is_open()
        if self.settings.r1 and learns:
            taught = taught.watched()
        with torch.enable_grad() if learns else torch.no_grad():
            scores_B = self.discriminator(_joined(taught, free))
            taught_N, free_N = (each[rows_B] for each in scores_B.chunk(2))
            loss = self._told_apart(taught_N) + self._told_apart(-free_N)
            if learns:
                penalty = self._penalty(taught_N, taught) if self.settings.r1 else 0.0
                (loss + penalty).backward()  # type: ignore[no-untyped-call]
        rows = len(taught_N)
        right_taught, right_free = (taught_N > 0).sum().item(), (free_N <= 0).sum().item()
        self._rows += rows
        self._right += (right_taught + right_free) / 2
        return {
            "discriminator_accuracy.teacher": (right_taught, rows),
            "discriminator_accuracy.free": (right_free, rows),
            "discriminator_loss": (loss.item(), rows),
        }

    def _told_apart(self, scores_N: Tensor) -> Tensor:
        """-log D, or max(0, 1 - score) for hinge, summed: what a teacher-forced behaviour's score costs D."""
        return (relu(1 - scores_N) if self.settings.adversary == "hinge" else softplus(-scores_N)).sum()

    def _penalty(self, scores_N: Tensor, taught: Behaviour) -> Tensor:
        """R1 / 2 times the squared norm of D's gradient at teacher-forced behaviour, summed over rows."""
        found = torch.autograd.grad(scores_N.sum(), taught.tensors(), create_graph=True)
        return sum((gradient.square().sum() for gradient in found), torch.zeros(())) * (self.settings.r1 / 2)

    def _discriminator_gate_is_open(self) -> bool:
        return self.accuracy <= self.settings.discriminator_gate

    def step(self, update: Update) -> Mapping[str, tuple[float, float]]:
        """D's step, unless its gate is closed; then its accuracy enters the moving average."""
        if self.discriminator is None:
            return {}
        figures = {"discriminator_gate_closed": (float(not self._discriminator_gate_is_open()), 1.0)}
        rows, right = self._rows, self._right
        self._begin_update()
        if not rows:
            return figures
        if self._discriminator_gate_is_open():
            for parameter in self.discriminator.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(rows)
            norm = float(nn.utils.clip_grad_norm_(self.discriminator.parameters(), 1.0))
            figures["discriminator_gradient_norm"] = (norm, 1)
            if norm < float("inf"):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        kept = self.settings.average
        self.accuracy = kept * self.accuracy + (1 - kept) * right / rows
        return figures

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The discriminator, its optimiser's state and the moving average."""
        found = {"accuracy": torch.tensor(self.accuracy, dtype=torch.float64)}
        if self.discriminator is not None:
            found |= {f"discriminator/{name}": value for name, value in self.discriminator.state_dict().items()}
            for name, parameter in self.discriminator.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    found[f"optimizer/{name}/{key}"] = value
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        self.accuracy = state["accuracy"].item()
        if self.discriminator is None:
            return
        weights = {name.partition("/")[2]: value for name, value in state.items() if name.startswith("discriminator/")}
        self.discriminator.load_state_dict(weights)
        parameters = dict(self.discriminator.named_parameters())
        for name, value in state.items():
            if name.startswith("optimizer/"):
                owner, _, key = name.removeprefix("optimizer/").rpartition("/")
                self.optimizer.state[parameters[owner]][key] = value.clone()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """What is computed within it has no gradient for the network's parameters, only for its inputs."""
    parameters = list(network.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _joined(first: Behaviour, second: Behaviour) -> Behaviour:
    """Two batches of behaviours as one of twice as many rows."""
    steps = max(1, int(first.lengths_B.max()))

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
    """The mean of each row's states over its steps, all layers side by side: [B, L x H]."""
    layers_TBD = in_full(torch.cat(behaviour.layers_TBH, 2))
    steps_T1 = torch.arange(len(layers_TBD), device=layers_TBD.device).unsqueeze(1)
    real_TB1 = (steps_T1 < behaviour.lengths_B).unsqueeze(2)
    return (layers_TBD * real_TB1).sum(0) / behaviour.lengths_B.clamp(min=1).unsqueeze(1)
