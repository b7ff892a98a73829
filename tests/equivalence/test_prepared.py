"""Prepared pairs are the pairs of their files: the same batches, references, counts and trained models."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freerun.cli import main
from freerun.data.batching import make_batch
from freerun.data.prepared import PreparedPairs
from freerun.experiment.dataset import most_frequent_of
from freerun.training.order import BatchOrder
from freerun.training.progress import Progress
from tests.prepared_pairs import block_lines, prepared, training_data, write_rows

slow_files = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def rows_of(count, seed=0, features=False):
    """Pairs of which many share sources, some are long, and some differ only in what a model does not read."""
    choose = random.Random(seed)
    rows = []
    for _ in range(count):
        source = "".join(choose.choice("abçdé ") for _ in range(choose.randrange(5)))
        target = " ".join(choose.choice(["x", "y", "zz", "q"]) for _ in range(choose.randrange(1, 7)))
        rows.append((source, target, *([choose.choice(["P;Q", "Q", "", "R; P"])] if features else [])))
    return rows


def same_data(one, other):
    """Check everything that training reads of two ``TrainingData``; the first is of prepared pairs."""
    assert isinstance(one.corpus, PreparedPairs)
    assert one.report == other.report
    assert one.source.vocabulary == other.source.vocabulary
    assert one.target.vocabulary == other.target.vocabulary
    assert (one.source.features is None) == (other.source.features is None)
    assert one.dev == other.dev
    assert one.target.written == other.target.written
    for name in ("num_sources", "num_tokens", "num_unknown", "mean_lengths"):
        assert getattr(one.corpus, name) == getattr(other.corpus, name), name
    assert one.corpus.largest_ratio == pytest.approx(other.corpus.largest_ratio, rel=1e-15)
    everything = np.arange(len(other.corpus))
    first, second = (make_batch(data.corpus, everything) for data in (one, other))
    for name in ("source", "source_lengths", "target_in", "target_out", "target_lengths"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
        assert getattr(first, name).dtype == getattr(second, name).dtype
    assert (first.features is None) == (second.features is None)
    assert first.features is None or np.array_equal(first.features, second.features)
    for mine, its in zip(first.references, second.references, strict=True):
        assert list(map(list, mine)) == list(map(list, its))


@slow_files
@given(
    count=st.integers(8, 60),
    lines=st.integers(1, 20),
    seed=st.integers(0, 99),
    features=st.booleans(),
    reverse=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "minimum_count": st.integers(1, 9),
            "max_source_length": st.integers(2, 4),
            "max_target_length": st.integers(2, 6),
            "source_tokens": st.sampled_from(["char", "whitespace"]),
            "normalisation": st.sampled_from(["NFC", "NFD", "NFKD", "none"]),
            "source_case": st.sampled_from(["keep", "lower"]),
            "held_out": st.sampled_from([0.05, 0.4]),
        },
    ),
)
def test_prepared_pairs_are_those_of_the_file(count, lines, seed, features, reverse, options):
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        block_lines(patch, lines)
        path = write_rows(folder / "pairs.tsv", rows_of(count, seed, features))
        fixed = {"source_tokens": "char", "target_tokens": "whitespace", "normalisation": "NFC", **options}
        fixed |= {"columns": [1, 2, 3], "feature_separator": ";"} if features else {}
        changes = [f"data.{key}={json.dumps(value)}" for key, value in fixed.items()]
        errors = []
        results = []
        for make in (
            lambda: training_data({"train": str(path), **fixed}, reverse_source=reverse),
            lambda: training_data(
                {"train": str(prepared([path], folder / "out", *changes).directory)}, reverse_source=reverse
            ),
        ):
            try:
                results.append(make())
            except Exception as error:  # noqa: BLE001 -- whatever it is, both have to agree
                errors.append(str(error))
        assert len(set(errors)) == len(errors) / 2, errors
        if not errors:
            same_data(results[1][0], results[0][0])
            if results[0][0].report.kept == results[0][0].report.read and not results[0][0].corpus.num_unknown[1]:
                assert most_frequent_of(results[1][1]) == most_frequent_of(results[0][1])


def test_a_shared_vocabulary(tmp_path, monkeypatch):
    block_lines(monkeypatch, 7)
    path = write_rows(tmp_path / "pairs.tsv", rows_of(50))
    fixed = {"source_tokens": "char", "target_tokens": "char", "shared_vocabulary": True}
    changes = [f"data.{key}={json.dumps(value)}" for key, value in fixed.items()]
    out = prepared([path], tmp_path / "out", *changes, "data.normalisation=NFC").directory
    same_data(training_data({"train": str(out)})[0], training_data({"train": str(path), **fixed})[0])


@pytest.mark.parametrize("shared", [False, True])
def test_subwords(tmp_path, monkeypatch, shared):
    block_lines(monkeypatch, 30)
    choose = random.Random(1)
    words = ["".join(choose.choice("abcd") for _ in range(choose.randrange(2, 6))) for _ in range(60)]
    rows = [(" ".join(choose.sample(words, 4)), " ".join(choose.sample(words, 3))) for _ in range(200)]
    path = write_rows(tmp_path / "pairs.tsv", rows)
    fixed = {"source_tokens": "sentencepiece:40", "target_tokens": "sentencepiece:40", "shared_vocabulary": shared}
    changes = [f"data.{key}={json.dumps(value)}" for key, value in fixed.items()]
    out = prepared([path], tmp_path / "out", *changes, "data.normalisation=NFC").directory
    one, other = training_data({"train": str(out)})[0], training_data({"train": str(path), **fixed})[0]
    assert one.source.tokenizer.model == other.source.tokenizer.model
    assert one.target.tokenizer.model == other.target.tokenizer.model
    same_data(one, other)


def test_given_development_pairs(tmp_path, monkeypatch):
    block_lines(monkeypatch, 7)
    rows = rows_of(50)
    path, dev = write_rows(tmp_path / "pairs.tsv", rows), write_rows(tmp_path / "dev.tsv", [*rows[:5], ("zzz", "x")])
    fixed = {"source_tokens": "char", "target_tokens": "whitespace"}
    out = prepared([path], tmp_path / "out", "data.normalisation=NFC", dev=[dev], **fixed).directory
    one = training_data({"train": str(out)})[0]
    other, pairs, _ = training_data({"train": str(path), "dev": str(dev), **fixed})
    assert other.report.development_sources
    assert not pairs.holds_out
    same_data(one, other)
    with_other_dev, pairs, _ = training_data({"train": str(out), "dev": str(dev)})
    assert with_other_dev.dev == one.dev
    assert pairs.hashes.keys() == {"train_sha256", "dev_sha256"}


def test_tokens_and_forms_are_chosen_as_in_training(tmp_path):
    path = write_rows(tmp_path / "pairs.tsv", rows_of(60, 3))
    out = prepared([path], tmp_path / "out").directory
    one = training_data({"train": str(out)})[0]
    same_data(one, training_data({"train": str(path), "normalisation": "auto"})[0])


# -- epochs ------------------------------------------------------------------------------------------------------------


@slow_files
@given(
    count=st.integers(4, 80),
    lines=st.integers(1, 30),
    window=st.integers(1, 100),
    together=st.integers(1, 4),
    budget=st.sampled_from([(3, None), (7, None), (None, 40)]),
    stops=st.lists(st.integers(0, 60), max_size=3),
    seed=st.integers(1, 5),
)
def test_every_pair_is_trained_on_once_an_epoch(count, lines, window, together, budget, stops, seed):
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        block_lines(patch, lines)
        path = write_rows(folder / "pairs.tsv", rows_of(count))
        options = {"source_tokens": "char", "target_tokens": "whitespace"}
        directory = prepared([path], folder / "out", "data.normalisation=NFC", **options)
        codecs = directory.codecs(reverse_source=False)

        def order():
            return BatchOrder(PreparedPairs(directory, *codecs, window), seed, *budget, together)

        pairs, progress, seen, sizes = order(), Progress(), [[], [], []], []
        while progress.epoch < 3:
            if len(sizes) in stops:  # resumed: nothing but the position is kept
                pairs, progress = order(), Progress(**progress.position)
            epoch, rows = progress.epoch, pairs.next(progress)
            seen[epoch] += rows.tolist()
            batch = pairs.batch(rows)
            sizes.append(batch.num_pairs * (batch.source.shape[1] + batch.target_in.shape[1]))
            assert 0 <= pairs.epochs(progress) <= 3
        assert all(sorted(each) == list(range(len(pairs.corpus))) for each in seen)
        assert progress.before == len(sizes)
        if pairs.corpus.num_windows > 1 and len(pairs.corpus) > 20:
            assert len({tuple(each) for each in seen}) == 3


def test_batches_of_an_update_have_similar_sizes_across_windows(tmp_path, monkeypatch):
    block_lines(monkeypatch, 100)
    path = write_rows(tmp_path / "pairs.tsv", [("a" * (n % 20), " ".join("x" * (1 + n % 20))) for n in range(1500)])
    options = {"source_tokens": "char", "target_tokens": "whitespace"}
    directory = prepared([path], tmp_path / "out", "data.normalisation=NFC", **options)
    corpus = PreparedPairs(directory, *directory.codecs(False), 400)
    assert corpus.num_windows == 4
    order, progress = BatchOrder(corpus, 1, 7, None, 3), Progress()
    ratios = []
    while progress.epoch < 2:
        batches = [order.take(progress) for _ in range(3)]
        positions = [batch.source.size + batch.target_in.size for batch in batches if batch.num_pairs == 7]
        ratios.append(max(positions) / min(positions) if positions else 1.0)
    # the few updates between two windows have other batches, too
    assert np.median(ratios) < 1.2


def test_windows_have_random_numbers_of_their_own(tmp_path, monkeypatch):
    block_lines(monkeypatch, 50)
    path = write_rows(tmp_path / "pairs.tsv", [("s", "x")] * 50 + [("t", "x")] * 450)
    options = {"source_tokens": "whitespace", "target_tokens": "whitespace"}
    directory = prepared([path], tmp_path / "out", "data.normalisation=NFC", **options)
    corpus = PreparedPairs(directory, *directory.codecs(False), 50)
    order, progress, places = BatchOrder(corpus, 1, 5, None), Progress(), []
    first = np.cumsum([0, *(entry.pairs for entry in directory.manifest.shards)])
    while not progress.epoch:
        pairs = order.next(progress)
        places.append((pairs - first[np.searchsorted(first, pairs[0], side="right") - 1]).tolist())
    assert len({tuple(each) for each in places}) > len(places) / 2, "pairs of equal lengths are shuffled differently"


def test_windows_are_whole_shards_in_random_order(tmp_path, monkeypatch):
    block_lines(monkeypatch, 10)
    path = write_rows(tmp_path / "pairs.tsv", [(f"s{n}", "x") for n in range(200)])
    options = {"source_tokens": "char", "target_tokens": "whitespace"}
    directory = prepared([path], tmp_path / "out", "data.normalisation=NFC", **options)
    corpus = PreparedPairs(directory, *directory.codecs(False), 50)
    shards = np.cumsum([0, *(entry.pairs for entry in directory.manifest.shards)])
    epochs = []
    for epoch in range(2):
        windows = [corpus.window(1, epoch, number) for number in range(corpus.num_windows)]
        for window in windows:
            numbers = np.unique(np.searchsorted(shards, window.pairs, side="right") - 1)
            whole = np.concatenate([np.arange(shards[n], shards[n + 1]) for n in numbers])
            assert np.array_equal(window.pairs, whole)
            assert np.array_equal(window.source_lengths, corpus.sources.lengths_of(window.pairs))
        epochs.append([window.pairs.tolist() for window in windows])
    assert epochs[0] != epochs[1]
    assert PreparedPairs(directory, *directory.codecs(False), 10**9).num_windows == 1
    assert PreparedPairs(directory, *directory.codecs(False), 1).num_windows == len(directory.manifest.shards)


# -- trained models ----------------------------------------------------------------------------------------------------

SETTINGS = [
    *("training.updates=12", "training.batch_size=8", "training.threads=1", "training.precision=fp32"),
    *("evaluation.every=6", "training.checkpoint_every=3", "model.hidden_size=8", "model.embedding_size=8"),
    *("model.num_layers=1", "data.target_tokens=whitespace", "data.source_tokens=char"),
]


def train(data, out, *more):
    settings = [part for setting in [*SETTINGS, *more] for part in ("--set", setting)]
    return main(["train", str(data), "--out", str(out), *settings])


@pytest.mark.parametrize("strategy", ["teacher", "minimum_risk", "optimal_completion"])
def test_a_model_trained_on_prepared_pairs_is_the_same(tmp_path, monkeypatch, capsys, strategy):
    block_lines(monkeypatch, 20)
    path = write_rows(tmp_path / "pairs.tsv", rows_of(90))
    assert main(["data", "prepare", str(path), "--out", str(tmp_path / "out"), "--target-tokens", "whitespace"]) == 0
    for data, out in ((path, "one"), (tmp_path / "out", "two")):
        assert train(data, tmp_path / out, f"forcing.strategy={strategy}") == 0, capsys.readouterr().err
    for name in ("best/model.safetensors", "best/config.json", "dev.tsv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_run_in_several_windows_is_resumed_exactly(tmp_path, monkeypatch):
    block_lines(monkeypatch, 10)
    path = write_rows(tmp_path / "pairs.tsv", rows_of(120))
    assert main(["data", "prepare", str(path), "--out", str(tmp_path / "out"), "--target-tokens", "whitespace"]) == 0
    more = ["data.window=20", "training.accumulate=2", "training.batch_size=3"]
    assert train(tmp_path / "out", tmp_path / "whole", *more) == 0
    assert train(tmp_path / "out", tmp_path / "half", *more, "training.updates=7") == 0
    assert main(["train", "--resume", "--out", str(tmp_path / "half"), "--set", "training.updates=12"]) == 0
    whole, half = (tmp_path / name / "last" / "model.safetensors" for name in ("whole", "half"))
    assert whole.read_bytes() == half.read_bytes()


def test_fine_tuning_on_pairs_with_the_models_vocabularies(tmp_path, capsys):
    path = write_rows(tmp_path / "pairs.tsv", rows_of(90))
    other = write_rows(tmp_path / "other.tsv", [("xyz ab", "new x"), ("dd", "y"), ("a", "x"), ("b", "q zz")] * 3)
    assert train(path, tmp_path / "first") == 0
    model = str(tmp_path / "first")
    assert main(["data", "prepare", str(other), "--out", str(tmp_path / "own")]) == 0
    capsys.readouterr()
    assert main(["train", str(tmp_path / "own"), "--init", model, "--out", str(tmp_path / "second")]) == 2
    assert "vocabulary of" in capsys.readouterr().err
    assert main(["data", "prepare", str(other), "--out", str(tmp_path / "same"), "--init", model]) == 0
    for data, out in ((other, "from-file"), (tmp_path / "same", "from-prepared")):
        arguments = ["train", str(data), "--init", model, "--out", str(tmp_path / out)]
        short = ["training.updates=5", "training.batch_size=4", "training.threads=1", "training.precision=fp32"]
        assert main([*arguments, *(part for each in short for part in ("--set", each))]) == 0, capsys.readouterr().err
    one, two = (tmp_path / name / "best" / "model.safetensors" for name in ("from-file", "from-prepared"))
    assert one.read_bytes() == two.read_bytes()


def test_other_formats_give_the_same_tokens(tmp_path, monkeypatch):
    block_lines(monkeypatch, 9)
    rows = rows_of(70)
    path = write_rows(tmp_path / "pairs.tsv", rows)
    (tmp_path / "pairs.tsv.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows))
    options = {"source_tokens": "char", "target_tokens": "whitespace"}
    found = set()
    for name in ("pairs.tsv", "pairs.tsv.gz", "pairs.jsonl"):
        out = tmp_path / f"out-{name}"
        found.add(prepared([tmp_path / name], out, "data.normalisation=NFC", **options).manifest.tokens_sha256)
    block_lines(monkeypatch, 1000)
    found.add(prepared([path], tmp_path / "out", "data.normalisation=NFC", **options).manifest.tokens_sha256)
    assert len(found) == 1


def test_lists_of_formats_give_the_same_tokens(tmp_path):
    """Pairs of TSV, JSON Lines and Parquet in one list; features are read if three columns are chosen."""
    rows = [(f"a{n}", f"b c{n % 9}", "V;PST" if n % 2 else "N") for n in range(9000)]
    parts = rows[:100], rows[100:200], rows[200:]
    write_rows(tmp_path / "1.tsv", parts[0])
    objects = [dict(zip(("source", "target", "features"), row, strict=True)) for row in parts[1]]
    (tmp_path / "2.jsonl").write_text("".join(json.dumps(each) + "\n" for each in objects))
    names = ("source", "target", "features")
    pa.parquet.write_table(pa.table(dict(zip(names, zip(*parts[2], strict=True), strict=True))), tmp_path / "3.parquet")
    write_rows(tmp_path / "all.tsv", rows)
    files = [tmp_path / name for name in ("1.tsv", "2.jsonl", "3.parquet")]
    for columns in ("1,2", "1,2,3"):
        one = prepared([tmp_path / "all.tsv"], tmp_path / f"one {columns}", columns=columns)
        several = prepared(files, tmp_path / f"several {columns}", columns=columns)
        assert several.manifest.tokens_sha256 == one.manifest.tokens_sha256
        assert ("feature_separator" in several.manifest.data) == (columns == "1,2,3")
