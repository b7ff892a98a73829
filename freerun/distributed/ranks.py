"""The processes of a training as ranks: rank 0 leads, the others follow.

Gradients travel through torch.distributed. Everything else goes through the store in which the processes found each
other: what the leader tells the others to do, their answers, and signs of life. So a rank may work for an hour on
something of its own, such as reading its data or writing a checkpoint, and the others wait for it as long as it lives;
a rank that dies is noticed within ``signs_of_life.SILENCE`` seconds, and at once in the middle of a sum.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from freerun.distributed import signs_of_life
from freerun.distributed.rank_sums import Divisor, OrderedSums, RankSums
from freerun.distributed.shared_memory import SharedSums, can_share
from freerun.distributed.signs_of_life import SignsOfLife, Watch
from freerun.errors import Ended, RankError
from freerun.models.device import is_out_of_memory

__all__ = ["ALONE", "Place", "Ranks", "Requests"]

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
"""Seconds between looks into the store while waiting."""
_FAREWELL: Final = 5.0
"""Seconds that rank 0 waits for the others before its store goes with it."""
_PIECE: Final = 2**22
"""Bytes of an answer under one key: the store limits the size of a value."""
_ENDED: Final = "ended"


@dataclass(frozen=True)
class Place:
    """Where a process runs: its rank among all, and among those of its machine; ``cores`` are its share of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    cores: int = 0


@dataclass(frozen=True)
class Requests:
    """What signals have requested of a process: to stop (the signal's number, or 0), and a checkpoint."""

    signal: int = 0
    checkpoint: bool = False


class Ranks:
    """The processes that train one model, seen from one of them.

    Attributes:
        place: of this process.
        hosts: the host of each rank.
        processes: of each rank its process, if all are on this machine.
        timeout: seconds that ranks wait for each other in the middle of a sum.
        own_requests: returns what signals have requested of this process; sent along with each sum and answer.
        requests: what signals have requested of any process, as of the last sum or answer: equal on all ranks.
    """

    def __init__(
        self,
        place: Place,
        store: Any = None,
        hosts: Sequence[str] = (),
        processes: Sequence[int] = (),
        timeout: float = 0,
    ) -> None:
        self.place = place
        self.hosts = hosts
        self.processes = processes
        self.timeout = timeout
        self.own_requests: Callable[[], Requests] = Requests
        self.requests = Requests()
        self._store = store
        self._commands = 0
        self._sums: dict[tuple[Any, ...], OrderedSums] = {}
        self._life: SignsOfLife | None = None if store is None else SignsOfLife(store.clone(), place.rank)

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.place.rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.place.size

    @property
    def leads(self) -> bool:
        """True in rank 0, which alone writes files and prints."""
        return self.rank == 0

    # -- sums ---------------------------------------------------------------------------------------------------------

    def add_up(
        self, tensors: Sequence[Tensor], numbers_M: Tensor, divisor: Divisor | None = None, divided: int = 0
    ) -> Tensor:
        """Replace tensors by their sums over all ranks, in rank order; return the numbers [R, M] of every rank.

        All ranks call this together, with tensors of the same shapes and equally many numbers (float64). The sums of
        the first ``divided`` tensors are divided by ``divisor``, a function of all ranks' numbers.

        Raises:
            RankError, Ended: a rank has ended.
        """
        mine = self.own_requests()
        sent = torch.cat([numbers_M, numbers_M.new_tensor([mine.signal, mine.checkpoint])])
        layout = (len(sent), *(tensor.shape for tensor in tensors))
        if layout not in self._sums:
            self._sums[layout] = self._new_sums(tensors, len(sent))
        sums = self._sums[layout]
        own = None if divisor is None else lambda numbers_RM: divisor(numbers_RM[:, :-2])
        numbers_RM: Tensor = self._together(lambda: sums.add_up(tensors, sent, own, divided))
        signals_R, checkpoints_R = numbers_RM[:, -2:].t().tolist()
        self._merge(
            [Requests(int(number), bool(wanted)) for number, wanted in zip(signals_R, checkpoints_R, strict=True)]
        )
        return numbers_RM[:, :-2]

    def _new_sums(self, tensors: Sequence[Tensor], numbers: int) -> OrderedSums:
        """Return what adds up tensors of these shapes: in shared memory if all ranks can reach it."""
        if self.processes and can_share(tensors[0].device):
            try:
                shared = self._shared_sums(tensors, numbers)
            except OSError:
                shared = None  # processes in separate containers, for example
            if self.all_numbers(torch.tensor([float(shared is not None)], dtype=torch.float64)).all() and shared:
                return shared
        return RankSums(tensors, numbers, self.rank, self.size)

    def _shared_sums(self, tensors: Sequence[Tensor], numbers: int) -> SharedSums:
        key = f"memory/{len(self._sums)}"

        def exchange(path: str | None) -> str:
            if path is not None:
                self._use("set", key, path)
            return self._wait(key, 0).decode()

        return SharedSums(
            tensors, numbers, rank=self.rank, processes=self.processes, exchange=exchange, timeout=self.timeout
        )

    def all_numbers(self, numbers_M: Tensor) -> Tensor:
        """Return the numbers [R, M] of every rank, float64; all ranks call this together."""
        received_RM = numbers_M.new_empty(self.size, len(numbers_M))
        self._together(lambda: dist.all_gather(list(received_RM), numbers_M))
        return received_RM

    def broadcast(self, content: bytes | None, size: int) -> bytes:
        """Return the leader's ``content`` of ``size`` bytes on every rank; the others pass None."""
        if not size:
            return b""
        data = torch.frombuffer(bytearray(content or bytes(size)), dtype=torch.uint8)
        self._together(lambda: dist.broadcast(data, 0))
        return data.numpy().tobytes()

    def _together(self, collective: Callable[[], Any]) -> Any:
        """Run a collective operation; an error of the library means that a rank has ended."""
        try:
            return collective()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())
        raise self._lost(reason)

    def _merge(self, requests: Sequence[Requests]) -> None:
        number = next((each.signal for each in requests if each.signal), 0)
        self.requests = Requests(number, any(each.checkpoint for each in requests))

    # -- the leader's commands, and the others' answers ---------------------------------------------------------------

    def command(self, what: str, **details: Any) -> None:
        """Tell all other ranks what to do next, if there are others; only the leader does."""
        if self.size == 1:
            return
        self._commands += 1
        self._use("set", f"command/{self._commands}", json.dumps({"do": what, **details}))

    def next_command(self) -> Mapping[str, Any]:
        """Wait for the leader's next command.

        Raises:
            RankError, Ended: the leader, or another rank, has ended.
        """
        self._commands += 1
        command: Mapping[str, Any] = json.loads(self._wait(f"command/{self._commands}", 0))
        return command

    def answer(self, content: Any) -> None:
        """Answer the leader's last command with a JSON value, and what signals have requested."""
        mine = self.own_requests()
        encoded = json.dumps([mine.signal, mine.checkpoint, content], ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )
        data = zlib.compress(encoded, 1)
        pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
        key = f"answer/{self._commands}/{self.rank}"
        for number, piece in enumerate(pieces):
            self._use("set", f"{key}/{number}", piece)
        self._use("set", key, str(len(pieces)))

    def answers(self) -> list[Any]:
        """Return the answers of the other ranks to the last command, by rank; the leader's own requests count, too.

        Raises:
            RankError, Ended: a rank has ended.
        """
        found = []
        requests = [self.own_requests()]
        for rank in range(1, self.size):
            key = f"answer/{self._commands}/{rank}"
            pieces = [f"{key}/{number}" for number in range(int(self._wait(key, rank)))]
            data = b"".join(self._use("get", piece) for piece in pieces)
            number, checkpoint, content = json.loads(zlib.decompress(data))
            for piece in pieces:
                self._use("delete_key", piece)
            requests.append(Requests(number, checkpoint))
            found.append(content)
        self._merge(requests)
        return found

    # -- ends ---------------------------------------------------------------------------------------------------------

    def end(self, code: int, message: str = "") -> None:
        """Tell the other ranks that this one ends, and why, unless another one has said so before."""
        end = json.dumps({"rank": self.rank, "code": code, "message": message})
        with contextlib.suppress(RuntimeError):  # the store is gone, and so is the process that kept it
            self._store.compare_set(_ENDED, "", end)

    def close(self, hosts_store: bool = False) -> None:
        """Stop the signs of life; the rank that hosts the store first waits until the others need it no more."""
        if self._store is None:
            return
        with contextlib.suppress(RuntimeError):
            self._store.set(f"bye/{self.rank}", "")
            deadline = time.monotonic() + _FAREWELL if hosts_store else 0.0
            others = [f"bye/{rank}" for rank in range(self.size)]
            while time.monotonic() < deadline and not self._store.check(others):
                time.sleep(_LONGEST_PAUSE)
        if self._life is not None:
            self._life.stop()

    def _wait(self, key: str, rank: int) -> bytes:
        """Wait for what ``rank`` writes, as long as it lives."""
        watch, pause = Watch(), _SHORTEST_PAUSE
        # asked again and again: the store's own wait reports each of its timeouts on standard error
        while not self._use("check", [key]):
            if self._use("check", [_ENDED]):
                raise self._lost("")
            # after a death, the launcher sends SIGTERM to the others: then there is less to be patient for
            patience = signs_of_life.SILENCE / (4 if self.own_requests().signal else 1)
            if watch.is_silent(self._use("add", f"alive/{rank}", 0), patience):
                raise self._gone([rank], f"no sign of life for {patience:.0f} seconds")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return bytes(self._use("get", key))

    def _use(self, method: str, *arguments: Any) -> Any:
        """Call a method of the store; without it no other process can be reached."""
        try:
            return getattr(self._store, method)(*arguments)
        except RuntimeError as error:
            raise self._gone([], " ".join(str(error).split())) from None

    def _lost(self, reason: str) -> RankError | Ended:
        """Return the error for a rank that has ended: what it said, or else that it is silent."""
        deadline = time.monotonic() + 2.5 * signs_of_life.INTERVAL
        before = self._alive()
        while time.monotonic() < deadline:
            if self._use("check", [_ENDED]):
                return self._explained(json.loads(self._use("get", _ENDED)))
            time.sleep(0.1)
        silent = [rank for rank, (one, two) in enumerate(zip(before, self._alive(), strict=True)) if one == two]
        return self._gone([rank for rank in silent if rank != self.rank], reason)

    def _alive(self) -> list[int]:
        return [int(self._use("add", f"alive/{rank}", 0)) for rank in range(self.size)]

    def _explained(self, end: Mapping[str, Any]) -> RankError | Ended:
        rank, code, message = end["rank"], end["code"], end["message"]
        if self.leads and message:
            return RankError(self.name(rank), message, is_explained=True)
        return Ended(code)

    def _gone(self, ranks: Sequence[int], reason: str) -> RankError:
        who = " and ".join(self.name(rank) for rank in ranks) or "freerun train"
        what = ("" if ranks else "another process ") + "has ended or cannot be reached"
        return RankError(
            who,
            what + (f" ({reason[:300]})" if reason else ""),
            "Expected all processes to train to the end",
            "Check its last output and whether its machine ran out of memory, then rerun with --resume",
        )

    def name(self, rank: int) -> str:
        """Return a rank as messages name it."""
        return f"rank {rank} ({self.hosts[rank]})" if self.hosts else f"rank {rank}"


ALONE: Final = Ranks(Place())
"""One process, as usual."""
