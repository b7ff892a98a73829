"""Strategies that learn from whole free outputs, by the book: optimal completion, minimum risk, self-critical training.

A part of the reference that begins in ``oracle`` and ``oracle_losses``; with the edit distance, and what outputs cost.

Shape suffixes: as in ``oracle``.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from freerun.symbols import BOS, EOS, NUM_SPECIAL, UNK
from tests.oracle import Model, encode, forced, free_run, greedy, log_prob
from tests.oracle_losses import Draw, Losses, Numbers, Objective, Row, Term, smoothed, teacher

Cost = Callable[[Sequence[int], Sequence[Sequence[int]]], float]

# ----------------------------------------------------------------------------------------- edit distance and its oracle


@functools.cache
def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    if not one or not other:
        return len(one) + len(other)
    if one[-1] == other[-1]:
        return _distance(one[:-1], other[:-1])
    return 1 + min(_distance(one[:-1], other), _distance(one, other[:-1]), _distance(one[:-1], other[:-1]))


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """The fewest insertions, deletions and substitutions that lead from one to the other (Levenshtein 1966)."""
    return _distance(tuple(one), tuple(other))


def reachable(prefix: Sequence[int], references: Sequence[Sequence[int]]) -> int:
    """The smallest distance to any reference that an output can have that begins with ``prefix``.

    It is that to the closest beginning of a reference: the rest of the reference can follow at no further cost.
    """
    return min(edit_distance(prefix, r[:j]) for r in references for j in range(len(r) + 1))


def correct_tokens(prefix: Sequence[int], references: Sequence[Sequence[int]], vocabulary: int) -> list[int]:
    """The next tokens with which the best distance stays in reach (Sabour, Chan & Norouzi 2019, section 3), in order.

    EOS where the prefix has that distance already. Only tokens that can be written, so the list may be empty: PAD, BOS
    and UNK never are in it.
    """
    best = reachable(prefix, references)
    ends = min(edit_distance(prefix, reference) for reference in references) == best
    tokens = [token for token in range(NUM_SPECIAL, vocabulary) if reachable([*prefix, token], references) == best]
    return [EOS, *tokens] if ends else tokens


# --------------------------------------------------------------------------------------------------- optimal completion


def optimal_completion(
    model: Model,
    rows: Sequence[Row],
    objective: Objective,
    numbers: Numbers,
    draw: Draw,
    teacher_prob: float,
    coins: Numbers,
    right_numbers: Numbers,
    longest_ratio: float,
) -> Losses:
    """Optimal completion (Sabour, Chan & Norouzi 2019): learn every best continuation of what was written.

    sum_t KL(uniform(S_t) || p(. | written so far)),  S_t the correct tokens, up to and including the step that writes
    EOS. Written is the model's draw, with probability ``teacher_prob`` one of S_t. A step whose S_t is empty (all that
    is correct there is UNK) adds nothing and is not counted, nor is a row without any other step; the draw is written.
    """
    loss, kl = torch.zeros((), dtype=torch.float64), 0.0
    learned_steps, edits, fed = [0] * len(rows), [], []
    for n, row in enumerate(rows):
        bound = int((len(row.target) + 1) * longest_ratio) + 3
        guided = _guided(row, draw, numbers[n], teacher_prob, coins[n], right_numbers[n])
        steps, written = free_run(model, encode(model, row.source, row.masks), bound, guided, row.masks)
        for t, step in enumerate(steps):
            tokens = correct_tokens(written[:t], row.references, len(step.logits_V))
            if tokens:
                each = kl_from_uniform(step.log_probs_V, tokens)
                loss = loss + smoothed(step.log_probs_V, each, objective.smoothing)
                kl += each.item()
                learned_steps[n] += 1
        if EOS in written:
            edits.append(min(edit_distance(written[:-1], reference) for reference in row.references))
        fed.append([step.fed for step in steps])
    metrics = {
        "kl.optimal_completion": (kl, sum(learned_steps)),
        "rollout_edits": (sum(edits), len(edits)),
        "rollout_cut_off": (len(rows) - len(edits), len(rows)),
    }
    sequences = sum(steps > 0 for steps in learned_steps)
    return Losses({"kl": objective.term(loss, sum(learned_steps), sequences)}, metrics, fed)


def _guided(
    row: Row,
    draw: Draw,
    numbers: Sequence[float],
    teacher_prob: float,
    coins: Sequence[float],
    right_numbers: Sequence[float],
) -> Callable[[int, Tensor], int]:
    """Write the model's draw, or with probability ``teacher_prob`` a correct token, where there is one."""
    written: list[int] = []

    def choose(t: int, logits_V: Tensor) -> int:
        tokens = correct_tokens(written, row.references, len(logits_V))
        if tokens and coins[t] < teacher_prob:
            written.append(tokens[int(right_numbers[t] * len(tokens))])
        else:
            written.append(draw(logits_V, numbers[t]))
        return written[-1]

    return choose


def kl_from_uniform(log_probs_V: Tensor, tokens: Sequence[int]) -> Tensor:
    """KL(uniform(tokens) || p): the sum over the tokens of 1/n (log 1/n - log p)."""
    share = 1 / len(tokens)
    return sum(share * (math.log(share) - log_probs_V[token]) for token in tokens)


# --------------------------------------------------------------------------------------------------------------- costs


def symbol_error_rate(output: Sequence[int], references: Sequence[Sequence[int]]) -> float:
    """Edit distance to the closest reference (the longer of two) by its length, by 1 where that is 0."""
    closest = min(references, key=lambda reference: (edit_distance(output, reference), -len(reference)))
    return edit_distance(output, closest) / max(1, len(closest))


def sequence_error(output: Sequence[int], references: Sequence[Sequence[int]]) -> float:
    """0 for a reference, otherwise 1."""
    return 0.0 if list(output) in [list(reference) for reference in references] else 1.0


def bleu_cost(output: Sequence[int], references: Sequence[Sequence[int]]) -> float:
    """1 - sentence BLEU (Papineni et al. 2002), up to the 4-grams or the longest that the output has.

    The k-th precision that is 0 counts as 1 / (2^k n-grams) (NIST's smoothing; Chen & Cherry 2014, method 3).
    """

    def ngrams(tokens: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    precisions, zeros = [], 0
    for n in range(1, min(4, len(output)) + 1):
        most = functools.reduce(Counter.__or__, (ngrams(reference, n) for reference in references))
        matches, total = (ngrams(output, n) & most).total(), len(output) - n + 1
        zeros += matches == 0
        precisions.append(matches / total if matches else 1 / (2**zeros * total))
    if zeros == len(precisions):
        return 1.0
    closest = min((abs(len(output) - len(reference)), len(reference)) for reference in references)[1]
    brevity = min(1.0, math.exp(1 - closest / len(output)))
    return 1 - brevity * math.exp(sum(map(math.log, precisions)) / len(precisions))


COSTS: Mapping[str, Cost] = {
    "symbol_error_rate": symbol_error_rate,
    "sequence_error": sequence_error,
    "bleu": bleu_cost,
}


def cost_of(cost: str, written: Sequence[int], row: Row) -> float:
    """What was written, without its EOS, against the references of a row."""
    return COSTS[cost]([token for token in written if token != EOS], row.references)


def output_bound(row: Row) -> int:
    """The most tokens, EOS included, that a sampled output may have."""
    return 2 * (len(row.target) + 1) + 10


# --------------------------------------------------------------------------------------------------------- minimum risk


def minimum_risk(
    model: Model,
    rows: Sequence[Row],
    objective: Objective,
    numbers: Numbers,
    draw: Draw,
    samples: int,
    alpha: float,
    cost: str,
    weight: float = 1.0,
    nll_weight: float = 1.0,
) -> Losses:
    """Minimum risk (Shen et al. 2016): NLL, and sum_y Q(y) cost(y), Q(y) = p(y | x)^alpha / sum_y' p(y' | x)^alpha.

    The sum is over the target and the distinct samples that are complete, drawn without dropout; ``numbers`` has
    ``samples`` lines a row. Candidates are scored under the masks of their row.

    A target with UNK is no candidate, because the model cannot write it; a row without candidates has no risk and does
    not count.
    """
    candidates = [(n, (*row.target, EOS)) for n, row in enumerate(rows)]
    for n, row in enumerate(rows):
        for line in numbers[n * samples : (n + 1) * samples]:
            with torch.no_grad():
                encoded = encode(model, row.source)
                output = tuple(free_run(model, encoded, output_bound(row), _drawn_by(draw, line))[1])
            if output[-1] == EOS and (n, output) not in candidates:
                candidates.append((n, output))
    powers: list[list[Tensor]] = [[] for _ in rows]
    costs: list[list[float]] = [[] for _ in rows]
    for n, output in candidates:
        if UNK not in output:
            steps = forced(model, encode(model, rows[n].source, rows[n].masks), output[:-1], rows[n].masks)
            powers[n].append((alpha * log_prob(steps, output)).exp())
            costs[n].append(cost_of(cost, output, rows[n]))
    risk = torch.zeros((), dtype=torch.float64)
    for each, their_costs in zip(powers, costs, strict=True):
        if each:
            risk = risk + sum(p * c for p, c in zip(each, their_costs, strict=True)) / sum(each)
    counted = sum(bool(each) for each in powers)
    taught = teacher(model, rows, objective, nll_weight)
    metrics = {
        **taught.metrics,
        "risk": (risk.item(), counted),
        "distinct": (len(candidates) - len(rows), samples * len(rows)),
    }
    fed = [[BOS, *output[:-1]] for _, output in candidates]
    return Losses({**taught.terms, "risk": Term(risk, counted, weight)}, metrics, fed)


def _drawn_by(draw: Draw, line: Sequence[float]) -> Callable[[int, Tensor], int]:
    """Step t draws with the t-th number."""
    return lambda t, logits_V: draw(logits_V, line[t])


# ----------------------------------------------------------------------------------------------- self-critical training


def self_critical(
    model: Model,
    rows: Sequence[Row],
    objective: Objective,
    numbers: Numbers,
    draw: Draw,
    cost: str,
    weight: float = 1.0,
    nll_weight: float = 1.0,
) -> Losses:
    """Self-critical training (Rennie et al. 2017): NLL, and -(reward(sample) - reward(greedy)) log p(sample | x).

    reward = 1 - cost. The sample is drawn, and scored, under dropout; the greedy output is what the model writes at
    inference time, so without.
    """
    total = torch.zeros((), dtype=torch.float64)
    sample_costs, greedy_costs, fed = 0.0, 0.0, []
    for row, line in zip(rows, numbers, strict=True):
        encoded, bound = encode(model, row.source, row.masks), output_bound(row)
        steps, sample = free_run(model, encoded, bound, _drawn_by(draw, line), row.masks)
        with torch.no_grad():
            _, best = greedy(model, row.source, bound)
        sample_cost, greedy_cost = cost_of(cost, sample, row), cost_of(cost, best, row)
        total = total - ((1 - sample_cost) - (1 - greedy_cost)) * log_prob(steps, sample)
        sample_costs, greedy_costs = sample_costs + sample_cost, greedy_costs + greedy_cost
        fed.append([step.fed for step in steps])
    taught = teacher(model, rows, objective, nll_weight)
    metrics = {
        **taught.metrics,
        "cost.sample": (sample_costs, len(rows)),
        "cost.greedy": (greedy_costs, len(rows)),
    }
    return Losses({**taught.terms, "self_critical": Term(total, len(rows), weight)}, metrics, fed)
