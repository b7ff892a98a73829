"""Small networks with every parameter drawn, their batches, and what the reference in ``oracle`` needs of both."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from freerun.architecture import CELLS as CELL_SPECS
from freerun.architecture import FEATURE_ENCODERS, Architecture
from freerun.data.batching import make_batch
from freerun.data.corpus import Corpus, Ragged
from freerun.forcing.loss import Losses
from freerun.forcing.rollout import uniforms
from freerun.forcing.training_batch import TrainingBatch
from freerun.models.dropout import DropoutRates
from freerun.models.recurrence import RecurrentLayer
from freerun.models.seq2seq import Seq2Seq
from freerun.symbols import EOS
from tests.oracle import NO_DROPOUT, Masks, Model
from tests.oracle_losses import Row

CELLS = tuple(CELL_SPECS)
BOUNDED_CELLS = tuple(name for name, spec in CELL_SPECS.items() if spec.is_bounded)
COMPILED_CELLS = tuple(name for name, spec in CELL_SPECS.items() if spec.compiled_training)
BACKENDS = ("reference", "fused", "auto")
TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def one_of(names):
    """How messages list the values of a key."""
    return "one of " + ", ".join(f'"{name}"' for name in names)


def draw(*shape, seed=0, dtype=torch.float64):
    """Values in (-1, 1) that want a gradient."""
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * values - 1).to(dtype).requires_grad_()


def randomise(module, seed=0, scale=0.6, dtype=torch.float64):
    """Draw all parameters, biases too: what initialisation leaves at 0 can hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    module = module.to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((2 * values - 1) * scale)
    return module


def layer(cell, input_size=3, hidden_size=4, backend="reference", seed=0, dtype=torch.float64):
    return randomise(RecurrentLayer(cell, input_size, hidden_size, backend), seed, dtype=dtype)


def architecture(source_vocabulary, target_vocabulary=None, **options):
    """One layer of 64, and as many target ids as source ids unless told otherwise."""
    return Architecture(
        source_vocabulary=source_vocabulary,
        target_vocabulary=target_vocabulary or source_vocabulary,
        **{"embedding_size": 16, "hidden_size": 64, "num_layers": 1, **options},
    )


RATES = tuple(each.name for each in dataclasses.fields(DropoutRates))
SOME_OF_ALL = dict.fromkeys(RATES, 0.3)
"""Every kind of dropout."""


def network(seed=0, dtype=torch.float64, backend="auto", scale=0.6, **options):
    """A model of 11 source and 9 target ids, two layers of 4 units by default; options are sizes and dropout rates."""
    rates = DropoutRates(**{name: options.pop(name) for name in RATES if name in options})
    options = {"embedding_size": 3, "hidden_size": 4, "num_layers": 2, **options}
    model = Seq2Seq(architecture(11, 9, **options), rates, backend)
    return randomise(model, seed, scale, dtype)


def dropout_generators(update):
    """The generators of an update's dropout masks: of the batch, and of the update."""
    return update.generator("dropout"), update.shared_generator("dropout")


def gradients(loss, *tensors):
    """The gradient of ``loss`` for each tensor, in the tensors' order."""
    return torch.autograd.grad(loss, tensors, retain_graph=True)


def gradients_of(loss, module):
    """The gradient of ``loss`` for each parameter by name; zeros where it does not come in."""
    names = [name for name, _ in module.named_parameters()]
    parameters = list(module.parameters())
    if not loss.requires_grad:
        return dict(zip(names, map(torch.zeros_like, parameters), strict=True))
    found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def close(found, expected, tolerance=1e-10):
    """Fail unless the two (tensors, or lists or dictionaries of them) differ by less than ``tolerance``."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def some_of(*tensors):
    """A number that depends on every entry of the tensors, on each in its own way."""
    return sum((tensor * draw(*tensor.shape, seed=99, dtype=tensor.dtype).detach()).sum() for tensor in tensors)


def padded(rows):
    """Rows of ids as one tensor [B, L] filled up with 0, and their lengths."""
    lengths = [len(row) for row in rows]
    ids = [[*row, *[0] * (max(lengths) - len(row))] for row in rows]
    return torch.tensor(ids), torch.tensor(lengths)


def random_rows(lengths, size=11, seed=0):
    """A row of ids of ordinary tokens for each length, EOS last."""
    generator = np.random.default_rng(seed)
    return [[*generator.integers(4, size, length - 1).tolist(), EOS] for length in lengths]


def with_features(kind):
    """The options of ``network`` for 7 feature ids; none for the kind ""."""
    return {"feature_vocabulary": 7, "feature_encoder": kind} if kind else {}


def feature_encoders(attention):
    """The feature encoders that a model with this attention can have."""
    return FEATURE_ENCODERS if attention != "none" else ("summary",)


def random_features(counts, size=7, seed=0):
    """As many distinct ids of features for each row, ascending."""
    generator = np.random.default_rng(seed)
    return [np.sort(generator.permutation(np.arange(3, size))[:count]).tolist() for count in counts]


def corpus(sources, targets, features=None):
    """Rows of ids, each with its EOS, as a corpus; ``features`` are the ids of each source's features."""

    def ragged(rows):
        return Ragged(np.concatenate(rows).astype(np.uint16), np.cumsum([0, *map(len, rows)]))

    whole = [(*source, *own) for source, own in zip(sources, features or [[]] * len(sources), strict=True)]
    order = list(dict.fromkeys(whole))
    group = np.array([order.index(source) for source in whole])
    return Corpus(ragged(sources), ragged(targets), group, None if features is None else ragged(features))


def training_batch(sources, targets, features=None):
    return TrainingBatch.of(make_batch(corpus(sources, targets, features), np.arange(len(sources))))


# ------------------------------------------------------------------------------------------------------- for the oracle


def book(model):
    """A model as the oracle takes it: its parameters by name, and its sizes."""
    return Model(dict(model.named_parameters()), model.sizes)


def masks_of_row(masks, row):
    """The dropout masks of one row of a batch."""
    if masks is None:
        return NO_DROPOUT

    def of_row(mask):
        return None if mask is None else mask[:, row]

    def between(layers):
        return {n: of_row(mask) for n, mask in enumerate(layers, 1) if mask is not None}

    return Masks(
        source_tokens=of_row(masks.source_tokens_SB1),
        encoder_layers=between(masks.encoder_layers),
        target_tokens=of_row(masks.target_tokens_TB1),
        decoder_layers=between(masks.decoder_layers),
        output=of_row(masks.output_TBF),
        features=None if masks.features_BQ1 is None else masks.features_BQ1[row],
        feature_summary=None if masks.feature_summary_BE is None else masks.feature_summary_BE[row],
        source_embedding=masks.source_embedding_VE,
        target_embedding=masks.target_embedding_VE,
        memory=of_row(masks.memory_SBM),
    )


def features_of_row(batch, row):
    """The ids of a row's features without padding."""
    return [] if batch.feature_ids_BQ is None else [each for each in batch.feature_ids_BQ[row].tolist() if each]


def rows_of(batch, masks=None):
    """The pairs of a batch, each without its padding, features after the source."""
    origin = batch.origin
    return [
        Row(
            [*batch.source_BS[row, : origin.source_lengths[row]].tolist(), *features_of_row(batch, row)],
            batch.target_out_BT[row, : origin.target_lengths[row] - 1].tolist(),
            [reference[:-1].tolist() for reference in batch.references[row]],
            masks_of_row(masks, row),
        )
        for row in range(batch.num_pairs)
    ]


@dataclass
class Recorded:
    """Inputs and passes of a strategy: ``numbers`` by purpose, ``masks`` and ``fed`` tokens by pass."""

    numbers: dict = field(default_factory=dict)
    masks: list = field(default_factory=list)
    fed: list = field(default_factory=list)

    def rows(self, batch):
        """Return the pairs of the batch under the first masks."""
        return rows_of(batch, self.masks[0])


def recorded(strategy, model, batch, update):
    """Return a strategy's losses and a record of its random numbers, dropout masks and full-sequence passes."""
    record, draw_masks = Recorded(), model.draw_masks
    sequence, roll_out = model.decoder.sequence, model.decoder.roll_out

    def keep_numbers(update, purpose, *shape, **options):
        record.numbers[purpose] = uniforms(update, purpose, *shape, **options)
        return record.numbers[purpose]

    def keep_masks(*given, **named):
        record.masks.append(draw_masks(*given, **named))
        return record.masks[-1]

    def keep_fed(tokens, *given, **named):
        record.fed.append(tokens)
        return sequence(tokens, *given, **named)

    def keep_chosen(*given, **named):
        decoded, fed = roll_out(*given, **named)
        if not model.decoder.replays:  # else a pass over the same tokens follows
            record.fed.append(fed)
        return decoded, fed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "draw_masks", keep_masks)
        patch.setattr(model.decoder, "sequence", keep_fed)
        patch.setattr(model.decoder, "roll_out", keep_chosen)
        for name, module in list(sys.modules.items()):
            if name.startswith("freerun.forcing.") and hasattr(module, "uniforms"):
                patch.setattr(module, "uniforms", keep_numbers)
        return losses_of(strategy, model, batch, update), record


def losses_of(strategy, model, batch, update):
    """Return a batch's losses and backpropagate the strategy's own loss, as the learner does."""
    losses = strategy.losses(model, batch, update)
    own = strategy.own_loss(losses.own_inputs, update)
    if own is None:
        return losses
    if own.sum is not None:
        own.sum.backward()
    return Losses(losses.terms, {**losses.metrics, **own.metrics})


def same_losses(found, expected, model, tolerance=1e-10):
    """Fail unless terms, their gradients, and the metrics are those of the oracle."""
    assert found.terms.keys() == expected.terms.keys()
    for name, term in expected.terms.items():
        assert (found.terms[name].count, found.terms[name].weight) == (term.count, pytest.approx(term.weight))
        close(found.terms[name].sum, term.sum, tolerance)
        close(gradients_of(found.terms[name].sum, model), gradients_of(term.sum, model), tolerance)
    for name, (total, count) in expected.metrics.items():
        assert found.metrics[name] == (pytest.approx(total, abs=tolerance), count), name


def same_fed(found_BT, expected):
    """Fail unless each row was fed the same tokens as the oracle, whatever its padding."""
    assert [row[: len(tokens)] for row, tokens in zip(found_BT.tolist(), expected, strict=True)] == expected
