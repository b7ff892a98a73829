"""Models whose faults are known, for the measures of exposure bias: they know the references, and err by a rule."""

from __future__ import annotations

import hashlib

import numpy as np

from freerun.data.codec import Codec
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.diagnostics.record import EncodedPairs, Recorder
from freerun.evaluation.items import EvaluationSet, Item
from freerun.search.bound import LengthBound
from freerun.search.top import top
from freerun.symbols import EOS, PAD

JUNK = 4
"""Stands in no reference, so writing it always errs."""
BOUND = LengthBound(12, 1.0)


def share(*keys):
    """A number in [0, 1) that depends on the keys alone."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=6).digest(), "big") / 2**48


SOURCE = Codec(CharTokenizer(), Vocabulary(list("0123456789")))
TARGET = Codec(CharTokenizer(), Vocabulary(["z", *"abcdefgh"]))  # "z" is JUNK


def words(count, longest=12, shortest=4, seed=0):
    """Random words without "z"."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest + 1, count)
    return ["".join(generator.choice(list("abcdefgh"), length)) for length in lengths]


def items_of(*references):
    """Source i is the number 100 + i; a reference is a word, or several ones are a list."""
    several = [[each] if isinstance(each, str) else each for each in references]
    return EvaluationSet([Item(str(100 + row), each, [list(one) for one in each]) for row, each in enumerate(several)])


def recorded(rule, *references, batch_size=256):
    """(what was recorded of the planted model, its recorder)."""
    pairs = EncodedPairs.of(items_of(*references), SOURCE, TARGET)
    recorder = Recorder(Planted(pairs, rule), BOUND, batch_size)
    return recorder.record(pairs), recorder


class Planted:
    """Writes what ``rule(source, prefix, optimal)`` says, given the tokens that are optimal after the prefix."""

    vocabulary_size = JUNK + 9

    def __init__(self, made, rule):
        self.references = {
            tuple(source): [each.tolist() for each in references]
            for source, references in zip(made.sources, made.references, strict=True)
        }
        self.rule = rule

    def start(self, source_ids, lengths):
        self.rows = [(tuple(ids[ids != PAD].tolist()), ()) for ids in source_ids]
        self.begun = False

    def step(self, tokens, origins, k=None, banned=()):
        rows = [self.rows[origin] for origin in origins]
        if self.begun:
            rows = [(source, (*prefix, int(token))) for (source, prefix), token in zip(rows, tokens, strict=True)]
        self.begun, self.rows = True, rows
        self.last = np.full((len(rows), self.vocabulary_size), np.log(0.1 / (self.vocabulary_size - 1)), np.float32)
        for place, (source, prefix) in enumerate(rows):
            self.last[place, self.rule(source, prefix, optimal(prefix, self.references[source]))] = np.log(0.9)
        log_probs = self.last.copy()
        log_probs[:, list(banned)] = -np.inf
        return top(log_probs, k)

    def log_prob_of(self, tokens):
        return self.last[np.arange(len(tokens)), tokens]


def optimal(prefix, references):
    """The next tokens of the beginnings of references that are closest to the prefix, by the definition of distance."""
    found = []
    for reference in references:
        row = list(range(len(reference)))  # distances of the prefix to the reference's beginnings, without EOS
        for token in prefix:
            after = [row[0] + 1]
            for j in range(1, len(reference)):
                after.append(min(row[j] + 1, after[j - 1] + 1, row[j - 1] + (reference[j - 1] != token)))
            row = after
        found += [(distance, reference[j]) for j, distance in enumerate(row)]
    return [token for distance, token in found if distance == min(found)[0]]


def never_errs(source, prefix, optimal):
    return optimal[0]


def fault_at(source, longest=3):
    return int(share("fault", source) * longest)


def derails(source, prefix, optimal):
    """Right until its fault, then junk for good."""
    return JUNK if JUNK in prefix or len(prefix) == fault_at(source) else optimal[0]


def recovers_after_two(source, prefix, optimal):
    """Errs twice in a row, and never again."""
    at = fault_at(source)
    return JUNK if len(prefix) == at or (len(prefix) == at + 1 and prefix[at] == JUNK) else optimal[0]


def errs_at_random(rate):
    """Each step errs with a probability that the prefix does not change; one in four errors is an early end."""

    def rule(source, prefix, optimal):
        chance = rate(source) if callable(rate) else rate
        if share("errs", source, prefix) >= chance:
            return optimal[0]
        return EOS if EOS not in optimal and share("ends", source, prefix) < 0.25 else JUNK

    return rule
