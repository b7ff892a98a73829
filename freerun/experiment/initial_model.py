"""The bundle that training starts from (``--init``): its model and codecs are the run's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freerun.architecture import ATTENTIONS, Architecture
from freerun.build import model_sizes
from freerun.config import ModelConfig, shown
from freerun.data.codec import Codec
from freerun.errors import ConfigError
from freerun.experiment.bundle_reading import forms_of
from freerun.loading.torch_model import sizes_of
from freerun.runtime.bundle import Bundle, read_bundle

__all__ = [
    "bundle_settings",
    "data_hashes",
    "network_sizes",
    "read_initial_bundle",
]


def read_initial_bundle(init: str | None, raw: Mapping[str, Any], location: object) -> Bundle | None:
    """Return the bundle that ``training.init`` names, None if there is none.

    Args:
        init: the value of ``training.init``.
        raw: the keys that were set.
        location: the configuration, for messages.

    Raises:
        BundleError: it cannot be read.
        ConfigError: a key that was set contradicts the bundle.
    """
    if not init:
        return None
    bundle = read_bundle(Path(init))
    bundle.check_weights()
    _check_settings(raw, location, bundle)
    return bundle


def _check_settings(raw: Mapping[str, Any], location: object, bundle: Bundle) -> None:
    settings = bundle_settings(bundle)
    contradictions = []
    for section in ("data", "model"):
        for key, value in dict(raw.get(section, {})).items():
            path = f"{section}.{key}"
            if path in settings and value not in (settings[path], "auto"):
                contradictions.append(f"{path} is {shown(value)} here and {shown(settings[path])} there")
    if contradictions:
        raise ConfigError.single(
            location,
            f"the configuration contradicts the bundle {bundle.directory} that training starts from: "
            f"{'; '.join(contradictions)}",
            "Expected the bundle's own values",
            "Leave these keys out, or start without --init",
        )


def network_sizes(config: ModelConfig, source: Codec, target: Codec, init: Bundle | None) -> Architecture:
    """Return the dimensions of a run's network: those of the initial model, if there is one."""
    return model_sizes(config, source, target) if init is None else sizes_of(init)


def data_hashes(pairs: Mapping[str, str], init: Bundle | None) -> dict[str, str]:
    """Return the hashes of all that a run starts from: of its ``pairs``, and of the initial weights."""
    return {**pairs, **({} if init is None else {"init_sha256": init.weights_hash})}


def bundle_settings(bundle: Bundle) -> dict[str, Any]:
    """Return the values that a bundle fixes, by their key path in a configuration."""
    model, source, target = bundle.model, bundle.config["source"], bundle.config["target"]
    dimensions = {
        f"model.{key}": value for key, value in model.items() if key in ModelConfig.model_fields and key != "attention"
    }
    spec = ATTENTIONS[model["attention"]]
    attention = {"model.attention": spec.kind, **({"model.attention_score": spec.score} if spec.score else {})}
    return {
        **dimensions,
        **attention,
        "model.reverse_source": source["reverse"],
        "data.source_tokens": source["tokens"],
        "data.target_tokens": target["tokens"],
        "data.normalisation": forms_of(bundle).as_value(),
        "data.source_case": source["case"],
        **({} if bundle.source.features is None else {"data.feature_separator": bundle.source.features.separator}),
    }
