"""Small models made of a table, and a brute-force view of them."""

from __future__ import annotations

import numpy as np

from freerun.search.hypothesis import Hypothesis
from freerun.search.top import top
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, PAD


class TableStepper:
    """The next token's distribution is a pure function of (source tokens, prefix): a row of a random table.

    ``levels`` makes logits small whole numbers, so that there are many ties. ``bias`` is added to the logits of ids.
    """

    def __init__(self, vocabulary_size=6, seed=0, levels=None, bias=None, dtype=np.float32, size=499):
        generator = np.random.default_rng(seed)
        logits = generator.normal(size=(size, vocabulary_size)) * 1.5
        if levels is not None:
            logits = generator.integers(levels, size=logits.shape).astype(float)
        for token, plus in (bias or {}).items():
            logits[:, token] += plus
        self.table = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(dtype)
        self.vocabulary_size = vocabulary_size
        self.rows_fed = []

    def start(self, source_ids, lengths):
        states = np.full(len(lengths), 17)
        for column in range(source_ids.shape[1]):
            states = np.where(column < lengths, self.mix(states, source_ids[:, column]), states)
        self.states = states

    def step(self, tokens, origins, k=None, banned=()):
        self.rows_fed.append(len(tokens))
        self.states = self.mix(self.states[origins], tokens)
        self.last = self.table[self.states % len(self.table)]
        log_probs = self.last.copy()
        log_probs[:, list(banned)] = -np.inf
        if k is None:
            return np.broadcast_to(np.arange(self.vocabulary_size), log_probs.shape), log_probs
        assert k <= self.vocabulary_size - len(banned), "asked for banned tokens"
        return top(log_probs, k)

    def log_prob_of(self, tokens):
        return self.last[np.arange(len(tokens)), tokens]

    @staticmethod
    def mix(states, tokens):
        return (states * 31 + tokens + 7) % 1_000_003

    def distribution(self, source, prefix):
        """Log-probabilities [V] after ``prefix``, computed on their own."""
        state = np.array([17])
        for token in (*source, BOS, *prefix):
            state = self.mix(state, np.array([token]))
        return self.table[state[0] % len(self.table)]


def batch(sources, extra_padding=0):
    """Sources as (ids [B, S], lengths [B])."""
    lengths = np.array([len(source) for source in sources], np.int64)
    ids = np.full((len(sources), lengths.max(initial=0) + extra_padding), PAD, np.int64)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = source
    return ids, lengths


def bounds(*lengths):
    return np.array(lengths, np.int64)


def writable_ids(stepper):
    return [token for token in range(stepper.vocabulary_size) if token not in NEVER_WRITTEN]


def rank(score, length, penalty):
    return score / ((5 + length) / 6) ** penalty


def enumerate_all(stepper, source, max_length, penalty=0.0, prefix=()):
    """Every finished hypothesis of at most ``max_length`` tokens that begins with ``prefix``, best first."""
    found, todo = [], [((), 0.0, ())]
    while todo:
        ids, score, parts = todo.pop()
        log_probs = stepper.distribution(source, ids).astype(float)
        choices = [prefix[len(ids)]] if len(ids) < len(prefix) else writable_ids(stepper)
        for token in choices:
            total, all_parts = score + log_probs[token], (*parts, log_probs[token])
            if token == EOS:
                found.append(Hypothesis(ids, total, all_parts, rank(total, len(ids) + 1, penalty), False))
            elif len(ids) < max_length:
                todo.append(((*ids, token), total, all_parts))
    return sorted(found, key=lambda hypothesis: -hypothesis.rank_score)


def naive_beam(stepper, source, max_length, beam_size, penalty=0.0):
    """Beam search of one source after its definition, with lists and sorting; [(ids, truncated)] best first."""
    live, finished, truncated = [((), 0.0)], [], []
    for written in range(max_length + 1):
        candidates = []
        for parent, (ids, score) in enumerate(live):
            log_probs = stepper.distribution(source, ids).astype(float)
            candidates += [(-(score + log_probs[token]), token, parent) for token in writable_ids(stepper)]
        candidates.sort()
        ending = [candidate for candidate in candidates[:beam_size] if candidate[1] == EOS]
        finished += [(rank(-minus, written + 1, penalty), live[parent][0]) for minus, _, parent in ending]
        if written == max_length:
            ended = {parent for _, _, parent in ending}
            truncated = [(rank(score, written, penalty), ids) for p, (ids, score) in enumerate(live) if p not in ended]
            break
        going_on = [candidate for candidate in candidates if candidate[1] != EOS][:beam_size]
        live = [((*live[parent][0], token), -minus) for minus, token, parent in going_on]
        best = sorted((score for score, _ in finished), reverse=True)
        if not live or (len(best) >= beam_size and rank(live[0][1], written + 1, penalty) <= best[beam_size - 1]):
            break
    ordered = [sorted(group, key=lambda pair: -pair[0]) for group in (finished, truncated)]
    return [(ids, False) for _, ids in ordered[0]] + [(ids, True) for _, ids in ordered[1]]
