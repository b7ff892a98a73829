"""Professor forcing by the book: behaviours, the discriminator's score, and both players' losses (Lamb et al. 2016).

A part of the reference that begins in ``oracle`` and ``oracle_losses``.

Shape suffixes: as in ``oracle``; D hidden size of the discriminator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freerun.symbols import EOS
from tests.oracle import Encoded, Model, Step, Weights, encode, forced, free_run, run_layer, zero_state
from tests.oracle_losses import Draw, Losses, Numbers, Objective, Row, Term, learned


@dataclass(frozen=True)
class Behaviour:
    """B(x, y): the decoder's states over time, ``layers[t][n]`` of layer n, its distributions, the source's context."""

    layers: list[list[Tensor]]
    probs: list[Tensor]
    context_H: Tensor

    @staticmethod
    def of(steps: Sequence[Step], encoded: Encoded) -> Behaviour:
        """That of some steps."""
        return Behaviour([s.outputs for s in steps], [s.log_probs_V.exp() for s in steps], encoded.context_H)

    def cut_off(self) -> Behaviour:
        """The same numbers as constants, for the discriminator's own loss; they can be differentiated by."""
        layers = [[each.detach().requires_grad_() for each in outputs] for outputs in self.layers]
        return Behaviour(layers, [each.detach().requires_grad_() for each in self.probs], self.context_H)


def both_behaviours(
    model: Model, row: Row, numbers: Sequence[float], draw: Draw
) -> tuple[list[Step], Behaviour, Behaviour]:
    """The teacher-forced steps, and both behaviours on the steps that are compared.

    Neither length nor ending may tell them apart: the free run ends with the target at the latest, both are cut to the
    shorter of the two, and the step that predicts EOS belongs to neither.
    """
    encoded = encode(model, row.source, row.masks)
    taught = forced(model, encoded, row.target, row.masks)
    bound = len(row.target) + 1
    free, written = free_run(model, encoded, bound, lambda t, logits_V: draw(logits_V, numbers[t]), row.masks)
    steps = min(len(row.target), len(written) - (EOS in written))
    return taught, Behaviour.of(taught[:steps], encoded), Behaviour.of(free[:steps], encoded)


def discriminator(weights: Weights, behaviour: Behaviour) -> Tensor:
    """The score of a behaviour, log D / (1 - D) (Lamb, Goyal et al. 2016, section 3.1).

    A bidirectional GRU over the layer-normalised states (and a projection of the distributions) and the normalised
    context of the source, which is a constant; then an MLP with leaky ReLUs on its two last states.
    """
    context_H = _normalised(weights, "context_norm", behaviour.context_H.detach())
    context_D = _linear(weights, "context", context_H)
    inputs = []
    for outputs, probs_V in zip(behaviour.layers, behaviour.probs, strict=True):
        seen = [_normalised(weights, f"norms.{n}", h_H) for n, h_H in enumerate(outputs)]
        if "outputs.weight" in weights:
            seen.append(_linear(weights, "outputs", probs_V))
        inputs.append(_linear(weights, "behaviour", torch.cat(seen)) + context_D)
    zero = zero_state("gru", len(context_D))
    _, (forward_D, _) = run_layer("gru", weights, "forward_gru", inputs, zero)
    _, (backward_D, _) = run_layer("gru", weights, "backward_gru", reversed(inputs), zero)
    value = torch.cat([forward_D, backward_D])
    for layer in ("mlp.0", "mlp.2"):
        value = _linear(weights, layer, value)
        value = torch.where(value > 0, value, 0.2 * value)
    return _linear(weights, "mlp.4", value)[0]


def _linear(weights: Weights, layer: str, value: Tensor) -> Tensor:
    return weights[f"{layer}.weight"] @ value + weights[f"{layer}.bias"]


def _normalised(weights: Weights, layer: str, value: Tensor) -> Tensor:
    """Layer normalisation (Ba, Kiros & Hinton 2016)."""
    centred = value - value.mean()
    return weights[f"{layer}.weight"] * centred / ((centred**2).mean() + 1e-5).sqrt() + weights[f"{layer}.bias"]


@dataclass(frozen=True)
class Professor:
    """The settings: ``adversary`` is "logistic", "hinge" or "mmd"; ``weight`` that of the adversarial terms."""

    adversary: str = "logistic"
    include_teacher_term: bool = False
    weight: float = 0.1
    r1: float = 0.0
    model_gate: float = 0.75
    discriminator_gate: float = 0.99

    def generator_loss(self, score: Tensor) -> Tensor:
        """-log D(B), or -score for hinge: what makes the model behave as if it were teacher-forced."""
        return -score if self.adversary == "hinge" else -torch.sigmoid(score).log()

    def teacher_term_loss(self, score: Tensor) -> Tensor:
        """-log(1 - D(B)), or the score itself for hinge."""
        return score if self.adversary == "hinge" else -(1 - torch.sigmoid(score)).log()

    def discriminator_loss(self, taught: Tensor, free: Tensor) -> Tensor:
        """C_d of one pair: -log D(B_teacher) - log(1 - D(B_free)); for hinge max(0, 1 - score), max(0, 1 + score)."""
        if self.adversary == "hinge":
            return (1 - taught).clamp(min=0) + (1 + free).clamp(min=0)
        return self.generator_loss(taught) + self.teacher_term_loss(free)


def professor(
    model: Model,
    d_weights: Weights | None,
    rows: Sequence[Row],
    objective: Objective,
    numbers: Numbers,
    draw: Draw,
    settings: Professor,
    accuracy: float,
) -> tuple[Losses, Tensor]:
    """Professor forcing (Lamb, Goyal et al. 2016): the model's losses, and the discriminator's (a sum over pairs).

    NLL + weight (C_f [+ C_t]):  C_f = E[-log D(B_free)],  C_t = E[-log(1 - D(B_teacher))], whose gradients are for the
    model only; C_d = E[-log D(B_teacher)] + E[-log(1 - D(B_free))] is for the discriminator only. The model is left
    alone while the discriminator's ``accuracy`` is below its gate, and the discriminator while it is above its own.
    """
    each = [both_behaviours(model, row, numbers[n], draw) for n, row in enumerate(rows)]
    nll, metric = learned([taught for taught, _, _ in each], [[*row.target, EOS] for row in rows], objective)
    compared = [(taught, free) for _, taught, free in each if free.layers]
    terms, metrics = {"nll": nll}, {"nll.teacher": metric}
    acts = settings.weight > 0 and (d_weights is None or accuracy >= settings.model_gate)
    if acts:
        terms |= _adversarial(d_weights, compared, settings)
    own_loss = torch.zeros((), dtype=torch.float64)
    if d_weights is not None:
        own_loss, own_metrics = _own_loss(d_weights, compared, settings)
        metrics |= {**own_metrics, "model_gate_closed": (float(accuracy < settings.model_gate), 1)}
        own_loss = own_loss if accuracy <= settings.discriminator_gate else 0 * own_loss
    return Losses(terms, metrics), own_loss


def _adversarial(
    d_weights: Weights | None, compared: Sequence[tuple[Behaviour, Behaviour]], settings: Professor
) -> dict[str, Term]:
    """C_f, and C_t where it is asked for."""
    count = len(compared)
    if d_weights is None:
        apart = (
            mean_states_apart(compared, settings.include_teacher_term)
            if count > 1
            else torch.zeros((), dtype=torch.float64)
        )
        return {"free": Term(count * apart, count, settings.weight)}
    frozen = {name: parameter.detach() for name, parameter in d_weights.items()}
    free = sum(settings.generator_loss(discriminator(frozen, free)) for _, free in compared)
    terms = {"free": Term(free, count, settings.weight)}
    if settings.include_teacher_term:
        taught = sum(settings.teacher_term_loss(discriminator(frozen, taught)) for taught, _ in compared)
        terms["teacher"] = Term(taught, count, settings.weight)
    return terms


def _own_loss(
    d_weights: Weights, compared: Sequence[tuple[Behaviour, Behaviour]], settings: Professor
) -> tuple[Tensor, dict[str, tuple[float, float]]]:
    """C_d as a sum, with the R1 penalty; how often the discriminator is right about each, and C_d without the penalty.

    R1 (Mescheder et al. 2018): r1 / 2 times the squared norm of the score's gradient by the teacher-forced behaviour.
    """
    loss = penalty = torch.zeros((), dtype=torch.float64)
    right_taught = right_free = 0
    for taught, free in ((taught.cut_off(), free.cut_off()) for taught, free in compared):
        taught_score, free_score = discriminator(d_weights, taught), discriminator(d_weights, free)
        loss = loss + settings.discriminator_loss(taught_score, free_score)
        right_taught, right_free = right_taught + int(taught_score > 0), right_free + int(free_score <= 0)
        if settings.r1:
            seen = [each for outputs in taught.layers for each in outputs]
            seen += taught.probs if "outputs.weight" in d_weights else []
            slopes = torch.autograd.grad(taught_score, seen, create_graph=True)
            penalty = penalty + settings.r1 / 2 * sum((slope**2).sum() for slope in slopes)
    metrics = {
        "discriminator_accuracy.teacher": (right_taught, len(compared)),
        "discriminator_accuracy.free": (right_free, len(compared)),
        "discriminator_loss": (loss.item(), len(compared)),
    }
    return loss + penalty, metrics


def mean_states_apart(compared: Sequence[tuple[Behaviour, Behaviour]], include_teacher_term: bool) -> Tensor:
    """Moment matching in place of a discriminator: squared MMD of the states' means over time, all layers together."""

    def mean(behaviour: Behaviour) -> Tensor:
        return sum(torch.cat(outputs) for outputs in behaviour.layers) / len(behaviour.layers)

    taught = [mean(taught) if include_teacher_term else mean(taught).detach() for taught, _ in compared]
    return mmd(taught, [mean(free) for _, free in compared])


def mmd(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Squared maximum mean discrepancy, unbiased (Gretton et al. 2012, equation 3).

    The kernel is exp(-|a - b|^2 / median), the median that of |a - b|^2 over all pairs, which is a constant.
    """
    both, n = [*first, *second], len(first)
    distances = sorted(((a - b) ** 2).sum().item() for i, a in enumerate(both) for j, b in enumerate(both) if i != j)
    median = distances[(len(distances) - 1) // 2]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-((a - b) ** 2).sum() / median)

    within = [sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) for a in (first, second)]
    across = sum(kernel(a, b) for a in first for b in second)
    return sum(within) / (n * (n - 1)) - 2 * across / (n * n)
