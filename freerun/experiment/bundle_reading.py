"""How the model of a bundle reads pairs that it is trained on further."""

from __future__ import annotations

from freerun.config import DataConfig, SideForms
from freerun.errors import ConfigError
from freerun.runtime.bundle import Bundle

__all__ = ["as_bundle_reads", "check_bundle_features", "forms_of"]


def as_bundle_reads(data: DataConfig, bundle: Bundle) -> DataConfig:
    """Return ``data`` with the Unicode forms of the bundle, and its feature separator if its model has features."""
    features = bundle.source.features
    separator = {} if features is None else {"feature_separator": features.separator}
    return data.model_copy(update={"normalisation": forms_of(bundle), **separator})


def check_bundle_features(bundle: Bundle, name: str, separator: str | None) -> None:
    """Check that pairs have features if and only if the bundle's model has.

    ``separator`` is that of the pairs, which messages call ``name``; None if they have no features.

    Raises:
        ConfigError: only one of them has.
    """
    has = bundle.source.features is not None
    if has == (separator is not None):
        return
    here, there = ("no features", "some") if has else ("features", "none")
    fix = (
        "Add the features: a third column, chosen with --columns, or the key features in JSON Lines"
        if has
        else "Leave the features out, for example with --columns 1,2"
    )
    raise ConfigError.single(
        "training.init",
        f"{name} has {here}, and the model {bundle.directory} that training starts from has {there}",
        f"Expected pairs with{'' if has else 'out'} features",
        f"{fix}; or start without --init",
    )


def forms_of(bundle: Bundle) -> SideForms:
    """Return the Unicode form in which a bundle reads each side."""
    return SideForms(source=bundle.source.normalisation, target=bundle.target.normalisation)
