"""The data of a run: codecs, the training corpus, and the development pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from freerun.config import Config, DataConfig
from freerun.data.choose import choose_tokenisation
from freerun.data.codec import Codec, build_codecs
from freerun.data.corpus import FilterReport, encode_corpus
from freerun.data.features import FeatureCodec
from freerun.data.hash_sampling import hash_sample
from freerun.data.known_features import count_unknown_features, unknown_features_warning
from freerun.data.prepared import Prepared
from freerun.data.training_pairs import TrainingPairs
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
from freerun.evaluation.baseline import most_frequent_target
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.evaluation.unknown_targets import warn_of_unknown_targets
from freerun.experiment.data_source import DataSource
from freerun.experiment.prepared_data import pairs_of, prepared_keys
from freerun.log import log

__all__ = ["TrainingData", "choose_text", "load_data", "most_frequent_of", "write_held_out"]


@dataclass(frozen=True)
class TrainingData:
    """The pairs that training reads, encoded."""

    source: Codec
    target: Codec
    corpus: TrainingPairs
    report: FilterReport
    dev: EvaluationSet
    sample: EvaluationSet
    """A fixed part of ``dev``, for the evaluations during training."""


def choose_text(config: DataConfig, pairs: DataSource) -> dict[str, Any]:
    """Return the tokenisations of both sides, with "auto" replaced and the reasons logged, and their Unicode forms.

    Of prepared pairs, all keys that their preparation fixed.
    """
    if pairs.prepared is not None:
        return prepared_keys(pairs.prepared)
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
    if pairs.prepared is not None:
        data = _prepared_data(config, pairs, pairs.prepared)
    else:
        data = _encoded_data(config, pairs, codecs)
    _log_data_summary(data)
    _warn_of_unknown_tokens(data, pairs, config.training.init if codecs else "")
    return data


def _encoded_data(config: Config, pairs: DataSource, codecs: tuple[Codec, Codec] | None) -> TrainingData:
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
    return TrainingData(source, target, corpus, report, dev, _sample(dev, config.evaluation.max_sources))


def _prepared_data(config: Config, pairs: DataSource, prepared: Prepared) -> TrainingData:
    """Return the data of prepared pairs; a model that training starts from has the same codecs."""
    source, target = prepared.codecs(config.model.reverse_source)
    corpus = pairs_of(prepared, source, target, config.data)
    dev = group_pairs(pairs.dev(), source, target)
    report = prepared.report
    if config.data.dev is not None:
        report = replace(report, development_sources=0)  # not known of others than those of the preparation
    return TrainingData(source, target, corpus, report, dev, _sample(dev, config.evaluation.max_sources))


def most_frequent_of(pairs: DataSource) -> str:
    """Return the most frequent training target."""
    if pairs.prepared is not None:
        return pairs.prepared.manifest.most_frequent_target
    return most_frequent_target(lambda: (pair.target for pair in pairs.train()))


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
    (sources, targets), (unknown_sources, unknown_targets, _) = data.corpus.num_tokens, data.corpus.num_unknown
    if init and unknown_sources > MAX_UNKNOWN * sources:
        examples = _unknown_examples(pairs, "source", data.source)
        log.warning(unknown_sources_warning(label, examples, unknown_sources, sources, vocabulary))
    if unknown_targets > MAX_UNKNOWN * targets:
        examples = _unknown_examples(pairs, "target", data.target)
        log.warning(unknown_targets_warning(label, examples, unknown_targets, targets, vocabulary, fix))
    dev_label = f"held-out pairs of {pairs.name}" if pairs.holds_out else "development pairs"
    warn_of_unknown_targets(dev_label, data.dev, data.target, vocabulary, fix)
    _warn_of_unknown_features(data, pairs, init, (label, dev_label))


def _warn_of_unknown_features(data: TrainingData, pairs: DataSource, init: str, labels: tuple[str, str]) -> None:
    """Log a warning if the model reads many features of the training or of the development sources as unknown."""
    features = data.source.features
    if features is None:
        return
    vocabulary, fix = (f"the vocabulary of {init}", FIX_INIT) if init else ("the vocabulary", FIX_FEATURES)
    sides = (_unknown_training_features(data, pairs, features), count_unknown_features(features, data.dev.items))
    for label, (unknown, total) in zip(labels, sides, strict=True):
        if unknown.total() > MAX_UNKNOWN * total:
            log.warning(f"{label}: {unknown_features_warning(unknown, features, total, vocabulary, fix)}")


def _unknown_training_features(
    data: TrainingData, pairs: DataSource, features: FeatureCodec
) -> tuple[Counter[str], int]:
    """Return the unknown features of the training sources, and the number of all."""
    if pairs.prepared is not None:
        manifest = pairs.prepared.manifest
        # those that are named; the others are too rare to matter
        return Counter(manifest.unknown.get("features", {})), sum(shard.feature_tokens for shard in manifest.shards)
    return count_unknown_features(features, pairs.train() if data.corpus.num_unknown[2] else ())


def _unknown_examples(pairs: DataSource, side: Literal["source", "target"], codec: Codec) -> Counter[str]:
    """Count unknown tokens of the first texts that have some, because their ids do not identify them.

    Of prepared pairs, these are the most frequent ones.
    """
    if pairs.prepared is not None:
        return Counter(pairs.prepared.manifest.unknown.get(side, {}))
    unknown: Counter[str] = Counter()
    for pair in pairs.train():
        unknown.update(codec.unknown(pair.source if side == "source" else pair.target))
        if len(unknown) >= MAX_NAMED:
            break
    return unknown


def write_held_out(config: DataConfig, pairs: DataSource, directory: Path) -> None:
    """Write the held-out pairs to the run directory, if no development pairs were given."""
    if config.dev is None:
        write_pairs(directory / "dev.tsv", pairs.dev(), pairs.feature_separator)
