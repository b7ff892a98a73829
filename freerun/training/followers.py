"""The other processes of a training: what the leader tells them, and how they follow.

The leader, rank 0, runs the training loop; it alone decides, writes files and prints. The others wait for its commands:

- ``load``: take over weights, optimizer and strategy from the leader;
- ``train``: make the updates up to a number, together with the leader, or fewer if a signal asks for something;
- ``evaluate``: compute a share of an evaluation, of the present weights or of others that the leader sends;
- ``end``: the training is over.

A checkpoint needs none of them, because all processes have the same weights; so they also have the same optimizer and
strategy, as long as each has started from what the leader sent.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from freerun.distributed.ranks import ALONE, Ranks, Requests
from freerun.errors import Interrupted, RankError
from freerun.search.batches import Share
from freerun.training.averaging import temporary_weights
from freerun.training.checkpoint import serialised
from freerun.training.hooks import TrainerHooks
from freerun.training.learner import Learner, MemoryFull, NotFinite
from freerun.training.order import BatchOrder
from freerun.training.progress import Progress
from freerun.training.signals import CheckpointRequest, StopNow, StopRequest

__all__ = ["Follower", "Followers", "own_batches"]


def own_batches(order: BatchOrder, planned: Sequence[Any], ranks: Ranks) -> list[Any]:
    """Return the batches of an update that this process computes; ``planned`` holds the pairs of all of them."""
    return [order.batch(pairs) for pairs in planned[ranks.rank :: ranks.size]]


@dataclass
class Followers:
    """The leader's side: tells the others what to do, and reads their answers. Without others it does nothing."""

    ranks: Ranks = ALONE
    stop: StopRequest = field(default_factory=StopRequest)
    requested: CheckpointRequest = field(default_factory=CheckpointRequest)
    _own: CheckpointRequest = field(default_factory=CheckpointRequest)
    _until: int = 0
    _checksum: int = 0

    def agree(self, stop: StopRequest, requested: CheckpointRequest) -> tuple[StopRequest, CheckpointRequest]:
        """Return the requests to act on: those that signals have made of any process, as all processes know them."""
        if self.ranks.size == 1:
            return stop, requested
        self.ranks.own_requests = lambda: Requests(stop.signal, requested.is_open)
        self._own = requested
        return self.stop, self.requested

    def load(self, learner: Learner, update: int) -> None:
        """Give the others this process's weights, optimizer and strategy, as they are after ``update``."""
        if self.ranks.size == 1:
            return
        contents = [serialised(tensors) for tensors in learner.state()]
        self.ranks.command("load", update=update, sizes=[len(each) for each in contents], precision=learner.precision)
        for content in contents:
            self.ranks.broadcast(content, len(content))

    def train(self, update: int, until: int, progress: Progress) -> None:
        """Have the others make the updates from ``update`` to ``until``, unless they are doing so already."""
        if update > self._until:
            self._until = until
            self.ranks.command("train", update=update, until=until, position=progress.position)

    def after_update(self, update: int) -> None:
        """Learn what signals have requested; after a request the others wait for the next command."""
        if self._learn():
            self._until = update

    def evaluate(self, learner: Learner, everything: bool, weights: Mapping[str, Tensor] | None) -> None:
        """Have the others compute their shares of an evaluation; ``weights``: of another model than the learner's."""
        if self.ranks.size == 1:
            return
        self._checksum = checksum_of(learner)
        content = b"" if weights is None else serialised(weights)
        self.ranks.command("evaluate", everything=everything, size=len(content))
        self.ranks.broadcast(content, len(content))

    def outcomes(self) -> list[Any]:
        """Return the others' shares of the evaluation; None of one that a signal has stopped.

        Raises:
            RankError: a process has other weights, which equal updates on equal processors cannot lead to.
        """
        answers = self.ranks.answers()
        self._learn()
        for rank, answer in enumerate(answers, start=1):
            if answer["checksum"] != self._checksum:
                raise RankError(
                    self.ranks.name(rank),
                    "its weights differ from those of rank 0, although both made the same updates",
                    "Expected equal weights in all processes",
                    "Use processors of one kind, and check the machine's memory; rerun with --resume, which starts all "
                    "from one checkpoint",
                    is_explained=True,
                )
        return [answer["outcome"] for answer in answers]

    def end(self, signal: int = 0) -> None:
        """End the training in the other processes; ``signal``: the number of the signal that stopped it, or 0."""
        self.ranks.command("end", signal=signal)

    def _learn(self) -> bool:
        found = self.ranks.requests
        if found.signal:
            self.stop.signal = found.signal
        if found.checkpoint:
            self._own.take()  # it was sent with the others
            self.requested.open()
        return bool(found.signal or found.checkpoint)


def checksum_of(learner: Learner) -> int:
    """Return a checksum of the model's weights."""
    checksum = 0
    for tensor in learner.model.state_dict().values():
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), checksum)
    return checksum


class Follower:
    """A process that is not the leader: it follows commands until the training is over."""

    def __init__(self, learner: Learner, order: BatchOrder, hooks: TrainerHooks, accumulate: int) -> None:
        self.learner = learner
        self.order = order
        self.hooks = hooks
        self.accumulate = accumulate
        self.ranks = learner.ranks

    def run(self, stop: StopRequest, requested: CheckpointRequest) -> None:
        """Follow to the end of the training.

        Raises:
            Interrupted: a signal stopped the training.
            RankError, Ended: another process has ended.
            TrainingError: no memory is left here.
        """
        self.ranks.own_requests = lambda: Requests(stop.signal, requested.is_open)
        while (command := self.ranks.next_command())["do"] != "end":
            match command["do"]:
                case "load":
                    self._load(command)
                case "train":
                    self._train(command, requested)
                case "evaluate":
                    self._evaluate(command, stop)
                    requested.take()  # it was sent with the answer
        if command["signal"]:
            raise Interrupted(command["signal"])

    def _load(self, command: Mapping[str, Any]) -> None:
        model, optimizer, strategy = (load_tensors(self.ranks.broadcast(None, size)) for size in command["sizes"])
        self.learner.precision = command["precision"]
        self.learner.load(model, optimizer, strategy, command["update"])

    def _train(self, command: Mapping[str, Any], requested: CheckpointRequest) -> None:
        progress = Progress(**command["position"])
        for number in range(command["update"], command["until"] + 1):
            planned = [self.order.next(progress) for _ in range(self.accumulate)]
            try:
                self.learner.update(number, own_batches(self.order, planned, self.ranks))
            except NotFinite:
                return  # the leader has seen it, too, and ends the training
            except MemoryFull as error:
                raise error.as_error(
                    f"update {number}, on rank {self.ranks.rank}",
                    "the update was not applied",
                    "Free memory there, or lower training.batch_size or training.batch_tokens in another run",
                ) from None
            if self.ranks.requests.checkpoint:
                requested.take()
            if self.ranks.requests.signal or self.ranks.requests.checkpoint:
                return

    def _evaluate(self, command: Mapping[str, Any], stop: StopRequest) -> None:
        content = self.ranks.broadcast(None, command["size"])
        weights = temporary_weights(self.learner.model, load_tensors(content)) if content else contextlib.nullcontext()
        share = Share(self.ranks.rank, self.ranks.size)

        def check() -> None:
            if stop:
                raise StopNow

        try:
            with weights:
                outcome = self.hooks.outcome(self.learner.model, command["everything"], check, share)
        except StopNow:
            outcome = None
        self.ranks.answer({"outcome": outcome, "checksum": checksum_of(self.learner)})
