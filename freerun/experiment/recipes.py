"""Recipes: what did well on development sets of one size and kind, letters to sounds, inflection, names, sentences.

The runs behind a row are in ``benchmarks/runs``, and docs/recipes.md has the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from freerun.experiment.dataset import TrainingData

__all__ = ["RECIPES", "SENTENCES", "SENTENCE_VOCABULARY", "Recipe", "embedding_size_for", "recipes_for"]

SENTENCE_TOKENS, SENTENCE_VOCABULARY = 7, 2000
"""Running text: targets are longer, and there are more different words or subwords."""
_LARGEST_EMBEDDING = 256


def embedding_size_for(hidden_size: int, tied_output: bool) -> int:
    """Return the embedding size of a recipe: as large as a tied output layer needs it without a projection."""
    return hidden_size if tied_output else min(hidden_size, _LARGEST_EMBEDDING)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that suit data of up to ``pairs`` pairs.

    Attributes:
        epochs: of a training without a time limit.
        most_epochs: of one whose time limit allows more.
        fewest_epochs: if fewer fit into the time limit, the next recipe for as many pairs makes fewer errors: it is
            quicker.
        dropout and the other rates: see ``freerun.models.dropout.DropoutRates``.
        tied_output: the output layer's weight is the target embedding.
    """

    pairs: float
    hidden_size: int
    num_layers: int
    batch_size: int
    epochs: int
    most_epochs: int
    fewest_epochs: int = 0
    dropout: float
    embedding_unit_dropout: float = 0.0
    memory_dropout: float = 0.0
    learning_rate: float = 2e-3
    tied_output: bool = False
    attention: str = "bahdanau"

    def settings(self) -> dict[str, float | int | str]:
        """Return the values of a configuration that do not depend on the length, by key path."""
        return {
            "model.hidden_size": self.hidden_size,
            "model.embedding_size": embedding_size_for(self.hidden_size, self.tied_output),
            "model.num_layers": self.num_layers,
            "model.attention": self.attention,
            "model.dropout": self.dropout,
            "model.embedding_unit_dropout": self.embedding_unit_dropout,
            "model.memory_dropout": self.memory_dropout,
            "model.tied_output": self.tied_output,
            "training.batch_size": self.batch_size,
            "training.learning_rate": self.learning_rate,
        }


RECIPES = (
    Recipe(
        pairs=8_000,
        hidden_size=256,
        num_layers=1,
        batch_size=32,
        epochs=70,
        most_epochs=100,
        dropout=0.4,
        embedding_unit_dropout=0.3,
        memory_dropout=0.3,
    ),
    Recipe(
        pairs=40_000,
        hidden_size=256,
        num_layers=1,
        batch_size=64,
        epochs=60,
        most_epochs=120,
        dropout=0.4,
        embedding_unit_dropout=0.3,
        memory_dropout=0.3,
    ),
    Recipe(
        pairs=80_000,
        hidden_size=512,
        num_layers=1,
        batch_size=256,
        epochs=13,
        most_epochs=40,
        fewest_epochs=6,
        dropout=0.5,
        embedding_unit_dropout=0.3,
        memory_dropout=0.4,
    ),
    Recipe(
        pairs=80_000,
        hidden_size=256,
        num_layers=1,
        batch_size=128,
        epochs=16,
        most_epochs=40,
        dropout=0.4,
        embedding_unit_dropout=0.2,
        memory_dropout=0.3,
    ),
    Recipe(
        pairs=math.inf,
        hidden_size=512,
        num_layers=1,
        batch_size=256,
        epochs=20,
        most_epochs=60,
        fewest_epochs=6,
        dropout=0.3,
        embedding_unit_dropout=0.1,
        memory_dropout=0.2,
    ),
    Recipe(
        pairs=math.inf,
        hidden_size=256,
        num_layers=1,
        batch_size=128,
        epochs=20,
        most_epochs=60,
        dropout=0.2,
        embedding_unit_dropout=0.1,
        memory_dropout=0.1,
    ),
)
SENTENCES = (
    Recipe(
        pairs=80_000,
        hidden_size=512,
        num_layers=1,
        batch_size=128,
        epochs=16,
        most_epochs=40,
        dropout=0.4,
        embedding_unit_dropout=0.2,
        memory_dropout=0.2,
        learning_rate=1e-3,
        tied_output=True,
    ),
    Recipe(
        pairs=math.inf,
        hidden_size=512,
        num_layers=1,
        batch_size=128,
        epochs=8,
        most_epochs=40,
        dropout=0.3,
        attention="luong",
    ),
)
"""The rows for running text: long targets of thousands of different words or subwords."""


def recipes_for(data: TrainingData) -> Sequence[Recipe]:
    """Return the recipes for the size and kind of these data: the best one, then quicker ones for too little time."""
    is_long = data.corpus.mean_lengths[1] > SENTENCE_TOKENS
    table = SENTENCES if is_long and len(data.target.vocabulary) > SENTENCE_VOCABULARY else RECIPES
    pairs = min(recipe.pairs for recipe in table if len(data.corpus) <= recipe.pairs)
    return [recipe for recipe in table if recipe.pairs == pairs]
