"""The ranges of options, configuration keys and arguments: each is stated once, and holds for all three.

The upper ends are far above any use, and far below the point at which an integer type, the memory or a loop gives out.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Final

from freerun.errors import ConfigError
from freerun.text import shown

__all__ = [
    "ACCUMULATE",
    "BEAM_SIZE",
    "COUNT",
    "EXAMPLES",
    "LENGTH",
    "LENGTH_PENALTY",
    "MAX_LAYERS",
    "MAX_LENGTH",
    "MAX_LOSS",
    "MAX_NUMBER",
    "MAX_PIECES",
    "NUM_HYPOTHESES",
    "POSITIVE_TEMPERATURE",
    "PROCESSES",
    "SAMPLES",
    "SEED",
    "SIZE",
    "TEMPERATURE",
    "THREADS",
    "TOP_K",
    "Range",
    "shown_number",
]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``is_whole`` ones have the type int."""

    low: float
    high: float
    is_whole: bool = True

    def __str__(self) -> str:
        return f"a {'whole ' if self.is_whole else ''}number from {shown_number(self.low)} to {shown_number(self.high)}"

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Integral if self.is_whole else Real):
            return False
        return self.low <= value <= self.high  # type: ignore[operator]  # false for NaN

    def check(self, name: str, value: object, fix: str = "Choose another value") -> None:
        """Raise ``ConfigError`` about the argument ``name`` unless ``value`` is in the range."""
        if value not in self:
            raise ConfigError.single(name, f"it is {shown(value)}", f"Expected {self}", fix)


def shown_number(value: float) -> str:
    """A number as a range shows it: 1,000,000, 0.5 and 1e+38."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


# -- search -----------------------------------------------------------------------------------------------------------

BEAM_SIZE: Final = Range(1, 1000)
"""A step of a beam of K holds K * (K + 1) candidates and K rows of the vocabulary."""
NUM_HYPOTHESES: Final = BEAM_SIZE
"""Of a search: the beam is raised to it."""
SAMPLES: Final = Range(1, 10_000)
"""Of sampling, in place of ``NUM_HYPOTHESES``: all samples of a text are drawn together."""
MAX_LENGTH: Final = Range(0, 2**16)
"""Tokens of an output without its end token: far more than makes sense, and few enough to reserve memory for."""
LENGTH_PENALTY: Final = Range(0.0, 10.0, is_whole=False)
"""No length that fits a bound overflows then. Wu et al. use 0.2 to 1."""
TEMPERATURE: Final = Range(0.0, 1000.0, is_whole=False)
"""0 is greedy search; otherwise it is at least that of ``POSITIVE_TEMPERATURE``."""
POSITIVE_TEMPERATURE: Final = Range(1e-6, 1000.0, is_whole=False)
"""Log-probabilities divided by a smaller number may overflow in fp32."""

# -- sizes and counts -------------------------------------------------------------------------------------------------

COUNT: Final = Range(0, 10**9)
"""Updates, evaluations, sources, and everything else that is counted."""
TOP_K: Final = Range(1, COUNT.high)
EXAMPLES: Final = COUNT
SIZE: Final = Range(1, 10**6)
"""Units, features, pairs per batch: what an array has in one dimension."""
LENGTH: Final = Range(1, 10**6)
"""Tokens and columns of a line, which has at most 1,000,000 bytes."""
MAX_LAYERS: Final = 1000
MAX_PIECES: Final = 10**6
"""Subwords of a SentencePiece model."""
ACCUMULATE: Final = Range(1, 10**4)
"""The batches of an update are all held in memory."""
SEED: Final = Range(-(2**63), 2**63 - 1)
"""The integers of TOML."""
THREADS: Final = Range(0, 1024)
"""Libraries that are asked for tens of thousands end the process."""
PROCESSES: Final = Range(1, 256)

# -- other numbers ----------------------------------------------------------------------------------------------------

MAX_NUMBER: Final = 1e38
"""Of a rate or a weight: fp32 holds it."""
MAX_LOSS: Final = Range(0.0, 100.0, is_whole=False)
"""Points of accuracy."""
