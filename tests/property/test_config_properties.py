"""Random valid configurations survive being written and read; random damage never raises anything but ConfigError."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from freerun.config import Config, apply_overrides, changed_keys, flatten, merge, parse_config, to_toml
from freerun.errors import ConfigError
from freerun.forcing.registry import settings_of
from tests.networks import CELLS

SIZES = st.integers(1, 10**6)
COUNTS = st.integers(0, 10**9)
SHARES = st.floats(0, 1, exclude_max=True)
POSITIVE = st.floats(0, 1e38, exclude_min=True)
PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
FILES = PATHS | st.lists(PATHS, min_size=1) | st.fixed_dictionaries({"source": PATHS, "target": PATHS})
TOKENS = st.sampled_from(["auto", "char", "whitespace", "sentencepiece:500"])
SCHEDULES = st.one_of(
    st.fixed_dictionaries({"kind": st.just("constant")}, optional={"warmup": COUNTS}),
    st.fixed_dictionaries({"kind": st.just("inverse_sqrt")}, optional={"warmup": SIZES}),
    st.fixed_dictionaries({"kind": st.just("cosine")}, optional={"warmup": COUNTS, "final": st.floats(0, 1)}),
    st.fixed_dictionaries({"kind": st.just("halving")}, optional={"start_epoch": SHARES, "every_epochs": POSITIVE}),
)
SECTIONS = {
    "data": st.fixed_dictionaries(
        {"train": FILES},
        optional={
            "dev": FILES,
            "columns": st.lists(SIZES, min_size=2, max_size=2),
            "source_tokens": TOKENS,
            "target_tokens": TOKENS,
            "normalisation": st.sampled_from(["NFC", "NFKD", "none"]),
            "source_case": st.sampled_from(["keep", "lower"]),
            "minimum_count": SIZES,
        },
    ),
    "model": st.fixed_dictionaries(
        {},
        optional={
            "cell": st.sampled_from(CELLS),
            "hidden_size": SIZES,
            "bidirectional": st.booleans(),
            "attention": st.sampled_from(["none", "luong"]),
            "dropout": SHARES,
            "forget_bias": st.floats(-1e38, 1e38) | st.just("drawn"),
        },
    ),
    "training": st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": POSITIVE,
            "schedule": SCHEDULES,
            "seed": st.integers(-(2**63), 2**63 - 1),
            "accumulate": st.integers(1, 10**4),
            "init": PATHS | st.just(""),
        },
    ).flatmap(
        lambda section: st.sampled_from(
            [section, {**section, "epochs": 0.5}, {**section, "updates": 7}, {**section, "batch_tokens": 900}]
        )
    ),
    "evaluation": st.fixed_dictionaries({}, optional={"every": COUNTS, "patience": COUNTS, "length_penalty": SHARES}),
}
VALID = st.fixed_dictionaries(
    {"data": SECTIONS["data"]}, optional={name: section for name, section in SECTIONS.items() if name != "data"}
)
KEYS = sorted(
    {key for info in Config.model_fields.values() for key in info.annotation.model_fields} | {"", "kind", "x"}
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2),
    max_leaves=4,
)


def parse(raw):
    return parse_config(raw, "c.toml", settings_of)


@given(VALID)
def test_a_configuration_survives_being_written_and_read(raw):
    config = parse(raw)
    written = to_toml(config)
    again = parse(tomllib.loads(written))
    assert again == config
    assert to_toml(again) == written


@given(VALID)
def test_what_was_set_is_what_is_there(raw):
    complete = flatten(parse(raw).model_dump(mode="json"))
    assert {key: complete[key] for key in flatten(raw)} == flatten(raw)


@given(VALID, VALID)
def test_merging_lets_the_upper_one_win_and_keeps_the_rest(under, over):
    merged = flatten(merge(under, over))
    assert {key: merged[key] for key in flatten(over)} == flatten(over)
    assert merged.keys() <= flatten(under).keys() | flatten(over).keys()
    assert merge(over, over) == over


@given(VALID, VALID)
def test_changed_keys_are_those_that_differ(one, other):
    changes = changed_keys(one, other)
    before, after = flatten(one), flatten(other)
    assert {key: new for key, _, new in changes if new is not None} == {
        key: value for key, value in after.items() if before.get(key) != value
    }
    assert changed_keys(one, one) == []


def told(raw):
    """What a user reads, nothing when the configuration is taken."""
    try:
        assert isinstance(parse(raw), Config)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@given(VALID, st.sampled_from(sorted(SECTIONS)), st.sampled_from(KEYS), JUNK)
def test_a_damaged_configuration_raises_nothing_but_a_config_error(raw, name, key, junk):
    section = raw.get(name, {})
    for damaged in ({**raw, name: junk}, {**raw, name: {**section, key: junk}}, {**raw, key: junk}):
        assert all(line.startswith("c.toml: ") and line.endswith(".") for line in told(damaged))


@given(VALID, st.text(max_size=12), st.text(max_size=12))
def test_a_setting_raises_nothing_but_a_config_error(raw, path, value):
    try:
        changed = apply_overrides(raw, [f"{path}={value}"])
    except ConfigError:
        return
    told(changed)
