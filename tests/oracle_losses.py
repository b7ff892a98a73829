"""The loss of every strategy by the book, one pair and one token at a time, given all random numbers.

Together with ``oracle``, which has the model, the reference of the equivalence tests. Each strategy is one function:
what it feeds the decoder, what it learns from that, and what the journal gets. Coins, the numbers that decide a draw,
and dropout masks are given; ``coins[row][t]`` and ``numbers[row][t]`` are in [0, 1).

Here: terms and token loss, and the strategies that follow the target (teacher forcing, scheduled sampling, free
running, input corruption). Professor forcing is in ``oracle_professor``, and what learns from free outputs (optimal
completion, minimum risk, self-critical training) in ``oracle_outputs``.

Shape suffixes: as in ``oracle``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from freerun.symbols import EOS, NEVER_WRITTEN, NUM_SPECIAL, UNK
from tests.oracle import NO_DROPOUT, Masks, Model, Step, decode, encode, forced, most_probable, sampled

Numbers = Sequence[Sequence[float]]
Schedule = Callable[[float], float]


# --------------------------------------------------------------------------------------------------------------- terms


@dataclass(frozen=True)
class Row:
    """One pair of a batch: ids of the source with EOS, of the target and of all the source's references without it."""

    source: Sequence[int]
    target: Sequence[int]
    references: Sequence[Sequence[int]]
    masks: Masks = NO_DROPOUT


@dataclass(frozen=True)
class Term:
    """A term of the loss is weight * sum / count."""

    sum: Tensor
    count: int
    weight: float = 1.0


@dataclass(frozen=True)
class Losses:
    """The terms by name, the journal's metrics as (sum, count), and what each row's decoder was fed."""

    terms: dict[str, Term]
    metrics: dict[str, tuple[float, float]]
    fed: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Objective:
    """How token losses are smoothed, and whether they are divided by "tokens" or by "sequences"."""

    smoothing: float = 0.0
    normalise: str = "tokens"

    def term(self, total: Tensor, tokens: int, sequences: int, weight: float = 1.0) -> Term:
        """A sum over tokens as a term."""
        return Term(total, tokens if self.normalise == "tokens" else sequences, weight)


@dataclass(frozen=True)
class Draw:
    """How the model's own token is drawn: the most probable one ("argmax"), or a "sample"; never a banned one."""

    kind: str = "sample"
    temperature: float = 1.0
    banned: tuple[int, ...] = NEVER_WRITTEN

    def __call__(self, logits_V: Tensor, number: float) -> int:
        """The token that the number points at."""
        if self.kind == "argmax":
            return most_probable(logits_V, self.banned)
        return sampled(logits_V, float(number), self.temperature, self.banned)


# ---------------------------------------------------------------------------------------------------------- token loss


def smoothed(log_probs_V: Tensor, loss: Tensor, smoothing: float) -> Tensor:
    """Label smoothing (Szegedy et al. 2016, section 7): (1 - s) loss + s mean over the vocabulary of -log p."""
    return (1 - smoothing) * loss + smoothing * (-log_probs_V).sum() / len(log_probs_V)


def token_losses(steps: Sequence[Step], right: Sequence[int], smoothing: float) -> tuple[Tensor, float]:
    """Return the sums over the steps of the reference tokens' smoothed loss and unsmoothed NLL (-log p), in nats."""
    loss, nll = torch.zeros((), dtype=torch.float64), 0.0
    for step, token in zip(steps, right, strict=True):
        each = -step.log_probs_V[token]
        loss = loss + smoothed(step.log_probs_V, each, smoothing)
        nll += each.item()
    return loss, nll


def learned(
    runs: Sequence[Sequence[Step]], rights: Sequence[Sequence[int]], objective: Objective, weight: float = 1.0
) -> tuple[Term, tuple[float, float]]:
    """The token loss of all rows as a term, and the plain NLL as a metric."""
    each = [token_losses(steps, right, objective.smoothing) for steps, right in zip(runs, rights, strict=True)]
    tokens = sum(len(right) for right in rights)
    term = objective.term(sum(loss for loss, _ in each), tokens, len(rights), weight)
    return term, (sum(nll for _, nll in each), tokens)


# ------------------------------------------------------------------------------------ strategies that follow the target


def teacher(model: Model, rows: Sequence[Row], objective: Objective, weight: float = 1.0) -> Losses:
    """Teacher forcing (Williams & Zipser 1989): the decoder is fed the target.

    - sum_t log p(y_t | y_1 ... y_(t-1), x), with y_T = EOS.
    """
    runs = [forced(model, encode(model, row.source, row.masks), row.target, row.masks) for row in rows]
    nll, metric = learned(runs, [[*row.target, EOS] for row in rows], objective, weight)
    return Losses({"nll": nll}, {"nll.teacher": metric}, fed_in(runs))


def fed_in(runs: Sequence[Sequence[Step]]) -> list[list[int]]:
    """What the decoder was fed, BOS first."""
    return [[step.fed for step in steps] for steps in runs]


def constant(teacher_prob: float) -> Schedule:
    """Always the same."""
    return lambda i: teacher_prob


def linear(k: float, c: float, minimum: float) -> Schedule:
    """Falls steadily to a minimum (Bengio et al. 2015, section 2.4, as the next two)."""
    return lambda i: max(minimum, k - c * i)


def exponential(k: float) -> Schedule:
    """k ** i, k < 1."""
    return lambda i: k**i


def inverse_sigmoid(k: float) -> Schedule:
    """k / (k + exp(i / k)), k >= 1."""
    return lambda i: k / (k + math.exp(i / k))


def increasing(start: float, end: float, c: float) -> Schedule:
    """Rises steadily to an end (Teutsch & Maeder 2022)."""
    return lambda i: min(end, start + c * i)


def scheduled_sampling(
    model: Model,
    rows: Sequence[Row],
    objective: Objective,
    teacher_prob: float,
    coins: Numbers,
    numbers: Numbers,
    draw: Draw,
    coin: str = "token",
    position: Schedule | None = None,
) -> Losses:
    """Scheduled sampling (Bengio, Vinyals, Jaitly & Shazeer 2015).

    The t-th token of the target is fed with probability ``teacher_prob``, otherwise the model's own draw from the
    distribution of that place; learned is the target's token at each place. One coin decides for a "token", a
    "sequence" or the "batch".

    With a schedule over ``position``, g, the t-th token (1 the first) is fed with g(t (1 - teacher_prob)), so that
    later tokens are drawn more often (Liu et al. 2021, decoding steps).
    """

    def feed(n: int, t: int, logits_V: Tensor) -> int | None:
        """What row n is fed after step t: token t + 1 of the target, or a draw."""
        target, place = rows[n].target, t + 1
        if place > len(target):
            return None
        flipped = {"token": lambda: coins[n][place], "sequence": lambda: coins[n][0], "batch": lambda: coins[0][0]}
        probability = teacher_prob if position is None else position(place * (1 - teacher_prob))
        return target[t] if flipped[coin]() < probability else draw(logits_V, numbers[n][place])

    losses = _aligned(model, rows, objective, feed, "nll.scheduled")
    return Losses(losses.terms, {**losses.metrics, "teacher_prob": (teacher_prob, 1)}, losses.fed)


def free_running(model: Model, rows: Sequence[Row], objective: Objective, numbers: Numbers, draw: Draw) -> Losses:
    """Always sampling (Bengio et al. 2015, table 1): as many samples as target tokens, and no reference tokens."""

    def feed(n: int, t: int, logits_V: Tensor) -> int | None:
        return draw(logits_V, numbers[n][t + 1]) if t < len(rows[n].target) else None

    return _aligned(model, rows, objective, feed, "nll.free_running")


def _aligned(
    model: Model,
    rows: Sequence[Row],
    objective: Objective,
    feed: Callable[[int, int, Tensor], int | None],
    figure_name: str,
) -> Losses:
    """Learn the target place by place after whatever was fed; the effective rate: how often that was not the target."""
    runs = []
    for n, row in enumerate(rows):
        encoded = encode(model, row.source, row.masks)
        runs.append(decode(model, encoded, functools.partial(feed, n), row.masks))
    nll, metric = learned(runs, [[*row.target, EOS] for row in rows], objective)
    return Losses({"nll": nll}, {figure_name: metric, "effective_rate": _changed(rows, fed_in(runs))}, fed_in(runs))


def _changed(rows: Sequence[Row], fed: Sequence[Sequence[int]]) -> tuple[int, int]:
    """At how many places another token than the target's was fed, and how many places there are after BOS."""
    pairs = [pair for row, tokens in zip(rows, fed, strict=True) for pair in zip(row.target, tokens[1:], strict=True)]
    return sum(right != token for right, token in pairs), len(pairs)


def input_corruption(
    model: Model, rows: Sequence[Row], objective: Objective, corrupted: Sequence[Sequence[int]], raml: bool
) -> Losses:
    """Feed ``corrupted`` targets, and learn the target, or with RAML the corrupted one itself (Norouzi et al. 2016)."""
    runs = [
        forced(model, encode(model, row.source, row.masks), tokens, row.masks)
        for row, tokens in zip(rows, corrupted, strict=True)
    ]
    rights = [[*(tokens if raml else row.target), EOS] for row, tokens in zip(rows, corrupted, strict=True)]
    nll, metric = learned(runs, rights, objective)
    metrics = {"nll.corrupted": metric, "effective_rate": _changed(rows, fed_in(runs))}
    return Losses({"nll": nll}, metrics, fed_in(runs))


def word_dropout(target: Sequence[int], coins: Sequence[float], rate: float) -> list[int]:
    """Each token is UNK with probability ``rate`` (Bowman et al. 2016, section 3.1); coins[0] is that of BOS."""
    return [UNK if coin < rate else token for token, coin in zip(target, coins[1:], strict=False)]


def replacement(
    target: Sequence[int], coins: Sequence[float], numbers: Sequence[float], rate: float, vocabulary: int
) -> list[int]:
    """Each token is any ordinary one with probability ``rate``, all of them equally probable."""
    ordinary = range(NUM_SPECIAL, vocabulary)
    corrupted = []
    for token, coin, number in zip(target, coins[1:], numbers[1:], strict=False):
        corrupted.append(ordinary[int(number * len(ordinary))] if coin < rate else token)
    return corrupted


def raml_sample(
    target: Sequence[int],
    number: float,
    ranks: Sequence[float],
    numbers: Sequence[float],
    temperature: float,
    vocabulary: int,
) -> list[int]:
    """A sample y of q(y) proportional to exp(-Hamming distance / temperature), of the target's length.

    Of the y of m tokens C(m, e) (v - 1)^e have distance e, v the number of ordinary tokens. ``number`` decides e; the e
    places with the smallest ``ranks`` differ, and ``numbers`` decide by which other token. UNK stays where it is.
    """
    places = [t for t, token in enumerate(target, 1) if token != UNK]
    others = vocabulary - NUM_SPECIAL - 1
    weights = [math.comb(len(places), e) * others**e * math.exp(-e / temperature) for e in range(len(places) + 1)]
    edges = list(itertools.accumulate(weights))
    distance = next(e for e, edge in enumerate(edges) if number * edges[-1] < edge)
    sample = list(target)
    for t in sorted(places, key=lambda t: ranks[t])[:distance]:
        choices = [token for token in range(NUM_SPECIAL, vocabulary) if token != target[t - 1]]
        sample[t - 1] = choices[int(numbers[t] * others)]
    return sample
