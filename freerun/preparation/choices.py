"""The choices that a preparation begins with: how pairs are read, and in how many processes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from freerun.config import DataConfig, shown
from freerun.data.codec import check_specs
from freerun.data.readers import files_of
from freerun.errors import ConfigError, DataError
from freerun.experiment.bundle_reading import as_bundle_reads, check_bundle_features
from freerun.experiment.data_source import DataSource, composed_form
from freerun.experiment.dataset import choose_text
from freerun.experiment.pairs_spec import location_of
from freerun.preparation.counting import Reading
from freerun.runtime.bundle import Bundle, read_bundle
from freerun.version import VERSION

__all__ = ["Choices", "PrepareRequest", "choose", "num_bytes", "settings_of", "state_of"]

SAMPLE_PAIRS: Final = 1_000_000
"""Tokens and Unicode forms that are not set are chosen from so many of the first pairs."""
_SMALL: Final = 16_000_000
"""Bytes of pairs that one process reads in less time than others need to start."""


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """The arguments of ``freerun data prepare``.

    Attributes:
        data: the section [data] of a configuration.
        out: the directory for the prepared data.
        processes: how many processes work; None: one per core, but one for little data.
        cores: how many there are.
        init: the model whose vocabularies are taken, None to learn them.
    """

    data: DataConfig
    out: Path
    processes: int | None
    cores: int
    init: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """All choices of a preparation.

    Attributes:
        pairs: the pairs as streams, of which the first million was looked at.
        data: the section [data], complete.
        reading: how texts are read.
        processes: how many work.
        bundle: the model whose vocabularies are taken, None to learn them.
        state: of the files of pairs before they were read for the first time.
    """

    pairs: DataSource
    data: DataConfig
    reading: Reading
    processes: int
    bundle: Bundle | None
    state: Sequence[tuple[int, ...]]

    def record(self) -> dict[str, Any]:
        """Return what identifies the preparation: the pairs, wherever they are, and the settings."""
        init = {} if self.bundle is None else {"init": self.bundle.digest}
        return {"freerun": VERSION, "pairs": self.pairs.hashes, **init, "data": settings_of(self.data)}


def choose(request: PrepareRequest) -> Choices:
    """Make all choices for a request.

    Raises:
        UserError: the pairs cannot be read, or the settings contradict each other.
    """
    bundle = None if request.init is None else read_bundle(request.init)
    requested = request.data.model_copy(update={"window": None})  # that is a choice of each training
    reading_as = requested if bundle is None else _as_bundle_reads(requested, bundle)
    state = state_of(requested)
    pairs = DataSource.open(reading_as, limit=SAMPLE_PAIRS)
    if pairs.prepared is not None:
        raise DataError(
            pairs.prepared.directory,
            "these pairs are prepared already",
            "Expected files of pairs",
            f"Train on them: freerun train {pairs.prepared.directory}",
        )
    if bundle is not None:
        check_bundle_features(bundle, pairs.name, pairs.feature_separator)
    forms = reading_as.model_copy(update={"normalisation": pairs.forms})
    chosen = {**pairs.fields.settings(), **choose_text(forms, pairs), "normalisation": pairs.forms.as_value()}
    data = DataConfig.model_validate({**reading_as.model_dump(), **chosen})
    check_specs(data.source_tokens, data.target_tokens, data.shared_vocabulary)
    reading = Reading(
        columns=pairs.fields.columns,
        separator=pairs.fields.separator,
        source_form=pairs.forms.source,
        target_form=pairs.forms.target,
        composed_form=composed_form(pairs.forms.source),
        source_case=data.source_case,
        source_tokens=data.source_tokens,
        target_tokens=data.target_tokens,
        holds_out=data.dev is None,
    )
    processes = request.processes or (1 if num_bytes(state) < _SMALL else request.cores)
    return Choices(pairs=pairs, data=data, reading=reading, processes=processes, bundle=bundle, state=state)


def _as_bundle_reads(data: DataConfig, bundle: Bundle) -> DataConfig:
    """Return ``data`` with the tokens and the case of a bundle, too.

    Raises:
        ConfigError: the configuration sets others.
    """
    tokens = {"source_tokens": bundle.source.tokenizer.spec, "target_tokens": bundle.target.tokenizer.spec}
    for key, spec in tokens.items():
        if getattr(data, key) not in ("auto", spec):
            raise ConfigError.single(
                f"data.{key}",
                f"the value is {shown(getattr(data, key))}, and the model {bundle.directory} has {shown(spec)}",
                "Expected the tokens of the model whose vocabularies are taken",
                "Leave them out, or leave out --init",
            )
    return as_bundle_reads(data, bundle).model_copy(update={**tokens, "source_case": bundle.source.case})


def settings_of(data: DataConfig) -> dict[str, Any]:
    """Return the keys of [data] that a preparation fixes."""
    settings = data.model_dump(exclude_none=True, mode="json")
    others = ("train", "dev", "window", *(() if data.dev is None else ("held_out",)))
    return {key: value for key, value in settings.items() if key not in others}


def state_of(data: DataConfig) -> list[tuple[int, ...]]:
    """Return size and time of the files of pairs; nothing of a file that cannot be read, which is reported later."""
    states: list[tuple[int, ...]] = []
    for file in files_of(location_of(data.train)):
        with contextlib.suppress(OSError):
            status = file.stat()
            states.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return states


def num_bytes(state: Sequence[tuple[int, ...]]) -> int:
    """Return the size of all files, by their states."""
    return sum(size for size, *_ in state)
