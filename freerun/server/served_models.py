"""The models of a service: loaded, checked, and loaded again when their files were replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from freerun.data.codec import Codec
from freerun.data.vocabulary import Vocabulary
from freerun.loading import Precision, load_bundles
from freerun.runtime.bundle import Bundle, bundle_identity
from freerun.runtime.compiled import instructions
from freerun.runtime.predictor import Predictor
from freerun.search.methods import Beam
from freerun.server.serve_settings import RequestLimits
from freerun.symbols import NUM_SPECIAL

__all__ = ["ModelLoader", "ServedModel", "details_of"]

_SHOWN_SYMBOLS: Final = 500


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
        self._identities: dict[str, Any] = {}
        self.models: dict[str, ServedModel] = {}

    def load(self) -> None:
        """Load all models. Raises UserError for one that cannot be used."""
        self.models = {name: self._loaded(name) for name in self._paths}

    def changed(self) -> list[str]:
        """Return the names of models whose files were replaced since they were last looked at."""
        return [
            name for name, path in self._paths.items() if bundle_identity(path) not in (None, self._identities[name])
        ]

    def loaded_again(self, all_of_them: bool = False) -> dict[str, ServedModel]:
        """Return the models, those that were replaced loaded again; ``models`` stay as they are.

        Raises:
            UserError: a model cannot be used.
        """
        return {
            name: self._loaded(name) if all_of_them or name in changed else model
            for changed in [self.changed()]
            for name, model in self.models.items()
        }

    def _loaded(self, name: str) -> ServedModel:
        path = self._paths[name]
        self._identities[name] = bundle_identity(path)  # before it is read: a later change is noticed
        predictor, bundle = load_bundles([path], threads=self._threads, precision=self._precision)
        _check(predictor)
        card = _card_of(bundle)
        return ServedModel(name, predictor, bundle, self._languages[name], self._precision, card)


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
