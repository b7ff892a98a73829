"""The maximum size of a bundle's files, by the dimensions in its config.json: it bounds the memory of reading them."""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Final

from freerun.architecture import Architecture
from freerun.data.codec_files import FEATURE_VOCABULARY
from freerun.runtime.shapes import Shapes, expected_shapes

__all__ = ["MAX_CONFIG", "Limits"]

MAX_CONFIG: Final = 2**24
"""Maximum bytes of config.json and of metrics.json."""
_FLOAT: Final = 4
_ROOM: Final = 2**22
"""For names, shapes and nodes."""
_EACH_LAYER: Final = 2**18
_EACH_TOKEN: Final = 2**10
_EACH_WEIGHT: Final = 2**9


class Limits:
    """Limits in bytes for a model's architecture; files that freerun wrote are far below them."""

    def __init__(self, sizes: Architecture) -> None:
        self._sizes = sizes

    @cached_property
    def shapes(self) -> Shapes:
        """Return the shape of every weight."""
        return expected_shapes(self._sizes)

    @property
    def header(self) -> int:
        """Return the limit of a weight file's header."""
        return _ROOM + _EACH_WEIGHT * len(self.shapes)

    def of(self, name: str) -> int:
        """Return the limit of a file of the bundle."""
        if name.startswith("source_vocabulary"):
            return self._vocabulary(self._sizes.source_vocabulary)
        if name.startswith("target_vocabulary"):
            return self._vocabulary(self._sizes.target_vocabulary)
        if name == FEATURE_VOCABULARY:
            return self._vocabulary(self._sizes.feature_vocabulary)
        if name.endswith(".safetensors"):
            return self.header + _FLOAT * self.numbers
        return self._exported

    @property
    def _exported(self) -> int:
        """Limit of graphs and arrays: all weights, unchanged and laid out for the steps, and tables of gates."""
        sizes = self._sizes
        tables = (sizes.num_directions * sizes.source_vocabulary + sizes.target_vocabulary) * sizes.gates
        if sizes.attention_spec.within_recurrence:
            tables += 2 * sizes.target_vocabulary * sizes.hidden_size
        return _ROOM + _EACH_LAYER * sizes.num_layers + _FLOAT * (2 * self.numbers + tables)

    @cached_property
    def numbers(self) -> int:
        """Return the number of parameters."""
        return sum(prod(shape) for shape in self.shapes.values())

    @staticmethod
    def _vocabulary(size: int) -> int:
        return _ROOM + _EACH_TOKEN * size
