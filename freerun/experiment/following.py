"""A process of a training that is not rank 0: it prepares the same data and model, and follows rank 0's commands.

Rank 0 makes all choices and sends the complete configuration. The others read the pairs themselves, and both sides
compare what they have: the keys that the user set, the data, and the ids that the model reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from freerun.build import build_learner, new_model, order_of, trainer_settings
from freerun.config import changed_keys, flatten, override, parse_config, shown, strategies_of
from freerun.data.training_pairs import TrainingPairs
from freerun.distributed.ranks import Ranks
from freerun.errors import RankError, RunError
from freerun.experiment.bundle_reading import as_bundle_reads
from freerun.experiment.data_source import DataSource
from freerun.experiment.dataset import load_data
from freerun.experiment.initial_model import data_hashes, network_sizes, read_initial_bundle
from freerun.experiment.prepare import PreparedRun
from freerun.experiment.request import COMMAND, DEVICE_KEY, TrainRequest, requested_keys, run_directory
from freerun.experiment.run_hooks import RunHooks
from freerun.forcing.registry import Trust
from freerun.models.device import choose_device, deterministic, first_line, is_out_of_memory
from freerun.models.torch_threads import Threads
from freerun.training.followers import Follower
from freerun.training.signals import checkpoints_on_signals, stop_on_signals

__all__ = ["follow", "prepare_followers"]

_PLACES = ("data.train", "data.dev", "training.init")
"""Keys with paths: files may be elsewhere on another machine, but not others."""
_OWN = (*_PLACES, "training.device", "training.threads")
"""Keys that each process may set for itself."""


def prepare_followers(prepared: PreparedRun, request: TrainRequest, ranks: Ranks, device: torch.device) -> set[str]:
    """Have the other processes read the data, and compare theirs with rank 0's; return the precisions they choose.

    Raises:
        RankError: a process has another configuration or other data, or has ended.
    """
    if ranks.size == 1:
        return set()
    ranks.command("prepare", config=prepared.config.model_dump(exclude_none=True, mode="json"))
    keys, hashes = requested_keys(request), _hashes(prepared.hashes, prepared.data.corpus)
    precisions: set[str] = set()
    for rank, answer in enumerate(ranks.answers(), start=1):
        if changes := [change for change in changed_keys(keys, answer["keys"]) if not _is_own(change[0])]:
            key, here, there = changes[0]
            raise _differs(ranks, rank, f"{key} is {shown(there)} there, and {shown(here)} in rank 0", "configuration")
        if others := [name for name, digest in hashes.items() if answer["hashes"].get(name) != digest]:
            what = f"its {' and '.join(_NAMES[name] for name in others)} differ from rank 0's"
            raise _differs(ranks, rank, what, "data")
        if answer["device"] != device.type:
            what = f"this process would train on {answer['device']}, and rank 0 on {device.type}"
            raise _differs(ranks, rank, what, "kind of device")
        precisions.add(answer["precision"])
    return precisions


_NAMES = {
    "train_sha256": "training pairs",
    "dev_sha256": "development pairs",
    "init_sha256": "initial weights",
    "ids_sha256": "encoded pairs",
}


def _is_own(key: str) -> bool:
    return any(key == own or key.startswith(f"{own}.") for own in _OWN)


def _differs(ranks: Ranks, rank: int, what: str, kind: str) -> RankError:
    return RankError(
        ranks.name(rank),
        what,
        f"Expected the same {kind} in all processes",
        "Correct it there, and start again",
        is_explained=True,
    )


def grace_of(ranks: Ranks) -> float:
    """Return the seconds within which a process ignores a signal after the first one, see ``stop_on_signals``."""
    return 2.0 if ranks.size > 1 else 0.0


def _hashes(hashes: Mapping[str, str], corpus: TrainingPairs) -> dict[str, str]:
    """Return the hashes of the data, and of the ids that the model reads."""
    return {**hashes, "ids_sha256": corpus.digest}


def _with_own(config: dict[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return rank 0's configuration with the keys that each process may set for itself."""
    for key, value in flatten(keys).items():
        if _is_own(key):
            config = override(config, key.split("."), value, COMMAND)
    return config


def follow(request: TrainRequest, ranks: Ranks) -> None:
    """Train as rank 0 says, until it ends.

    Raises:
        UserError: something is wrong here, for example with the data; rank 0 reports it.
        Interrupted: a signal stopped the training.
        RankError, Ended: another process has ended.
    """
    try:
        _follow(request, ranks)
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        what = f"no memory is left ({first_line(error)})"
    raise RunError(
        f"rank {ranks.rank}", what, "Expected room for the model, its optimizer and evaluations", "Free memory there"
    )


def _follow(request: TrainRequest, ranks: Ranks) -> None:
    with checkpoints_on_signals() as requested:
        keys = requested_keys(request)
        command = ranks.next_command()
        if command["do"] == "end":
            return  # the run was complete
        trust = Trust(strategies_of(keys), request.trust_code)
        config = parse_config(_with_own(command["config"], keys), "rank 0's configuration", trust.settings_of)
        place = ranks.place
        device = choose_device(config.training.device, DEVICE_KEY, place.local_rank, place.local_size)
        with Threads(config.training.threads or place.cores):
            init = read_initial_bundle(config.training.init, {}, "rank 0's configuration")
            reading = config.data if init is None else as_bundle_reads(config.data, init)
            pairs = DataSource.open(reading, quiet=True)
            data = load_data(config, pairs, (init.source, init.target) if init else None)
            hashes = data_hashes(pairs.hashes, init)
            model = new_model(config, network_sizes(config.model, data.source, data.target, init)).to(device)
            order = order_of(config.training, data.corpus)
            learner = build_learner(config, model, order, ranks)
            answer = {"keys": keys, "hashes": _hashes(hashes, data.corpus), "device": device.type}
            ranks.answer({**answer, "precision": learner.precision})
            hooks = RunHooks(run_directory(request), config, data, model, "")
            follower = Follower(learner, order, hooks, trainer_settings(config, order).accumulate)
            with stop_on_signals(grace_of(ranks)) as stop, deterministic(device, learner.precision):
                follower.run(stop, requested)
