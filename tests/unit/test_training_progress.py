from __future__ import annotations

import dataclasses
import json

from freerun.training.progress import Progress


def test_an_interval_has_means_where_there_is_a_count_and_sums_elsewhere():
    progress = Progress()
    for loss, count, pairs in ((1.0, 1, 8), (2.0, 3, 5)):
        progress.add("loss", loss, count)
        progress.add("pairs", pairs, 0)
    figures = progress.take_interval()
    assert figures == {"loss": 0.75, "pairs": 13}
    assert type(figures["pairs"]) is int
    assert progress.take_interval() == {}


def test_progress_survives_json_with_its_figures_in_order():
    progress = Progress(update=3, epoch=1, batch=2, best={"b": 0.1 + 0.2, "a": None}, journal_size=99)
    progress.add("z", 1 / 3, 1)
    progress.add("a", 2.0, 0)
    again = Progress(**json.loads(json.dumps(dataclasses.asdict(progress))))
    assert again == progress
    assert list(again.interval) == ["z", "a"]
    assert list(again.best) == ["b", "a"]
