"""The settings of a search: greedy, beam search or sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from freerun.bounds import (
    BEAM_SIZE,
    LENGTH_PENALTY,
    NUM_HYPOTHESES,
    POSITIVE_TEMPERATURE,
    SAMPLES,
    SEED,
    TEMPERATURE,
    TOP_K,
    Range,
)
from freerun.errors import ConfigError
from freerun.text import shown

__all__ = ["Beam", "Greedy", "Sampling", "Search"]


@dataclass(frozen=True)
class Greedy:
    """Greedy search: write the most probable token at each step."""

    width: ClassVar[int] = 1
    is_greedy: ClassVar[bool] = True


@dataclass(frozen=True)
class Beam:
    """Beam search; a beam of 1 is greedy search. ``length_penalty`` ranks only; a negative one favours short outputs.

    ``early_stop`` ends a search with a positive ``length_penalty`` sooner, and may miss the best output.
    """

    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 0.0
    early_stop: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a setting that is out of its range."""
        BEAM_SIZE.check("beam_size", self.beam_size, "Use 1 for greedy search")
        NUM_HYPOTHESES.check("num_hypotheses", self.num_hypotheses, "Use 1 for the best output alone")
        penalties = Range(-LENGTH_PENALTY.high, LENGTH_PENALTY.high, is_whole=False)
        fix = "Use 0 to rank by the score itself, or about 1 to favour longer outputs"
        penalties.check("length_penalty", self.length_penalty, fix)

    @property
    def width(self) -> int:
        """Rows per source: ``beam_size``, raised to ``num_hypotheses``."""
        return max(self.beam_size, self.num_hypotheses)

    @property
    def is_greedy(self) -> bool:
        """Return True if ``Greedy()`` gives the same hypotheses, rank scores included."""
        return self.width == 1 and not self.length_penalty


@dataclass(frozen=True)
class Sampling:
    """Independent samples from the model; temperature 0 is greedy search."""

    num_hypotheses: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    is_greedy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a setting that is out of its range."""
        fix = "Use 1 for the model's own distribution and 0 for greedy search"
        TEMPERATURE.check("temperature", self.temperature, fix)
        if 0 < self.temperature < POSITIVE_TEMPERATURE.low:
            expected = f"Expected 0, or {POSITIVE_TEMPERATURE}"
            what = f"the value is {shown(self.temperature)}"
            raise ConfigError.single("temperature", what, expected, "Use 0 for greedy search")
        if self.top_k is not None:
            TOP_K.check("top_k", self.top_k, "Leave it out to sample from all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            expected = "Expected a fraction above 0 and at most 1"
            fix = "Leave it out to sample from all tokens"
            raise ConfigError.single("top_p", f"the value is {shown(self.top_p)}", expected, fix)
        SAMPLES.check("num_hypotheses", self.num_hypotheses, "Use 1 for one sample")
        SEED.check("seed", self.seed)

    @property
    def width(self) -> int:
        """Rows per source."""
        return self.num_hypotheses


Search: TypeAlias = Greedy | Beam | Sampling
