"""Small models made of a table, and a brute-force view of them."""

from __future__ import annotations

import numpy as np

from freerun.search.hypothesis import Hypothesis
from freerun.search.top import top
from freerun.symbols import BOS, EOS, NEVER_WRITTEN, PAD


class TableStepper:
    """The next token's distribution is a pure function of (source tokens, prefix): a row of a random table.

    ``levels`` makes logits small whole numbers, so that there are many ties. ``bias`` is added to the logits of ids.
    With ``whole`` the log-probabilities themselves are whole numbers from 1 - ``levels`` to 0 (which no search minds):
    then there are ties between outputs of different lengths too, and scores of exactly 0.
    """

    def __init__(self, vocabulary_size=6, seed=0, levels=None, bias=None, *, dtype=np.float32, size=499, whole=False):
        generator = np.random.default_rng(seed)
        logits = generator.normal(size=(size, vocabulary_size)) * 1.5
        if levels is not None:
            logits = generator.integers(levels, size=logits.shape).astype(float)
        for token, plus in (bias or {}).items():
            logits[:, token] += plus
        normaliser = levels - 1 if whole else np.logaddexp.reduce(logits, axis=1, keepdims=True)
        self.table = (np.minimum(logits - normaliser, 0) if whole else logits - normaliser).astype(dtype)
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
        if k is None:
            log_probs = self.last.copy()
            log_probs[:, list(banned)] = -np.inf
            return np.broadcast_to(np.arange(self.vocabulary_size), log_probs.shape), log_probs
        assert k <= self.vocabulary_size - len(banned), "asked for banned tokens"
        # Left out, since a token of probability 0 is a candidate and a banned one is not.
        allowed = np.array([token for token in range(self.vocabulary_size) if token not in banned])
        columns, best = top(self.last[:, allowed], k)
        return allowed[columns], best

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


def naive_beam(stepper, source, max_length, beam_size, penalty=0.0, prefix=(), early_stop=False):
    """Beam search of one source after its definition, with lists and sorting, to the last length, whatever finishes.

    With ``early_stop`` only until ``beam_size`` have finished, and no active one is better than the worst of the best
    of them at its length. [(ids, truncated, rank score)], all there are, best first.
    """
    live, finished, truncated = [((), 0.0)], [], []
    for written in range(max_length + 1):
        candidates = []
        for parent, (ids, score) in enumerate(live):
            log_probs = stepper.distribution(source, ids).tolist()
            choices = [prefix[written]] if written < len(prefix) else writable_ids(stepper)
            candidates += [(-(score + log_probs[token]), token, parent) for token in choices]
        candidates.sort()
        ending = [candidate for candidate in candidates[:beam_size] if candidate[1] == EOS]
        finished += [(live[parent][0], False, rank(-minus, written + 1, penalty)) for minus, _, parent in ending]
        if written == max_length:
            ended = {parent for _, _, parent in ending}
            cut = [row for parent, row in enumerate(live) if parent not in ended]
            truncated = [(ids, True, rank(score, written, penalty)) for ids, score in cut]
        going_on = [candidate for candidate in candidates if candidate[1] != EOS][:beam_size]
        live = [((*live[parent][0], token), -minus) for minus, token, parent in going_on]
        best = sorted((ranked for _, _, ranked in finished), reverse=True)[:beam_size]
        if early_stop and len(best) == beam_size and (not live or rank(live[0][1], written + 1, penalty) <= best[-1]):
            break
    return [each for group in (finished, truncated) for each in sorted(group, key=lambda found: -found[2])]
