"""How processes find each other: through the environment variables that torchrun, and freerun's own launcher, set.

``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` say who a process is and where the store is, in which all
leave their names. To start processes by other means (ssh, srun), set the four variables.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from freerun.distributed.ranks import ALONE, Place, Ranks
from freerun.errors import ConfigError, Ended, Interrupted, RankError, UserError, exit_code
from freerun.threads import usable_cores
from freerun.version import VERSION

__all__ = ["is_one_of_several", "joined", "was_restarted"]

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Return True if this process was started as one of several."""
    return all(environment.get(name) for name in _VARIABLES) and environment["WORLD_SIZE"] != "1"


def was_restarted(environment: Mapping[str, str]) -> bool:
    """Return True if torch's launcher has started the processes again, after one of them had died."""
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextmanager
def joined(timeout: float) -> Iterator[Ranks]:
    """Join the other processes that the environment names; alone without them.

    The other processes learn of an exception that leaves the block.

    ``timeout``: seconds that the processes wait for each other at the start, and in the middle of a sum.

    Raises:
        ConfigError: the variables contradict each other, or the leader's port is in use.
        RankError: not all processes came, or they are of different versions.
    """
    if not is_one_of_several(os.environ):
        yield ALONE
        return
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if rank >= size:
        raise ConfigError.single(
            "RANK", f"the value is {rank}, and WORLD_SIZE is {size}", "Expected 0 to WORLD_SIZE - 1", "Correct them"
        )
    ranks = _introduced(_store(rank, size, timeout), rank, size, timeout)
    try:
        yield ranks
    except BaseException as error:
        if not isinstance(error, Ended):
            ranks.end(exit_code(error), _words(error))
        if not ranks.leads and isinstance(error, UserError) and not isinstance(error, RankError):
            raise Ended(exit_code(error)) from error  # rank 0 reports it
        raise
    finally:
        ranks.close(hosts_store=ranks.leads and "TORCHELASTIC_RUN_ID" not in os.environ)
        if dist.is_initialized():
            dist.destroy_process_group()


def _number(name: str) -> int:
    value = os.environ[name]
    if not value.isascii() or not value.isdigit() or (name == "WORLD_SIZE" and int(value) < 1):
        raise ConfigError.single(name, f"the value is {value!r}", "Expected a whole number", "Correct this variable")
    return int(value)


def _store(rank: int, size: int, timeout: float) -> Any:
    """Return the store that all processes share; rank 0 opens it, unless torchrun has."""
    address, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT")
    where = f"{address}:{port}"
    if not 0 < port < 2**16:
        raise ConfigError.single(
            "MASTER_PORT", f"the value is {port}", "Expected a number from 1 to 65,535", "Choose another port"
        )
    if rank:
        _wait_for_listener(rank, address, port, timeout)
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=timeout)))
    except (RuntimeError, ValueError) as error:
        reason = str(error)
    else:
        return PrefixStore(f"freerun/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    if "EADDRINUSE" in reason or "in use" in reason:
        raise ConfigError.single(
            "MASTER_PORT",
            f"port {port} is in use on this machine",
            "Expected a free port, on which the processes meet",
            "Choose another port, the same in all processes",
        )
    if rank == 0 and "clients joined" in reason:
        raise _not_all_came(where, size, timeout)
    raise _unreachable(rank, where, timeout, reason)


def _wait_for_listener(rank: int, address: str, port: int, timeout: float) -> None:
    """Wait until rank 0, or torchrun, listens; torch itself reports each of its tries on standard error."""
    deadline = time.monotonic() + timeout
    parent = os.getppid()
    while os.getppid() == parent:  # else the launcher is gone
        try:
            socket.create_connection((address, port), max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise _unreachable(rank, f"{address}:{port}", timeout, error.strerror or str(error)) from None
        time.sleep(0.1)


def _unreachable(rank: int, where: str, timeout: float, reason: str) -> RankError:
    return RankError(
        f"rank {rank}",
        f"rank 0 cannot be reached at {where} within {timeout:g} s ({' '.join(reason.split())[:200]})",
        "Expected rank 0 to be running there",
        "Check MASTER_ADDR and MASTER_PORT, the firewall, and that rank 0 has started; --timeout sets how long to wait",
    )


def _introduced(store: Any, rank: int, size: int, timeout: float) -> Ranks:
    """Leave this process's name in the store, read all others, and open the group in which gradients travel."""
    cores, machine = usable_cores(), _machine()
    mine = {
        "freerun": VERSION,
        "host": socket.gethostname(),
        "machine": machine,
        "cores": cores,
        "process": os.getpid(),
        "backend": _backend(),
    }
    store.set(f"hello/{rank}", json.dumps(mine))
    keys = [f"hello/{other}" for other in range(size)]
    try:
        store.wait(keys, timedelta(seconds=timeout))
    except RuntimeError:
        raise _not_all_came(f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", size, timeout) from None
    hellos = [json.loads(value) for value in store.multi_get(keys)]
    _check_equal(hellos, rank)
    hosts = [hello["host"] for hello in hellos]
    here = [other for other, hello in enumerate(hellos) if hello["machine"] == machine]
    # where each process may use cores of its own (srun does this), they need not be divided
    sharing = [other for other in here if hellos[other]["cores"] == cores]
    place = Place(rank, size, here.index(rank), len(here), max(1, len(cores) // len(sharing)))
    if len(here) == size and "GLOO_SOCKET_IFNAME" not in os.environ and Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # nothing needs to leave this machine
    processes = [hello["process"] for hello in hellos] if len(here) == size else []
    ranks = Ranks(place, store, hosts, processes, timeout)
    try:
        dist.init_process_group(
            _backend(),
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
    except RuntimeError as error:
        ranks.close()
        raise RankError(
            f"rank {rank}",
            f"the processes cannot be connected ({' '.join(str(error).split())[:200]})",
            "Expected a network on which each can reach all others",
            "Check the firewall; GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME) names the network interface to use",
        ) from None
    return ranks


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def _machine() -> str:
    """Return what identifies this machine, or the container that processes of it can see each other in."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _check_equal(hellos: list[dict[str, Any]], own_rank: int) -> None:
    """Check that all processes have one version, and one way to send gradients."""
    first = hellos[0]
    for rank, hello in enumerate(hellos):
        if hello["freerun"] != first["freerun"]:
            what = f"runs freerun {hello['freerun']}, and rank 0 ({first['host']}) runs freerun {first['freerun']}"
        elif hello["backend"] != first["backend"]:
            what = f"sends gradients by {hello['backend']}, and rank 0 ({first['host']}) by {first['backend']}"
        else:
            continue
        if own_rank:
            raise Ended(2)  # rank 0 says why
        raise RankError(
            f"rank {rank} ({hello['host']})",
            what,
            "Expected the same everywhere",
            "Install the same versions of freerun and torch on all machines",
            is_explained=True,
        )


def _not_all_came(where: str, size: int, timeout: float) -> RankError:
    return RankError(
        where,
        f"not all of the {size} processes have joined within {timeout:g} s",
        "Expected WORLD_SIZE processes, with the ranks 0 to WORLD_SIZE - 1",
        "Start them all, or raise --timeout",
    )


def _words(error: BaseException) -> str:
    """Return what rank 0 should report: nothing of a signal, which is no error, or of a loss that it sees itself."""
    if isinstance(error, RankError | Interrupted | KeyboardInterrupt):
        return ""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
