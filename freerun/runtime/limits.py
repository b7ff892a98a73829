"""How large a bundle's files may be, by the sizes in its config.json: what bounds the memory that reading it takes."""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Final

from freerun.architecture import Architecture
from freerun.runtime.shapes import Shapes, expected_shapes

__all__ = ["MOST_CONFIG", "Limits"]

MOST_CONFIG: Final = 2**24
"""Bytes of config.json and of metrics.json."""
_FLOAT: Final = 4
_ROOM: Final = 2**22
"""For names, shapes and nodes."""
_EACH_LAYER: Final = 2**18
_EACH_TOKEN: Final = 2**10
_EACH_WEIGHT: Final = 2**9


class Limits:
    """Limits in bytes, for a model of given sizes. None is ever near the size of a file that freerun wrote."""

    def __init__(self, sizes: Architecture) -> None:
        self._sizes = sizes

    @cached_property
    def shapes(self) -> Shapes:
        """The shape of every weight."""
        return expected_shapes(self._sizes)

    @property
    def header(self) -> int:
        """Of a weight file's header."""
        return _ROOM + _EACH_WEIGHT * len(self.shapes)

    def of(self, name: str) -> int:
        """Of a file of the bundle."""
        if name.startswith("source_vocabulary"):
            return self._vocabulary(self._sizes.source_vocabulary)
        if name.startswith("target_vocabulary"):
            return self._vocabulary(self._sizes.target_vocabulary)
        if name.endswith(".safetensors"):
            return self.header + _FLOAT * self.numbers
        return self._exported

    @property
    def _exported(self) -> int:
        """Graphs and arrays: all weights, once as they are and once laid out for the steps, and tables of gates."""
        sizes = self._sizes
        tables = (sizes.num_directions * sizes.source_vocabulary + sizes.target_vocabulary) * sizes.gates
        return _ROOM + _EACH_LAYER * sizes.num_layers + _FLOAT * (2 * self.numbers + tables)

    @cached_property
    def numbers(self) -> int:
        """How many weights there are."""
        return sum(prod(shape) for shape in self.shapes.values())

    @staticmethod
    def _vocabulary(size: int) -> int:
        return _ROOM + _EACH_TOKEN * size
