"""The ends of the ranges of keys: a run of one update that ends well, or a message that helps."""

from __future__ import annotations

import pytest

from tests.fuzz.commands import TINY, Workplace

BIG = 10**9
ENDS = [
    ("input_corruption", 'forcing.kind="raml"', "forcing.temperature=1e-6"),
    ("scheduled_sampling", "forcing.temperature=1e-6"),
    ("scheduled_sampling", "forcing.temperature=1000", "forcing.passes=20"),
    ("scheduled_sampling", 'forcing.schedule={kind="linear", c=1e38}'),
    ("scheduled_sampling", 'forcing.schedule={kind="exponential", k=5e-324}'),
    ("scheduled_sampling", 'forcing.schedule={kind="inverse_sigmoid", k=1e38, warmup=1e38}'),
    ("scheduled_sampling", 'forcing.position={kind="linear", c=1e38}'),
    ("minimum_risk", "forcing.alpha=1e38"),
    ("minimum_risk", "forcing.alpha=5e-324"),
    ("minimum_risk", "forcing.samples=1000", "forcing.temperature=1e-6", "forcing.weight=1e38"),
    ("self_critical", "forcing.temperature=1e-6"),
    ("optimal_completion", "forcing.longest_ratio=100", "forcing.temperature=1e-6"),
    ("professor", "forcing.weight=1e38", f"forcing.warmup={BIG}", "forcing.temperature=1000"),
    ("professor", "forcing.learning_rate=1e38"),
    ("teacher", "training.learning_rate=1e38", "training.weight_decay=1e38", "training.clip_norm=1e38"),
    ("teacher", "training.learning_rate=5e-324", "training.clip_norm=5e-324"),
    ("teacher", "training.label_smoothing=0.9999999999999999", "model.embedding_dropout=0.9999999999999999"),
    ("teacher", "model.dropout=0.9999999999999999", "model.forget_bias=-1e38"),
    ("teacher", "training.batch_size=1000000", "training.accumulate=10"),
    ("teacher", f"training.keep={BIG}", f"training.average={BIG}", f"training.journal_every={BIG}"),
    ("teacher", f"evaluation.max_sources={BIG}", f"evaluation.patience={BIG}", f"evaluation.every={BIG}"),
    ("teacher", "evaluation.beam_size=1000", "evaluation.length_penalty=10", "evaluation.early_stop=true"),
    ("teacher", "data.max_source_length=1000000", "data.max_target_length=1"),
    ("teacher", "data.held_out=5e-324", "data.dev=dev.tsv", "training.seed=-9223372036854775808"),
    ("teacher", 'training.schedule={kind="halving", every_epochs=5e-324, start_epoch=0}', "training.updates=3"),
    ("teacher", f'training.schedule={{kind="cosine", warmup={BIG}}}', f"training.checkpoint_every={BIG}"),
]
TOLD = [
    ("teacher", "data.minimum_count=1000000000"),
    ("teacher", "data.columns=[1, 1000000]"),
    ("teacher", "data.source_tokens=sentencepiece:1000000"),
    ("teacher", "data.source_tokens=sentencepiece:1"),
    ("teacher", 'model.initialisation="uniform"', "model.initial_range=1e38"),
    ("professor", "forcing.r1=1e38"),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("ends") / "workplace")


def attempt(workplace: Workplace, strategy: str, *settings: str) -> int:
    sets = [f"--set={setting}" for setting in (f"forcing.strategy={strategy}", *settings)]
    return workplace.attempt(["train", "tiny.toml", "--out", "new", *sets]).code


@pytest.mark.slow
@pytest.mark.parametrize("case", ENDS, ids="; ".join)
def test_the_ends_of_ranges_can_be_trained_with(workplace: Workplace, case: tuple[str, ...]) -> None:
    assert attempt(workplace, *case) == 0


@pytest.mark.parametrize("case", TOLD, ids="; ".join)
def test_what_the_data_or_the_numbers_do_not_allow_is_told(workplace: Workplace, case: tuple[str, ...]) -> None:
    assert attempt(workplace, *case) == 2


def test_a_run_of_less_than_one_update_is_one(workplace: Workplace) -> None:
    (workplace.inputs_of_case() / "tiny.toml").write_text(TINY.replace("updates = 1\n", "epochs = 5e-324\n"))
    assert workplace.attempt(["train", "tiny.toml", "--out", "new"]).code == 0
