"""freerun's model by the book: every equation in plain loops, one pair and one step at a time.

This file (the model) and ``oracle_losses``, ``oracle_professor`` and ``oracle_outputs`` (the strategies) are the one
reference of the equivalence tests: freerun has to give their values and their gradients, whatever the batch, the
padding, the kernels and the number of passes. They are written from the papers and import nothing of freerun but the
ids of the special tokens; what they share with it is the names of the parameters. Read from top to bottom, they are the
definition of what freerun computes.

There are no batches and there is no padding. A vector is a tensor of one dimension, a sequence is a list of vectors or
of ids. A source is the ids of its tokens, EOS, and then those of its features, if the model reads any. Everything is in
float64 and under autograd.

In this order: parameters and dropout, cells, encoder and bridge, attention, decoder, what the decoder is fed.

Shape suffixes: I input, E embedding, H hidden size (of one direction, and of the decoder), M memory (H, or 2 H of a
bidirectional encoder), F features (input of the output layer), V vocabulary.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from freerun.symbols import BOS, EOS, NEVER_WRITTEN

# ------------------------------------------------------------------------------------------- parameters and dropout

Weights = Mapping[str, Tensor]
LayerState = tuple[Tensor, Tensor | None]
"""(h, c) of one layer after a step; c is None for GRU and RNN."""


@dataclass(frozen=True)
class Model:
    """The parameters by name, and ``sizes``: the options that say which of them there are.

    ``sizes`` has the attributes cell, num_layers, hidden_size, bidirectional, context, attention, input_feeding and
    feature_encoder.
    """

    weights: Weights
    sizes: Any


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What dropout multiplies the values of one pair with: 0, or 1 / (1 - rate); None where nothing is dropped.

    Each is indexed by time. A token is dropped as a whole, so its mask is a number; the others are vectors. Masks of
    ``encoder_layers[n]`` and ``decoder_layers[n]`` are those of the input of layer n = 1, 2, ... A feature is dropped
    as a whole, too; its index is its place among the features of the source. The mask of their summary is the same at
    every step. Those of the embeddings are indexed by token.
    """

    source_tokens: Sequence[Tensor] | None = None
    encoder_layers: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)
    target_tokens: Sequence[Tensor] | None = None
    decoder_layers: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)
    output: Sequence[Tensor] | None = None
    features: Sequence[Tensor] | None = None
    feature_summary: Tensor | None = None
    source_embedding: Sequence[Tensor] | None = None
    target_embedding: Sequence[Tensor] | None = None
    memory: Sequence[Tensor] | None = None


NO_DROPOUT = Masks()


def dropped(value: Tensor, masks: Sequence[Tensor] | None, t: int) -> Tensor:
    """A value at time t after dropout (Srivastava et al. 2014, with the factor 1 / (1 - rate) in training)."""
    return value if masks is None else value * masks[t]


# --------------------------------------------------------------------------------------------------------------- cells


def lstm_step(weights: Weights, layer: str, x_I: Tensor, h_H: Tensor, c_H: Tensor) -> LayerState:
    """LSTM (Hochreiter & Schmidhuber 1997) with a forget gate (Gers, Schmidhuber & Cummins 2000), without peepholes.

    i = sigmoid(W_i x + b_i + U_i h + d_i), f and o likewise, g with tanh;  c' = f c + i g;  h' = o tanh(c').
    """
    inputs, recurrent = _affine(weights, layer, x_I, h_H)
    i, f, g, o = (inputs[n] + recurrent[n] for n in range(4))
    new_c_H = torch.sigmoid(f) * c_H + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(new_c_H), new_c_H


def gru_step(weights: Weights, layer: str, x_I: Tensor, h_H: Tensor) -> LayerState:
    """GRU (Cho et al. 2014, equations 5 to 8), r applied after the recurrent product as in cuDNN and torch.

    r, z = sigmoid(W x + b + U h + d);  n = tanh(W_n x + b_n + r (U_n h + d_n));  h' = (1 - z) n + z h.
    """
    inputs, recurrent = _affine(weights, layer, x_I, h_H)
    r = torch.sigmoid(inputs[0] + recurrent[0])
    z = torch.sigmoid(inputs[1] + recurrent[1])
    n = torch.tanh(inputs[2] + r * recurrent[2])
    return (1 - z) * n + z * h_H, None


def rnn_step(weights: Weights, layer: str, x_I: Tensor, h_H: Tensor) -> LayerState:
    """Plain RNN (Elman 1990): h' = tanh(W x + b + U h + d)."""
    inputs, recurrent = _affine(weights, layer, x_I, h_H)
    return torch.tanh(inputs[0] + recurrent[0]), None


def mingru_step(weights: Weights, layer: str, x_I: Tensor, h_H: Tensor) -> LayerState:
    """minGRU (Feng et al. 2024, section 3.1.3, with the g of appendix B), whose gates do not read the state.

    z = sigmoid(W_z x + b_z);  n = g(W_n x + b_n);  h' = (1 - z) h + z n;  g(x) = x + 0.5 for x >= 0, else sigmoid(x).
    """
    z, n = (weights[f"{layer}.weight_ih"] @ x_I + weights[f"{layer}.bias_ih"]).split(len(h_H))
    z = torch.sigmoid(z)
    n = torch.stack([value + 0.5 if value >= 0 else torch.sigmoid(value) for value in n])
    return (1 - z) * h_H + z * n, None


def _affine(weights: Weights, layer: str, x_I: Tensor, h_H: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """W x + b and U h + d, each cut into its gates [H], in torch's order: LSTM i f g o, GRU r z n."""
    inputs = weights[f"{layer}.weight_ih"] @ x_I + weights[f"{layer}.bias_ih"]
    recurrent = weights[f"{layer}.weight_hh"] @ h_H + weights[f"{layer}.bias_hh"]
    return inputs.split(len(h_H)), recurrent.split(len(h_H))


def cell_step(cell: str, weights: Weights, layer: str, x_I: Tensor, state: LayerState) -> LayerState:
    """One step of one layer, of the kind ``cell``."""
    h_H, c_H = state
    if cell == "lstm":
        assert c_H is not None
        return lstm_step(weights, layer, x_I, h_H, c_H)
    steps = {"gru": gru_step, "rnn": rnn_step, "mingru": mingru_step}
    return steps[cell](weights, layer, x_I, h_H)


def run_layer(
    cell: str, weights: Weights, layer: str, inputs: Iterable[Tensor], state: LayerState
) -> tuple[list[Tensor], LayerState]:
    """One layer over a whole sequence: its outputs h, and its last state."""
    outputs = []
    for x_I in inputs:
        state = cell_step(cell, weights, layer, x_I, state)
        outputs.append(state[0])
    return outputs, state


def zero_state(cell: str, size: int) -> LayerState:
    """The state before the first token of a source."""
    zero_H = torch.zeros(size, dtype=torch.float64)
    return zero_H, zero_H if cell == "lstm" else None


# -------------------------------------------------------------------------------------------------- encoder and bridge


@dataclass(frozen=True)
class Encoded:
    """A source that was read: the ``memory`` (one vector [M] a token), and what the decoder starts from.

    ``final`` is the encoder's last state of each layer, ``start`` the same behind the bridge. ``feature_summary`` has
    the vector [E] that every step reads next to its token, or nothing.
    """

    memory: list[Tensor]
    final: list[LayerState]
    start: list[LayerState]
    feature_summary: list[Tensor] = field(default_factory=list)

    @property
    def context_H(self) -> Tensor:
        """The summary of the source: the top layer's h that the decoder starts from."""
        return self.start[-1][0]


def encode(model: Model, source: Sequence[int], masks: Masks = NO_DROPOUT) -> Encoded:
    """Read a source (Sutskever et al. 2014; in two directions: Schuster & Paliwal 1997).

    Of two directions each layer reads both outputs of the layer below; states are concatenated, forward first.
    The summary of the features is read next to every token, and their entries follow the source's tokens in the memory;
    a model may have one of the two.
    """
    cell, size, weights = model.sizes.cell, model.sizes.hidden_size, model.weights
    end = source.index(EOS) + 1
    summary, entries = encode_features(model, source[end:], masks)
    embedding = weights["encoder.embedding.weight"]
    values = [dropped(embedding[token], masks.source_embedding, token) for token in source[:end]]
    values = [torch.cat([dropped(value, masks.source_tokens, t), *summary]) for t, value in enumerate(values)]
    final = []
    for n in range(model.sizes.num_layers):
        values = [dropped(value, masks.encoder_layers.get(n), t) for t, value in enumerate(values)]
        outputs, state = run_layer(cell, weights, f"encoder.forward_layers.{n}", values, zero_state(cell, size))
        if model.sizes.bidirectional:
            layer = f"encoder.backward_layers.{n}"
            backward, other = run_layer(cell, weights, layer, reversed(values), zero_state(cell, size))
            outputs = [torch.cat(both) for both in zip(outputs, reversed(backward), strict=True)]
            state = _joined(state, other)
        values = outputs
        final.append(state)
    memory = [dropped(value, masks.memory, t) for t, value in enumerate(values)]
    return Encoded([*memory, *entries], final, bridge(weights, final), summary)


SUMMARY_WEIGHTS = ("embedding.weight", "projection.weight", "projection.bias")


def encode_features(model: Model, features: Sequence[int], masks: Masks) -> tuple[list[Tensor], list[Tensor]]:
    """The features' summary [E] and their memory entries [M]: a model has either, both or neither.

    The summary is tanh(W sum e + b), a function of a set (Zaheer et al. 2017, theorem 2), e the embeddings; the sum of
    none is 0. An entry is tanh of another embedding.
    """
    kind, summary, entries = model.sizes.feature_encoder, [], []
    assert kind or not features
    if kind in ("summary", "both"):
        table, weight, bias = (model.weights[f"feature_encoder.{name}"] for name in SUMMARY_WEIGHTS)
        values = [dropped(table[feature], masks.features, n) for n, feature in enumerate(features)]
        summary_E = torch.tanh(weight @ sum(values, torch.zeros_like(table[0])) + bias)
        summary = [summary_E if masks.feature_summary is None else summary_E * masks.feature_summary]
    if kind in ("sequence", "both"):
        table = model.weights["feature_encoder.entry_embedding.weight"]
        entries = [dropped(torch.tanh(table[feature]), masks.features, n) for n, feature in enumerate(features)]
    return summary, entries


def _joined(forward: LayerState, backward: LayerState) -> LayerState:
    (h, c), (back_h, back_c) = forward, backward
    return torch.cat([h, back_h]), None if c is None or back_c is None else torch.cat([c, back_c])


def bridge(weights: Weights, final: Sequence[LayerState], name: str = "bridge") -> list[LayerState]:
    """The decoder's start: each layer's (h, c) unchanged, or W h + b and W' c + b' where the sizes differ."""

    def projected(part: str, n: int, value: Tensor | None) -> Tensor | None:
        layer = f"{name}.{part}.{n}"
        if value is None or f"{layer}.weight" not in weights:
            return value
        return weights[f"{layer}.weight"] @ value + weights[f"{layer}.bias"]

    return [(projected("h", n, h), projected("c", n, c)) for n, (h, c) in enumerate(final)]


# ----------------------------------------------------------------------------------------------------------- attention


def softmax(scores: Sequence[Tensor]) -> list[Tensor]:
    """exp(s) / sum of all exp(s)."""
    shares = [score.exp() for score in scores]
    return [share / sum(shares) for share in shares]


def weighted_sum(shares: Sequence[Tensor], memory: Sequence[Tensor]) -> Tensor:
    """The context vector: the memory averaged with the attention weights."""
    return sum(share * m_M for share, m_M in zip(shares, memory, strict=True))


def luong(
    weights: Weights, name: str, score: str, h_H: Tensor, memory: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Global attention after the recurrence (Luong, Pham & Manning 2015): (h~, attention weights).

    Equation 8, score(h, m):  dot h . m;  general h . W m;  concat v . tanh(W [h; m]).
    scaled_general:           h . W m / sqrt(H), the scale of Vaswani et al. 2017.
    Equations 7 and 5:        a = softmax(score);  c = sum a m;  h~ = tanh(W_c [c; h]).
    """

    def compared(m_M: Tensor) -> Tensor:
        if score == "dot":
            return h_H @ m_M
        keys_H = weights[f"{name}.keys.weight"] @ m_M
        if score == "general":
            return h_H @ keys_H
        if score == "scaled_general":
            return h_H @ keys_H / math.sqrt(len(h_H))
        # W [h; m] is the product of W's left half with h and of its right half with m
        return weights[f"{name}.vector.weight"][0] @ torch.tanh(weights[f"{name}.query.weight"] @ h_H + keys_H)

    shares = softmax([compared(m_M) for m_M in memory])
    c_M = weighted_sum(shares, memory)
    return torch.tanh(weights[f"{name}.combine.weight"] @ torch.cat([c_M, h_H])), shares


def bahdanau(weights: Weights, name: str, s_H: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Attention within the recurrence (Bahdanau, Cho & Bengio 2015): (context, attention weights).

    e = v . tanh(W s + U m), s the top layer's state of the step before (appendix A.1.2);  a = softmax(e);  c = sum a m
    (equations 5 and 6).
    """
    query_H = weights[f"{name}.query.weight"] @ s_H
    energies = []
    for m_M in memory:
        joined_H = torch.tanh(query_H + weights[f"{name}.keys.weight"] @ m_M)
        energies.append(weights[f"{name}.vector.weight"][0] @ joined_H)
    shares = softmax(energies)
    return weighted_sum(shares, memory), shares


def maxout(weights: Weights, name: str, s_H: Tensor, embedded_E: Tensor, c_M: Tensor) -> Tensor:
    """Bahdanau's deep output (appendix A.2.2): a maxout layer (Goodfellow et al. 2013), the larger of each pair of
    U s + V E y + C c + b, with s the state of this step as in the paper's equation 4.
    """
    pairs = weights[f"{name}.state_output.weight"] @ s_H + weights[f"{name}.state_output.bias"]
    pairs = pairs + weights[f"{name}.token_output.weight"] @ embedded_E
    pairs = pairs + weights[f"{name}.context_output.weight"] @ c_M
    return torch.stack([torch.maximum(pairs[n], pairs[n + 1]) for n in range(0, len(pairs), 2)])


# ------------------------------------------------------------------------------------------------------------- decoder


@dataclass(frozen=True)
class Step:
    """The decoder after it was fed one token.

    ``logits_V`` are for the next token. ``attention`` are the weights with which the memory was averaged, empty without
    attention. ``attended_H`` is Luong's h~, which input feeding gives to the next step.
    """

    fed: int
    states: list[LayerState]
    logits_V: Tensor
    attention: list[Tensor]
    attended_H: Tensor | None

    @property
    def outputs(self) -> list[Tensor]:
        """h of each layer, before dropout."""
        return [h for h, _ in self.states]

    @property
    def log_probs_V(self) -> Tensor:
        """log p(next token | what was fed, source)."""
        return self.logits_V - self.logits_V.exp().sum().log()


def decoder_step(
    model: Model, encoded: Encoded, before: Step | None, token: int, t: int, masks: Masks = NO_DROPOUT
) -> Step:
    """Feed ``token`` at time t, after the step ``before`` (None: the first one).

    The first layer reads the token's embedding and the features' summary, if there is one; with context "every_step"
    also the source's summary (Cho et al. 2014); with Bahdanau's attention also the context vector; with input feeding
    also the last h~ (Luong et al. 2015, 3.3).
    """
    weights, sizes, name = model.weights, model.sizes, "decoder.attention"
    states = encoded.start if before is None else before.states
    context = [encoded.context_H] if sizes.context == "every_step" else []
    embedded_E = dropped(weights["decoder.embedding.weight"][token], masks.target_embedding, token)
    embedded_E = dropped(embedded_E, masks.target_tokens, t)

    read: list[Tensor] = []
    shares: list[Tensor] = []
    if sizes.attention == "bahdanau":
        c_M, shares = bahdanau(weights, name, states[-1][0], encoded.memory)
        read = [c_M]
    elif sizes.input_feeding:
        nothing_H = torch.zeros_like(encoded.context_H)
        read = [nothing_H if before is None or before.attended_H is None else before.attended_H]

    value, new_states = torch.cat([embedded_E, *encoded.feature_summary, *context, *read]), []
    for n, state in enumerate(states):
        value = dropped(value, masks.decoder_layers.get(n), t)
        new_states.append(cell_step(sizes.cell, weights, f"decoder.layers.{n}", value, state))
        value = new_states[-1][0]

    attended_H = None
    if sizes.attention == "bahdanau":
        value = maxout(weights, name, value, embedded_E, read[0])
    elif sizes.attention != "none":
        value, shares = luong(weights, name, sizes.attention, value, encoded.memory)
        attended_H = value
    features_F = dropped(torch.cat([value, *context]), masks.output, t)
    return Step(token, new_states, output_layer(weights, features_F), shares, attended_H)


def output_layer(weights: Weights, features_F: Tensor) -> Tensor:
    """Logits [V]: W f + b. Tied, W is the embedding, behind a projection where the sizes differ (Press & Wolf 2017)."""
    if "decoder.projection.weight" in weights:
        features_F = weights["decoder.projection.weight"] @ features_F
    matrix = weights.get("decoder.output_weight", weights["decoder.embedding.weight"])
    return matrix @ features_F + weights["decoder.output_bias"]


# ---------------------------------------------------------------------------------------------- what the decoder is fed


def decode(
    model: Model, encoded: Encoded, feed: Callable[[int, Tensor], int | None], masks: Masks = NO_DROPOUT
) -> list[Step]:
    """Feed BOS, and after step t the token ``feed(t, logits)``, until that is None.

    All strategies are this one loop. What is fed is a number, so no gradient flows through the choice of a token, but
    all of the logits and states have theirs.
    """
    steps: list[Step] = []
    token: int | None = BOS
    while token is not None:
        steps.append(decoder_step(model, encoded, steps[-1] if steps else None, token, len(steps), masks))
        token = feed(len(steps) - 1, steps[-1].logits_V)
    return steps


def forced(model: Model, encoded: Encoded, tokens: Sequence[int], masks: Masks = NO_DROPOUT) -> list[Step]:
    """Feed BOS and then exactly these tokens: teacher forcing (Williams & Zipser 1989) where they are the target's."""
    return decode(model, encoded, lambda t, _: tokens[t] if t < len(tokens) else None, masks)


def free_run(
    model: Model, encoded: Encoded, bound: int, choose: Callable[[int, Tensor], int], masks: Masks = NO_DROPOUT
) -> tuple[list[Step], list[int]]:
    """Feed the model its own tokens, ``choose(t, logits)`` at step t: the steps, and what it wrote.

    It ends when EOS (which is part of what was written) or as many tokens as ``bound`` are written.
    """
    written: list[int] = []

    def feed(t: int, logits_V: Tensor) -> int | None:
        written.append(choose(t, logits_V))
        return None if written[-1] == EOS or len(written) == bound else written[-1]

    return decode(model, encoded, feed, masks), written


def greedy(model: Model, source: Sequence[int], bound: int) -> tuple[list[Step], list[int]]:
    """What the model writes at inference time: always the most probable token, without dropout."""
    return free_run(model, encode(model, source), bound, lambda _, logits_V: most_probable(logits_V))


def most_probable(logits_V: Tensor, banned: Collection[int] = NEVER_WRITTEN) -> int:
    """The token of the highest logit that is not banned, the lowest id of several."""
    logits = logits_V.tolist()
    return max((token for token in range(len(logits)) if token not in banned), key=lambda token: logits[token])


def sampled(logits_V: Tensor, number: float, temperature: float = 1.0, banned: Collection[int] = NEVER_WRITTEN) -> int:
    """A token drawn with probability proportional to exp(logit / temperature), decided by a number in [0, 1).

    Inverse transform sampling: the tokens are intervals in the order of their ids, each as wide as its probability,
    and the number, a fraction of their whole width, points at one of them.
    """
    logits = logits_V.tolist()
    widths = [0.0 if token in banned else math.exp(logit / temperature) for token, logit in enumerate(logits)]
    edges = list(itertools.accumulate(widths))
    return bisect.bisect_right(edges, number * edges[-1])


def log_prob(steps: Sequence[Step], written: Sequence[int]) -> Tensor:
    """log p(written | source), a sum over tokens: ``written[t]`` is what step t was to predict."""
    return sum(step.log_probs_V[token] for step, token in zip(steps, written, strict=True))
