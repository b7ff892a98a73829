"""Sums over real processes: the plain sum in the order of the ranks, to the last bit, by both transports."""

from __future__ import annotations

import itertools
import os
import socket
import time

import torch
import torch.distributed as dist
from torch import multiprocessing

from freerun.distributed.rank_sums import RankSums, share_of
from freerun.distributed.shared_memory import SharedSums, can_share

RANKS = 3
SHAPES = ((5, 7), (3,), (), (11, 2))
LEADING = 2
"""So many of the tensors are divided."""
DTYPES = (torch.float32, torch.float64)
LIMIT = 30


def tensors_of(rank, number, dtype):
    """What a rank adds in a sum: numbers of very different sizes, so that the order of adding matters."""
    generator = torch.Generator().manual_seed(10 * rank + number)
    sizes = [10.0 ** torch.randint(-3, 4, shape, generator=generator) for shape in SHAPES]
    return [(torch.randn(each.shape, generator=generator) * each).to(dtype) for each in sizes]


def numbers_of(rank, number):
    return torch.tensor([rank + 0.25, float(number), float("nan"), -0.0], dtype=torch.float64)


def expected(number, dtype):
    """The sums in rank order, the leading ones divided, with plain torch."""
    sums = tensors_of(0, number, dtype)
    for rank in range(1, RANKS):
        for total, each in zip(sums, tensors_of(rank, number, dtype), strict=True):
            total += each
    for total in sums[:LEADING]:
        total /= divisor(torch.stack([numbers_of(rank, number) for rank in range(RANKS)]))
    return sums


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def divisor(numbers_RM):
    return float(numbers_RM[:, 0].sum())


def work(rank, port, directory):
    """Add up several times by both transports, and save what came out; then rank 2 dies while the others wait."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, RANKS, rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    store.set(f"process/{rank}", str(os.getpid()))
    processes = [int(store.get(f"process/{other}")) for other in range(RANKS)]
    found = {}
    for dtype in DTYPES:
        first = tensors_of(rank, 0, dtype)

        def exchange(path, key=f"memory/{dtype}"):
            if path is not None:
                store.set(key, path)
            return store.get(key).decode()

        ways = {"gloo": RankSums(first, 4, rank, RANKS)}
        if can_share(torch.device("cpu")):
            ways["shared"] = SharedSums(first, 4, rank=rank, processes=processes, exchange=exchange, timeout=LIMIT)
        for number in range(4):
            for name, way in ways.items():
                tensors = tensors_of(rank, number, dtype)
                numbers_RM = way.add_up(tensors, numbers_of(rank, number), divisor, LEADING)
                found[f"{name}/{dtype}/{number}"] = (tensors, numbers_RM)
                time.sleep(0.01 * ((rank + number) % RANKS))  # not always the same one is last
    if "shared" in ways and rank != 2:
        start = time.monotonic()
        try:
            ways["shared"].add_up(tensors_of(rank, 0, dtype), numbers_of(rank, 0))
        except RuntimeError as error:
            found["death"] = str(error), time.monotonic() - start
    torch.save(found, directory / f"{rank}.pt")
    os._exit(0)  # gloo would wait for the rank that is gone


def test_both_transports_add_up_in_rank_order(tmp_path):
    context = multiprocessing.spawn(work, (free_port(), tmp_path), nprocs=RANKS, join=False)
    while not context.join(LIMIT):
        pass
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    ways = ["gloo", *(["shared"] if can_share(torch.device("cpu")) else [])]
    for dtype, number in itertools.product(DTYPES, range(4)):
        sums = expected(number, dtype)
        numbers = torch.stack([numbers_of(rank, number) for rank in range(RANKS)])
        for result, way in itertools.product(results, ways):
            tensors, numbers_RM = result[f"{way}/{dtype}/{number}"]
            assert all(torch.equal(one, other) for one, other in zip(tensors, sums, strict=True)), (way, number)
            assert numbers_RM.numpy().tobytes() == numbers.numpy().tobytes()
    for result in results[:2] if "shared" in ways else []:
        reason, seconds = result["death"]
        assert reason == "a process on this machine has ended"
        assert seconds < LIMIT / 2


def test_a_share_ends_where_the_leading_gradients_end():
    own = torch.arange(4.0)
    assert share_of(own, 0, 10).tolist() == [0, 1, 2, 3]
    assert share_of(own, 1, 6).tolist() == [0, 1]
    assert share_of(own, 2, 6).tolist() == []
