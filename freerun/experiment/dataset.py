"""The data of a run: codecs, the training corpus, and the development pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from freerun.config import Config, DataConfig, SideForms
from freerun.data.choose import choose_forms, choose_tokenisation
from freerun.data.codec import Codec, build_codecs
from freerun.data.corpus import Corpus, FilterReport, IntArray, encode_corpus
from freerun.data.features import SourceText, feature_tokens, source_key
from freerun.data.hash_sampling import hash_sample
from freerun.data.header import SAMPLE_PAIRS, looks_like_header
from freerun.data.known_features import count_unknown_features, unknown_features_warning
from freerun.data.normalisation import Form, normalise
from freerun.data.readers import Columns, Pair, PairsLocation, content_hash, describe, label_of, read_parts
from freerun.data.split import held_out_sources
from freerun.data.unknown_tokens import (
    FIX_FEATURES,
    FIX_INIT,
    FIX_TRAINING,
    MAX_NAMED,
    MAX_UNKNOWN,
    unknown_sources_warning,
    unknown_targets_warning,
)
from freerun.data.writers import write_pairs
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.evaluation.unknown_targets import warn_of_unknown_targets
from freerun.experiment.input_fields import InputFields, choose_fields
from freerun.experiment.pairs_spec import header_warning, location_of, may_have_header
from freerun.experiment.run_columns import columns_for
from freerun.log import log
from freerun.symbols import UNK

__all__ = ["DataSource", "TrainingData", "choose_text", "load_data", "source_reader", "write_held_out"]

MAX_HELD_OUT = 2000
_COMPOSED: Final[dict[Form, Form]] = {"NFD": "NFC", "NFKD": "NFKC"}
"""The form under which the same texts are equal as under each decomposed one."""


@dataclass(frozen=True)
class DataSource:
    """Training and development pairs as streams; each call reads the files again."""

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

    @property
    def feature_separator(self) -> str | None:
        """The separator of a source's features, None if the pairs have no features."""
        return self.fields.separator

    @staticmethod
    def open(config: DataConfig, name: str | None = None, quiet: bool = False) -> DataSource:
        """Open the two streams of a configuration; without development pairs some of the sources are held out.

        ``name`` is what messages call the training pairs, if not by their path. ``quiet``: nothing is logged.
        """
        location = location_of(config.train)
        label = name or describe(location)
        warn = _no_warning if quiet else _warn_of_header
        hashes = {"train_sha256": content_hash(location)}
        fields = choose_fields(config, label, quiet)

        def everything() -> Iterator[Pair]:
            return fields.read_training(location, label)

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
        held_out = held_out_sources(
            map(read_as, everything()), fraction=config.held_out, limit=MAX_HELD_OUT, location=label
        )
        if not quiet:
            log.info(
                f"No development pairs given: {held_out.count:,} of {held_out.total:,} sources are held out for "
                "evaluation (chosen by a hash, the same in every run)."
            )
        return DataSource(
            lambda: (pair for pair in everything() if read_as(pair) not in held_out),
            lambda: (pair for pair in everything() if read_as(pair) in held_out),
            hashes,
            label,
            holds_out=True,
            fields=fields,
            forms=forms,
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


def source_reader(config: DataConfig, separator: str | None) -> Callable[[Pair], str]:
    """Return a function from a pair to a text that is equal for sources (with their features) that count as one.

    It is the source as the tokenizer will read it: if case is folded, "Foo" and "foo" are one source. The text is
    composed even if the model reads what characters consist of, so that the same sources are held out.
    """
    form = _COMPOSED.get(config.forms.source, config.forms.source)

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


@dataclass(frozen=True)
class TrainingData:
    """The pairs that training reads, encoded."""

    source: Codec
    target: Codec
    corpus: Corpus
    report: FilterReport
    dev: EvaluationSet
    sample: EvaluationSet
    """A fixed part of ``dev``, for the evaluations during training."""


def choose_text(config: DataConfig, pairs: DataSource) -> dict[str, Any]:
    """Return the tokenisations of both sides, with "auto" replaced and the reasons logged, and their Unicode forms."""
    if config.normalisation != "auto":
        return _choose_tokens(config, pairs)
    return {**_choose_tokens(config, pairs), "normalisation": pairs.forms.as_value()}


def _choose_tokens(config: DataConfig, pairs: DataSource) -> dict[str, str]:
    requested = {"source_tokens": config.source_tokens, "target_tokens": config.target_tokens}
    if "auto" not in requested.values():
        return requested
    choice = choose_tokenisation(pairs.train, location=pairs.name)
    for reason in choice.reasons:
        log.info(reason)
    chosen = {"source_tokens": choice.source_tokens, "target_tokens": choice.target_tokens}
    tokens = {key: chosen[key] if value == "auto" else value for key, value in requested.items()}
    return _shared(tokens, requested) if config.shared_vocabulary else tokens


def _shared(tokens: dict[str, str], requested: dict[str, str]) -> dict[str, str]:
    """Return the same tokens for both sides, as one vocabulary needs: those that were set, else the finer ones."""
    if len(set(tokens.values())) == 1:
        return tokens
    given = [value for value in requested.values() if value != "auto"]
    finer = (*given, *sorted(tokens.values(), key=_fineness))[0]
    log.info(f"Both sides: {finer}, because data.shared_vocabulary = true needs the same tokens.")
    return dict.fromkeys(tokens, finer)


def _fineness(spec: str) -> tuple[int, int]:
    """Order tokenisations: characters, then subwords (the larger number first), then words."""
    kind, _, pieces = spec.partition(":")
    return ("char", "sentencepiece", "whitespace").index(kind), -int(pieces or 0)


def load_data(config: Config, pairs: DataSource, codecs: tuple[Codec, Codec] | None = None) -> TrainingData:
    """Build the codecs (unless given: a bundle's, for fine-tuning) and encode all pairs."""
    options = config.data
    source, target = codecs or build_codecs(
        pairs.train,
        source_tokens=options.source_tokens,
        target_tokens=options.target_tokens,
        minimum_count=options.minimum_count,
        source_form=options.forms.source,
        target_form=options.forms.target,
        source_case=options.source_case,
        reverse_source=config.model.reverse_source,
        shared_vocabulary=options.shared_vocabulary,
        feature_separator=pairs.feature_separator,
    )
    dev_pairs = list(pairs.dev())
    dev = group_pairs(dev_pairs, source, target)
    corpus, report = encode_corpus(
        pairs.train(),
        source,
        target,
        options.max_source_length,
        options.max_target_length,
        pairs.name,
        held_out=dev_pairs if pairs.holds_out else (),
        development=dev.items,
    )
    data = TrainingData(source, target, corpus, report, dev, _sample(dev, config.evaluation.max_sources))
    _log_data_summary(data)
    _warn_of_unknown_tokens(data, pairs, config.training.init if codecs else "")
    return data


def _sample(dev: EvaluationSet, size: int) -> EvaluationSet:
    """Return at most ``size`` sources, by hash, each with all its references, also those of another spelling."""
    chosen, _ = hash_sample(enumerate(dev.labels), lambda entry: entry[1], size, "dev sample")
    return dev.take(number for number, _ in chosen)


def _log_data_summary(data: TrainingData) -> None:
    log.info(f"Training pairs: {data.report}.")
    if count := data.report.same_as_held_out:
        log.info(
            f"{count:,} training pair{'' if count == 1 else 's'} left out: the model reads the same token ids as for a "
            "held-out source, so training on them would leak."
        )
    if count := data.report.development_sources:
        log.warning(
            f"{count:,} of {len(data.dev):,} development sources ({100 * count / len(data.dev):.1f} %) are "
            "training sources too, as the model reads them. On these, metrics measure what it remembers, not how it "
            "does on new sources, and the best model is chosen by them. Remove them from one of the two."
        )
    log.info(
        f"Vocabulary: {len(data.source.vocabulary):,} source ids ({data.source.tokenizer.spec}), "
        f"{len(data.target.vocabulary):,} target ids ({data.target.tokenizer.spec}){_feature_summary(data)}. "
        f"Development sources: {len(data.dev):,}"
        + (f", {len(data.sample):,} of them during training." if len(data.sample) < len(data.dev) else ".")
    )


def _feature_summary(data: TrainingData) -> str:
    """Return the size of the feature vocabulary, and how many features of the development sources it lacks."""
    features = data.source.features
    if features is None:
        return ""
    unknown, total = count_unknown_features(features, data.dev.items)
    rate = f"{100 * unknown.total() / total:.2f} %" if total else "none"
    return f", {len(features.vocabulary):,} feature ids ({rate} of the development sources' features are unknown)"


def _warn_of_unknown_tokens(data: TrainingData, pairs: DataSource, init: str) -> None:
    """Log a warning if the model can never write many tokens of the training or of the development targets.

    ``init`` is the model that training starts from, if any: it may lack tokens of the sources, too.
    """
    label = f"training pairs of {pairs.name}"
    vocabulary, fix = (f"the vocabulary of {init}", FIX_INIT) if init else ("the vocabulary", FIX_TRAINING)
    if init and (count := _unknown_among(sources := data.corpus.sources.tokens)):
        examples = _unknown_examples(data.source, (pair.source for pair in pairs.train()))
        log.warning(unknown_sources_warning(label, examples, count, len(sources), vocabulary))
    if count := _unknown_among(targets := data.corpus.targets.tokens):
        examples = _unknown_examples(data.target, (pair.target for pair in pairs.train()))
        log.warning(unknown_targets_warning(label, examples, count, len(targets), vocabulary, fix))
    dev_label = f"held-out pairs of {pairs.name}" if pairs.holds_out else "development pairs"
    warn_of_unknown_targets(dev_label, data.dev, data.target, vocabulary, fix)
    _warn_of_unknown_features(data, pairs, init, (label, dev_label))


def _warn_of_unknown_features(data: TrainingData, pairs: DataSource, init: str, labels: tuple[str, str]) -> None:
    """Log a warning if the model reads many features of the training or of the development sources as unknown."""
    features, encoded = data.source.features, data.corpus.features
    if features is None or encoded is None:
        return
    train: Iterable[SourceText] = pairs.train() if np.any(encoded.tokens == UNK) else ()
    sides: tuple[Iterable[SourceText], ...] = (train, data.dev.items)
    vocabulary, fix = (f"the vocabulary of {init}", FIX_INIT) if init else ("the vocabulary", FIX_FEATURES)
    for label, sources in zip(labels, sides, strict=True):
        unknown, total = count_unknown_features(features, sources)
        if unknown.total() > MAX_UNKNOWN * total:
            log.warning(f"{label}: {unknown_features_warning(unknown, features, total, vocabulary, fix)}")


def _unknown_among(tokens: IntArray) -> int:
    """Return the number of unknown ids, 0 if they are too few for a warning."""
    unknown = int(np.count_nonzero(tokens == UNK))
    return unknown if unknown > MAX_UNKNOWN * len(tokens) else 0


def _unknown_examples(codec: Codec, texts: Iterable[str]) -> Counter[str]:
    """Count unknown tokens of the first texts that have some, because their ids do not identify them."""
    unknown: Counter[str] = Counter()
    for text in texts:
        unknown.update(codec.unknown(text))
        if len(unknown) >= MAX_NAMED:
            break
    return unknown


def write_held_out(config: DataConfig, pairs: DataSource, directory: Path) -> None:
    """Write the held-out pairs to the run directory, if no development pairs were given."""
    if config.dev is None:
        write_pairs(directory / "dev.tsv", pairs.dev(), pairs.feature_separator)
