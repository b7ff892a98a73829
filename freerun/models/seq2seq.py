"""The whole model: encoder, bridge, decoder.

Shape suffixes: B batch, S source, T target, V vocabulary, F features before the output layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from freerun.architecture import Architecture
from freerun.models.bridge import Bridge
from freerun.models.decoder import Decoder
from freerun.models.dropout import NO_RATES, DropoutMasks, DropoutRates, apply_mask, draw_mask
from freerun.models.encoded import Encoded
from freerun.models.encoder import Encoder
from freerun.models.feature_encoder import NO_FEATURES, EncodedFeatures, FeatureEncoder
from freerun.randomness import CounterGenerator

__all__ = ["Seq2Seq"]


class Seq2Seq(nn.Module):
    """A recurrent encoder-decoder (Sutskever et al. 2014; Cho et al. 2014), with or without attention.

    Rates affect ``draw_masks`` only: a pass without masks drops nothing.
    """

    def __init__(self, sizes: Architecture, rates: DropoutRates = NO_RATES, backend: str = "auto") -> None:
        super().__init__()
        self.sizes = sizes
        self.rates = rates
        self.encoder = Encoder(sizes, backend)
        self.bridge = Bridge(sizes)
        self.decoder = Decoder(sizes, backend)
        self.feature_encoder = FeatureEncoder(sizes) if sizes.has_features else None

    def encode(
        self,
        source_BS: Tensor,
        lengths_B: Tensor | None,
        masks: DropoutMasks | None = None,
        feature_ids_BQ: Tensor | None = None,
    ) -> Encoded:
        """Read sources and prepare them for the decoder.

        Args:
            source_BS: ids, right-padded.
            lengths_B: the real tokens per row, None when no row is padded.
            masks: dropout, None for none.
            feature_ids_BQ: the ids of each source's features, right-padded, for a model that reads features.

        Raises:
            ValueError: the model reads features and ``feature_ids_BQ`` is None, or the other way round.
        """
        features = self._encode_features(feature_ids_BQ, masks)
        memory_SBM, state = self.encoder(source_BS, lengths_B, masks, features.summary_BE)
        memory_SBM = apply_mask(memory_SBM, masks.memory_SBM if masks else None)
        return self.decoder.start(self.bridge(state), memory_SBM, lengths_B, features)

    def _encode_features(self, feature_ids_BQ: Tensor | None, masks: DropoutMasks | None) -> EncodedFeatures:
        if self.feature_encoder is None:
            if feature_ids_BQ is not None:
                raise ValueError(
                    f"feature_ids_BQ: ids of shape {list(feature_ids_BQ.shape)}, but this model reads no features. "
                    "Expected None. Leave it out."
                )
            return NO_FEATURES
        if feature_ids_BQ is None:
            raise ValueError(
                "feature_ids_BQ: it is None, but this model reads features. Expected ids [B, Q], right-padded with 0. "
                "Pass batch.feature_ids_BQ, or encode a batch with freerun.forcing.replay.encode."
            )
        dropped = (masks.features_BQ1, masks.feature_summary_BE) if masks else ()
        encoded: EncodedFeatures = self.feature_encoder(feature_ids_BQ, *dropped)
        return encoded

    def forward(
        self,
        source_BS: Tensor,
        lengths_B: Tensor | None,
        fed_BT: Tensor,
        masks: DropoutMasks | None = None,
        feature_ids_BQ: Tensor | None = None,
    ) -> Tensor:
        """Return the features [T, B, F] of the decoder fed with ``fed_BT`` (BOS first): one whole-sequence pass."""
        encoded = self.encode(source_BS, lengths_B, masks, feature_ids_BQ)
        return self.decoder.sequence(fed_BT, encoded, masks).features_TBF

    def draw_masks(
        self,
        source_length: int,
        target_length: int,
        rows: int,
        generator: CounterGenerator,
        shared: CounterGenerator,
        num_features: int = 0,
    ) -> DropoutMasks | None:
        """Draw the dropout masks of one pass over ``rows`` pairs; None when nothing is dropped.

        Each mask has a stream of its own, by its name: neither the other masks nor the number of steps change it.

        Args:
            source_length: S.
            target_length: T.
            rows: B.
            generator: of the batch.
            shared: of the update, for masks that all of its batches share.
            num_features: Q, the largest number of features of a source.
        """
        rates, sizes = self.rates, self.sizes
        if rates.drop_nothing:
            return None
        like = self.decoder.output_bias
        gaps = range(sizes.num_layers - 1)

        def draw(length: int, size: int, rate: float, *name: int | str) -> Tensor | None:
            return draw_mask((length, rows, size), rate, generator.child(*name), like)

        def draw_types(vocabulary: int, side: str) -> Tensor | None:
            shape = vocabulary, sizes.embedding_size
            return draw_mask(shape, rates.embedding_unit_dropout, shared.child(side, "types"), like)

        summary_size = sizes.feature_summary_size
        summary_1BE = draw(1, summary_size, rates.dropout, "feature summary") if summary_size else None
        reads_memory = sizes.attention_spec.reads_memory
        return DropoutMasks(
            source_tokens_SB1=draw(source_length, 1, rates.embedding_dropout, "source tokens"),
            encoder_layers=tuple(
                draw(source_length, self.encoder.memory_size, rates.dropout, "encoder", gap) for gap in gaps
            ),
            target_tokens_TB1=draw(target_length, 1, rates.embedding_dropout, "target tokens"),
            decoder_layers=tuple(draw(target_length, sizes.hidden_size, rates.dropout, "decoder", gap) for gap in gaps),
            output_TBF=draw(target_length, self.decoder.feature_size, rates.dropout, "output"),
            features_BQ1=_by_row(draw(num_features, 1, rates.embedding_dropout, "features")) if num_features else None,
            feature_summary_BE=None if summary_1BE is None else summary_1BE[0],
            source_embedding_VE=draw_types(sizes.source_vocabulary, "source"),
            target_embedding_VE=draw_types(sizes.target_vocabulary, "target"),
            memory_SBM=draw(source_length, sizes.memory_size, rates.memory_dropout, "memory") if reads_memory else None,
        )

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.decoder.output_bias.device

    def num_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def _by_row(mask_QB1: Tensor | None) -> Tensor | None:
    """Return a mask [B, Q, 1]; it was drawn with the rows second, so that a further feature does not change it."""
    return None if mask_QB1 is None else mask_QB1.transpose(0, 1)
