"""Training and development pairs as streams of text, with the choices of how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from itertools import islice
from typing import Final

from freerun.config import DataConfig, SideForms
from freerun.data.choose import choose_forms
from freerun.data.features import feature_tokens, source_key
from freerun.data.header import SAMPLE_PAIRS, looks_like_header
from freerun.data.normalisation import Form, normalise
from freerun.data.prepared import Prepared
from freerun.data.readers import (
    Columns,
    Pair,
    PairsLocation,
    content_hash,
    describe,
    label_of,
    read_pairs,
    read_parts,
)
from freerun.data.split import HeldOut, held_out_sources
from freerun.experiment.input_fields import InputFields, choose_fields
from freerun.experiment.pairs_spec import header_warning, location_of, may_have_header
from freerun.experiment.prepared_data import check_window, prepared_data
from freerun.experiment.run_columns import columns_for, held_out_columns
from freerun.log import log

__all__ = ["MAX_HELD_OUT", "DataSource", "composed_form", "held_out_notice", "source_reader"]

MAX_HELD_OUT: Final = 2000
_COMPOSED: Final[dict[Form, Form]] = {"NFD": "NFC", "NFKD": "NFKC"}
"""The form under which the same texts are equal as under each decomposed one."""


@dataclass(frozen=True)
class DataSource:
    """Training and development pairs as streams; each call reads the files again.

    Of ``prepared`` pairs, there is a stream of the development pairs only.
    """

    train: Callable[[], Iterator[Pair]]
    dev: Callable[[], Iterator[Pair]]
    hashes: dict[str, str]
    name: str
    _: KW_ONLY
    holds_out: bool = False
    """True if the development pairs were held out of the training pairs, not given."""
    fields: InputFields = field(default_factory=InputFields)
    """The columns, and the separator of features."""
    forms: SideForms = field(default_factory=lambda: SideForms(source="NFC", target="NFC"))
    """The Unicode form of each side."""
    prepared: Prepared | None = None
    """The directory of prepared pairs, if they are not in files of text."""

    @property
    def feature_separator(self) -> str | None:
        """The separator of a source's features, None if the pairs have no features."""
        return self.fields.separator

    @staticmethod
    def open(config: DataConfig, name: str | None = None, quiet: bool = False, limit: int | None = None) -> DataSource:
        """Open the two streams of a configuration; without development pairs some of the sources are held out.

        ``name`` is what messages call the training pairs, if not by their path. ``quiet``: nothing is logged.
        ``limit``: only the first training pairs are looked at, for choices that need no more.
        """
        prepared = prepared_data(config)
        if prepared is not None:
            return _of_prepared(config, prepared)
        check_window(config)
        location = location_of(config.train)
        label = name or describe(location)
        warn = _no_warning if quiet else _warn_of_header
        hashes = {"train_sha256": content_hash(location)}
        fields = choose_fields(config, label, quiet)

        def everything() -> Iterator[Pair]:
            return islice(fields.read_training(location, label), limit)

        warn(location, fields.columns, label)
        forms = _forms(config, everything, label, quiet)
        config = config.model_copy(update={"normalisation": forms})
        if config.dev is not None:
            dev = location_of(config.dev)
            columns = columns_for(dev, fields.columns, fields.separator)
            hashes["dev_sha256"] = content_hash(dev)
            # this also finds a bad development file now rather than after an hour
            warn(dev, columns, describe(dev))
            return DataSource(
                everything,
                lambda: fields.read_development(dev, columns, describe(dev)),
                hashes,
                label,
                fields=fields,
                forms=forms,
            )

        read_as = source_reader(config, fields.separator)

        @cache
        def held_out() -> HeldOut:
            sources = map(read_as, everything())
            return held_out_sources(sources, fraction=config.held_out, limit=MAX_HELD_OUT, location=label)

        if limit is None:
            held_out()  # too few sources are reported now
        if not quiet and limit is None:
            log.info(held_out_notice(held_out().count, f"{held_out().total:,}"))
        return DataSource(
            lambda: (pair for pair in everything() if read_as(pair) not in held_out()),
            lambda: (pair for pair in everything() if read_as(pair) in held_out()),
            hashes,
            label,
            holds_out=True,
            fields=fields,
            forms=forms,
        )


def _no_texts() -> Iterator[Pair]:
    raise RuntimeError("prepared pairs are ids, and have no texts")


def _of_prepared(config: DataConfig, prepared: Prepared) -> DataSource:
    """Open prepared pairs; development pairs are those of the preparation, unless the configuration names others."""
    data = DataConfig.model_validate({**prepared.manifest.data, "train": config.train})
    fields, hashes = InputFields(data.columns, data.feature_separator), {"train_sha256": prepared.hash}

    if config.dev is None:
        columns, file = held_out_columns(data), prepared.dev()
        dev: Callable[[], Iterator[Pair]] = lambda: read_pairs(file, columns)  # noqa: E731
    else:
        location = location_of(config.dev)
        hashes["dev_sha256"] = content_hash(location)
        dev_columns = columns_for(location, fields.columns, fields.separator)
        dev = lambda: fields.read_development(location, dev_columns, describe(location))  # noqa: E731
    return DataSource(
        _no_texts,
        dev,
        hashes,
        str(prepared.directory),
        holds_out=config.dev is None and prepared.manifest.holds_out,
        fields=fields,
        forms=data.forms,
        prepared=prepared,
    )


def _forms(config: DataConfig, pairs: Callable[[], Iterator[Pair]], label: str, quiet: bool) -> SideForms:
    """Return the Unicode form of each side, with "auto" replaced; the reasons are logged."""
    if config.normalisation != "auto":
        return config.forms
    tokens = config.source_tokens, config.target_tokens
    choice = choose_forms(pairs, *tokens, shared=config.shared_vocabulary, location=label)
    if not quiet:
        for reason in choice.reasons:
            log.info(reason)
    return SideForms(source=choice.source, target=choice.target)


def held_out_notice(count: int, total: str) -> str:
    """Return the notice that some of the sources are held out."""
    return (
        f"No development pairs given: {count:,} of {total} sources are held out for evaluation (chosen by a hash, the "
        "same in every run)."
    )


def composed_form(form: Form) -> Form:
    """Return the form in which sources are compared, if the model reads them in ``form``."""
    return _COMPOSED.get(form, form)


def source_reader(config: DataConfig, separator: str | None) -> Callable[[Pair], str]:
    """Return a function from a pair to a text that is equal for sources (with their features) that count as one.

    It is the source as the tokenizer will read it: if case is folded, "Foo" and "foo" are one source. The text is
    composed even if the model reads what characters consist of, so that the same sources are held out.
    """
    form = composed_form(config.forms.source)

    def read_as(pair: Pair) -> str:
        source = normalise(pair.source, form, config.source_case)
        return source if separator is None else source_key(source, feature_tokens(pair.features or "", separator))

    return read_as


def _warn_of_header(location: PairsLocation, columns: Columns | None, label: str) -> None:
    """Log a warning if the first pair of a file looks like the names of the columns."""
    for part, pairs in read_parts(location, columns):
        first = next(pairs)
        others = ((pair.source, pair.target) for pair in islice(pairs, SAMPLE_PAIRS))
        if may_have_header(part) and looks_like_header((first.source, first.target), others):
            log.warning(header_warning(label_of(part, location, label), first))


def _no_warning(location: PairsLocation, columns: Columns | None, label: str) -> None:
    """Check that there is a first pair, as ``_warn_of_header`` does."""
    for _, pairs in read_parts(location, columns):
        next(pairs)
