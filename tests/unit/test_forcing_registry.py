from __future__ import annotations

import pytest
from pydantic import ValidationError

from freerun.errors import ConfigError
from freerun.forcing.registry import STRATEGIES, settings_of


@pytest.mark.parametrize("name", STRATEGIES)
def test_settings_of_a_strategy_refuse_unknown_keys(name):
    assert settings_of(name) is STRATEGIES[name].Settings
    with pytest.raises(ValidationError, match="no_such_key"):
        settings_of(name)(no_such_key=1)


def test_a_misspelt_strategy_is_told_the_nearest_name():
    with pytest.raises(ConfigError) as error:
        settings_of("teachr")
    assert str(error.value) == (
        "forcing.strategy: unknown strategy 'teachr'. "
        f"Expected one of: {', '.join(STRATEGIES)}; or a custom one as module:Class. The closest match is 'teacher'."
    )


def test_a_strange_strategy_is_told_all_names():
    with pytest.raises(ConfigError, match=r"unknown strategy 'xyz'.*one of: .*teacher.*Choose one of them\."):
        settings_of("xyz")
