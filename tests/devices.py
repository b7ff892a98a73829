"""Strategies and small learners for tests that compare devices.

``WITHOUT_WAITING`` are settings whose updates ask the device for numbers only as they end; ``WAITING`` are those that
compare whole outputs, or count rows, on the CPU.
"""

from __future__ import annotations

import numpy as np
import torch

from freerun.data.batching import make_batch
from freerun.distributed.ranks import ALONE
from freerun.forcing.registry import STRATEGIES
from freerun.forcing.strategy import Objective
from freerun.training.learner import Learner
from tests.networks import corpus, network, random_rows

LENGTHS = [3, 5, 2, 4, 6, 1, 2, 5]
PAIRS = corpus(random_rows(LENGTHS), random_rows(LENGTHS[::-1], size=9, seed=1))
HALF = {"kind": "constant", "teacher_prob": 0.5}
PROFESSOR = {"warmup": 0, "model_gate": 0.0, "hidden_size": 5, "weight": 0.5, "include_teacher_term": True}
WITHOUT_WAITING = {
    "teacher": ("teacher", {}),
    "scheduled": ("scheduled_sampling", {"schedule": HALF}),
    "in passes": ("scheduled_sampling", {"schedule": HALF, "passes": 2}),
    "by position": ("scheduled_sampling", {"schedule": HALF, "position": {"kind": "exponential", "k": 0.8}}),
    "argmax": ("scheduled_sampling", {"schedule": HALF, "draw": "argmax", "draw_eos": True}),
    "free running": ("free_running", {}),
    "professor": ("professor", PROFESSOR),
    "hinge": ("professor", {**PROFESSOR, "adversary": "hinge", "r1": 0.5, "spectral_norm": True}),
    "replacement": ("input_corruption", {"kind": "replacement", "rate": 0.5}),
    "raml": ("input_corruption", {"kind": "raml", "temperature": 5.0}),
}
WAITING = {
    "mmd": ("professor", {"warmup": 0, "adversary": "mmd"}),
    "minimum risk": ("minimum_risk", {"samples": 3}),
    "self-critical": ("self_critical", {}),
    "optimal completion": ("optimal_completion", {"teacher_prob": 0.4}),
}


def learner(name, settings, device="cpu", rate=1.0, ranks=ALONE, **options):
    """A learner of a small network on a device; ``options`` as of ``network``."""
    kind = STRATEGIES[name]
    model = network(**options).to(device)
    return Learner(
        model=model,
        strategy=kind(kind.Settings(**settings), Objective(0.1)),
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        schedule=lambda update: 1.0,
        seed=3,
        clip_norm=0.5,
        cosine_every=2,
        ranks=ranks,
    )


def batches(parts):
    """The pairs in as many batches."""
    return [make_batch(PAIRS, rows) for rows in np.array_split(np.arange(len(PAIRS)), parts)]


def steps_of(a_learner):
    """The steps of three updates, the second one of two batches."""
    return [a_learner.update(number, batches(parts)) for number, parts in ((1, 1), (2, 2), (3, 1))]
