"""Teacher forcing through a stepper: the log-probability of given targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.search.stepper import Ids, Stepper
from freerun.symbols import BOS, NEVER_WRITTEN, PAD, UNK

__all__ = ["Forced", "counted_tokens", "forced_steps", "score_targets"]


class Forced(NamedTuple):
    """One array per target, one entry per token, EOS included.

    log_probs: natural log-probability of each token after the reference tokens before it.
    correct: whether greedy search would have written that token there (so never for an unknown one).
    argmax: the token that it would have written.
    """

    log_probs: list[npt.NDArray[np.float64]]
    correct: list[npt.NDArray[np.bool_]]
    argmax: list[Ids]


def score_targets(stepper: Stepper, source_ids: Ids, lengths: Ids, targets: Sequence[Sequence[int] | Ids]) -> Forced:
    """Score ``targets`` (B of them, each with its EOS), feeding the model their tokens.

    source_ids [B, S] padded with PAD, lengths [B]. The sum of a target's ``log_probs`` is the ``score`` of a finished
    hypothesis with the same ids. Raises ValueError if targets and sources differ in number.
    """
    if len(targets) != len(lengths):
        raise ValueError(f"{len(targets)} targets for {len(lengths)} sources")
    sizes = np.array([len(target) for target in targets], np.int64)
    shape = len(targets), int(sizes.max(initial=0))
    fed, log_probs, argmax = np.full(shape, PAD, np.int64), np.zeros(shape), np.full(shape, PAD, np.int64)
    for row, target in enumerate(targets):
        fed[row, : len(target)] = target
    if fed.size:
        stepper.start(source_ids, lengths)
        _force(stepper, fed, sizes, log_probs, argmax)
    correct, counts = argmax == fed, sizes.tolist()
    return Forced(
        [scores[:size] for scores, size in zip(log_probs, counts, strict=True)],
        [matches[:size] for matches, size in zip(correct, counts, strict=True)],
        [tokens[:size] for tokens, size in zip(argmax, counts, strict=True)],
    )


def counted_tokens(target: Sequence[int] | Ids) -> npt.NDArray[np.bool_]:
    """Return a mask of the tokens of a target, EOS last, that count in teacher-forced metrics.

    UNK does not count: it stands for all tokens that the vocabulary lacks, so it is easy to predict and never written.
    Nor does EOS after nothing but UNK, because it alone says nothing about the model. An empty target's EOS counts.
    """
    known = np.asarray(target) != UNK
    # The last entry is EOS, which is always known.
    return known if len(known) == 1 or known[:-1].any() else np.zeros_like(known)


def _force(stepper: Stepper, fed: Ids, sizes: Ids, log_probs: npt.NDArray[np.float64], argmax: Ids) -> None:
    """Fill ``log_probs`` and ``argmax`` [B, T] in place."""
    for step, active, best in forced_steps(stepper, fed, sizes):
        log_probs[active, step] = stepper.log_prob_of(fed[active, step])
        argmax[active, step] = best


def forced_steps(stepper: Stepper, fed: Ids, sizes: Ids) -> Iterator[tuple[int, Ids, Ids]]:
    """Step through targets ``fed`` [B, T] of ``sizes`` [B] tokens; a row leaves with its last token.

    The sources are those that ``stepper`` has started. Yields the position of each step, the rows [N] that still have a
    token there, and the token [N] that greedy search would have written.
    """
    active = np.arange(len(sizes))
    for step in range(fed.shape[1]):
        origins = np.flatnonzero(sizes[active] > step)
        active = active[origins]
        previous = fed[active, step - 1] if step else np.full(len(active), BOS, np.int64)
        # What is banned in search is banned here: the best token is then the one that greedy search writes.
        best, _ = stepper.step(previous, origins, 1, NEVER_WRITTEN)
        yield step, active, best[:, 0]
