"""What the leader says, what the others answer, and what becomes of the rest when a rank ends."""

from __future__ import annotations

import threading
import time

import pytest

from freerun.distributed import ranks as module
from freerun.distributed import signs_of_life
from freerun.distributed.ranks import ALONE, Requests
from freerun.errors import DataError, Ended, RankError
from tests.ranks import Meeting, ThreadRanks, in_threads


def test_one_process_leads_nobody():
    assert (ALONE.rank, ALONE.size, ALONE.leads) == (0, 1, True)


def test_commands_arrive_in_order_and_answers_by_rank():
    def lead(ranks):
        ranks.command("first", value=1.5)
        first = ranks.answers()
        ranks.command("second", text="\u00e4\ud800")
        return first, ranks.answers()

    def follow(ranks):
        for _ in range(2):
            command = ranks.next_command()
            ranks.answer({"rank": ranks.rank, "heard": command})
        return "done"

    (first, second), *others = in_threads(3, lead, follow)
    assert [answer["rank"] for answer in first] == [1, 2]
    assert {tuple(sorted(answer["heard"].items())) for answer in first} == {(("do", "first"), ("value", 1.5))}
    assert [answer["heard"]["text"] for answer in second] == ["\u00e4\ud800"] * 2
    assert others == ["done", "done"]


def test_an_answer_of_any_length_arrives_whole(monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 10)
    long = [float("nan"), *range(500), "x" * 300]

    def lead(ranks):
        ranks.command("say")
        return ranks.answers(), ranks._store.num_keys()

    def follow(ranks):
        ranks.next_command()
        ranks.answer(long)

    ((answer,), keys), _ = in_threads(2, lead, follow)
    assert answer[1:] == long[1:]
    assert keys < 10, "the pieces were removed from the store"


@pytest.mark.parametrize(
    ("each", "merged"),
    [
        ([Requests(), Requests(), Requests()], Requests()),
        ([Requests(), Requests(15), Requests(2)], Requests(15)),
        ([Requests(), Requests(), Requests(checkpoint=True)], Requests(checkpoint=True)),
        ([Requests(1, True), Requests(), Requests()], Requests(1, True)),
    ],
)
def test_all_ranks_learn_what_signals_have_requested_of_any(each, merged):
    def lead(ranks):
        ranks.own_requests = lambda: each[0]
        ranks.command("say")
        ranks.answers()
        return ranks.requests

    def follow(ranks):
        ranks.own_requests = lambda: each[ranks.rank]
        ranks.next_command()
        ranks.answer(None)

    assert in_threads(3, lead, follow)[0] == merged


def test_the_leader_says_why_another_rank_has_ended_and_the_others_end_with_its_code():
    def lead(ranks):
        ranks.command("read")
        ranks.answers()

    def follow(ranks):
        ranks.next_command()
        if ranks.rank == 1:
            raise DataError("pairs.tsv", "no such file", "Expected a file", "Check the path")
        ranks.next_command()

    leader, failed, other = in_threads(3, lead, follow)
    assert isinstance(leader, RankError)
    assert leader.is_explained
    assert str(leader) == "rank 1 (host1): pairs.tsv: no such file. Expected a file. Check the path."
    assert isinstance(failed, DataError)
    assert isinstance(other, Ended)
    assert other.code == 2


def test_a_rank_that_ends_in_the_middle_of_a_sum_is_missed_by_all():
    def lead(ranks):
        ranks.broadcast(b"content", 7)

    def follow(ranks):
        raise DataError("pairs.tsv", "damaged", "Expected pairs", "Put them back")

    leader, _ = in_threads(2, lead, follow)
    assert "damaged" in str(leader)


def test_a_rank_without_a_sign_of_life_counts_as_dead(monkeypatch):
    monkeypatch.setattr(signs_of_life, "SILENCE", 0.3)
    meeting = Meeting(2)
    leader, other = (ThreadRanks(rank, 2, meeting) for rank in range(2))
    other.close()  # as if it were killed: it says nothing any more
    leader.command("say")
    gone = r"rank 1 \(host1\): has ended or cannot be reached \(no sign of life for 0 seconds\)"
    found = []

    def wait():
        try:
            found.append(leader.answers())
        except RankError as error:
            found.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(20)
    assert found, "it waits for ever"
    with pytest.raises(RankError, match=gone):
        raise found[0]
    assert not found[0].is_explained
    leader.close()


def test_after_a_signal_a_rank_is_less_patient(monkeypatch):
    monkeypatch.setattr(signs_of_life, "SILENCE", 4.0)
    meeting = Meeting(2)
    leader, other = (ThreadRanks(rank, 2, meeting) for rank in range(2))
    leader.close()
    other.own_requests = lambda: Requests(15)
    began = time.monotonic()
    with pytest.raises(RankError, match="no sign of life for 1 seconds"):
        other.next_command()
    assert time.monotonic() - began < 3
    other.close()


def test_a_rank_that_lives_is_waited_for(monkeypatch):
    monkeypatch.setattr(signs_of_life, "SILENCE", 0.3)
    monkeypatch.setattr(signs_of_life, "INTERVAL", 0.05)

    def lead(ranks):
        ranks.command("say")
        return ranks.answers()

    def follow(ranks):
        ranks.next_command()
        time.sleep(1)
        ranks.answer("late")

    assert in_threads(2, lead, follow)[0] == ["late"]


def test_without_the_store_nobody_can_be_reached():
    class Gone:
        def clone(self):
            return self

        def __getattr__(self, name):
            raise RuntimeError("Broken pipe")

    lost = module.Ranks(module.Place(1, 2), Gone(), ["a", "b"])
    with pytest.raises(RankError, match=r"freerun train: another process has ended or cannot be reached \(Broken"):
        lost.next_command()
    lost.end(2, "a last word that nobody hears")
    lost.close()
