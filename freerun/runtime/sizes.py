"""The sizes of a network, as config.json has them, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

__all__ = ["NUM_GATES", "Sizes"]

NUM_GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True)
class Sizes:
    """What a bundle's config.json says of the network; see ``freerun.models.seq2seq.Sizes``."""

    source_vocabulary: int
    target_vocabulary: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    cell: str
    bidirectional: bool
    context: str
    attention: str
    tied_output: bool
    input_feeding: bool = False

    @property
    def gates(self) -> int:
        """G."""
        return NUM_GATES[self.cell] * self.hidden_size

    @property
    def memory_size(self) -> int:
        """Features of the encoder's memory."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def every_step(self) -> bool:
        """Whether the context is read at every step."""
        return self.context == "every_step"

    @property
    def known_size(self) -> int:
        """Inputs of the first layer that do not depend on attention: embedding and context."""
        return self.embedding_size + (self.hidden_size if self.every_step else 0)

    @property
    def features(self) -> int:
        """What the output layer reads without attention: h, and the context where that is read at every step."""
        return self.hidden_size * (2 if self.every_step else 1)

    @property
    def is_projected(self) -> bool:
        """Whether features are projected to the width of an embedding before a tied output."""
        return self.tied_output and self.features != self.embedding_size

    @property
    def has_source_table(self) -> bool:
        """Whether a source token's share of the gates is looked up: where that takes less room than its embedding."""
        return self.source_vocabulary <= self.embedding_size

    @staticmethod
    def of(model: Mapping[str, Any]) -> Sizes:
        """From the section ``model`` of config.json."""
        known = {field.name for field in fields(Sizes)}
        return Sizes(**{name: value for name, value in model.items() if name in known})
