"""Small networks with every parameter drawn, their batches, and the model once more: by the book, a pair at a time."""

from __future__ import annotations

import numpy as np
import torch

from freerun.data.batching import make_batch
from freerun.data.corpus import Corpus, Ragged
from freerun.forcing.batch import TrainingBatch
from freerun.models.recurrence import RecurrentLayer
from freerun.models.seq2seq import Seq2Seq, Sizes
from freerun.symbols import EOS

CELLS = ("lstm", "gru", "rnn")
BACKENDS = ("reference", "fused", "auto")
TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


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


def network(seed=0, dtype=torch.float64, dropout=0.0, embedding_dropout=0.0, backend="auto", scale=0.6, **sizes):
    """A model of 11 source and 9 target ids, two layers of 4 unless told otherwise."""
    options = {"embedding_size": 3, "hidden_size": 4, "num_layers": 2, **sizes}
    model = Seq2Seq(Sizes(11, 9, **options), dropout, embedding_dropout, backend)
    return randomise(model, seed, scale, dtype)


def gradients(loss, *tensors):
    """The gradient of ``loss`` for each tensor, in the tensors' order."""
    return torch.autograd.grad(loss, tensors, retain_graph=True)


def gradients_of(loss, module):
    """The gradient of ``loss`` for each parameter by name; zeros where it does not come in."""
    names = [name for name, _ in module.named_parameters()]
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, materialize_grads=True)
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


def corpus(sources, targets):
    """Rows of ids, each with its EOS, as a corpus."""

    def ragged(rows):
        return Ragged(np.concatenate(rows).astype(np.uint16), np.cumsum([0, *map(len, rows)]))

    order = list(dict.fromkeys(map(tuple, sources)))
    group = np.array([order.index(tuple(source)) for source in sources])
    return Corpus(ragged(sources), ragged(targets), group)


def training_batch(sources, targets):
    return TrainingBatch.of(make_batch(corpus(sources, targets), np.arange(len(sources))))


# ----------------------------------------------------------------------------------------------------- by the book


def naive_step(cell, weights, x, h, c):
    """One step of one row: vectors, and each gate by its own slice of the weights."""
    size = len(h)
    given = weights.weight_ih @ x + weights.bias_ih
    recurrent = weights.weight_hh @ h + weights.bias_hh

    def gate(number):
        place = slice(number * size, (number + 1) * size)
        return given[place], recurrent[place]

    if cell == "rnn":
        return torch.tanh(given + recurrent), None
    first, second = torch.sigmoid(sum(gate(0))), torch.sigmoid(sum(gate(1)))
    if cell == "lstm":
        new_c = second * c + first * torch.tanh(sum(gate(2)))
        return torch.sigmoid(sum(gate(3))) * torch.tanh(new_c), new_c
    given_n, recurrent_n = gate(2)
    return (1 - second) * torch.tanh(given_n + first * recurrent_n) + second * h, None


def naive_run(cell, weights, inputs, h, c):
    """All steps of one row: its outputs and its last state."""
    outputs = []
    for x in inputs:
        h, c = naive_step(cell, weights, x, h, c)
        outputs.append(h)
    return outputs, h, c


def times(value, mask, *place):
    return value if mask is None else value * mask[place]


def naive_encode(model, source, masks=None, row=0):
    """Memory (a list of vectors) and the final (h, c) of each layer of one source, not yet through the bridge."""
    encoder, cell, size = model.encoder, model.sizes.cell, model.sizes.hidden_size
    values = [encoder.embedding.weight[token] for token in source]
    if masks:
        values = [times(value, masks.source_tokens_SB1, t, row) for t, value in enumerate(values)]
    states = []
    for number, forward in enumerate(encoder.forward_layers):
        if number and masks:
            values = [times(value, masks.encoder_layers[number - 1], t, row) for t, value in enumerate(values)]
        zero = values[0].new_zeros(size)
        outputs, h, c = naive_run(cell, forward, values, zero, zero)
        if model.sizes.bidirectional:
            back, back_h, back_c = naive_run(cell, encoder.backward_layers[number], values[::-1], zero, zero)
            outputs = [torch.cat(both) for both in zip(outputs, back[::-1], strict=True)]
            h, c = torch.cat([h, back_h]), None if c is None else torch.cat([c, back_c])
        values = outputs
        states.append((h, c))
    return values, states


def naive_bridge(bridge, states):
    def through(layers, number, value):
        return layers[number].weight @ value + layers[number].bias if len(layers) and value is not None else value

    return [(through(bridge.h, n, h), through(bridge.c, n, c)) for n, (h, c) in enumerate(states)]


def naive_attention(attention, output, memory):
    """h~ and the weights for one decoder output: equations 5 to 8 of Luong, Pham & Manning 2015."""
    scores = []
    for vector in memory:
        match attention.score:
            case "dot":
                scores.append(output @ vector)
            case "general":
                scores.append(output @ (attention.keys.weight @ vector))
            case "concat":
                joined = torch.cat([attention.query.weight, attention.keys.weight], 1) @ torch.cat([output, vector])
                scores.append(attention.vector.weight[0] @ torch.tanh(joined))
    shares = [score.exp() for score in scores]
    weights = [share / sum(shares) for share in shares]
    context = sum(weight * vector for weight, vector in zip(weights, memory, strict=True))
    return torch.tanh(attention.combine.weight @ torch.cat([context, output])), weights


def naive_bahdanau(attention, state, memory):
    """The context of Bahdanau et al. 2015, equations 5 and 6, alignment of appendix A.1.2."""
    joined = [attention.query.weight @ state + attention.keys.weight @ vector for vector in memory]
    shares = [(attention.vector.weight[0] @ torch.tanh(each)).exp() for each in joined]
    return sum(share / sum(shares) * vector for share, vector in zip(shares, memory, strict=True))


def naive_maxout(attention, state, embedded, context):
    """The deep output of appendix A.2.2: the larger of each pair."""
    pairs = attention.state_output.weight @ state + attention.state_output.bias
    pairs = pairs + attention.token_output.weight @ embedded + attention.context_output.weight @ context
    return torch.stack([torch.maximum(pairs[n], pairs[n + 1]) for n in range(0, len(pairs), 2)])


def naive_logits(model, source, fed, masks=None, row=0):
    """Logits [T, V] of one pair: the decoder is fed ``fed``, a token at a time."""
    return naive_decode(model, source, fed, masks, row)[0]


def naive_decode(model, source, fed, masks=None, row=0):
    """Logits [T, V] of one pair, the outputs of each layer at each step, and the state that the decoder starts from."""
    decoder, cell = model.decoder, model.sizes.cell
    memory, states = naive_encode(model, source, masks, row)
    states = naive_bridge(model.bridge, states)
    start = list(states)
    context = [states[-1][0]] if model.sizes.context == "every_step" else []
    attended = [states[0][0].new_zeros(model.sizes.hidden_size)] if model.sizes.input_feeding else []
    logits, outputs = [], []
    for t, token in enumerate(fed):
        value = decoder.embedding.weight[token]
        embedded = times(value, masks.target_tokens_TB1, t, row) if masks else value
        if model.sizes.attention == "bahdanau":
            attended = [naive_bahdanau(decoder.attention, states[-1][0], memory)]
        value = torch.cat([embedded, *context, *attended])
        for number, weights in enumerate(decoder.layers):
            if number and masks:
                value = times(value, masks.decoder_layers[number - 1], t, row)
            states[number] = naive_step(cell, weights, value, *states[number])
            value = states[number][0]
        outputs.append([h for h, _ in states])
        if model.sizes.attention == "bahdanau":
            value = naive_maxout(decoder.attention, value, embedded, attended[0])
        elif decoder.attention is not None:
            value, _ = naive_attention(decoder.attention, value, memory)
            attended = [value] if model.sizes.input_feeding else []
        features = torch.cat([value, *context])
        features = times(features, masks.output_TBF, t, row) if masks else features
        if decoder.projection is not None:
            features = decoder.projection.weight @ features
        weight = decoder.embedding.weight if model.sizes.tied_output else decoder.output_weight
        logits.append(weight @ features + decoder.output_bias)
    return torch.stack(logits), outputs, start
