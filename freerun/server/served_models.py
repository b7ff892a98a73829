"""The models of a service: loaded, checked, and loaded again when their files were replaced."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from freerun.data.codec import Codec
from freerun.data.vocabulary import Vocabulary
from freerun.loading import Precision, load_bundles
from freerun.runtime.bundle import Bundle, bundle_identity
from freerun.runtime.compiled import instructions
from freerun.runtime.predictor import Predictor
from freerun.runtime.snapshot import Identity
from freerun.search.methods import Beam
from freerun.server.serve_settings import RequestLimits
from freerun.symbols import NUM_SPECIAL

__all__ = ["ModelLoader", "ServedModel", "details_of"]

_SHOWN_SYMBOLS: Final = 500
_TRY_AGAIN: Final = 60.0
"""Seconds after which a model that could not be used is tried again, though its files are the same."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that is ready to answer. Two are equal only if they are the same object.

    Attributes:
        name: part of its address.
        predictor: what decodes.
        bundle: what it was loaded from.
        languages: the codes of source and target.
        precision: of its weights.
        card: its model card.
    """

    name: str
    predictor: Predictor
    bundle: Bundle
    languages: tuple[str, str]
    precision: Precision
    card: str

    @property
    def has_features(self) -> bool:
        """Return True if each text needs features."""
        return self.predictor.source.features is not None


LoadedModel: TypeAlias = tuple[ServedModel, Identity | None]
"""A model, and the identity of the files that it was loaded from."""


class ModelLoader:
    """Loads the models of a service, and those again whose files have changed."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        languages: Mapping[str, tuple[str, str]],
        precision: Precision,
        threads: int,
    ) -> None:
        self._paths, self._languages = paths, languages
        self._precision, self._threads = precision, threads
        self._identities: dict[str, Identity | None] = {}
        self._tried: dict[str, tuple[Identity | None, float]] = {}
        self.models: dict[str, ServedModel] = {}

    def load(self) -> None:
        """Load all models. Raises UserError for one that cannot be used."""
        self.adopt({name: self._loaded(name) for name in self._paths})

    def adopt(self, loaded: Mapping[str, LoadedModel]) -> None:
        """Take models as those that serve."""
        self.models = {name: model for name, (model, _) in loaded.items()}
        self._identities = {name: identity for name, (_, identity) in loaded.items()}

    def changed(self) -> list[str]:
        """Return the names of models whose files were replaced; one that could not be used is tried again later."""
        return [name for name, path in self._paths.items() if self._is_new(name, bundle_identity(path))]

    def _is_new(self, name: str, identity: Identity | None) -> bool:
        if identity is None or identity == self._identities[name]:
            return False
        tried, at = self._tried.get(name, (None, 0.0))
        return identity != tried or time.monotonic() > at + _TRY_AGAIN

    def loaded_again(self, all_of_them: bool = False) -> dict[str, LoadedModel]:
        """Return the models, those that were replaced loaded again, for ``adopt``.

        Raises:
            UserError: a model cannot be used.
        """
        changed = list(self._paths) if all_of_them else self.changed()
        for name in changed:
            self._tried[name] = bundle_identity(self._paths[name]), time.monotonic()
        return {
            name: self._loaded(name) if name in changed else (model, self._identities[name])
            for name, model in self.models.items()
        }

    def _loaded(self, name: str) -> LoadedModel:
        path = self._paths[name]
        identity = bundle_identity(path)  # before it is read: a later change is noticed
        predictor, bundle = load_bundles([path], threads=self._threads, precision=self._precision)
        _check(predictor)
        card = _card_of(bundle)
        return ServedModel(name, predictor, bundle, self._languages[name], self._precision, card), identity


def _check(predictor: Predictor) -> None:
    """Decode and score something, so that files which are read when first used are read and checked now.

    Raises:
        UserError: a file is damaged, or the model gives scores that are not finite.
    """
    vocabulary = predictor.source.vocabulary
    text = predictor.source.text(_symbols(vocabulary)[:3])
    source = text if predictor.source.features is None else (text, "")
    [prediction] = predictor.predict_encoded(predictor.encode([source], max_length=20))
    predictor.predict_encoded(predictor.encode([source], max_length=20), Beam(2, 2))
    pair = _Checked(text, prediction.text, "" if predictor.source.features is not None else None)
    predictor.score_encoded(predictor.encode_pairs([pair]))


@dataclass(frozen=True)
class _Checked:
    source: str
    target: str
    features: str | None


def _card_of(bundle: Bundle) -> str:
    try:
        with (bundle.directory / "README.md").open("rb") as file:
            return file.read(200_000).decode(errors="replace")
    except OSError:
        return ""


def details_of(served: ServedModel, limits: RequestLimits) -> dict[str, Any]:
    """Return what GET /v1/models/NAME answers."""
    bundle, predictor = served.bundle, served.predictor
    features = predictor.source.features
    source, target = served.languages
    return {
        "name": served.name,
        "features": None
        if features is None
        else {
            "separator": features.separator,
            "vocabulary": len(features.vocabulary),
            "symbols": _symbols(features.vocabulary),
        },
        "attention": predictor.has_attention,
        "digest": bundle.digest,
        "card": served.card,
        "metrics": dict(bundle.metrics),
        "parameters": bundle.config["training"]["parameters"],
        "architecture": dict(bundle.model),
        "source": _side(predictor.source),
        "target": _side(predictor.target),
        "languages": {"source": source, "target": target},
        "runtime": {
            "name": predictor.runtime,
            "instructions": instructions() if predictor.runtime == "compiled" else None,
            "precision": served.precision,
        },
        "limits": {name: getattr(limits, name) for name in RequestLimits.__dataclass_fields__},
    }


def _side(codec: Codec) -> dict[str, Any]:
    return {
        "tokens": codec.tokenizer.spec,
        "normalisation": codec.normalisation,
        "case": codec.case,
        "vocabulary": len(codec.vocabulary),
        "symbols": _symbols(codec.vocabulary),
    }


def _symbols(vocabulary: Vocabulary) -> list[str]:
    return vocabulary.tokens(range(NUM_SPECIAL, min(len(vocabulary), NUM_SPECIAL + _SHOWN_SYMBOLS)))
