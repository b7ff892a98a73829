"""Ranges of options, configuration keys and arguments: each is stated once and applies to all three.

The upper limits are far above any practical use, and far below the limits of integer types, memory and time.
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
    "CONNECTIONS",
    "COUNT",
    "DEFAULT_RESTARTS",
    "DEFAULT_TIMEOUT",
    "EXAMPLES",
    "LENGTH",
    "LENGTH_PENALTY",
    "MAX_LAYERS",
    "MAX_LENGTH",
    "MAX_LOSS",
    "MAX_NUMBER",
    "MAX_PIECES",
    "MINUTES",
    "NUM_HYPOTHESES",
    "PORT",
    "POSITIVE_TEMPERATURE",
    "PROCESSES",
    "QUEUE",
    "REQUEST_SIZE",
    "RESTARTS",
    "SAMPLES",
    "SEED",
    "SERVE_SECONDS",
    "SIZE",
    "TEMPERATURE",
    "THREADS",
    "TIMEOUT",
    "TOP_K",
    "TRIALS",
    "WORKERS",
    "Range",
    "shown_number",
]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ints if ``is_whole``."""

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
            raise ConfigError.single(name, f"the value is {shown(value)}", f"Expected {self}", fix)


def shown_number(value: float) -> str:
    """Format a number as in a range: 1,000,000, 0.5 or 1e+38."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


# -- search -----------------------------------------------------------------------------------------------------------

BEAM_SIZE: Final = Range(1, 1000)
"""A step of beam search with size K holds K * (K + 1) candidates and K rows of the vocabulary."""
NUM_HYPOTHESES: Final = BEAM_SIZE
"""Hypotheses of a search; the beam size is raised to their number."""
SAMPLES: Final = Range(1, 10_000)
"""Samples per text, in place of ``NUM_HYPOTHESES``: all samples of a text are computed together."""
MAX_LENGTH: Final = Range(0, 2**16)
"""Tokens of an output without its end token: far more than makes sense, and few enough to reserve memory for."""
LENGTH_PENALTY: Final = Range(0.0, 10.0, is_whole=False)
"""No valid length overflows in this range. Wu et al. use 0.2 to 1."""
TEMPERATURE: Final = Range(0.0, 1000.0, is_whole=False)
"""0 is greedy search; other values must be in ``POSITIVE_TEMPERATURE``."""
POSITIVE_TEMPERATURE: Final = Range(1e-6, 1000.0, is_whole=False)
"""Log-probabilities divided by a smaller temperature may overflow in fp32."""

# -- dimensions and counts ---------------------------------------------------------------------------------------------

COUNT: Final = Range(0, 10**9)
"""Updates, evaluations, sources and all other counts."""
TOP_K: Final = Range(1, COUNT.high)
EXAMPLES: Final = COUNT
SIZE: Final = Range(1, 10**6)
"""Units, features, pairs per batch: one dimension of an array."""
LENGTH: Final = Range(1, 10**6)
"""Tokens or columns of a line, which has at most 1,000,000 bytes."""
MAX_LAYERS: Final = 1000
MAX_PIECES: Final = 10**6
"""Subwords of a SentencePiece model."""
ACCUMULATE: Final = Range(1, 10**4)
"""The batches of an update are all held in memory."""
SEED: Final = Range(-(2**63), 2**63 - 1)
"""The integers of TOML."""
THREADS: Final = Range(0, 1024)
"""With tens of thousands of threads, libraries abort the process."""
PROCESSES: Final = Range(1, 256)
RESTARTS: Final = Range(0, 1000)
DEFAULT_RESTARTS: Final = 3
TIMEOUT: Final = Range(1, 10.0**5, is_whole=False)
"""Seconds."""
DEFAULT_TIMEOUT: Final = 300.0
MINUTES: Final = Range(0.1, 10.0**5, is_whole=False)
"""A time limit: up to ten weeks."""
TRIALS: Final = Range(2, 10_000)
"""Trials of a tuning."""

# -- service ----------------------------------------------------------------------------------------------------------

PORT: Final = Range(0, 65_535)
WORKERS: Final = Range(1, 64)
QUEUE: Final = Range(1, 10**6)
"""Texts that wait, or one request's texts."""
SERVE_SECONDS: Final = Range(0.1, 86_400.0, is_whole=False)
CONNECTIONS: Final = Range(1, 10**5)
REQUEST_SIZE: Final = Range(1, 10**9)
"""Bytes, characters or attention weights of one request."""

# -- other numbers ----------------------------------------------------------------------------------------------------

MAX_NUMBER: Final = 1e38
"""Largest rate or weight: fp32 can represent it."""
MAX_LOSS: Final = Range(0.0, 100.0, is_whole=False)
"""Percentage points of accuracy."""
