"""The whole model: encoder, bridge, decoder.

Shape suffixes: B batch, S source, T target, V vocabulary, F features before the output layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freerun.models.bridge import Bridge
from freerun.models.decoder import Decoder, Encoded
from freerun.models.dropout import DropoutMasks, draw_mask
from freerun.models.encoder import Encoder
from freerun.randomness import CounterGenerator

__all__ = ["Seq2Seq", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """Everything that decides which parameters a model has.

    ``hidden_size`` is that of the decoder and of each direction of the encoder. ``attention`` is "none" or a score
    function of Luong et al. 2015: "dot", "general" or "concat"; or "bahdanau".
    """

    source_vocabulary: int
    target_vocabulary: int
    embedding_size: int = 256
    hidden_size: int = 512
    num_layers: int = 2
    cell: str = "lstm"
    bidirectional: bool = False
    context: str = "init"
    attention: str = "none"
    tied_output: bool = False
    input_feeding: bool = False


class Seq2Seq(nn.Module):
    """A recurrent encoder-decoder (Sutskever et al. 2014, Cho et al. 2014), maybe with attention (Luong et al. 2015).

    Dropout rates are in [0, 1) and matter to ``draw_masks`` alone: a pass without masks drops nothing.
    """

    def __init__(
        self, sizes: Sizes, dropout: float = 0.0, embedding_dropout: float = 0.0, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.dropout = dropout
        self.embedding_dropout = embedding_dropout
        common = (sizes.embedding_size, sizes.hidden_size, sizes.num_layers, sizes.cell)
        self.encoder = Encoder(sizes.source_vocabulary, *common, sizes.bidirectional, backend)
        memory_size = self.encoder.memory_size
        self.bridge = Bridge(memory_size, sizes.hidden_size, sizes.num_layers, sizes.cell == "lstm")
        self.decoder = Decoder(
            sizes.target_vocabulary,
            *common,
            sizes.context,
            sizes.attention,
            memory_size,
            sizes.tied_output,
            sizes.input_feeding,
            backend,
        )

    def encode(self, source_BS: Tensor, lengths_B: Tensor | None, masks: DropoutMasks | None = None) -> Encoded:
        """Read sources and hand them to the decoder.

        ``source_BS`` holds ids, right-padded; ``lengths_B`` the real tokens a row, or None when no row is padded.
        """
        memory_SBM, state = self.encoder(source_BS, lengths_B, masks)
        state = self.bridge(state)
        memory = None
        if self.decoder.attention is not None:
            steps_S = torch.arange(source_BS.shape[1], device=source_BS.device)
            mask_BS = None if lengths_B is None else steps_S < lengths_B.unsqueeze(1)
            memory = self.decoder.attention.prepare(memory_SBM.transpose(0, 1), mask_BS)
        return Encoded(state, state.h_LBH[-1] if self.decoder.every_step else None, memory)

    def forward(
        self, source_BS: Tensor, lengths_B: Tensor | None, fed_BT: Tensor, masks: DropoutMasks | None = None
    ) -> Tensor:
        """Features [T, B, F] of the decoder fed with ``fed_BT`` (BOS first): one whole-sequence pass."""
        return self.decoder.sequence(fed_BT, self.encode(source_BS, lengths_B, masks), masks).features_TBF

    def draw_masks(
        self, source_length: int, target_length: int, rows: int, generator: CounterGenerator
    ) -> DropoutMasks | None:
        """Draw the dropout masks of one pass over ``rows`` pairs; None when nothing is dropped.

        Each mask has a stream of its own, by its name: neither the other masks nor the number of steps change it.
        """
        if self.dropout == 0.0 and self.embedding_dropout == 0.0:
            return None
        like = self.decoder.output_bias
        gaps = range(self.sizes.num_layers - 1)

        def draw(length: int, size: int, rate: float, *name: int | str) -> Tensor | None:
            return draw_mask((length, rows, size), rate, generator.child(*name), like)

        return DropoutMasks(
            draw(source_length, 1, self.embedding_dropout, "source tokens"),
            tuple(draw(source_length, self.encoder.memory_size, self.dropout, "encoder", gap) for gap in gaps),
            draw(target_length, 1, self.embedding_dropout, "target tokens"),
            tuple(draw(target_length, self.sizes.hidden_size, self.dropout, "decoder", gap) for gap in gaps),
            draw(target_length, self.decoder.feature_size, self.dropout, "output"),
        )

    def num_parameters(self) -> int:
        """How many numbers the model learns."""
        return sum(parameter.numel() for parameter in self.parameters())
