"""The Unicode forms in which the sources of a tuning are different characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from freerun.config import DataConfig
from freerun.data.memory_pairs import PairsInMemory
from freerun.data.normalisation import Form, normalise
from freerun.data.readers import PairsLocation, describe
from freerun.experiment.input_fields import choose_fields
from freerun.experiment.pairs_spec import location_of
from freerun.experiment.prepared_data import names_prepared

__all__ = ["source_forms"]

_FORMS: Final[tuple[Form, Form]] = ("NFC", "NFD")


def source_forms(config: DataConfig, pairs: PairsLocation | PairsInMemory | None) -> Sequence[Form]:
    """Return NFC and NFD if they differ for a source whose tokens are characters, no form otherwise.

    Args:
        config: of a trial.
        pairs: what it was trained on; pairs in memory, whose file a trial may no longer have, are read here.
    """
    if names_prepared(config.train):
        return ()  # their form is fixed
    if config.source_tokens != "char" or config.shared_vocabulary or config.forms.source not in _FORMS:
        return ()
    if isinstance(pairs, PairsInMemory):
        sources = (pair.source for pair in pairs.pairs)
    else:
        location = location_of(config.train)
        label = describe(location)
        sources = (pair.source for pair in choose_fields(config, label, quiet=True).read_training(location, label))
    composed, apart = _FORMS
    return _FORMS if any(normalise(text, composed) != normalise(text, apart) for text in sources) else ()
